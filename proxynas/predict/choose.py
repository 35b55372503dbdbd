"""Which candidates to label: spread over the ranking first, then where the best may be.

The first round cuts the candidates, sorted by their prior rank, into as many strata as it has
labels and draws one of each. Later rounds draw without replacement, with the probability that a
candidate is among the best tenth: high where the predictor is sure that it is good, or unsure. A
part :data:`EVEN` of every draw is uniform, so that no candidate is left out for sure. That makes
labels a sample whose unevenness is known, and :func:`weights` undoes it:

- the first round is a stratified sample: each of its labels stands for its stratum;
- later rounds are a sequence of draws from what is left, each with a probability that may depend on
  the labels before it. The weights of Farquhar, Gal and Rainforth 2021 ("On statistical bias in
  active learning", their R_LURE) make the weighted mean of such a sequence unbiased for what is
  left; with the first round, which stands for itself here, it is so for all candidates.

Both estimate the same total, and each counts as much as it has labels. Everything depends on the
seed, the candidates and the labels of the rounds before alone: a run that was interrupted chooses
the same again.
"""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ..core import seeds
from ..core.errors import SpecError
from .predictor import Prediction

Floats = NDArray[np.float64]

EVEN = 0.25
"""Part of every later draw that is uniform over what is left."""

BEST = 0.1
"""The part of the candidates that later rounds look for."""

COLUMNS = ("round", "probability")
"""Columns of a design: the round, and the probability of the draw given those before it.

In round 0 that is the probability within its stratum."""

LEAST_FIRST = 10
"""Labels of a first round under which there are no others: nothing can be fitted to fewer."""

LATER_ROUNDS = 2


def rounds(labels: int, batch: int | None = None) -> list[int]:
    """How many labels each round gets: half in the first, the rest in two, or in batches of
    ``batch``.

    Raises:
        SpecError: fewer than 1 label, or a batch under 1.
    """
    if labels < 1:
        raise SpecError(f"the labels must be at least 1, but got {labels}")
    if batch is not None and batch < 1:
        raise SpecError(f"a round must have at least 1 label, but got {batch}")
    first = math.ceil(labels / 2) if labels >= 2 * LEAST_FIRST else labels
    rest = labels - first
    step = batch or max(1, math.ceil(rest / LATER_ROUNDS))
    return [first, *(min(step, rest - done) for done in range(0, rest, step))]


def spread(prior: pd.Series, labels: int, seed: int) -> pd.DataFrame:
    """The first round: one candidate of each of ``labels`` strata of the ranking.

    Args:
        prior: the mean rank by candidate; NaN counts as lowest, and ties are broken by name.
        labels: how many; all candidates where there are no more.
        seed: of the draw.

    Returns:
        The design, indexed by candidate, in the order of drawing, with :data:`COLUMNS`.
    """
    order = prior.fillna(-np.inf).sort_index().sort_values(kind="stable").index
    rng = np.random.default_rng(seeds.derive(seed, "label", 0))
    strata = np.array_split(np.arange(len(order)), min(labels, len(order)))
    drawn = [int(rng.choice(stratum)) for stratum in strata]
    design = pd.DataFrame(
        {"round": 0, "probability": [1 / len(stratum) for stratum in strata]},
        index=order[drawn].rename("arch"),
    )
    return design.iloc[rng.permutation(len(design))]


def further(prediction: Prediction, design: pd.DataFrame, labels: int, seed: int) -> pd.DataFrame:
    """One more round of ``labels`` candidates: the design that was, with them at its end.

    Args:
        prediction: fitted on the labels so far.
        design: the rounds before.
        labels: how many; all that are left where there are no more.
        seed: of the draws.
    """
    number = int(design["round"].max()) + 1
    rng = np.random.default_rng(seeds.derive(seed, "label", number))
    left = prediction.values.index.difference(design.index)
    chance = promise(prediction).reindex(left).to_numpy()
    drawn: list[int] = []
    probabilities: list[float] = []
    for _ in range(min(labels, len(left))):
        open_ = np.ones(len(left), dtype=bool)
        open_[drawn] = False
        q = np.where(
            open_, (1 - EVEN) * chance / max(chance[open_].sum(), 1e-300) + EVEN / open_.sum(), 0.0
        )
        q /= q.sum()
        drawn.append(int(rng.choice(len(left), p=q)))
        probabilities.append(float(q[drawn[-1]]))
    more = pd.DataFrame(
        {"round": number, "probability": probabilities}, index=left[drawn].rename("arch")
    )
    return pd.concat([design, more])


def promise(prediction: Prediction) -> pd.Series:
    """The probability of each candidate to be among the best tenth; the same for all where nothing
    was fitted.
    """
    values, std = prediction.scores, prediction.std
    if std is None:
        return pd.Series(1.0, index=values.index)
    border = np.quantile(values, 1 - BEST)
    return pd.Series(
        stats.norm.cdf((values - border) / np.hypot(std, prediction.error)), index=values.index
    )


def weights(design: pd.DataFrame, candidates: int) -> pd.Series:
    """How many candidates each label stands for, by candidate; the sum is about ``candidates``."""
    first = (design["round"] == 0).to_numpy()
    p = design["probability"].to_numpy()
    stratified = np.where(first, 1 / p, 0.0)
    later = int((~first).sum())
    if not later:
        return pd.Series(stratified, index=design.index)
    left = candidates - int(first.sum())
    m = np.arange(1, later + 1)
    v = 1 + (left - later) / np.maximum(left - m, 1) * (1 / ((left - m + 1) * p[~first]) - 1)
    sequential = np.ones(len(design))
    sequential[~first] = left / later * v
    part = first.mean()
    return pd.Series(part * stratified + (1 - part) * sequential, index=design.index)
