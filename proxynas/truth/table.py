"""Ground truth: what every candidate reaches after training on the whole real data, from a table or
measured.

A table is one CSV file, a row per (architecture, seed), whose first lines (``#``) are TOML and say
how it was measured.
"""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..core import files, hardware, resources, settings
from ..core.errors import TruthError
from ..core.text import cell, cut, quoted
from ..datasets import Dataset

FORMAT = "proxynas-truth-1"
NUMBERS = ("seed", "val_accuracy", "val_loss", "test_accuracy", "test_loss", "sotl", "seconds")
COLUMNS = ("arch", *NUMBERS, "failed")


class Command(TypedDict, total=False):
    """What is read of the settings that a table was measured with."""

    epochs: int


class Header(TypedDict, total=False):
    """What is read of a table's header; there may be more, and all of it may be missing."""

    space: str
    data: str
    fingerprint: str
    accuracy: str
    made_on: str
    command: Command
    epochs: int


HEADER = TypeAdapter(Header)


@dataclass(frozen=True)
class TruthTable:
    """Measured accuracies: ``rows`` has the columns of :data:`COLUMNS`, ``header`` says how they
    came about."""

    rows: pd.DataFrame
    header: dict[str, Any]

    @property
    def measure(self) -> str:
        """What :meth:`accuracy` is: ``test_accuracy``, or ``val_accuracy`` for a table that only
        has that."""
        return str(self.header.get("accuracy", "test_accuracy"))

    @property
    def epochs(self) -> int | None:
        """How long its networks were trained; ``None`` where it does not say."""
        epochs = self.header.get("epochs", self.header.get("command", {}).get("epochs"))
        return None if epochs is None else int(epochs)

    def accuracy(self) -> pd.Series:
        """Mean accuracy over seeds, by architecture; a run that failed counts as 0.

        It is the test accuracy, unless ``header["accuracy"]`` says that the table only has
        ``val_accuracy``.
        """
        accuracy: pd.Series = self.rows[self.measure]
        return accuracy.fillna(0.0).groupby(self.rows["arch"]).mean()

    def check(self, dataset: Dataset, space: str, data: str | None = None) -> None:
        """Refuse a table that was measured on other data or another space.

        ``data`` is what the dataset is called there, where it goes by another name; its content is
        then not compared.

        Raises:
            TruthError: says which.
        """
        wanted = {"space": space, "data": data or dataset.name}
        if data in (None, dataset.name):
            wanted["fingerprint"] = dataset.fingerprint
        for key, here in wanted.items():
            there = self.header.get(key)
            if there is not None and there != here:
                raise TruthError(
                    f"the truth table was measured on {key} {there!r}, but this is {here!r}; give "
                    "a table of the same data, --truth-data if only the name differs, or --truth "
                    "none"
                )

    def costs_like(
        self, device: str, fingerprint: str | None, space_options: Mapping[str, Any]
    ) -> bool:
        """Whether its seconds compare with a search's: one machine, one dataset, networks of one
        size.

        Args:
            device: what the search ran on (:func:`proxynas.hardware.describe`).
            fingerprint: of the search's data.
            space_options: what the search replaced in its space, which may shrink the networks.
        """
        made_on, command = self.header.get("made_on"), self.header.get("command", {})
        return (
            made_on is not None
            and hardware.same_kind(str(made_on), device)
            and self.header.get("fingerprint") == fingerprint
            and command.get("space_options", {}) == dict(space_options)
        )

    def write(self, path: Path) -> None:
        """Write the table whole."""
        top = "".join(f"# {line}\n" for line in tomli_w.dumps(self.header).splitlines())
        body = (
            self.rows.loc[:, list(COLUMNS)]
            .sort_values(["arch", "seed"])
            .assign(failed=lambda rows: rows["failed"].map(cell, na_action="ignore"))
            .to_csv(index=False, float_format="%.6g")
        )
        files.write_text(path, top + body)


