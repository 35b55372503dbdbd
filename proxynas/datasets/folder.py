"""A folder of images, one subfolder for each class.

    train/<class>/*  test/<class>/*     the test split is the folder's own
    <class>/*                           everything is to train on

A `val` folder (or `valid`, `validation`) beside `train` is taken as the validation split;
`training` and `testing` are `train` and `test`, and so is `Train`. A split that the folder does not
have is cut from what there is to train on, stratified by class and always the same: first a fifth
of it to test, then `val_fraction` of the rest to validate. Class folders are searched in depth;
hidden files and folders, and files without the extension of an image, are left out. Images come in
a fixed shuffled order, so that the first n of a split are a fair sample. Orientation tags in
photographs are not applied.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.text import is_unicode, quoted
from .base import Images, Progress, Stored
from .cache import ImageCache
from .pixels import EXTENSIONS, check_memory, decode_all
from .split import ORDER_SEED, keys, stratified
from .vision import SOURCES

TEST_FRACTION = 0.2
DEEPEST = 100
"""Folders in each other, below that of a class."""
VAL_FRACTION = 0.1
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What the folder of a split may be called, in small or capital letters."""
SYSTEM = ("proc", "sys", "dev")


@dataclass(frozen=True)
class Entry:
    """One image file: where it is, its class, and what tells whether it has changed."""

    path: Path
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What a folder holds, before any file is opened: the files of each split that it brings."""

    folder: Path
    class_names: tuple[str, ...]
    parts: dict[str, list[Entry]]

    def contents(self) -> str:
        """Return one line for each file, which differs if any of them is another."""
        entries = (entry for part in self.parts.values() for entry in part)
        return "\n".join(
            f"{e.path.relative_to(self.folder)}\t{e.size}\t{e.mtime_ns}" for e in entries
        )


def read(
    folder: Path, val_fraction: float | None, image_size: int | None, progress: Progress | None
) -> Stored:
    """Read a folder of images, from the cache if it has not changed since.

    Raises DataError if it is missing, unreadable, laid out in another way, or has too few classes
    or images.
    """
    listing = scan(folder)
    if val_fraction is not None and "val" in listing.parts:
        raise DataError(
            f"{folder} has a validation split already: "
            f"leave out the validation fraction ({val_fraction})"
        )
    _check_counts(listing)
    x = _pixels(listing, image_size, progress)  # (N, C, H, W)
    splits, start = {}, 0
    for part, entries in listing.parts.items():
        labels = torch.tensor([entry.label for entry in entries])
        splits[part] = Images(x[start : start + len(entries)], labels)
        start += len(entries)
    del x
    if "test" not in splits:
        splits["train"], splits["test"] = _cut(splits["train"], TEST_FRACTION)
    if "val" not in splits:
        share = VAL_FRACTION if val_fraction is None else val_fraction
        splits["train"], splits["val"] = _cut(splits["train"], share)
    train, val, test = (splits[part] for part in ("train", "val", "test"))
    return Stored(_name(folder), train, val, test, listing.class_names)


def _name(folder: Path) -> str:
    """Return the folder's name, changed where a dataset is called so, which it may alter."""
    name = folder.resolve().name
    return f"{name}-folder" if name in ("digits", "moons", *SOURCES) else name


def scan(folder: Path) -> Listing:
    """List a folder's classes and files, in an order that depends on their names only."""
    roots = _part_folders(folder)
    classes = {part: _subfolders(root) for part, root in roots.items()}
    names = tuple(path.name for path in classes["train"])
    if len(names) < 2:
        raise DataError(_no_classes(roots["train"], names))
    for part, paths in classes.items():
        _check_same_classes(roots["train"], names, roots[part], tuple(path.name for path in paths))
    for name in names:
        if not is_unicode(name):
            raise DataError(
                f"expected names of classes in UTF-8, but got {quoted(name)} in {folder}; rename it"
            )
    parts = {part: _shuffled(_entries(paths)) for part, paths in classes.items()}
    return Listing(folder, names, parts)


def _pixels(listing: Listing, image_size: int | None, progress: Progress | None) -> Tensor:
    cache = ImageCache(
        source=f"{listing.folder.resolve()}\n{image_size}",
        contents=f"decoder 1, Pillow {PIL.__version__}, size {image_size}\n{listing.contents()}",
    )
    paths = [entry.path for entries in listing.parts.values() for entry in entries]
    x = cache.load()
    if x is not None and len(x) == len(paths):
        check_memory(*x.shape)
        return x
    x = decode_all(paths, image_size, progress)
    cache.save(x)
    return x


