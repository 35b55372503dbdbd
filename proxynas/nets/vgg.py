"""VGG11 as Zhao 2021 trains it: Simonyan & Zisserman 2014, normalised, with one linear layer.

Eight convolutions 3×3 (1, 2, 4, 4, 8, 8, 8 and 8 times ``width`` maps), each with normalisation and
ReLU; max pooling after the first, second, fourth, sixth and eighth. A 1-channel 28×28 image is
padded by 3 in the first convolution, which makes it 32×32. Networks that are trained on a few
images have instance norm, because statistics of so small batches are unreliable (Zhao 2021,
appendix A); the authors' students with batch norm are ``norm="batchnorm"``.

On 32×32 images this is the authors' network. On smaller ones a pooling is left out where it would
leave the next normalisation a map under 4×4: five layers of normalised 2×2 maps do not train
(instance norm turns even a map of one pixel into zero, whatever comes in). 8×8 images are pooled
twice instead of five times.
"""

from typing import Literal

from torch import Tensor, nn

from ..core.errors import SpaceError
from .convnet import InstanceNorm

LAYERS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Maps of each convolution in multiples of ``width``, a group up to its pooling."""


class VGG11(nn.Module):
    """Eight convolutions and a linear classifier: (B, C, H, W) to logits (B, classes)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int,
        norm: Literal["instancenorm", "batchnorm"],
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 2:
            raise SpaceError(f"VGG11 needs images (C, H, W) of at least 2×2, but got shape {shape}")
        channels, height, side = shape
        large = min(height, side) >= 32 or shape == (1, 28, 28)
        smallest = 4 if large else 8  # the smallest map that is pooled, but for the last
        blocks: list[nn.Module] = []
        for index, group in enumerate(LAYERS):
            for maps in group:
                padding = 3 if not blocks and shape == (1, 28, 28) else 1
                height, side = height + 2 * padding - 2, side + 2 * padding - 2
                blocks.append(nn.Conv2d(channels, maps * width, 3, padding=padding))
                channels = maps * width
                instance = norm == "instancenorm"
                blocks.append(InstanceNorm(channels) if instance else nn.BatchNorm2d(channels))
                blocks.append(nn.ReLU())
            if min(height, side) >= (2 if index == len(LAYERS) - 1 else smallest):
                blocks.append(nn.MaxPool2d(2))
                height, side = height // 2, side // 2
        self.features = nn.Sequential(*blocks)  # (B, 8·width, height, side)
        self.classifier = nn.Linear(channels * height * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 64,
    norm: Literal["instancenorm", "batchnorm"] = "instancenorm",
) -> nn.Module:
    """A VGG11 for images (C, H, W).

    Raises:
        SpaceError: the images are smaller than 2×2, or no images.
    """
    return VGG11(shape, classes, width=width, norm=norm)