def read(path: Path) -> TruthTable:
    """Read a table from a CSV file. The columns ``arch`` and ``test_accuracy`` are enough for one
    of your own.

    Raises:
        TruthError: no such file, or not such a table.
    """
    data = files.read_bytes(path, TruthError, "a CSV file", f"the truth table {path}")
    try:
        lines = data.decode("utf-8-sig").splitlines(keepends=True)
        header = settings.parse_toml(
            "".join(line[1:].lstrip(" ") for line in lines if line.startswith("#"))
        )
        HEADER.validate_python(header)
        column = header.get("accuracy", "test_accuracy")
        if column not in ("val_accuracy", "test_accuracy"):
            raise TruthError(
                f"{path}: accuracy must name val_accuracy or test_accuracy, "
                f"but names {quoted(column)}"
            )
        rows = read_rows("".join(line for line in lines if not line.startswith("#")))
    except ValidationError as error:
        raise TruthError(settings.one_line(error, f"{path}, its header")) from None
    except ValueError as error:
        raise TruthError(
            f"{path} is not a truth table: {cut(str(error))}; "
            "expected a CSV with columns arch and test_accuracy"
        ) from None
    missing = {"arch", column} - set(rows.columns)
    if missing:
        raise TruthError(
            f"{path} lacks the column {sorted(missing)[0]!r}; "
            f"it has {cut(', '.join(map(str, rows.columns)))}"
        )
    nameless = rows["arch"].str.strip() == ""
    if nameless.any():
        row = int(nameless.to_numpy().argmax()) + 1
        raise TruthError(f"{path}: row {row} has no architecture; fill it in or leave the row out")
    rows = rows.assign(**{name: _numbers(rows, name, path) for name in NUMBERS if name in rows})
    accuracy = rows[column]
    if not accuracy.dropna().between(0, 1).all() or accuracy.isna().all():
        raise TruthError(
            f"{path}: {column} must be between 0 and 1, "
            f"but goes from {accuracy.min()} to {accuracy.max()}"
        )
    rows = rows.reindex(columns=list(COLUMNS))
    empty = rows[column].isna() & rows["failed"].isna()
    if empty.any():
        row = int(empty.to_numpy().argmax()) + 1
        raise TruthError(
            f"{path}: row {row} has no {column}; fill it in, leave the row out, or say in the "
            "column 'failed' why its training failed (that counts as 0)"
        )
    return TruthTable(rows, header)


def read_rows(text: str, arch: str = "arch") -> pd.DataFrame:
    """The rows of a CSV text; what is in the column ``arch`` is text, ``NA`` as well.

    Raises:
        ValueError: it is not such a text, or has two columns of one name.
    """
    names = next(csv.reader(io.StringIO(text)), [])
    twice = [name for name in names if names.count(name) > 1] if len(names) < 1000 else names
    if twice:
        raise ValueError(f"the column {quoted(twice[0])} comes twice")
    try:
        rows = pd.read_csv(io.StringIO(text), dtype={arch: "str"})
        if arch in rows:
            named = pd.read_csv(io.StringIO(text), dtype="str", usecols=[arch], na_filter=False)
            rows[arch] = named[arch]
        return rows
    except (OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _numbers(rows: pd.DataFrame, name: str, path: Path) -> pd.Series:
    numbers = to_numbers(rows[name])
    wrong = (numbers.isna() & rows[name].notna()) | np.isinf(numbers)
    kind = "a number"
    if name == "seed":
        wrong, kind = wrong | (numbers % 1 != 0) & numbers.notna(), "a whole number"
        wrong |= numbers.abs() > LARGEST_SEED
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise TruthError(
            f"{path}: {name} must be {kind}, but row {row + 1} has "
            f"{quoted(rows[name].iloc[row])}; fix it"
        )
    return numbers


def to_numbers(column: pd.Series) -> pd.Series:
    """A column as float64, NaN where there is no number; true and false are none."""
    if column.dtype == "bool":
        return pd.Series(math.nan, column.index)
    return pd.to_numeric(column, errors="coerce").astype("float64")


LARGEST_SEED = 2**53
"""Up to which every whole number is one in a column that has gaps."""


def find(space: str, data: str) -> TruthTable | None:
    """The table that ships with proxynas for this space and dataset, if there is one."""
    path = resources.folder("search_spaces") / f"{space}.{data}.csv"
    return read(path) if path.is_file() else None
