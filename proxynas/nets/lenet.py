"""LeNet as Zhao 2021 trains it on a set: LeCun 1998 with ReLU and max pooling.

Convolution 5×5 to 6 maps, pool, convolution 5×5 to 16 maps, pool, then linear layers of 120, 84 and
the classes. A 1-channel 28×28 image is padded by 2 in the first convolution, which makes it 32×32.

On 32×32 images this is the authors' network. Both convolutions eat four pixels, so images under
16×16 would leave nothing; there both are padded by 2 and keep the size.
"""

from torch import Tensor, nn

from ..core.errors import SpaceError


class LeNet(nn.Module):
    """Two convolutions and three linear layers: (B, C, H, W) to logits (B, classes)."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise SpaceError(f"LeNet needs images (C, H, W) of at least 4×4, but got shape {shape}")
        small = min(shape[1:]) < 16
        first, second = 2 if small or shape == (1, 28, 28) else 0, 2 if small else 0
        height, side = (((size + 2 * first - 4) // 2 + 2 * second - 4) // 2 for size in shape[1:])
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 6, 5, padding=first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=second),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )  # (B, 16, height, side)
        self.classifier = nn.Sequential(
            nn.Linear(16 * height * side, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


def make(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A LeNet for images (C, H, W).

    Raises:
        SpaceError: the images are smaller than 4×4, or no images.
    """
    return LeNet(shape, classes)
