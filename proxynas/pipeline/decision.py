"""From a ranking to a winner: label candidates, fit a predictor, estimate trust, verify the best, pick.

A label is the accuracy of a candidate that was trained on the whole real data within this run, or that a truth table
gave and charged for. Labels are chosen in rounds (:mod:`proxynas.predict.choose`), so that the ranking can be checked by
them as well as fitted to them. All of it is read back from the run store, so an interrupted decision goes on as it
would have gone. Everything here looks at validation accuracies; the test split is for the winner alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import datasets, predict, spaces
from ..core.progress import Watcher
from ..predict import Design, Outlook, Prediction, Trust
from ..rank import Key, indicators
from ..search.run import ZERO_COST, Work, pending, run
from ..search.score import Source
from ..search.store import Score, Store, ZeroCost
from ..specs import SearchSpec
from ..truth import WHOLE, TruthTable

PREDICTED = "predicted"
"""The indicator that a fitted predictor is."""

SEED = 0
"""The one replicate that is trained of every labelled or verified candidate."""


@dataclass(frozen=True)
class Decision:
    """What labels and verification say.

    labels: validation accuracy in [0, 1] by labelled candidate, NaN where its training failed; in order of choice.
    verified: the same for the candidates that were verified, best-ranked first.
    predictions: what was fitted, by the source whose indicators were the features.
    trust: agreement of the ranking with labels that it had not seen; ``None`` without labels.
    outlook: how much better the best candidate that was not trained may be; ``None`` where that is not known.
    winner: the best of all that were trained, or the best-ranked where nothing was; ``None`` where all failed.
    charged: whether accuracies came from a truth table, which was charged for them.
    label_s, verify_s: core seconds of both, or the table's own seconds; NaN where the table has none.
    """

    labels: pd.Series
    verified: pd.Series
    predictions: dict[str, Prediction]
    trust: Trust | None
    outlook: Outlook | None
    winner: str | None
    charged: bool
    label_s: float
    verify_s: float

    @property
    def trained(self) -> pd.Series:
        """All accuracies that were paid for, without those that failed."""
        return pd.concat([self.labels, self.verified]).dropna()

    def columns(self) -> dict[Key, pd.Series]:
        """The predictions as columns of the ranking; labelled candidates have what was predicted without their label."""
        return {(source, PREDICTED): predict.unseen(prediction) for source, prediction in self.predictions.items()}


@dataclass(frozen=True)
class Trainer:
    """Where accuracies on the whole data come from: training in this run's store, or a table that is charged."""

    spec: SearchSpec
    store: Store
    table: TruthTable | None  # None: train
    workers: int
    watcher: Watcher

    def accuracies(self, archs: Sequence[str], done: int, total: int) -> pd.Series:
        """Validation accuracy of ``archs``, trained or looked up where the store does not have them yet."""
        if self.table is not None:
            self._charge(archs)
        left = pending(self.store, archs, [WHOLE], [SEED])
        finished = done + len(archs) - len(left)

        def on_done(score: Score | ZeroCost) -> None:
            nonlocal finished
            finished += 1
            self.watcher.labelling(finished, total, score.arch)

        if left:
            run(
                self.store, archs, [WHOLE], [SEED], prepare_whole, (self.spec,),
                workers=self.workers, on_done=on_done,
            )  # fmt: skip
        return self.known().reindex(archs)

    def known(self) -> pd.Series:
        """Validation accuracy of all candidates that were trained on the whole data; NaN where that failed."""
        rows = self._rows()
        return rows.set_index("arch")["val_accuracy"].where(rows.set_index("arch")["failed"].isna())

    def seconds(self, archs: Sequence[str]) -> float:
        """What ``archs`` cost, in core seconds or the table's own; NaN where a table does not say."""
        rows = self._rows().set_index("arch")["seconds"].reindex(archs)
        return float(rows.sum(skipna=False)) if len(rows) else 0.0

    def _rows(self) -> pd.DataFrame:
        scores = self.store.scores()
        return scores[scores["source"] == WHOLE]

    def _charge(self, archs: Sequence[str]) -> None:
        assert self.table is not None
        there = set(self._rows()["arch"])
        for arch in archs:
            if arch not in there and (row := self.table.run(arch)) is not None:
                self.store.add([_charged(arch, row, self.table.measure)])


def _charged(arch: str, row: pd.Series, measure: str) -> Score:
    """A run of a truth table as this run's own; where it has no validation accuracy its accuracy stands in."""
    failed = row["failed"] if isinstance(row["failed"], str) else None
    value = row["val_accuracy"] if pd.notna(row["val_accuracy"]) else row[measure]
    seconds = float(row["seconds"]) if pd.notna(row["seconds"]) else math.nan
    nothing = np.empty(0, dtype=np.float32)
    accuracy = None if failed else float(value)
    return Score(WHOLE, arch, SEED, accuracy, None, None, None, None, None, nothing, seconds, failed)


def prepare_whole(spec: SearchSpec) -> Work:
    """What a worker needs to train candidates on the whole training split, scored on the whole validation split."""
    torch.set_flush_denormal(True)
    dataset = datasets.load_for(spec)
    x, y = dataset.train.x, dataset.train.y
    source = Source(WHOLE, x, y, spec.whole_recipe(len(x)))
    return Work(spaces.load(spec.space, spec.space_options), dataset, {WHOLE: source}, spec.seed, spec.device)


def decide(trainer: Trainer, values: pd.DataFrame, headline: Key) -> Decision:
    """Label, fit, verify and pick.

    Args:
        trainer: where accuracies come from.
        values: a row per candidate, a column per (source, indicator), higher is better (:func:`rank.indicators.columns`).
        headline: the column that ranks the candidates as long as nothing is fitted.
    """
    spec = trainer.spec
    prior = values[headline]
    total = min(spec.label + spec.verify, len(values))
    labels, design = _labelled(trainer, values, prior, total)
    predictions = {
        source: predict.fit(features(values, source), labels, prior=prior, seed=spec.seed)
        for source in sources(values)
    } if len(labels) else {}
    main = next(iter(predictions.values()), None)
    order = prior if main is None else main.values
    best = predict.to_verify(order, labels.index, min(spec.verify, total - len(labels)))
    verified = trainer.accuracies(best, len(labels), total)
    trainer.watcher.ended()
    decision = Decision(
        labels=labels,
        verified=verified,
        predictions=predictions,
        trust=None,
        outlook=None,
        winner=None,
        charged=trainer.table is not None,
        label_s=trainer.seconds(list(labels.index)),
        verify_s=trainer.seconds(list(verified.index)),
    )
    return _judged(decision, main, design, order, len(values))
