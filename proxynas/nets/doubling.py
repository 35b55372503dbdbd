"""The ConvNet of FRePo (Zhou 2022) and RCIG (Loo 2023, Appendix C): each block doubles the filters.

A block is convolution 3×3, normalisation (by default none), activation, 2×2 average pooling;
``width`` filters in the first of ``depth`` blocks, then one linear layer. At depth 3 RCIG distils
with softplus (β = 60), a ReLU with its corner rounded off, and evaluates with ReLU. A 1-channel
28×28 image is padded by 3 in the first convolution, which makes it 32×32. Weights are drawn from
N(0, 1/fan-in) and biases are zero, the default of Flax, the authors' library (which cuts the normal
off at two deviations). A map smaller than 2×2 is not pooled.
"""

from typing import Literal

from torch import Tensor, nn

from ..core.errors import SpaceError
from .convnet import InstanceNorm
from .pooling import HalvingAvgPool

Norm = Literal["none", "batchnorm", "instancenorm"]
Activation = Literal["relu", "softplus"]

BETA = 60.0
"""How sharp the softplus is."""


class DoublingConvNet(nn.Module):
    """``depth`` blocks and a linear classifier: (B, C, H, W) to logits (B, classes)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        depth: int,
        width: int,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            needs = "the ConvNet needs images (C, H, W)"
            raise SpaceError(f"{needs}, but got shape {shape}; 'mlp-grid' is for tables")
        channels, height, side = shape
        blocks: list[nn.Module] = []
        for index in range(depth):
            filters = width * 2**index
            padding = 3 if index == 0 and shape == (1, 28, 28) else 1
            height, side = height + 2 * padding - 2, side + 2 * padding - 2
            blocks.append(nn.Conv2d(channels, filters, 3, padding=padding))
            if norm == "batchnorm":
                blocks.append(nn.BatchNorm2d(filters))
            elif norm == "instancenorm":
                blocks.append(InstanceNorm(filters))
            blocks.append(nn.ReLU() if activation == "relu" else nn.Softplus(BETA))
            if min(height, side) >= 2:
                blocks.append(HalvingAvgPool())
                height, side = height // 2, side // 2
            channels = filters
        self.features = nn.Sequential(*blocks)  # (B, channels, height, side)
        self.classifier = nn.Linear(channels * height * side, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 3,
    width: int = 128,
    norm: Norm = "none",
    activation: Activation = "relu",
) -> nn.Module:
    """A ConvNet whose width doubles, for images (C, H, W).

    The defaults are the published ones for 32×32.

    Raises:
        SpaceError: no images.
    """
    return DoublingConvNet(
        shape, classes, depth=depth, width=width, norm=norm, activation=activation
    )
