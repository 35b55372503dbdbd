"""ResNet18 as Zhao 2021 trains it on a set: He 2016 for small images.

A convolution 3×3 to ``width`` maps without pooling, then four stages of two residual blocks with 1,
2, 4 and 8 times ``width`` maps, the last three halving the map, mean of each map, one linear layer.
Convolutions have no bias. Students that are trained on a few images have instance norm (Zhao 2021,
appendix A); the authors' students with batch norm are ``norm="batchnorm"``.

``downsampling="avgpooling"`` is the variant that Zhao 2021 condenses with: instead of a stride a
convolution at full size and 2×2 average pooling after its activation, and the linear layer sees the
whole last map.

On 32×32 images this is the authors' network, on 28×28 too (they take a 4×4 mean of a 4×4 map). On
smaller ones a stage keeps the size where halving would leave one pixel, which instance norm turns
into zero whatever comes in.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import SpaceError
from .convnet import InstanceNorm
from .pooling import HalvingAvgPool

Norm = Literal["instancenorm", "batchnorm"]
Downsampling = Literal["stride", "avgpooling"]


class Block(nn.Module):
    """Two convolutions 3×3 and a shortcut: (B, before, H, W) to (B, after, H', W')."""

    def __init__(
        self, before: int, after: int, *, halve: bool, norm: Norm, downsampling: Downsampling
    ) -> None:
        super().__init__()
        stride = 2 if halve and downsampling == "stride" else 1
        self.pool = HalvingAvgPool() if halve and downsampling == "avgpooling" else nn.Identity()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, after)
        self.shortcut: nn.Module = nn.Identity()
        if halve or before != after:
            convolution = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, self.pool, _norm(norm, after))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        inner = self.pool(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Eight residual blocks and a linear classifier: (B, C, H, W) to logits (B, classes)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int,
        norm: Norm,
        downsampling: Downsampling,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 2:
            raise SpaceError(
                f"ResNet18 needs images (C, H, W) of at least 2×2, but got shape {shape}"
            )
        channels, height, side = shape
        blocks: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            _norm(norm, width),
            nn.ReLU(),
        ]
        channels = width
        up = 1 if downsampling == "stride" else 0  # a stride rounds a map's size up, pooling down
        for stage, maps in enumerate((width, 2 * width, 4 * width, 8 * width)):
            halve = stage > 0 and (min(height, side) + up) // 2 >= 2
            if halve:
                height, side = (height + up) // 2, (side + up) // 2
            blocks.append(Block(channels, maps, halve=halve, norm=norm, downsampling=downsampling))
            blocks.append(Block(maps, maps, halve=False, norm=norm, downsampling=downsampling))
            channels = maps
        self.features = nn.Sequential(*blocks)  # (B, 8·width, height, side)
        if downsampling == "stride":
            self.pool: nn.Module = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(channels, classes)
        else:
            self.pool = nn.Identity()
            self.classifier = nn.Linear(channels * height * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 64,
    norm: Norm = "instancenorm",
    downsampling: Downsampling = "stride",
) -> nn.Module:
    """A ResNet18 for images (C, H, W).

    Raises:
        SpaceError: the images are smaller than 2×2, or no images.
    """
    return ResNet18(shape, classes, width=width, norm=norm, downsampling=downsampling)


def _norm(kind: Norm, channels: int) -> nn.Module:
    return InstanceNorm(channels) if kind == "instancenorm" else nn.BatchNorm2d(channels)
