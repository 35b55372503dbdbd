"""The run store: one SQLite file per run, one row per (source, candidate, seed), written the moment
it is known."""

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import RunFolderError

SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
  source TEXT NOT NULL, arch TEXT NOT NULL, seed INTEGER NOT NULL,
  val_accuracy REAL, val_loss REAL, val_auc REAL, test_accuracy REAL, test_loss REAL, sotl REAL,
  losses BLOB NOT NULL, seconds REAL NOT NULL, failed TEXT,
  PRIMARY KEY (source, arch, seed)
) STRICT;
CREATE TABLE IF NOT EXISTS candidates (
  arch TEXT PRIMARY KEY, parameters INTEGER NOT NULL, flops INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS zero_cost (
  arch TEXT NOT NULL, indicator TEXT NOT NULL, value REAL, seconds REAL NOT NULL,
  PRIMARY KEY (arch, indicator)
) STRICT;
CREATE TABLE IF NOT EXISTS owner (spec TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS stages (
  name TEXT PRIMARY KEY, seconds REAL NOT NULL, peak_mib REAL NOT NULL
) STRICT;
"""


ACCURACIES = ("val_accuracy", "val_loss", "val_auc", "test_accuracy", "test_loss")
NUMBERS = (*ACCURACIES, "sotl", "seconds")
"""Columns of a score that are numbers."""


@dataclass(frozen=True)
class Score:
    """What one training run of a candidate gave.

    Accuracies are in [0, 1]; ``losses`` is float32 (updates,); ``seconds`` are of one core,
    building and evaluating included (wall seconds where the device is a GPU).
    """

    source: str
    arch: str
    seed: int
    val_accuracy: float | None
    val_loss: float | None
    val_auc: float | None  # mean of all validation accuracies; None: validated only at the end
    test_accuracy: float | None
    test_loss: float | None
    sotl: float | None
    losses: np.ndarray
    seconds: float
    failed: str | None


def sotl_late(losses: np.ndarray) -> float:
    """The sum of the second half of a run's training losses (updates,), as float32 has them."""
    stored = np.asarray(losses, dtype="<f4")
    return float(stored[len(stored) // 2 :].sum(dtype="float64"))


@dataclass(frozen=True)
class ZeroCost:
    """A zero-cost indicator of a candidate, higher is better; NaN where it cannot be had.
    ``seconds`` of one core."""

    arch: str
    indicator: str
    value: float
    seconds: float


class Store:
    """The run store of a folder. Rows that belong together are written in one transaction: all of
    them or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30)
            with self._reading():
                rows = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                tables = {name for (name,) in rows}
            if tables and "owner" not in tables:
                raise RunFolderError(
                    f"{path} is a database, but not a run store; give another --out, or remove it"
                )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise RunFolderError(
                f"cannot open the run store {path}: {error}; "
                "give a directory that can be written and has room"
            ) from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, pd.errors.DatabaseError) as error:
            raise RunFolderError(
                f"the run store {self.path} is damaged ({error}); "
                "put a copy back, or remove it and score again"
            ) from None

    def close(self) -> None:
        """Close the file; what was added is on disk already."""
        self._db.close()

    def claim(self, spec: str) -> None:
        """Say which settings the rows belong to, the first time; check it from then on.

        Raises:
            RunFolderError: they belong to other settings.
        """
        with self._reading():
            owner = self._db.execute("SELECT spec FROM owner").fetchone()
        if owner is None:
            self._write("INSERT INTO owner VALUES (?)", [(spec,)])
        elif owner[0] != spec:
            raise RunFolderError(
                f"{self.path} holds runs of other settings; give another --out, or remove it"
            )

    def add(self, scores: Iterable[Score]) -> None:
        """Write the rows of one candidate on one source, all or none."""
        rows = [
            (s.source, s.arch, s.seed, s.val_accuracy, s.val_loss, s.val_auc, s.test_accuracy,
             s.test_loss, s.sotl, np.asarray(s.losses, dtype="<f4").tobytes(), s.seconds, s.failed)
            for s in scores
        ]  # fmt: skip
        self._write(f"INSERT OR REPLACE INTO scores VALUES ({', '.join('?' * 12)})", rows)

    def add_zero_cost(self, rows: Iterable[ZeroCost]) -> None:
        """Write all indicators of one candidate, all or none."""
        values = [
            (r.arch, r.indicator, None if math.isnan(r.value) else r.value, r.seconds) for r in rows
        ]
        self._write("INSERT OR REPLACE INTO zero_cost VALUES (?, ?, ?, ?)", values)

    def add_candidates(self, costs: Mapping[str, tuple[int, int]]) -> None:
        """Write parameters and FLOPs of candidates."""
        rows = [(arch, parameters, flops) for arch, (parameters, flops) in costs.items()]
        self._write("INSERT OR REPLACE INTO candidates VALUES (?, ?, ?)", rows)

    def add_stage_seconds(self, name: str, seconds: float, peak_mib: float) -> None:
        """Add to the wall seconds spent in a stage, over all starts of the run, and raise its peak
        memory (MiB)."""
        self._write(
            "INSERT INTO stages VALUES (?, ?, ?) ON CONFLICT(name) DO UPDATE SET "
            "seconds = seconds + excluded.seconds, peak_mib = max(peak_mib, excluded.peak_mib)",
            [(name, seconds, peak_mib)],
        )

    def forget(self, source: str, arch: str) -> None:
        """Remove the rows of one candidate on one source, so that they are scored again."""
        self._write("DELETE FROM scores WHERE source = ? AND arch = ?", [(source, arch)])

    def done(self) -> dict[tuple[str, str], set[int]]:
        """The seeds already scored for each (source, arch)."""
        done: dict[tuple[str, str], set[int]] = {}
        with self._reading():
            for source, arch, seed in self._db.execute("SELECT source, arch, seed FROM scores"):
                done.setdefault((source, arch), set()).add(seed)
        return done

    def scores(self) -> pd.DataFrame:
        """All rows by source, architecture and seed; ``losses`` as arrays, ``sotl_late`` sums their
        second half."""
        with self._reading():
            frame = pd.read_sql_query("SELECT * FROM scores ORDER BY source, arch, seed", self._db)
        frame["losses"] = frame["losses"].map(lambda blob: np.frombuffer(blob, dtype="<f4"))
        frame = frame.astype(dict.fromkeys(NUMBERS, "float64"))
        late = pd.Series([sotl_late(losses) for losses in frame["losses"]], frame.index)
        return frame.assign(sotl_late=late.astype("float64").where(frame["failed"].isna()))

    def zero_cost(self) -> pd.DataFrame:
        """Columns ``arch``, ``indicator``, ``value`` (NaN where it cannot be had) and ``seconds``,
        sorted."""
        with self._reading():
            frame = pd.read_sql_query("SELECT * FROM zero_cost ORDER BY arch, indicator", self._db)
        return frame.astype({"value": "float64", "seconds": "float64"})

    def candidates(self) -> pd.DataFrame:
        """Parameters and FLOPs, indexed by architecture."""
        with self._reading():
            return pd.read_sql_query(
                "SELECT * FROM candidates ORDER BY arch", self._db, index_col="arch"
            )

    def stages(self) -> dict[str, dict[str, float]]:
        """Wall seconds and peak memory (MiB) of each stage."""
        with self._reading():
            rows = self._db.execute("SELECT name, seconds, peak_mib FROM stages").fetchall()
        return {name: {"seconds": seconds, "peak_mib": peak} for name, seconds, peak in rows}

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            with self._db, closing(self._db.cursor()) as cursor:
                cursor.executemany(statement, rows)
        except sqlite3.Error as error:
            raise RunFolderError(
                f"cannot write to the run store {self.path}: {error}; "
                "make room and rerun the same command"
            ) from None
