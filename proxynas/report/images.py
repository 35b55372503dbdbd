"""Proxy images as strips, one a class, enlarged without smoothing."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CELL = 48
"""Pixels that an image is enlarged to at least, by a whole factor."""

GAP = 4
CLASSES, IMAGES = 20, 20
"""At most so many classes, and so many images a class, are shown."""


@dataclass(frozen=True)
class Strip:
    """The images of one class side by side."""

    name: str
    uri: str
    width: int  # pixels
    height: int
    shown: int
    of: int


def strips(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[Strip]:
    """One strip a class, for the first :data:`CLASSES` classes.

    Args:
        images: (n, C, H, W) in [0, 1]; values outside are clipped. Channels other than 1 or 3 are
            averaged.
        labels: int64 (n,), or soft (n, K), of which the largest counts.
        class_names: what the classes are called, in order.
    """
    hard = (labels if labels.ndim == 1 else labels.argmax(1)).cpu().numpy()
    pixels = _pixels(images)
    rows = []
    for label in np.unique(hard)[:CLASSES]:
        own = pixels[hard == label]
        row = _row(own[:IMAGES])
        name = class_names[label] if label < len(class_names) else str(label)
        rows.append(
            Strip(name, _uri(row), row.shape[1], row.shape[0], min(len(own), IMAGES), len(own))
        )
    return rows


def grid(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> bytes:
    """All strips below each other, as one PNG."""
    rows = [_decoded(strip.uri) for strip in strips(images, labels, class_names)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return _png(np.concatenate(padded)[:-GAP])


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """RGBA (n, H, W, 4), enlarged."""
    x = images.detach().float().cpu().clamp(0, 1).numpy()  # (n, C, H, W)
    if x.shape[1] != 3:
        x = x.mean(1, keepdims=True).repeat(3, axis=1)
    rgb = np.rint(255 * x.transpose(0, 2, 3, 1)).astype(np.uint8)
    factor = max(1, -(-CELL // max(rgb.shape[1:3])))
    rgb = rgb.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.concatenate([rgb, np.full((*rgb.shape[:3], 1), 255, dtype=np.uint8)], axis=3)


def _row(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (k, H, W, 4) side by side with clear gaps: (H, …, 4)."""
    spaced = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, 0)))
    return np.concatenate(list(spaced), axis=1)[:, :-GAP]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _uri(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(pixels)).decode()


def _decoded(uri: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
