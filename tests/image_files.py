"""Folders of random images, for the tests of several files."""

from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from proxynas.core.errors import DataError
from proxynas.datasets import (
    Dataset,
    load,
)


def write_image(
    path: Path, seed: int = 0, *, mode: str = "RGB", size: tuple[int, int] = (6, 5)
) -> Path:
    """Write a random image of `size` (W, H) that differs with `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], *channels), dtype=np.uint8
    )
    Image.fromarray(pixels, mode=None).save(path)
    return path


def write_folder(root: Path, counts: dict[str, int], **options: Any) -> Path:
    """Write `counts` images below each of the subfolders."""
    for place, count in counts.items():
        for i in range(count):
            write_image(root / place / f"{i:03}.png", seed=hash_of(f"{place} {i}"), **options)
    return root


def hash_of(text: str) -> int:
    return int(md5(text.encode()).hexdigest()[:8], 16)


def same(a: Dataset, b: Dataset) -> bool:
    tensors = [
        (x.x, y.x, x.y, y.y)
        for x, y in zip((a.train, a.val, a.test), (b.train, b.val, b.test), strict=True)
    ]
    return a.fingerprint == b.fingerprint and all(
        torch.equal(*t[:2]) and torch.equal(*t[2:]) for t in tensors
    )


def refusal(*args: Any, **options: Any) -> str:
    """Return the one line that loading is refused with."""
    with pytest.raises(DataError) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def undo(data: Dataset) -> torch.Tensor:
    return data.preprocessing.invert(data.test.x)


def replace_by_text(path: Path) -> None:
    path.write_text("hello")


def empty(path: Path) -> None:
    path.write_bytes(b"")
