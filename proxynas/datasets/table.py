"""Tables: rows of numbers and a class each, from a CSV file.

The columns are separated by commas; the last one is the target, as text or numbers, and all others
are numbers. A first line without any number in front of its target is taken for a header, and so
are 0, 1, 2, … over three columns or more (pandas writes them for a nameless array); blank lines are
left out. Targets that are numbers are the same class if their values are. The rows come in a fixed
shuffled order, so that the first n of a split are a fair sample. A fifth of each class tests, then
`val_fraction` of the rest validates, always the same rows. Every column is normalised to mean 0 and
standard deviation 1 by the train split; one that never varies there only loses its mean.
"""

import csv
import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.files import check_regular
from ..core.text import cut, quoted
from .base import Dataset, Preprocessing, Split
from .split import ORDER_SEED, keys, stratified

TEST_FRACTION = 0.2
VAL_FRACTION = 0.1
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")


@dataclass(frozen=True)
class Rows:
    """Rows as they were written: `x` float64 (N, D), `y` int64 (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return self.y.shape[0]

    def __getitem__(self, index: Tensor) -> "Rows":
        return Rows(self.x[index], self.y[index])


def read(path: Path, name: str, val_fraction: float | None) -> Dataset:
    """Read a CSV file as the dataset `name`: float32 (N, D).

    Raises DataError, with the line, if it is missing, unreadable or empty, if its lines differ in
    length, if a cell is missing or not a number, or if it has fewer than two classes or three rows
    of a class.
    """
    x, labels = _parse(path)
    labels = _spelled_alike(labels)
    class_names = _classes(path, labels)
    number = {label: i for i, label in enumerate(class_names)}
    rows = shuffled(Rows(x, torch.tensor([number[label] for label in labels])))
    return split(
        name, rows, class_names, round(TEST_FRACTION * len(rows)), val_fraction or VAL_FRACTION
    )


def shuffled(rows: Rows) -> Rows:
    """Return the rows in an order that depends on their number only."""
    return rows[torch.from_numpy(np.argsort(keys(len(rows), ORDER_SEED), kind="stable"))]


def split(name: str, rows: Rows, class_names: tuple[str, ...], test: int, val: float) -> Dataset:
    """Cut `test` rows to test, then the share `val` of the rest to validate, normalise by what is
    left and fingerprint.

    Raises DataError if a column is too large to be normalised.
    """
    rest, tested = stratified(rows.y, test)
    trainable = rows[rest]
    kept, drawn = stratified(trainable.y, round(val * len(trainable)))
    parts = {"train": trainable[kept], "val": trainable[drawn], "test": rows[tested]}
    pre = _statistics(parts["train"].x)
    train, val_split, test_split = (
        Split(pre.apply(part.x).float(), part.y) for part in parts.values()
    )
    for part in (train, val_split, test_split):
        _check_finite(part.x)
    return Dataset(name, train, val_split, test_split, pre, class_names, _fingerprint(parts))


def _parse(path: Path) -> tuple[Tensor, list[str]]:
    """Return the numbers, float64 (N, D), and the target of each row."""
    values, labels, width = array("d"), [], 0
    for line, cells in _lines(path):
        if width == 0:
            width = len(cells)
            if width < 2:
                raise DataError(
                    f"{path}, line {line}: expected numbers and a target, separated by commas, "
                    "but got one column"
                )
            if _is_header(cells):
                _check_header(path, cells)
                continue
        if len(cells) != width:
            raise DataError(
                f"{path}, line {line}: expected {width} columns like the first line, "
                f"but got {len(cells)}"
            )
        values.extend(
            _number(path, line, column, cell) for column, cell in enumerate(cells[:-1], start=1)
        )
        if cells[-1].lower() in MISSING:
            raise DataError(
                f"{path}, line {line}: expected a target in the last column, but it is missing"
            )
        labels.append(cells[-1])
    if not labels:
        raise DataError(f"expected a table, but {path} holds no rows")
    return torch.frombuffer(values, dtype=torch.float64).reshape(-1, width - 1), labels


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of every line that is not blank."""
    try:
        check_regular(path)
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except FileNotFoundError as error:
        raise DataError(f"expected a table, but there is no file {path}") from error
    except OSError as error:
        raise DataError(
            f"expected a table, but {path} cannot be read ({error.strerror})"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"expected a table, but {path} is not a CSV file in UTF-8 ({cut(str(error))})"
        ) from error