def _cut(images: Images, fraction: float) -> tuple[Images, Images]:
    rest, drawn = stratified(images.y, round(fraction * len(images)))
    return images[rest], images[drawn]


def _part_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split that is there; classes at the top are all to train on."""
    if not os.path.exists(folder):  # unlike Path.exists it never raises
        raise DataError(
            f"expected a folder of images, but {folder} does not exist or cannot be reached"
        )
    if not folder.is_dir():
        raise DataError(f"expected a folder of images, but {folder} is a file")
    top, *below = Path(os.path.realpath(folder)).parts[1:] or [""]
    if top in SYSTEM and (top, *below[:1]) != ("dev", "shm"):
        raise DataError(f"expected a folder of images, but {folder} is a part of the system")
    parts: dict[str, Path] = {}
    for path in _subfolders(folder):
        part = next((part for part, names in PARTS.items() if path.name.lower() in names), None)
        if part is None or not _subfolders(path):  # a class may be called "train" too
            continue
        if part in parts:
            raise DataError(
                f"expected one folder to {part} from, but got {parts[part]} and {path}; "
                "rename or merge them"
            )
        parts[part] = path
    parts = {part: parts[part] for part in PARTS if part in parts}
    if "train" in parts:
        return parts
    if parts:
        other = next(iter(parts.values()))
        raise DataError(f"expected {folder / 'train'}/<class>/* beside {other}, but there is none")
    return {"train": folder}


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry) for entry in _listdir(folder) if entry.is_dir()]


def _listdir(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(
            f"expected a readable folder, but {folder} cannot be listed ({error.strerror})"
        ) from error


def _entries(class_folders: list[Path]) -> Iterator[Entry]:
    for label, folder in enumerate(class_folders):
        files = list(_files(folder, set()))
        images = [file for file in files if file.name.lower().endswith(EXTENSIONS)]
        if not images:
            others = f"only {len(files)} files of other kinds" if files else "no files at all"
            raise DataError(
                f"expected images ({', '.join(EXTENSIONS)}) in {folder}, but it holds {others}"
            )
        for file in images:
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(
                    f"expected an image, but {file.path} cannot be read ({error.strerror})"
                ) from error
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"expected an image, but {file.path} is no regular file; remove it")
            yield Entry(Path(file), label, status.st_size, status.st_mtime_ns)


def _files(folder: Path, seen: set[str], depth: int = 0) -> Iterator[os.DirEntry[str]]:
    """Yield every file below `folder`; a folder that links lead to more than once is read once."""
    if depth > DEEPEST:
        raise DataError(f"expected classes of images, but {folder} lies over {DEEPEST} deep")
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in _listdir(folder):
        if entry.is_dir():
            yield from _files(Path(entry), seen, depth + 1)
        else:
            yield entry


def _shuffled(entries: Iterator[Entry]) -> list[Entry]:
    listed = list(entries)
    return [listed[i] for i in np.argsort(keys(len(listed), ORDER_SEED), kind="stable")]


def _no_classes(folder: Path, names: tuple[str, ...]) -> str:
    if names:
        return f"expected at least 2 classes in {folder}, but it has only one, {names[0]!r}"
    files = [entry for entry in _listdir(folder) if entry.name.lower().endswith(EXTENSIONS)]
    came = f"its {len(files)} images lie side by side" if files else "it has none"
    return (
        f"expected a subfolder for each class in {folder}, but {came}: "
        "lay images out as train/<class>/* or <class>/*"
    )


def _check_same_classes(
    train: Path, expected: tuple[str, ...], other: Path, names: tuple[str, ...]
) -> None:
    if names == expected:
        return
    missing, extra = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
    differences = [
        f"{word} {', '.join(some[:5])}"
        for word, some in (("lacks", missing), ("adds", extra))
        if some
    ]
    raise DataError(
        f"expected the classes of {train} in {other}, but it {' and '.join(differences)}"
    )


def _check_counts(listing: Listing) -> None:
    """Every class needs an image to train on, and one for each split that is cut from those."""
    cut = [part for part in ("val", "test") if part not in listing.parts]
    counts = Counter(entry.label for entry in listing.parts["train"])
    label = min(counts, key=lambda label: (counts[label], label))
    if counts[label] < 1 + len(cut):
        raise DataError(
            f"expected at least {1 + len(cut)} images of each class to cut {' and '.join(cut)} "
            f"from, but class {listing.class_names[label]!r} has {counts[label]}: add images or "
            "remove the class"
        )
