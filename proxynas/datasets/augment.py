"""Augmentation in plain PyTorch, differentiable in the images.

A strategy names operations, such as ``crop+scale+rotate``: those of Zhao & Bilen, "Dataset
Condensation with Differentiable Siamese Augmentation" (ICML 2021; DSA), with the parameters of its
public code. Every batch is treated by one of them, drawn at random. Its parameters are either one
set for all images (siamese: real and synthetic batches are then treated alike) or one for every
image.

The strategy ``zhao2021`` is another augmentation: that of Zhao, Mopuri & Bilen, "Dataset
Condensation with Gradient Matching" (ICLR 2021), by which the networks that its public code
evaluates sets of MNIST with are trained (and, in their code, those of Medvedev 2021, whose Table V
speaks of crop and rotation). An operation is drawn for every image and not for the batch, and moves
it further: a shift of up to 4 pixels, a stretch of each axis by 0.8 to 1.2, or a turn of up to 45
degrees (:func:`zhao2021_places`). What comes in from outside is the batch's mean by channel where
an image is shifted, its mean over channels where it is turned, and 0 where it is scaled. That code
has no augmentation for other data, and one by crop and noise for networks with batch norm, which is
not here.

Images are normalised, so what comes in from outside by DSA (crop, cutout, scale, rotate) is 0, the
mean of the train split. Where implementations differ: DSA's code rotates non-square images with a
shear, which this does not. Zhao 2021's code turns by whole degrees with cubic splines and scales to
whole pixels with the nearest one; this interpolates linearly in both, at any angle and factor.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import SpecError
from ..specs import ZHAO2021, check_operations

Transform = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to the same shape; where each image has parameters, B is their number."""
Draw = Callable[[int, tuple[int, int], torch.Generator], Transform]

SCALE = 1.2  # factor at most, and its inverse at least, each axis for itself
ROTATE = 15.0  # degrees at most, either way
CROP = 0.125  # of the side at most, either way
CUTOUT = 0.5  # side of the square over that of the image
FLIP = 0.5  # how likely
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5

ZHAO2021_SHIFT = 4  # pixels at most
ZHAO2021_SCALE = 0.2  # of the side at most, either way, each axis for itself
ZHAO2021_ROTATE = 45.0  # degrees at most, either way


def draw(
    strategy: str, shape: tuple[int, ...], generator: torch.Generator, n: int = 1
) -> Transform:
    """A transform by one of the strategy's operations.

    Args:
        strategy: operations joined by ``+``, or ``zhao2021``; empty: nothing is done or drawn.
        shape: of one image, (C, H, W).
        generator: on the CPU; what all is drawn from.
        n: parameter sets; 1 treats all images of whatever batch alike, more are for a batch of
            ``n`` images.

    Raises:
        SpecError: an unknown operation, or rows of tables instead of images.
    """
    if not strategy:
        return _identity
    try:
        names = check_operations(strategy).split("+")
    except ValueError as error:
        raise SpecError(f"augment: {error}") from None
    if len(shape) != 3:
        raise SpecError(
            f"augment = {strategy!r} is for images (C, H, W), but one input has shape {shape}; "
            "leave it out"
        )
    if strategy == ZHAO2021:
        return _zhao2021(n, (shape[1], shape[2]), generator)
    chosen = names[int(torch.randint(len(names), (), generator=generator))]
    return OPS[chosen](n, (shape[1], shape[2]), generator)