def _is_header(cells: list[str]) -> bool:
    """Whether a first line names the columns."""
    values = cells[:-1]
    if any(_is_number(cell) for cell in values):
        return len(cells) > 2 and cells == [str(column) for column in range(len(cells))]
    return not any(values) or not all(cell.lower() in MISSING for cell in values)


def _check_header(path: Path, cells: list[str]) -> None:
    if "" in cells[:-1]:
        column = cells.index("") + 1
        raise DataError(
            f"{path}: column {column} has no name; name it, or leave out row numbers "
            "(pandas: to_csv(index=False))"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _number(path: Path, line: int, column: int, cell: str) -> float:
    if cell.lower() in MISSING:
        raise DataError(
            f"{path}, line {line}: the value of column {column} is missing; "
            "fill it in or remove the line"
        )
    if not _is_number(cell) or not math.isfinite(float(cell)):
        raise DataError(
            f"{path}, line {line}: expected a finite number in column {column}, "
            f"but got {quoted(cell)}; write categories as numbers, or remove the column"
        )
    return float(cell)


def _spelled_alike(labels: list[str]) -> list[str]:
    """The labels; where all are numbers, those of one value as the first of them is written."""
    if not all(_is_number(label) for label in labels):
        return labels
    first: dict[Decimal, str] = {}
    try:
        return [first.setdefault(Decimal(label), label) for label in labels]
    except InvalidOperation:  # an exponent that no number has
        return labels


def _classes(path: Path, labels: list[str]) -> tuple[str, ...]:
    """Return the classes, numbers by their value and others by name."""
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(
            f"expected at least 2 classes in the last column of {path}, "
            f"but it has only {quoted(labels[0])}"
        )
    numeric = all(_is_number(label) for label in counts)
    names = sorted(counts, key=lambda label: (float(label) if numeric else 0.0, label))
    rarest = min(names, key=lambda label: counts[label])
    if counts[rarest] < 3:
        others = [count for label, count in counts.items() if label != labels[0]]
        header = ", and a header must have no numbers" if min(others) >= 3 else ""
        raise DataError(
            f"expected at least 3 rows of each class in {path}, to train on, validate and test, "
            f"but class {quoted(rarest)} has {counts[rarest]}; "
            f"the classes are those of the last column{header}"
        )
    return tuple(names)


def _statistics(x: Tensor) -> Preprocessing:
    """Mean and standard deviation of each column of `x` float64 (N, D)."""
    mean, std = x.mean(0), x.std(0, correction=0)
    if not (torch.isfinite(mean) & torch.isfinite(std)).all():
        raise DataError(_too_large(torch.isfinite(std)))
    varies = (x.amax(0) != x.amin(0)) & (std > 0)
    return Preprocessing(tuple(mean.tolist()), tuple(std.where(varies, 1.0).tolist()))


def _check_finite(x: Tensor) -> None:
    """Refuse normalised rows (N, D) that float32 cannot hold."""
    if not torch.isfinite(x).all():
        raise DataError(_too_large(torch.isfinite(x).all(0)))


def _too_large(sound: Tensor) -> str:
    return f"column {int(sound.int().argmin()) + 1} has values too large to be normalised"


def _fingerprint(parts: dict[str, Rows]) -> str:
    digest = hashlib.sha256(b"table")
    for part, rows in parts.items():
        digest.update(f"{part} {tuple(rows.x.shape)}".encode())
        digest.update(rows.x.numpy().astype("<f8").data)
        digest.update(rows.y.numpy().astype("<i8").data)
    return digest.hexdigest()[:16]
