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

from ..core import text
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
CREATE TABLE IF NOT EXISTS sets (source TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) STRICT;
"""

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
"""What SQLite calls a file whose contents are wrong; all else is the place's fault."""


ACCURACIES = ("val_accuracy", "val_loss", "val_auc", "test_accuracy", "test_loss")
NUMBERS = (*ACCURACIES, "sotl", "seconds")
"""Columns of a score that are numbers."""

SHARES = ("val_accuracy", "val_auc", "test_accuracy")
"""Those that are between 0 and 1."""


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


_Columns = dict[str, list[tuple[str, str]]]
"""Name and type of the columns of every table, by its name."""


class Store:
    """The run store of a folder. Rows that belong together are written in one transaction: all of
    them or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30)
            with self._reading():
                self._check_tables()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(f"BEGIN; {SCHEMA} COMMIT;")  # all tables or none
        except (sqlite3.Error, OSError, ValueError) as error:
            raise RunFolderError(
                f"cannot open the run store {path}: {error}; "
                "give a directory that can be written and has room"
            ) from None

    def _check_tables(self) -> None:
        """Refuse a database of others, or of a version of proxynas whose tables were others."""
        there = _columns(self._db)
        with closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(SCHEMA)
            expected = _columns(fresh)
        if "owner" not in there and not self._half_made(there, expected):
            raise RunFolderError(
                f"{self.path} is a database, but not a run store; give another --out, or remove it"
            )
        other = [name for name, columns in there.items() if expected.get(name, columns) != columns]
        if other:
            raise RunFolderError(
                f"the run store {self.path} is of another version of proxynas (its table "
                f"{other[0]!r} has other columns); give another --out, or remove it and score again"
            )

    def _half_made(self, there: _Columns, expected: _Columns) -> bool:
        """Whether the tables are ours and all empty, as a full disk leaves them at the start."""
        if any(expected.get(name) != columns for name, columns in there.items()):
            return False
        rows = (self._db.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in there)
        return not any(rows)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Tell a damaged file from a place that does not let us read."""
        try:
            yield
        except (sqlite3.Error, pd.errors.DatabaseError, ValueError, TypeError) as error:
            cause = error.__cause__ if isinstance(error, pd.errors.DatabaseError) else error
            code = getattr(cause, "sqlite_errorcode", None)
            if code is not None and code & 0xFF not in DAMAGED:
                raise RunFolderError(
                    f"cannot read the run store {self.path}: {cause}; it is as it was: "
                    "give it a place that can be written, and rerun the same command"
                ) from None
            raise RunFolderError(
                f"the run store {self.path} is damaged ({text.reason(error)}); "
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

    def claim_sets(self, fingerprints: Mapping[str, str]) -> None:
        """Say which set the rows of each source were made with, the first time; check it from then
        on.

        Raises:
            RunFolderError: they were made with another set.
        """
        with self._reading():
            known = dict(self._db.execute("SELECT source, fingerprint FROM sets").fetchall())
        new: list[tuple[object, ...]] = []
        for source, fingerprint in fingerprints.items():
            if source not in known:
                new.append((source, fingerprint))
            elif known[source] != fingerprint:
                raise RunFolderError(
                    f"the rows of {source!r} in {self.path} were made with another set than the "
                    "one that lies there now; put that set back, or give another --out"
                )
        if new:
            self._write("INSERT INTO sets VALUES (?, ?)", new)

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

    def trainings(self) -> int:
        """Trainings that have ended, failed ones among them."""
        with self._reading():
            rows = self._db.execute("SELECT count(*) FROM scores").fetchone()
        return int(rows[0])

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
            for name in SHARES:
                if not frame[name].dropna().between(0, 1).all():
                    raise ValueError(f"a {name} is not between 0 and 1")
            late = pd.Series([sotl_late(losses) for losses in frame["losses"]], frame.index)
            late = late.astype("float64").where(frame["failed"].isna())
            if np.isinf(frame["sotl"]).any() or np.isinf(late).any():
                raise ValueError("a sum of losses is infinite")
        return frame.assign(sotl_late=late)

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


def _columns(database: sqlite3.Connection) -> _Columns:
    """Name and type of the columns of every table."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        name: database.execute("SELECT name, type FROM pragma_table_info(?)", (name,)).fetchall()
        for (name,) in tables
    }
