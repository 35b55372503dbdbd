"""Real data → normalised tensors in three splits. `load` takes a name from `names`, a folder of
images, or a CSV file.

Nothing selects on `test`; hyper-parameters, checkpoints and rankings use `val`.
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
from .pixels import resize

__all__ = ["Dataset", "Known", "Preprocessing", "Split", "load", "load_for", "names"]


class Known(NamedTuple):
    """A dataset that has a name, and whether it could be loaded now without a download."""

    name: str
    description: str
    available: bool


def names(root: Path | None = None) -> list[Known]:
    """List every dataset that has a name; `root` is where torchvision's are looked for."""
    embedded = Known(
        "digits", "handwritten digits, 1×8×8, 10 classes, 1,297 to train on and 500 to test", True
    )
    points = Known(
        "moons",
        "a table: points of two half circles, 2 columns, 2 classes, 1,000 to train on",
        True,
    )
    return [
        embedded,
        points,
        *(Known(name, s.title, vision.available(name, root)) for name, s in vision.SOURCES.items()),
    ]


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
            f"the validation fraction must be between 0 and 1, both excluded, but got {val_fraction}"
        )
    if image_size is not None and image_size < 1:
        raise DataError(f"the image size must be at least 1, but got {image_size}")
    if name == "moons" or str(name).lower().endswith(".csv"):
        return _whitened(_table(name, root, val_fraction, image_size), whiten).to(device)
    if name == "digits":
        stored = _resized(digits.read(val_fraction), image_size)
    elif isinstance(name, str) and name in vision.SOURCES:
        stored = _resized(vision.read(name, root, download, val_fraction), image_size)
    else:
        stored = folder.read(_folder(name, root), val_fraction, image_size, progress)
    return _whitened(assemble(stored), whiten).to(device)


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


def _table(
    name: str | Path, root: Path | None, val_fraction: float | None, image_size: int | None
) -> Dataset:
    if image_size is not None:
        raise DataError(
            f"an image size is for images, but {name} is a table; leave out the image size ({image_size})"
        )
    if name == "moons":
        return moons.read(val_fraction)
    path = _expanded(name) if root is None else root / _expanded(name)
    return table.read(
        path, f"{path.stem}-table" if path.stem in _known() else path.stem, val_fraction
    )


def _known() -> tuple[str, ...]:
    return ("digits", "moons", *vision.SOURCES)


def _resized(stored: Stored, image_size: int | None) -> Stored:
    if image_size is None or stored.train.x.shape[2:] == (image_size, image_size):
        return stored
    parts = (stored.train, stored.val, stored.test)
    train, val, test = (Images(resize(part.x, image_size), part.y) for part in parts)
    return replace(stored, train=train, val=val, test=test)


def _folder(name: str | Path, root: Path | None) -> Path:
    """Return the folder that is meant, or say which dataset may have been."""
    path = _expanded(name) if root is None else root / _expanded(name)
    if (
        isinstance(name, Path)
        or os.sep in name
        or name.startswith(("~", "."))
        or (name and os.path.exists(path))
    ):
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
