"""Rank correlation with ties, and its bootstrap: Spearman's ρ and Kendall's τ-b, many resamples at once.

Spearman's ρ is Pearson's correlation of mid-ranks; Kendall's τ-b is the concordance of pairs, corrected for ties
(Kendall 1945). Point estimates come from SciPy. The intervals are percentile bootstraps over candidates (Efron and
Tibshirani 1993, chapter 13): a resample holds some candidates several times, which then tie with themselves.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 95.0
"""Coverage of every interval, in percent."""

CELLS = 2_000_000
"""Numbers held at once while resamples are ranked."""

PAIRS_LIMIT = 1_500
"""Candidates up to which τ of a resample is read off the matrix of all pairs; beyond, SciPy's O(n log n) is faster."""


def resample(n: int, resamples: int, rng: np.random.Generator) -> Ints:
    """Indices (resamples, n) of candidates drawn with replacement; (0, 0) where there are none."""
    return np.empty((0, 0), dtype=np.int64) if n == 0 else rng.integers(0, n, size=(resamples, n))


def spearman(x: Floats, y: Floats) -> float:
    """ρ of two arrays (n,); NaN where n < 3 or one of them is constant. Infinities rank first or last."""
    return _estimate(stats.spearmanr, x, y)


def kendall(x: Floats, y: Floats) -> float:
    """τ-b of two arrays (n,); NaN where n < 3 or one of them is constant. Infinities rank first or last."""
    return _estimate(stats.kendalltau, x, y)


def spearman_draws(x: Floats, y: Floats, draws: Ints) -> Floats:
    """ρ on every resample (R, n) of ``x`` and ``y`` (n,): float64 (R,), NaN where a resample is constant."""
    return _concatenated([_pearson_of_ranks(x[part], y[part]) for part in _parts(draws)])


def kendall_draws(x: Floats, y: Floats, draws: Ints) -> Floats:
    """τ-b on every resample (R, n) of ``x`` and ``y`` (n,): float64 (R,), NaN where a resample is constant.

    Up to :data:`PAIRS_LIMIT` candidates: with w how often a resample holds each candidate and S the signs of all
    differences, the concordance of the resample is wᵀ(Sx∘Sy)w, and wᵀ(Sx∘Sx)w the pairs that do not tie in x.
    """
    n = len(x)
    if n > PAIRS_LIMIT:
        return np.array([kendall(x[row], y[row]) for row in draws])
    weights = np.stack([np.bincount(row, minlength=n) for row in draws]).astype(np.float64)  # (R, n)
    sx, sy = _signs(x), _signs(y)  # (n, n)
    both, left, right = (((weights @ m) * weights).sum(1) for m in (sx * sy, sx * sx, sy * sy))  # each (R,)
    return _ratio(both, np.sqrt(left * right))


def top_order(x: Floats, top: int) -> Ints:
    """Indices of the ``top`` highest of ``x`` along its last axis; of those that tie at the border, the first."""
    return np.argsort(-x, axis=-1, kind="stable")[..., :top]


def top_draws(x: Floats, y: Floats, draws: Ints, top: int) -> Floats:
    """ρ among the ``top`` entries of every resample (R, n) that ``x`` ranks best: float64 (R,)."""
    parts = []
    for part in _parts(draws):
        best = np.take_along_axis(part, top_order(x[part], top), axis=1)  # (R, top)
        parts.append(_pearson_of_ranks(x[best], y[best]))
    return _concatenated(parts)


def interval(draws: Floats) -> tuple[float, float]:
    """The percentile interval of the finite ``draws`` (R,); NaN where there are none."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _estimate(function: object, x: Floats, y: Floats) -> float:
    if len(x) < 3 or (x == x[0]).all() or (y == y[0]).all():
        return math.nan
    return float(function(stats.rankdata(x), stats.rankdata(y)).statistic)  # type: ignore[operator]  # SciPy is untyped


def _pearson_of_ranks(x: Floats, y: Floats) -> Floats:
    """ρ of each row of ``x`` and ``y`` (R, k); NaN where k < 3 or a row is constant."""
    if x.shape[1] < 3:
        return np.full(len(x), math.nan)
    middle = (x.shape[1] + 1) / 2  # mid-ranks always have this mean
    a, b = stats.rankdata(x, axis=1) - middle, stats.rankdata(y, axis=1) - middle
    return _ratio((a * b).sum(1), np.sqrt((a * a).sum(1) * (b * b).sum(1)))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    result = np.full(len(numerator), math.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result.clip(-1.0, 1.0)


def _signs(x: Floats) -> Floats:
    ranks: Floats = stats.rankdata(x)  # so that two infinities tie
    return np.sign(ranks[:, None] - ranks[None, :]).astype(np.float64)


def _parts(draws: Ints) -> Iterator[Ints]:
    rows = max(1, CELLS // max(1, draws.shape[1]))
    for start in range(0, len(draws), rows):
        yield draws[start : start + rows]


def _concatenated(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.empty(0)
