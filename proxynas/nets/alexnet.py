"""AlexNet as Zhao 2021 trains it on a set: Krizhevsky 2012 cut down to 32×32 images.

Five convolutions (128 and 192 maps of 5×5, then 256, 192 and 192 of 3×3), ReLU after each, max
pooling after the first, second and last, and one linear layer; no normalisation, no dropout. A
1-channel 28×28 image is padded by 4 in the first convolution, which makes it 32×32. Three poolings
need images of at least 8×8.
"""

from torch import Tensor, nn

from ..core.errors import SpaceError


class AlexNet(nn.Module):
    """Five convolutions and a linear classifier: (B, C, H, W) to logits (B, classes)."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 8:
            raise SpaceError(
                f"AlexNet needs images (C, H, W) of at least 8×8, but got shape {shape}"
            )
        padding = 4 if shape == (1, 28, 28) else 2
        height, side = ((size + 2 * padding - 4) // 8 for size in shape[1:])
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 128, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )  # (B, 192, height, side)
        self.classifier = nn.Linear(192 * height * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


def make(shape: tuple[int, ...], classes: int) -> nn.Module:
    """An AlexNet for images (C, H, W).

    Raises:
        SpaceError: the images are smaller than 8×8, or no images.
    """
    return AlexNet(shape, classes)
