"""The end of a search: which candidates to train on the whole data, the winner, and what may be
better.

How much better the best candidate that was *not* trained may be is simulated. Its accuracy is what
the predictor says, missed at random by about as much as out-of-fold predictions with scores like
its own missed their labels: the mean square of these misses, weighted by a Gaussian kernel of width
:data:`WIDTH` in normal scores, and :data:`PRIOR_MISSES` more that are as large as all labels'
misses on average. To that mean square comes the predictor's own variance for the candidate, since
the best ones lie beyond most labels. Misses have long tails, so the simulated ones are Student's t
with :data:`TAIL` degrees of freedom; and n labels know their size only as well as n − 1 squares do,
so that in each simulation all are stretched by √((n − 1) / χ²(n − 1)). Without the last two the
bound held 72 to 85 times in 100 on ConvNets on digits, where that was chosen.
experiments/predictor-calibration.json says how often it holds.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import seeds
from ..core.errors import SpecError
from .predictor import Prediction

Floats = NDArray[np.float64]

WIDTH = 0.3
PRIOR_MISSES = 1.0
TAIL = 4
DRAWS = 2_000


@dataclass(frozen=True)
class Headroom:
    """How much better than the winner the best candidate may be that was not trained, in accuracy
    (0.01: a point), as one training each shows it.

    The winner, the best of several trainings, was probably lucky; by as much the true lead of
    others is larger.

    probability: that one of them is better at all.
    high: what the best one's lead over the winner is under with probability 0.95; negative where
        all are worse.
    untrained: candidates that it is about.
    """

    probability: float
    high: float
    untrained: int


def best(prediction: Prediction, trained: Collection[str], k: int) -> list[str]:
    """The ``k`` candidates with the highest prediction that are not ``trained`` (failed ones count
    as trained).

    Raises:
        SpecError: ``k`` is negative.
    """
    if k < 0:
        raise SpecError(f"the number of candidates to verify must be at least 0, but got {k}")
    left = prediction.scores[~prediction.scores.index.isin(trained)].sort_index()
    return [str(arch) for arch in left.sort_values(ascending=False, kind="stable").index[:k]]


def finalists(short: pd.Series, prediction: Prediction, k: int) -> list[str]:
    """The ``k`` candidates to train whole, of those that had a training of few epochs: the best by
    its accuracy. Where too few are left of them, the best by prediction follow.

    Args:
        short: accuracy after few epochs by candidate; those that failed (NaN) are left out.
        prediction: fitted on ``short``.
        k: how many.

    Raises:
        SpecError: ``k`` is negative.
    """
    others = best(prediction, short.index, k)
    ordered = short.dropna().sort_index().sort_values(ascending=False, kind="stable")
    return [*map(str, ordered.index), *others][:k]


def winner(labels: pd.Series) -> str:
    """The candidate with the highest label; of several, the first by name.

    Raises:
        SpecError: there is none, because all failed or none was trained.
    """
    known = labels.dropna().sort_index()
    if known.empty:
        raise SpecError(
            "there is no winner: no training on the whole data succeeded; raise --label or --verify"
        )
    return str(known.idxmax())


def headroom(prediction: Prediction, labels: pd.Series, seed: int) -> Headroom | None:
    """How much better the best candidate without a label may be; ``None`` where nothing was fitted
    or none is left.

    Args:
        prediction: fitted on all of ``labels``, those of the verification among them.
        labels: accuracy by candidate of all that were trained; those that failed (NaN) are not
            candidates any more.
        seed: of the simulation.
    """
    left = prediction.scores[~prediction.scores.index.isin(labels.index)].sort_index()
    if prediction.scale is None or left.empty:
        return None
    known = labels.dropna().reindex(prediction.out_of_fold.index)
    lead = simulate(prediction, known, left, seed) - known.max()
    return Headroom(float((lead > 0).mean()), float(np.quantile(lead, 0.95)), len(left))


def simulate(prediction: Prediction, known: pd.Series, left: pd.Series, seed: int) -> Floats:
    """The best accuracy among candidates with the scores ``left`` (m,), :data:`DRAWS` times."""
    assert prediction.scale is not None
    assert prediction.std is not None
    seen = prediction.out_of_fold.to_numpy()
    misses = prediction.scale.score(known.to_numpy()) - seen  # (n,)
    near = np.exp(-0.5 * ((left.to_numpy()[:, None] - seen) / WIDTH) ** 2)  # (m, n)
    weight = near.sum(1) + PRIOR_MISSES
    own = prediction.std.reindex(left.index).to_numpy()
    spread = np.sqrt((near @ misses**2 + PRIOR_MISSES * prediction.error**2) / weight + own**2)
    rng = np.random.default_rng(seeds.derive(seed, "headroom"))
    spread *= np.sqrt((TAIL - 2) / TAIL)  # Student's t has a variance of TAIL / (TAIL - 2)
    freedom = max(len(seen) - 1, 1)
    stretch = np.sqrt(freedom / rng.chisquare(freedom, DRAWS))
    best = np.empty(DRAWS)
    for i in range(DRAWS):
        missed = stretch[i] * spread * rng.standard_t(TAIL, len(left))
        best[i] = (left.to_numpy() + missed).max()
    return np.minimum(prediction.scale.accuracy(best), 1.0)  # the scale goes on a hair beyond
