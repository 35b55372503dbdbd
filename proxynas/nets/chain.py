"""Chains of six blocks, each with an operation and a width of its own: 10^12 small networks.

A block is its operation, with batch norm and ReLU after every convolution; the pooling operations
are a 1×1 convolution and then 2×2 pooling, skipped on maps smaller than 2×2. Global average pooling
and one linear layer follow the last block.
"""

from typing import Literal

from torch import Tensor, nn

from ..core.errors import SpaceError
from .pooling import HalvingAvgPool

Operation = Literal["conv1", "conv3", "conv5", "dil3", "grp3", "sep3", "sep5", "res3", "max", "avg"]


# reason: the axes of a search space are its arguments
def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    op1: Operation,
    op2: Operation,
    op3: Operation,
    op4: Operation,
    op5: Operation,
    op6: Operation,
    w1: int,
    w2: int,
    w3: int,
    w4: int,
    w5: int,
    w6: int,
) -> nn.Module:
    """A chain for images (C, H, W), with logits (B, classes); widths are even.

    Raises:
        SpaceError: no images.
    """
    if len(shape) != 3:
        raise SpaceError(f"a chain needs images (C, H, W), but got shape {shape}")
    channels, side = shape[0], min(shape[1:])
    blocks: list[nn.Module] = []
    operations: tuple[Operation, ...] = (op1, op2, op3, op4, op5, op6)
    for operation, width in zip(operations, (w1, w2, w3, w4, w5, w6), strict=True):
        if operation not in ("max", "avg"):
            blocks.append(_block(operation, channels, width))
        else:
            blocks.append(_conv(channels, width, 1))
            if side >= 2:
                blocks.append(nn.MaxPool2d(2) if operation == "max" else HalvingAvgPool())
                side //= 2
        channels = width
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


class _Residual(nn.Module):
    """Two 3×3 convolutions beside the identity, or a projection to ``width`` maps."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = _conv(channels, width, 3)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.beside: nn.Module = nn.Identity()
        if channels != width:
            self.beside = nn.Conv2d(channels, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, width, H, W)."""
        return (self.second(self.first(x)) + self.beside(x)).relu()  # type: ignore[no-any-return]


def _block(operation: Operation, channels: int, width: int) -> nn.Module:
    match operation:
        case "conv1" | "conv3" | "conv5":
            return _conv(channels, width, int(operation[-1]))
        case "dil3":
            return _conv(channels, width, 3, dilation=2)
        case "grp3":
            return _conv(channels, width, 3, groups=2 if channels % 2 == 0 else 1)
        case "sep3" | "sep5":
            depthwise = _conv(channels, channels, int(operation[-1]), groups=channels)
            return nn.Sequential(depthwise, _conv(channels, width, 1))
        case "res3":
            return _Residual(channels, width)
        case _:
            raise SpaceError(f"a chain has no operation {operation!r}")


def _conv(channels: int, width: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Module:
    padding = dilation * (kernel // 2)  # the map keeps its size
    conv = nn.Conv2d(
        channels, width, kernel, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
