"""Image files → stored pixels: what is grey stays grey, and anything mixed becomes RGB."""

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import DataError
from .base import Progress

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
BATCH = 256  # files that the threads decode between two calls of `progress`
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may be, whatever its extension; others (EPS) would have other programs run."""
BYTES_PER_PIXEL = 8  # at the peak: as stored, in float32, copied into its split, and something over

UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, EOFError),
    *(struct.error, Image.DecompressionBombError),
)
"""What Pillow raises for a file that is damaged, cut short or of another kind."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W) grey or (H, W, 3) RGB


def decode_all(paths: Sequence[Path], image_size: int | None, progress: Progress | None) -> Tensor:
    """Decode every file, with threads, into one uint8 (N, C, H, W): C is 1 if all of them are grey,
    else 3.

    With `image_size` each is cropped about its centre to a square and resized. Raises DataError for
    a file that is corrupt, for images that differ in size, and where the images would not fit in
    memory.
    """
    out = _allocate(len(paths), decode(paths[0], image_size))  # (N, C, H, W)
    like = None if image_size is not None else (paths[0], out.shape[2:])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            decoded = pool.map(partial(decode, image_size=image_size, like=like), batch)
            for i, image in enumerate(decoded, start):
                out = _put(out, i, image)
            if progress is not None:
                progress(start + len(batch), len(paths))
    return torch.from_numpy(out)


def decode(
    path: Path, image_size: int | None = None, like: tuple[Path, tuple[int, ...]] | None = None
) -> Pixels:
    """Decode one file to uint8, (H, W) if it is grey and (H, W, 3) if not.

    Transparency is dropped, 16 bits become 8, a palette counts as colour, and of an animation the
    first frame is taken. With `like`, a file and its (H, W), another size is refused before any
    pixel is decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if like is not None and file.format != "TIFF":  # which may turn while it is decoded
                _check_size(file.size, path, *like)
            image = _eight_bits(file)
            if like is not None:
                _check_size(image.size, path, *like)
            return np.asarray(image if image_size is None else _square(image, image_size))
    except PermissionError as error:
        raise DataError(
            f"expected an image, but {path} may not be read: change its permissions"
        ) from error
    except UNDECODABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"expected an image, but {path} cannot be decoded ({reason}): fix or remove it"
        ) from error


def resize(x: Tensor, image_size: int) -> Tensor:
    """Crop uint8 (N, C, H, W) about its centre to squares and resize them: (N, C, image_size,
    image_size)."""
    planes = x.flatten(0, 1).numpy()  # (N·C, H, W)
    resized = np.stack(
        [np.asarray(_square(Image.fromarray(plane), image_size)) for plane in planes]
    )
    return torch.from_numpy(resized).reshape(*x.shape[:2], image_size, image_size)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I" and image.format == "PPM":  # 16 bits of a PGM file
        values = np.asarray(image)
        if values.min() >= 0 and values.max() < 2**16:
            return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels are of mode {image.mode}, expected 8 or 16 bits")
    if image.mode == "P":
        # a palette may hold transparency in a form that RGB cannot take
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)


def _allocate(n: int, first: Pixels) -> Pixels:
    height, width = first.shape[:2]
    channels = 1 if first.ndim == 2 else 3
    check_memory(n, channels, height, width)
    return np.empty((n, channels, height, width), dtype=np.uint8)


def check_memory(n: int, channels: int, height: int, width: int) -> None:
    """Refuse images that would not fit in memory.

    Raises:
        DataError: they need more than is free.
    """
    need = n * channels * height * width * BYTES_PER_PIXEL
    free = psutil.virtual_memory().available
    if need > free:
        raise DataError(
            f"{n:,} images of {width}×{height} need about {need / 2**30:.1f} GiB of memory, but "
            f"{free / 2**30:.1f} GiB is free: pass a smaller --image-size"
        )


def _check_size(size: tuple[int, int], path: Path, first: Path, expected: tuple[int, ...]) -> None:
    width, height = size
    if (height, width) != tuple(expected):
        raise DataError(
            f"expected images of one size, but {first} is {expected[1]}×{expected[0]} and {path} "
            f"is {width}×{height}: pass --image-size N to crop and resize them all to N×N"
        )


def _put(out: Pixels, i: int, image: Pixels) -> Pixels:
    """Write `image` at `i`; if it is the first in colour, everything before it becomes RGB."""
    if image.ndim == 3 and out.shape[1] == 1:
        check_memory(len(out), 3, *out.shape[2:])
        out = np.repeat(out, 3, axis=1)
    # grey broadcasts over the channels
    out[i] = image.transpose(2, 0, 1) if image.ndim == 3 else image
    return out
