"""Real data → normalised tensors in three splits. `load` takes a name from `names`, a folder of
images, or a CSV file.

Nothing selects on `test`; hyper-parameters, checkpoints and rankings use `val`.

>>> from proxynas import datasets
>>> digits = datasets.load("digits")
>>> digits.shape, digits.num_classes, digits.is_images
((1, 8, 8), 10, True)
>>> len(digits.train), len(digits.val), len(digits.test)
(1000, 297, 500)
>>> pixels = digits.preprocessing.invert(digits.train.x)  # (1000, 1, 8, 8), in [0, 1]
>>> round(pixels.min().item(), 3), round(pixels.max().item(), 3)
(0.0, 1.0)
"""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..core.errors import DataError
from ..specs import DataSpec, parse_whitening
from . import digits, folder, moons, table, vision, zca
from .base import Dataset, Images, Preprocessing, Split, Stored, assemble
from .pixels import check_memory, resize

__all__ = ["Dataset", "Known", "Preprocessing", "Split", "load", "load_for", "names"]


class Known(NamedTuple):
    """A dataset that has a name, and whether it could be loaded now without a download."""

    name: str
    description: str
    available: bool


class Embedded(NamedTuple):
    """A dataset that needs no files: one line about it, and a function of the validation fraction
    that makes it, as stored images or, of a table, as it is."""

    description: str
    read: Callable[[float | None], Stored | Dataset]


EMBEDDED = {
    "digits": Embedded(
        "handwritten digits, 1×8×8, 10 classes, 1,297 to train on and 500 to test", digits.read
    ),
    "moons": Embedded(
        "a table: points of two half circles, 2 columns, 2 classes, 1,000 to train on", moons.read
    ),
}
"""A dataset is its file and its line here, or in :data:`proxynas.datasets.vision.SOURCES`."""


def names(root: Path | None = None) -> list[Known]:
    """List every dataset that has a name; `root` is where torchvision's are looked for."""
    embedded = [Known(name, e.description, True) for name, e in EMBEDDED.items()]
    vision_ = [Known(n, s.title, vision.available(n, root)) for n, s in vision.SOURCES.items()]
    return [*embedded, *vision_]


# reason: the one way to load data; all arguments but the first have defaults
def load(
    name: str | Path,
    root: Path | None = None,
    *,
    download: bool = False,
    val_fraction: float | None = None,
    image_size: int | None = None,
    whiten: float | str | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load a dataset: float32 (N, C, H, W), normalised by its train split, in train, val and test,
    on `device`.

    `name` is one of `names()`, or the path of a folder of images (see `proxynas.datasets.folder`
    for its layouts; write "./mnist" for a folder that is called as a dataset is; its name becomes
    "mnist-folder"), or that of a table, a file that ends in ".csv" (see `proxynas.datasets.table`;
    float32 (N, D)). `root` is where torchvision's datasets are, or the folder that a path is
    relative to. `download` fetches what is not there. `val_fraction` is the share of what is
    outside the test split that validates; without it a tenth, 297 of the digits, or 300 of the
    moons. `image_size` crops about the centre to a square and resizes. `whiten` is the strength of
    ZCA whitening, such as 0.1 or "kornia:0.1" (`proxynas.datasets.zca`); the fingerprint, that of
    what was stored, does not know of it. `progress(done, total)` is called while the images of a
    folder are decoded.

    The same files and arguments give the same dataset, always. Raises DataError for whatever is
    missing, damaged or out of range.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise DataError(
            "the validation fraction must be between 0 and 1, both excluded, "
            f"but got {val_fraction}"
        )
    if image_size is not None and image_size < 1:
        raise DataError(f"the image size must be at least 1, but got {image_size}")
    return _whitened(_loaded(name, root, download, val_fraction, image_size, progress), whiten).to(
        device
    )


def _loaded(
    name: str | Path,
    root: Path | None,
    download: bool,
    val_fraction: float | None,
    image_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> Dataset:
    if str(name).lower().endswith(".csv"):
        return _unresized(_table(name, root, val_fraction), name, image_size)
    if isinstance(name, str) and name in EMBEDDED:
        embedded = EMBEDDED[name].read(val_fraction)
        if isinstance(embedded, Dataset):
            return _unresized(embedded, name, image_size)
        return assemble(_resized(embedded, image_size))
    if isinstance(name, str) and name in vision.SOURCES:
        return assemble(_resized(vision.read(name, root, download, val_fraction), image_size))
    return assemble(folder.read(_folder(name, root), val_fraction, image_size, progress))


def load_for(spec: DataSpec, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Load the data that a command was asked for; see :func:`load`."""
    root = None if spec.data_root is None else Path(spec.data_root)
    return load(
        spec.data,
        root,
        download=spec.download,
        image_size=spec.image_size,
        whiten=spec.zca,
        device=spec.device,
        progress=progress,
    )


def _whitened(dataset: Dataset, setting: float | str | None) -> Dataset:
    if setting is None:
        return dataset
    try:
        regularisation = parse_whitening(setting)
    except ValueError as error:
        raise DataError(f"zca: {error}, but got {setting!r}") from None
    deviations = dataset.preprocessing.std
    whitening = zca.fitted(dataset.train.x, regularisation, deviations, dataset.fingerprint)
    train, val, test = (
        Split(whitening.apply(part.x), part.y)
        for part in (dataset.train, dataset.val, dataset.test)
    )
    return replace(
        dataset,
        train=train,
        val=val,
        test=test,
        preprocessing=replace(dataset.preprocessing, zca=whitening),
    )


def _unresized(table_: Dataset, name: str | Path, image_size: int | None) -> Dataset:
    if image_size is not None:
        raise DataError(
            f"an image size is for images, but {name} is a table; leave out the image size "
            f"({image_size})"
        )
    return table_


def _table(name: str | Path, root: Path | None, val_fraction: float | None) -> Dataset:
    path = _expanded(name) if root is None else root / _expanded(name)
    named = f"{path.stem}-table" if path.stem in _known() else path.stem
    return table.read(path, named, val_fraction)


def _known() -> tuple[str, ...]:
    return (*EMBEDDED, *vision.SOURCES)


def _resized(stored: Stored, image_size: int | None) -> Stored:
    if image_size is None or stored.train.x.shape[2:] == (image_size, image_size):
        return stored
    parts = (stored.train, stored.val, stored.test)
    images = sum(len(part) for part in parts)
    check_memory(images, stored.train.x.shape[1], image_size, image_size)
    train, val, test = (Images(resize(part.x, image_size), part.y) for part in parts)
    return replace(stored, train=train, val=val, test=test)


def _folder(name: str | Path, root: Path | None) -> Path:
    """Return the folder that is meant, or say which dataset may have been."""
    path = _expanded(name) if root is None else root / _expanded(name)
    if isinstance(name, Path) or os.sep in name or name.startswith(("~", ".")):
        return path
    if name and os.path.exists(path):  # unlike Path.exists it never raises
        return path
    close = difflib.get_close_matches(name.lower(), _known(), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(_known())}"
    raise DataError(f"unknown dataset {name!r}, and there is no folder {path}: {hint}")


def _expanded(name: str | Path) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # "~nobody"
        raise DataError(
            f"expected a folder of images, but got {name}: there is no such user"
        ) from error
