"""Accuracies on the whole data: trained in this run, or given by a truth table that is charged for
them.

A whole training takes ``--epochs``, a short one ``--label-epochs``; each kind has rows of its own
source in the run store, so that they never mix.
"""

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
from ..search.sources import FEW_EPOCHS, WHOLE
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
    """What the run store has, and nothing more: for reports of runs that are not to go on.

    ``source`` is the kind of training: the whole one, or that of few epochs.
    """

    def __init__(self, store: Store, source: str = WHOLE) -> None:
        self._store, self._source = store, source

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
        return scores[scores["source"] == self._source].set_index("arch")


class Trained(Recorded):
    """Candidates are trained where the store does not have them yet; each row is stored when it is
    known."""

    def __init__(self, this: Run, source: str = WHOLE) -> None:
        super().__init__(this.store, source)
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
        this = self._run
        self._done = max(self._done, len(self._rows()))

        def on_done(score: Score | ZeroCost) -> None:
            self._done += 1
            this.watcher.labelling(self._done, max(self._total, self._done), score.arch)

        run(
            self._store,
            Wanted(archs, [self._source], [REPLICA]),
            partial(prepare, this.spec, this.dataset, self._source),
            workers=this.workers,
            engine=this.engine,
            on_done=on_done,
        )
        return super().accuracies(archs)


class Charged(Recorded):
    """A table as an oracle: one run of each candidate is copied into the store, with what it
    cost.

    ``seconds`` are what those cost that have none in the table, by candidate.
    """

    def __init__(
        self,
        store: Store,
        table: TruthTable,
        source: str = WHOLE,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(store, source)
        self._measure, self._seconds = table.measure, seconds or {}
        self._runs = {str(row["arch"]): row for row in first_runs(table).to_dict("records")}

    @property
    def charged(self) -> bool:
        """They are, also before the first one."""
        return True

    def accuracies(self, archs: Sequence[str]) -> pd.Series:
        """Look up those of ``archs`` that are missing."""
        there = set(self._rows().index)
        for arch in archs:
            if arch not in there and arch in self._runs:
                self._store.add([self._charged(arch, self._runs[arch])])
        return super().accuracies(archs)

    def _charged(self, arch: str, row: Mapping[Hashable, Any]) -> Score:
        """A run of the table; where it has no validation accuracy, its accuracy stands in for
        it."""
        value = row["val_accuracy"] if pd.notna(row["val_accuracy"]) else row[self._measure]
        known = float(row["seconds"]) if pd.notna(row["seconds"]) else math.nan
        seconds = self._seconds.get(arch, math.nan) if math.isnan(known) else known
        failed = row["failed"] if isinstance(row["failed"], str) else None
        return charged_score(self._source, arch, float(value), seconds, failed)


def first_runs(table: TruthTable) -> pd.DataFrame:
    """The run with the lowest seed of each candidate: what a table gives when it is asked."""
    return table.rows.sort_values(["arch", "seed"]).drop_duplicates("arch")


def charged_score(
    source: str, arch: str, accuracy: float, seconds: float, failed: str | None
) -> Score:
    """A row of the run store that was not trained here: it has no losses."""
    return Score(
        source=source,
        arch=arch,
        seed=REPLICA,
        val_accuracy=None if failed else accuracy,
        val_loss=None,
        val_auc=None,
        test_accuracy=None,
        test_loss=None,
        sotl=None,
        losses=np.empty(0, dtype=np.float32),
        seconds=seconds,
        failed=failed,
    )


def prepare(spec: SearchSpec, dataset: Dataset, name: str = WHOLE) -> Work:
    """What a worker needs to train on the whole training split, for few epochs or all, and to score
    on the whole validation split."""
    torch.set_flush_denormal(True)
    x, y = dataset.train.x, dataset.train.y
    recipe = spec.short_recipe(len(x)) if name == FEW_EPOCHS else spec.whole_recipe(len(x))
    space, limit = spaces.load(spec.space, spec.whole_options()), spec.time_limit
    sources = {name: Source(name, x, y, recipe)}
    return Work(space, dataset, sources, spec.seed, spec.device, time_limit=limit).placed()
