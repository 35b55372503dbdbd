"""Ground truth: what every candidate reaches after training on the whole real data, from a table or
measured.

A table is one CSV file, a row per (architecture, seed), whose first lines (``#``) are TOML and say
how it was measured.
"""

import io
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from ..core import files, hardware, resources
from ..core.errors import TruthError
from ..datasets import Dataset

FORMAT = "proxynas-truth-1"
NUMBERS = ("seed", "val_accuracy", "val_loss", "test_accuracy", "test_loss", "sotl", "seconds")
COLUMNS = ("arch", *NUMBERS, "failed")


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
            .to_csv(index=False, float_format="%.6g")
        )
        files.write_text(path, top + body)


def read(path: Path) -> TruthTable:
    """Read a table from a CSV file. The columns ``arch`` and ``test_accuracy`` are enough for one
    of your own.

    Raises:
        TruthError: no such file, or not such a table.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        header = tomllib.loads(
            "".join(line[1:].lstrip(" ") for line in lines if line.startswith("#"))
        )
        rows = pd.read_csv(io.StringIO("".join(line for line in lines if not line.startswith("#"))))
    except OSError as error:
        raise TruthError(
            f"cannot read the truth table {path}: {error.strerror}; give the path of a CSV file"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise TruthError(
            f"{path} is not a truth table: {error}; "
            "expected a CSV with columns arch and test_accuracy"
        ) from None
    column = header.get("accuracy", "test_accuracy")
    if column not in ("val_accuracy", "test_accuracy"):
        raise TruthError(
            f"{path}: accuracy must name val_accuracy or test_accuracy, but names {column!r}"
        )
    missing = {"arch", column} - set(rows.columns)
    if missing:
        raise TruthError(
            f"{path} lacks the column {sorted(missing)[0]!r}; "
            f"it has {', '.join(map(str, rows.columns))}"
        )
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


def _numbers(rows: pd.DataFrame, name: str, path: Path) -> pd.Series:
    numbers = pd.to_numeric(rows[name], errors="coerce")
    wrong = numbers.isna() & rows[name].notna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise TruthError(
            f"{path}: {name} must be a number, but row {row + 1} has {rows[name].iloc[row]!r}; "
            "fix it"
        )
    return numbers


def find(space: str, data: str) -> TruthTable | None:
    """The table that ships with proxynas for this space and dataset, if there is one."""
    path = resources.folder("search_spaces") / f"{space}.{data}.csv"
    return read(path) if path.is_file() else None
