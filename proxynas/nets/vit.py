"""A small vision transformer, which is torchvision's.

Dosovitskiy et al., "An Image is Worth 16×16 Words" (ICLR 2021). APM (Table 2) trains a ViT on its
sets and does not say which; this is one of its family that suits 32×32 images: patches of 4×4, 6
layers, 8 heads, width 256, 512 units in each MLP, no dropout.
"""

from torch import nn

from ..core.errors import SpaceError
from ..core.torchvision import models

TOKENS = 7
"""Patches along a side, at least."""


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    layers: int = 6,
    heads: int = 8,
    width: int = 256,
    hidden: int = 512,
) -> nn.Module:
    """The network for square images (C, H, H): (B, C, H, H) to logits (B, classes).

    A patch is the largest that divides the side and leaves seven of them or more: 4 pixels for 28
    and 32, 1 for 8.

    Raises:
        SpaceError: other inputs, or sides under 7.
    """
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < TOKENS:
        raise SpaceError(
            f"ViT needs square images (C, H, H) of at least {TOKENS}×{TOKENS}, "
            f"but got shape {shape}; --image-size N makes them square"
        )
    channels, side, _ = shape
    patch = max(size for size in range(1, side // TOKENS + 1) if side % size == 0)
    net: nn.Module = models.VisionTransformer(
        side, patch, layers, heads, width, hidden, num_classes=classes
    )
    if channels != 3:  # torchvision's is for colour images
        net.conv_proj = nn.Conv2d(channels, width, patch, patch)
    return net