def _identity(x: Tensor) -> Tensor:
    return x


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def _color(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """Brightness shifts; saturation stretches about each pixel's mean over channels, contrast about
    the image's."""
    shift = _uniform(n, -BRIGHTNESS / 2, BRIGHTNESS / 2, generator).view(n, 1, 1, 1)
    saturation = _uniform(n, 0.0, SATURATION, generator).view(n, 1, 1, 1)
    contrast = _uniform(n, CONTRAST, 1 + CONTRAST, generator).view(n, 1, 1, 1)

    def transform(x: Tensor) -> Tensor:
        x = x + shift.to(x)
        mean = x.mean(1, keepdim=True)
        x = (x - mean) * saturation.to(x) + mean
        mean = x.mean((1, 2, 3), keepdim=True)
        return (x - mean) * contrast.to(x) + mean

    return transform


def _crop(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """Shift by whole pixels: a crop of the padded image."""
    pads = [int(length * CROP + 0.5) for length in side]
    shifts = [torch.randint(-pad, pad + 1, (n,), generator=generator) for pad in pads]

    def transform(x: Tensor) -> Tensor:
        padded = F.pad(x, (pads[1], pads[1], pads[0], pads[0]))
        places = (
            torch.arange(length) + pad + shift[:, None]
            for length, pad, shift in zip(side, pads, shifts, strict=True)
        )
        rows, columns = (p.expand(len(x), -1).to(x.device) for p in places)  # (B, H) and (B, W)
        each = torch.arange(len(x), device=x.device)[:, None, None]
        last = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
        return last.permute(0, 3, 1, 2)

    return transform


def _cutout(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """A square centred on any pixel becomes 0; what lies outside of the image is lost."""
    inside = []
    for length in side:
        size = int(length * CUTOUT + 0.5)
        first = torch.randint(0, length + 1 - size % 2, (n, 1), generator=generator) - size // 2
        place = torch.arange(length)
        inside.append((place >= first) & (place < first + size))  # (n, H) and (n, W)
    kept = ~(inside[0][:, :, None] & inside[1][:, None, :])[:, None]  # (n, 1, H, W)
    return lambda x: x * kept.to(x)


def _flip(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """Left becomes right."""
    flipped = (torch.rand(n, generator=generator) < FLIP).view(n, 1, 1, 1)
    return lambda x: torch.where(flipped.to(x.device), x.flip(3), x)


def _scale(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """Stretch or shrink each axis about the centre."""
    factors = _uniform(2 * n, 1 / SCALE, SCALE, generator).view(n, 2)
    return _affine(torch.diag_embed(factors))


def _rotate(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """Turn about the centre."""
    angle = _uniform(n, -ROTATE, ROTATE, generator) * (math.pi / 180)
    sine, cosine, aspect = angle.sin(), angle.cos(), side[0] / side[1]
    rows = [torch.stack([cosine, -sine * aspect], 1), torch.stack([sine / aspect, cosine], 1)]
    return _affine(torch.stack(rows, 1))


def _affine(matrix: Tensor) -> Transform:
    """Sample, bilinearly, at places that ``matrix`` (n, 2, 2) makes of (x, y) in [−1, 1]."""
    theta = F.pad(matrix, (0, 1))  # (n, 2, 3): no shift
    return lambda x: _sampled(x, theta)


def _sampled(x: Tensor, theta: Tensor) -> Tensor:
    """Images (B, C, H, W), each pixel taken, bilinearly, where ``theta`` (n, 2, 3) says; else 0."""
    places = F.affine_grid(theta.to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, places, align_corners=False)


def _zhao2021(n: int, side: tuple[int, int], generator: torch.Generator) -> Transform:
    """Shift, scale or turn every image for itself."""
    kind = torch.randint(3, (n,), generator=generator)  # 0: shift, 1: scale, 2: rotate
    theta = zhao2021_places(
        kind,
        torch.randint(-ZHAO2021_SHIFT, ZHAO2021_SHIFT, (n, 2), generator=generator),
        _uniform(2 * n, 1 - ZHAO2021_SCALE, 1 + ZHAO2021_SCALE, generator).view(n, 2),
        _uniform(n, -ZHAO2021_ROTATE, ZHAO2021_ROTATE, generator) * (math.pi / 180),
        side,
    )
    shifted, turned = (kind == 0).view(n, 1, 1, 1), (kind == 2).view(n, 1, 1, 1)

    def transform(x: Tensor) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)  # (1, C, 1, 1)
        fill = shifted.to(x) * mean + turned.to(x) * mean.mean()  # (n, C, 1, 1)
        return _sampled(x - fill, theta) + fill

    return transform


def zhao2021_places(
    kind: Tensor,
    shift: Tensor,
    factor: Tensor,
    angle: Tensor,
    side: tuple[int, int],
) -> Tensor:
    """Where each pixel of ``n`` images is taken from: matrices (n, 2, 3) of (x, y, 1) in [−1, 1].

    Args:
        kind: int64 (n,); 0: by ``shift``, 1: by ``factor``, 2: by ``angle``.
        shift: (n, 2), whole pixels to the left and up.
        factor: (n, 2), by which an image grows in width and in height about its centre.
        angle: (n,), radians, about the centre, anticlockwise as one looks at the image.
        side: height and width.
    """
    height, width = side
    shift = shift.to(angle)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cosine, sine, aspect = angle.cos(), angle.sin(), height / width
    each = [
        [one, zero, 2 * shift[:, 0] / width, zero, one, 2 * shift[:, 1] / height],
        [1 / factor[:, 0], zero, zero, zero, 1 / factor[:, 1], zero],
        [cosine, -sine * aspect, zero, sine / aspect, cosine, zero],
    ]
    theta = torch.stack([torch.stack(rows, 1) for rows in each], 1)  # (n, 3, 6)
    return theta[torch.arange(len(kind)), kind].view(-1, 2, 3)


OPS: dict[str, Draw] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
"""The operations by name; digits should not be flipped."""
