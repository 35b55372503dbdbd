"""Accuracies on the whole data: trained in this run, or given by a truth table that is charged for
them."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from .. import spaces
from ..datasets import Dataset
from ..search.run import Wanted, run
from ..search.score import Source, Work
from ..search.sources import WHOLE
from ..search.store import Score, Store, ZeroCost
from ..specs import SearchSpec
from ..truth import TruthTable
from .run import Run

REPLICA = 0
"""The one seed number that is trained of every labelled or verified candidate."""


class Labeller(Protocol):
    """Where accuracies on the whole data come from."""

    @property
    def charged(self) -> bool:
        """They come from a truth table, which is charged for them."""

    def expect(self, total: int) -> None:
        """How many accuracies will be asked for in all, for the progress bar."""

    def accuracies(self, archs: Sequence[str]) -> pd.Series:
        """Validation accuracy in [0, 1] of ``archs``, in their order; NaN: training failed, or not
        known."""

    def seconds(self, archs: Iterable[str]) -> float:
        """What those of ``archs`` cost: core seconds, or a table's own seconds; NaN: a table does
        not say."""


class Recorded:
    """What the run store has, and nothing more: for reports of runs that are not to go on."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def charged(self) -> bool:
        """A run that was copied from a table has no losses."""
        losses = self._rows()["losses"]
        return bool(len(losses)) and all(len(row) == 0 for row in losses)

    def expect(self, total: int) -> None:
        """Nothing is waited for."""

    def accuracies(self, archs: Sequence[str]) -> pd.Series:
        """Those that the store has; NaN for the others."""
        rows = self._rows()
        known = rows["val_accuracy"].where(rows["failed"].isna())
        return known.reindex(pd.Index(archs, name="arch")).astype("float64")

    def seconds(self, archs: Iterable[str]) -> float:
        """Those that the store has."""
        seconds = self._rows()["seconds"]
        return float(seconds[seconds.index.isin(list(archs))].sum(skipna=False))

    def _rows(self) -> pd.DataFrame:
        scores = self._store.scores()
        return scores[scores["source"] == WHOLE].set_index("arch")


class Trained(Recorded):
    """Candidates are trained where the store does not have them yet; each row is stored when it is
    known."""

    def __init__(self, this: Run) -> None:
        super().__init__(this.store)
        self._run = this
        self._done, self._total = 0, 0

    @property
    def charged(self) -> bool:
        """They are not."""
        return False

    def expect(self, total: int) -> None:
        """Start the progress bar."""
        self._total = total

    def accuracies(self, archs: Sequence[str]) -> pd.Series:
        """Train those of ``archs`` that are missing."""
        self._done = max(self._done, len(self._rows()))

        def on_done(score: Score | ZeroCost) -> None:
            self._done += 1
            this.watcher.labelling(self._done, max(self._total, self._done), score.arch)

        this = self._run
        run(
            self._store,
            Wanted(archs, [WHOLE], [REPLICA]),
            partial(prepare, this.spec, this.dataset),
            workers=this.workers,
            engine=this.engine,
            on_done=on_done,
        )
        return super().accuracies(archs)


class Charged(Recorded):
    """A truth table as an oracle: one run of each candidate is copied into the store, with what it
    cost."""

    def __init__(self, store: Store, table: TruthTable) -> None:
        super().__init__(store)
        self._measure = table.measure
        first = table.rows.sort_values(["arch", "seed"]).drop_duplicates("arch")
        self._runs = {str(row["arch"]): row for row in first.to_dict("records")}

    @property
    def charged(self) -> bool:
        """They are, also before the first one."""
        return True

    def accuracies(self, archs: Sequence[str]) -> pd.Series:
        """Look up those of ``archs`` that are missing."""
        there = set(self._rows().index)
        for arch in archs:
            if arch not in there and arch in self._runs:
                self._store.add([_charged(arch, self._runs[arch], self._measure)])
        return super().accuracies(archs)


def _charged(arch: str, row: Mapping[Hashable, Any], measure: str) -> Score:
    """A run of a table; where it has no validation accuracy, its accuracy stands in for it."""
    failed = row["failed"] if isinstance(row["failed"], str) else None
    value = row["val_accuracy"] if pd.notna(row["val_accuracy"]) else row[measure]
    return Score(
        source=WHOLE,
        arch=arch,
        seed=REPLICA,
        val_accuracy=None if failed else float(value),
        val_loss=None,
        val_auc=None,
        test_accuracy=None,
        test_loss=None,
        sotl=None,
        losses=np.empty(0, dtype=np.float32),
        seconds=float(row["seconds"]) if pd.notna(row["seconds"]) else math.nan,
        failed=failed,
    )


def prepare(spec: SearchSpec, dataset: Dataset) -> Work:
    """What a worker needs to train on the whole training split and to score on the whole validation
    split."""
    torch.set_flush_denormal(True)
    x, y = dataset.train.x, dataset.train.y
    source = Source(WHOLE, x, y, spec.whole_recipe(len(x)))
    space, limit = spaces.load(spec.space, spec.whole_options()), spec.time_limit
    return Work(space, dataset, {WHOLE: source}, spec.seed, spec.device, time_limit=limit).placed()
