"""ConvNet: the default student and the 720-network grid of Zhao 2021 (§3.1 and §3.2).

A block is convolution 3×3, normalisation, activation, 2×2 pooling; ``depth`` blocks of ``width``
filters, then one linear layer. Where a map is smaller than 2×2 there is nothing left to pool and
the block's pooling is skipped: on 8×8 images the fourth block works on 1×1 maps. Instance norm of a
1×1 map is zero whatever comes in, so such networks stay at chance; they are kept, because a ranking
has to find that out.

A 1-channel 28×28 image is padded by 3 in the first convolution, which makes it 32×32 (the authors'
code does the same).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..core.errors import SpaceError
from .pooling import HalvingAvgPool

Norm = Literal["none", "batchnorm", "layernorm", "instancenorm", "groupnorm"]
Activation = Literal["sigmoid", "relu", "leakyrelu"]
Pooling = Literal["none", "maxpooling", "avgpooling"]


class InstanceNorm(nn.Module):
    """Group norm with one group per channel: "instance norm" in the authors' code.

    Scale and shift are learned. PyTorch's own modules refuse a single 1×1 map; this one gives its
    shift, as for a batch of such maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each map of each image: (B, C, H, W) to the same."""
        return torch.group_norm(x, len(self.weight), self.weight, self.bias)


class ConvNet(nn.Module):
    """``depth`` blocks and a linear classifier: (B, C, H, W) to logits (B, classes)."""

    # reason: the axes of a search space are its arguments
    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        depth: int,
        width: int,
        norm: Norm,
        activation: Activation,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise SpaceError(
                f"ConvNet needs images (C, H, W), but got shape {shape}; 'mlp-grid' is for tables"
            )
        channels, height, side = shape
        blocks: list[nn.Module] = []
        for index in range(depth):
            padding = 3 if index == 0 and shape == (1, 28, 28) else 1
            height, side = height + 2 * padding - 2, side + 2 * padding - 2
            blocks.append(nn.Conv2d(channels, width, 3, padding=padding))
            blocks += [*_norm(norm, width, height, side), _activation(activation)]
            if pooling != "none" and min(height, side) >= 2:
                blocks.append(nn.MaxPool2d(2) if pooling == "maxpooling" else HalvingAvgPool())
                height, side = height // 2, side // 2
            channels = width
        self.features = nn.Sequential(*blocks)  # (B, width, height, side)
        self.classifier = nn.Linear(width * height * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


# reason: the axes of a search space are its arguments
def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 3,
    width: int = 128,
    norm: Norm = "instancenorm",
    activation: Activation = "relu",
    pooling: Pooling = "avgpooling",
) -> nn.Module:
    """A ConvNet for images (C, H, W); the defaults are the student of Zhao 2021.

    Raises:
        SpaceError: no images.
    """
    return ConvNet(
        shape, classes, depth=depth, width=width, norm=norm, activation=activation, pooling=pooling
    )


def _norm(kind: Norm, width: int, height: int, side: int) -> list[nn.Module]:
    match kind:
        case "none":
            return []
        case "batchnorm":
            return [nn.BatchNorm2d(width)]
        case "layernorm":
            return [nn.LayerNorm([width, height, side])]
        case "instancenorm":
            return [InstanceNorm(width)]
        case "groupnorm":
            return [nn.GroupNorm(4, width)]


def _activation(kind: Activation) -> nn.Module:
    match kind:
        case "sigmoid":
            return nn.Sigmoid()
        case "relu":
            return nn.ReLU()
        case "leakyrelu":
            return nn.LeakyReLU(0.01)
