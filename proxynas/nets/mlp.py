"""MLP: for images as in Zhao 2021 (two hidden layers of 128), for tables as in Medvedev 2020.

``depth`` counts linear layers, so the tabular paper's 1-layer, 2-layer and 4-layer networks are
``depth`` 1, 2 and 4 with ``width`` 10, ReLU in between. That paper draws the weights from Xavier's
distribution (``init="xavier"``: normal, biases zero) and, its task being binary, has one output;
ours has an output per class like any network here, which is the same family of functions.
"""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from ..core.errors import SpaceError

Activation = Literal["relu", "leakyrelu", "tanh", "sigmoid"]
Init = Literal["default", "xavier"]


class MLP(nn.Module):
    """``depth`` linear layers: (B, …) flattened, to logits (B, classes)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        depth: int,
        width: int,
        activation: Activation,
        init: Init,
    ) -> None:
        super().__init__()
        sizes = [math.prod(shape)] + [width] * (depth - 1)
        hidden: list[nn.Module] = []
        for before, after in pairwise(sizes):
            hidden += [nn.Linear(before, after), _activation(activation)]
        # (B, width); with depth 1 the inputs themselves
        self.features = nn.Sequential(nn.Flatten(), *hidden)
        self.classifier = nn.Linear(sizes[-1], classes)
        if init == "xavier":
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) or rows (B, D)."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 3,
    width: int = 128,
    activation: Activation = "relu",
    init: Init = "default",
) -> nn.Module:
    """An MLP for images (C, H, W) or rows (D,); the defaults are the MLP of Zhao 2021.

    ``init`` is PyTorch's own (Kaiming uniform) or Xavier's.

    Raises:
        SpaceError: depth or width is under 1.
    """
    if depth < 1 or width < 1:
        raise SpaceError(
            f"an MLP needs depth and width of at least 1, but got depth {depth} and width {width}"
        )
    return MLP(shape, classes, depth=depth, width=width, activation=activation, init=init)


def grid(
    shape: tuple[int, ...], classes: int, *, layers: str, activation: Activation, init: Init
) -> nn.Module:
    """The networks of ``search_spaces/mlp-grid.toml``.

    ``layers`` is "1", or depth and width as in "4x10".

    Raises:
        SpaceError: ``layers`` is written in another way.
    """
    depth, _, width = layers.partition("x")
    if not depth.isdigit() or not (width.isdigit() or layers == "1"):
        raise SpaceError(
            f"layers must be '1', or depth and width such as '4x10', but got {layers!r}"
        )
    return make(
        shape, classes, depth=int(depth), width=int(width or 1), activation=activation, init=init
    )


def _activation(kind: Activation) -> nn.Module:
    match kind:
        case "relu":
            return nn.ReLU()
        case "leakyrelu":
            return nn.LeakyReLU(0.01)
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
