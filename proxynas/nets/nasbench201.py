"""The cell network of NAS-Bench-201 (Dong & Yang 2020, §2): four nodes, six edges, five operations.

The skeleton is a 3×3 convolution to C channels, N cells, a residual block with stride 2 to 2C, N
cells, another one to 4C, N cells, then batch norm, ReLU, global average pooling and a linear layer;
C = 16 and N = 5 in the benchmark. A node is the sum of its incoming edges; a node without any is
zero. A convolution is ReLU, convolution, batch norm, and has no bias. Edges that lead nowhere are
computed all the same, as they are in the benchmark: they count in its parameters and operations,
and in an indicator that looks at every ReLU.

An architecture is written as everyone writes it, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``: for each
of the nodes 1, 2 and 3 the operation on the edge from every earlier node.
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.errors import SpaceError
from .pooling import SmoothingAvgPool

Op = Literal["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
OPS: tuple[Op, ...] = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("e01", "e02", "e12", "e03", "e13", "e23")
"""In the order of the architecture string; ``eST`` leads from node S to node T."""

_KERNEL: dict[Op, int] = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
_ARCH = re.compile(
    r"\|{}~0\|\+\|{}~0\|{}~1\|\+\|{}~0\|{}~1\|{}~2\|".replace("{}", f"({'|'.join(OPS)})")
)
_ZERO = "#"


class Cell(nn.Module):
    """One cell, (B, C, H, W) to the same: node 0 is the input, node 3 the output."""

    def __init__(self, ops: Mapping[str, Op], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {e: _operation(ops[e], channels) for e in EDGES if ops[e] != "none"}
        )

    def forward(self, x: Tensor) -> Tensor:
        """The output node of images or maps (B, C, H, W)."""
        nodes = [x]
        for target in (1, 2, 3):
            node = None
            for source in range(target):
                edge = f"e{source}{target}"
                if edge in self.edges:
                    value = self.edges[edge](nodes[source])
                    node = value if node is None else node + value
            nodes.append(torch.zeros_like(x) if node is None else node)
        return nodes[3]


class Reduction(nn.Module):
    """The residual block between stages: (B, C, H, W) to (B, 2C, ⌈H/2⌉, ⌈W/2⌉)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(
            _convolution(channels, wide, 3, stride=2), _convolution(wide, wide, 3)
        )
        # On an odd side ceil_mode keeps the branches' sizes equal; on an even one it does nothing.
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(channels, wide, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Half the side, twice the channels."""
        return self.body(x) + self.shortcut(x)  # type: ignore[no-any-return]


class Network(nn.Module):
    """The whole skeleton around one kind of cell: (B, channels in, H, W) to logits (B, classes)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        ops: Mapping[str, Op],
        channels: int,
        cells: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        stages: list[nn.Module] = []
        for width in (channels, 2 * channels, 4 * channels):
            if width > channels:
                stages.append(Reduction(width // 2))
            stages += [Cell(ops, width) for _ in range(cells)]
        self.stages = nn.Sequential(*stages)  # (B, 4 channels, ⌈H/4⌉, ⌈W/4⌉)
        self.last = nn.Sequential(
            nn.BatchNorm2d(4 * channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.last(self.stages(self.stem(x))))  # type: ignore[no-any-return]


# reason: the axes of a search space are its arguments
def make(
    shape: tuple[int, int, int],
    classes: int,
    *,
    e01: Op,
    e02: Op,
    e12: Op,
    e03: Op,
    e13: Op,
    e23: Op,
    channels: int = 16,
    cells: int = 5,
) -> nn.Module:
    """The network of one cell for images of ``shape`` (C, H, W).

    Raises:
        SpaceError: ``channels`` or ``cells`` is under 1, or ``shape`` is not that of images.
    """
    if len(shape) != 3:
        needs = "NAS-Bench-201 needs images (C, H, W)"
        raise SpaceError(f"{needs}, but got shape {shape}; 'mlp-grid' is for tables")
    _check(channels, cells)
    ops: dict[str, Op] = {"e01": e01, "e02": e02, "e12": e12, "e03": e03, "e13": e13, "e23": e23}
    return Network(shape, classes, ops, channels, cells)


def operations(arch: str) -> dict[str, Op]:
    """The operation on each edge of :data:`EDGES`.

    Raises:
        SpaceError: ``arch`` is not one of the 15,625.
    """
    match = _ARCH.fullmatch(arch)
    if match is None:
        form = f"|op~0|+|op~0|op~1|+|op~0|op~1|op~2| with op one of {', '.join(OPS)}"
        raise SpaceError(f"expected a NAS-Bench-201 cell, {form}, but got {arch!r}")
    return dict(zip(EDGES, match.groups(), strict=True))  # type: ignore[arg-type]  # the pattern admits only OPS


def cost(
    arch: str,
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    *,
    channels: int = 16,
    cells: int = 5,
) -> tuple[int, int]:
    """Parameters, and FLOPs of one image's forward pass, without building the network.

    The same numbers as :meth:`proxynas.spaces.SearchSpace.cost`, for all 15,625 in a second. A
    multiply-add is two operations; the benchmark's own "FLOPs" count it as one, and like these they
    count convolutions and linear layers only.

    Raises:
        SpaceError: as :func:`operations`, or ``channels`` or ``cells`` is under 1.
    """
    _check(channels, cells)
    ops = list(operations(arch).values())
    kernels = [k * k * ops.count(op) for op, k in _KERNEL.items()]
    convolutions = sum(ops.count(op) for op in _KERNEL)
    (inputs, height, side), width = shape, channels
    parameters = 9 * inputs * width + 2 * width
    adds = 9 * inputs * width * height * side
    for stage in range(3):
        if stage > 0:
            width, height, side = 2 * width, (height + 1) // 2, (side + 1) // 2
            block = (9 + 1) * (width // 2) * width + 9 * width * width
            parameters += block + 4 * width
            adds += block * height * side
        cell = sum(kernels) * width * width
        parameters += cells * (cell + 2 * width * convolutions)
        adds += cells * cell * height * side
    return parameters + 2 * width + (width + 1) * classes, 2 * (adds + width * classes)


def canonical(arch: str) -> str:
    """The output node as an expression of the input ``0``, equal for isomorphic cells.

    There are 6,466. This is the rule behind the published number (Dong et al., "NATS-Bench", 2021,
    table 1): a skip is its source, an edge that is none or leaves a zero node 1 is ``#``, and the
    terms of a node are sorted as text. It is sound but incomplete, and the number depends on the
    spelling: a sum behind a skip is sorted as one term, so that other brackets give 6,350 or 6,484,
    and ``#`` stays in a sum. Dropping zeros and opening sums leaves 4,930 different functions. All
    this takes a convolution of zeros for zero; it is its batch norm's shift, which training moves.

    Raises:
        SpaceError: as :func:`operations`.
    """
    ops = operations(arch)
    nodes = ["0"]
    for target in (1, 2, 3):
        terms = (_term(nodes[source], ops[f"e{source}{target}"]) for source in range(target))
        nodes.append("+".join(sorted(terms)))
    return nodes[3]


def _term(source: str, op: Op) -> str:
    if op == "none" or source == _ZERO:
        return _ZERO
    return source if op == "skip_connect" else f"({source})@{op}"


def _operation(op: Op, channels: int) -> nn.Module:
    if op == "skip_connect":
        return nn.Identity()
    if op == "avg_pool_3x3":
        return SmoothingAvgPool()
    return _convolution(channels, channels, _KERNEL[op])


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(outputs))


def _check(channels: int, cells: int) -> None:
    for name, value in (("channels", channels), ("cells", cells)):
        if value < 1:
            raise SpaceError(f"{name} must be at least 1, but got {value}")
