"""How far to trust a prediction where nobody knows the truth: its ρ with labels that it had not
seen.

Spearman's ρ of the out-of-fold predictions with their labels, each label weighted with how many
candidates it stands for (:func:`.choose.weights`). With w the weights, the mid-rank of a value is
the weight below it and half of that beside it; ρ is the weighted Pearson correlation of those.

The interval is Student's on Fisher's z = artanh ρ. The standard error of z is the jackknife's
(Efron and Tibshirani 1993, chapter 11), which leaves out each pair once; or, where that is less,
Bonett and Wright's √((1 + ρ²/2) / (n − 3)) (2000, "Sample size requirements for estimating Pearson,
Kendall and Spearman correlations"), n being Kish's effective number of labels, (Σw)² / Σw². What is
to be covered is ρ over the m candidates without a label, which would vary by √((1 + ρ²/2) / (m −
3)) by itself: that is added.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .predictor import Prediction

Floats = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True)
class Trust:
    """ρ of the prediction over the candidates without label, as estimated from those with one.

    rho: the estimate; NaN where fewer than :data:`LEAST_PAIRS` labels stand for others.
    low, high: its 95 % interval; −1 and 1 where nothing is known.
    labels: pairs of prediction and label that it comes from.
    effective: as many equally weighted labels would say as much.
    """

    rho: float
    low: float
    high: float
    labels: int
    effective: float


LEAST_PAIRS = 4

FISHER_LIMIT = 1 - 1e-6
"""|ρ| beyond which artanh is not followed to infinity."""


def trust(prediction: Prediction, labels: pd.Series, weights: pd.Series, unlabelled: int) -> Trust:
    """The agreement of ``prediction`` with the truth of the candidates without a label, and its
    interval.

    Args:
        prediction: fitted on ``labels``.
        labels: accuracy by candidate; those that failed (NaN) are left out.
        weights: how many candidates each label stands for. A label without weight, such as one of
            the verification, which is no sample of anything, is left out.
        unlabelled: candidates without a label.
    """
    known = labels.dropna()
    known = known[known.index.isin(weights.index)]
    seen = prediction.out_of_fold.reindex(known.index).to_numpy()
    w = np.maximum(
        weights.reindex(known.index).to_numpy() - 1, 0
    )  # it stands for itself, and for others
    if not w.sum() > 0:
        w = np.ones(len(known))
    y = known.to_numpy()
    rho = weighted_spearman(seen, y, w)
    effective = float(w.sum() ** 2 / np.square(w).sum()) if len(w) else 0.0
    error = standard_error(seen, y, w, unlabelled)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, max(len(y) - 1, 1))) * error
    z = _fisher(rho)
    low, high = (
        (-1.0, 1.0) if math.isnan(reach + z) else (math.tanh(z - reach), math.tanh(z + reach))
    )
    return Trust(rho, low, high, len(known), effective)


def weighted_spearman(x: Floats, y: Floats, w: Floats) -> float:
    """ρ of arrays (n,) with weights (n,); NaN if fewer than :data:`LEAST_PAIRS` of these are above
    zero, or one array is constant."""
    if (w > 0).sum() < LEAST_PAIRS:
        return math.nan
    a, b = _mid_ranks(x, w), _mid_ranks(y, w)
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    below = math.sqrt(float((w * a * a).sum() * (w * b * b).sum()))
    return float((w * a * b).sum() / below) if below > 0 else math.nan


def standard_error(x: Floats, y: Floats, w: Floats, unlabelled: int) -> float:
    """Of Fisher's z of the weighted ρ of ``x`` and ``y`` (n,); NaN where there are too few of
    either kind.
    """
    n = len(x)
    effective = float(w.sum() ** 2 / np.square(w).sum()) if n else 0.0
    if effective <= 3 or unlabelled <= 3:
        return math.nan
    without = [np.delete(np.arange(n), i) for i in range(n)]
    z = np.array([_fisher(weighted_spearman(x[k], y[k], w[k])) for k in without])
    jackknife = (n - 1) / n * float(((z - z.mean()) ** 2).sum())
    scale = 1 + weighted_spearman(x, y, w) ** 2 / 2
    return math.sqrt(np.fmax(jackknife, scale / (effective - 3)) + scale / (unlabelled - 3))


def _fisher(rho: float) -> float:
    return math.atanh(min(max(rho, -FISHER_LIMIT), FISHER_LIMIT))


def _mid_ranks(x: Floats, w: Floats) -> Floats:
    """The weight below each value and half of the weight beside it, (n,)."""
    distinct, inverse = np.unique(x, return_inverse=True)
    at = np.bincount(inverse, weights=w, minlength=len(distinct))
    return np.asarray((np.cumsum(at) - at / 2)[inverse])
