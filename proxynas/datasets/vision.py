"""MNIST, Fashion-MNIST, SVHN and CIFAR, read by torchvision; the official test split stays the test
split.

torchvision is imported when one of them is read, not before: it takes a second or two.
"""

import gzip
import pickle
import shutil
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import DataError
from .base import Images, Stored
from .cache import cache_dir
from .split import stratified

VAL_FRACTION = 0.1
DIGITS = tuple("0123456789")
IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the IDX files, packed with gzip."""

DAMAGED = (
    *(RuntimeError, OSError, ValueError, TypeError, LookupError, EOFError, AssertionError),
    *(pickle.PickleError, zlib.error, HTTPException),
)
"""What torchvision raises for files that are missing, truncated, not what they should be, or out of
reach."""


@dataclass(frozen=True)
class Source:
    """A dataset that torchvision reads: its class there, and the files that tell that it is on
    disk."""

    title: str
    factory: str
    files: tuple[str, ...]
    class_names: tuple[str, ...] | None = None  # None: torchvision knows them


SOURCES = {
    "mnist": Source(
        "handwritten digits, 1×28×28, 10 classes, 60,000 to train on and 10,000 to test",
        "MNIST",
        tuple(f"MNIST/raw/{name}" for name in IDX_FILES),
        DIGITS,
    ),
    "fashion-mnist": Source(
        "articles of clothing, 1×28×28, 10 classes, 60,000 to train on and 10,000 to test",
        "FashionMNIST",
        tuple(f"FashionMNIST/raw/{name}" for name in IDX_FILES),
    ),
    "svhn": Source(
        "house numbers, 3×32×32, 10 classes, 73,257 to train on and 26,032 to test",
        "SVHN",
        ("train_32x32.mat", "test_32x32.mat"),
        DIGITS,
    ),
    "cifar10": Source(
        "animals and vehicles, 3×32×32, 10 classes, 50,000 to train on and 10,000 to test",
        "CIFAR10",
        ("cifar-10-batches-py/batches.meta",),
    ),
    "cifar100": Source(
        "things of 100 kinds, 3×32×32, 100 classes, 50,000 to train on and 10,000 to test",
        "CIFAR100",
        ("cifar-100-python/meta",),
    ),
}


def default_root() -> Path:
    """Return the folder that torchvision reads and downloads to if no other is given."""
    return cache_dir() / "torchvision"


def available(name: str, root: Path | None) -> bool:
    """Whether the files of `name` are on disk."""
    folder = default_root() if root is None else root
    there = all((folder / file).is_file() for file in SOURCES[name].files)
    return there or _from_system(name, root)


def read(name: str, root: Path | None, download: bool, val_fraction: float | None) -> Stored:
    """Read one of `SOURCES` from `root`; a stratified tenth (or `val_fraction`) of its train split
    validates.

    Raises DataError if its files are not there and `download` is false, cannot be fetched, or are
    damaged.
    """
    folder = default_root() if root is None else root
    if _from_system(name, root):
        with tempfile.TemporaryDirectory() as temporary:
            _unpack_system(Path(temporary))
            train, test, names = _read_both(name, Path(temporary), download=False)
    else:
        if not download and not available(name, root):
            raise DataError(_not_there(name, folder))
        train, test, names = _read_both(name, folder, download)
    n = round((VAL_FRACTION if val_fraction is None else val_fraction) * len(train))
    kept, drawn = stratified(train.y, n)
    return Stored(name, train[kept], train[drawn], test, names)


def _read_both(name: str, folder: Path, download: bool) -> tuple[Images, Images, tuple[str, ...]]:
    """Return the official train and test splits and the names of the classes."""
    from ..core import torchvision

    source = SOURCES[name]
    factory: Any = getattr(torchvision.datasets, source.factory)
    parts: list[dict[str, Any]] = [{"split": "train"}, {"split": "test"}]
    if name != "svhn":
        parts = [{"train": True}, {"train": False}]
    try:
        with warnings.catch_warnings():
            # CIFAR's old pickles
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            train, test = (factory(str(folder), download=download, **part) for part in parts)
            names = source.class_names or tuple(train.classes)
            return _images(train, len(names)), _images(test, len(names)), names
    except DAMAGED as error:
        raise DataError(_unreadable(name, folder, download, error)) from error


def _images(dataset: Any, num_classes: int) -> Images:
    """Turn one of torchvision's datasets, (N, H, W), (N, H, W, 3) or SVHN's (N, 3, H, W), into
    stored images."""
    x = torch.as_tensor(np.ascontiguousarray(dataset.data))
    if x.ndim == 3:
        x = x.unsqueeze(1)
    elif x.shape[-1] == 3:
        x = x.permute(0, 3, 1, 2).contiguous()
    labels = dataset.labels if dataset.__class__.__name__ == "SVHN" else dataset.targets
    y = torch.as_tensor(labels).long()
    if len(x) != len(y) or int(y.max()) >= num_classes:
        raise ValueError(f"{len(x)} images have {len(y)} labels up to {int(y.max())}")
    return Images(x, y)


def _from_system(name: str, root: Path | None) -> bool:
    files = (SYSTEM_FASHION_MNIST / f"{file}.gz" for file in IDX_FILES)
    return name == "fashion-mnist" and root is None and all(file.is_file() for file in files)


def _unpack_system(folder: Path) -> None:
    """Unpack the system's files to where torchvision looks for them; its reader does not take
    packed ones."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        try:
            with (
                gzip.open(SYSTEM_FASHION_MNIST / f"{name}.gz") as packed,
                open(raw / name, "wb") as file,
            ):
                shutil.copyfileobj(packed, file)
        except (OSError, EOFError) as error:
            raise DataError(
                f"expected a gzip file, but {SYSTEM_FASHION_MNIST / name}.gz cannot be read"
            ) from error


def _not_there(name: str, folder: Path) -> str:
    hint = ""
    if (folder / name / "train").is_dir():
        hint = f" ({folder / name} looks like a folder of images: give that path as the dataset)"
    return (
        f"expected the files of {name} in {folder}, but they are not there: pass --data-root "
        f"FOLDER if they are elsewhere, or --download to fetch them{hint}"
    )


def _unreadable(name: str, folder: Path, download: bool, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if download:
        return (
            f"{name} could not be fetched to {folder} or read from there ({reason}): check the "
            "network, that the folder may be written and that nothing in it is damaged, or pass "
            "--data-root FOLDER if it is elsewhere"
        )
    return (
        f"expected the sound files of {name} in {folder}, but they cannot be read ({reason}): "
        "remove what is damaged there and pass --download, or pass --data-root FOLDER to read it "
        "from elsewhere"
    )
