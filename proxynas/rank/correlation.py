"""Rank correlation with ties, and its bootstrap: Spearman's ρ and Kendall's τ-b, many resamples at
once.

Spearman's ρ is Pearson's correlation of mid-ranks; Kendall's τ-b is the concordance of pairs,
corrected for ties (Kendall 1945). Point estimates come from SciPy. The intervals are percentile
bootstraps over candidates (Efron and Tibshirani 1993, chapter 13): a resample holds some candidates
several times, which then tie with themselves. Where candidates come in kinds of isomorphic ones,
which are no independent draws, whole kinds are drawn (the cluster bootstrap; Davison and Hinkley
1997, §3.8).

A resample is kept as how often it holds each candidate, so that all of them rank by one sorting.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.str_]

LEVEL = 95.0
"""Coverage of every interval, in percent."""

CELLS = 2_000_000
"""Numbers held at once while resamples are ranked."""

PAIRS_LIMIT = 1_500
"""Candidates up to which τ of a resample is read off the matrix of all pairs; beyond, SciPy's O(n
log n) is faster."""


def resample(n: int, resamples: int, rng: np.random.Generator, kinds: Names | None = None) -> Ints:
    """How often each resample holds each of ``n`` candidates: int64 (resamples, n).

    As many are drawn as there are, with replacement.
    With ``kinds`` (n,) as many kinds are drawn as there are, and each brings all of its candidates,
    so that resamples differ in size. (0, 0) where there are no candidates.
    """
    if n == 0:
        return np.empty((0, 0), dtype=np.int64)
    names, kind = np.unique(np.arange(n) if kinds is None else kinds, return_inverse=True)
    drawn = rng.integers(0, len(names), size=(resamples, len(names)))
    held = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])  # (R, kinds)
    return held[:, kind].astype(np.int64)


def spearman(x: Floats, y: Floats) -> float:
    """ρ of two arrays (n,); NaN where n < 3 or one of them is constant. Infinities rank first or
    last."""
    return _estimate(stats.spearmanr, x, y)


def kendall(x: Floats, y: Floats) -> float:
    """τ-b of two arrays (n,); NaN where n < 3 or one of them is constant. Infinities rank first or
    last."""
    return _estimate(stats.kendalltau, x, y)


def spearman_draws(x: Floats, y: Floats, draws: Ints) -> Floats:
    """ρ of ``x`` and ``y`` (n,) on every resample (R, n): float64 (R,).

    NaN where a resample is constant or holds fewer than three.
    """
    parts = [_pearson_of_ranks(x, y, part) for part in _parts(draws)]
    return np.concatenate(parts) if parts else np.empty(0)


def kendall_draws(x: Floats, y: Floats, draws: Ints) -> Floats:
    """τ-b of ``x`` and ``y`` (n,) on every resample (R, n): float64 (R,), NaN where one is
    constant.

    Up to :data:`PAIRS_LIMIT` candidates: with w how often a resample holds each candidate and S the
    signs of all differences, the concordance of the resample is wᵀ(Sx∘Sy)w, and wᵀ(Sx∘Sx)w the
    pairs that do not tie in x.
    """
    if len(x) > PAIRS_LIMIT:
        held = (np.repeat(np.arange(len(x)), row) for row in draws)
        return np.array([kendall(x[row], y[row]) for row in held])
    weights = draws.astype(np.float64)  # (R, n)
    sx, sy = _signs(x), _signs(y)  # (n, n)
    both, left, right = (
        ((weights @ m) * weights).sum(1) for m in (sx * sy, sx * sx, sy * sy)
    )  # each (R,)
    return _ratio(both, np.sqrt(left * right))


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


def _pearson_of_ranks(x: Floats, y: Floats, draws: Ints) -> Floats:
    """ρ of ``x`` and ``y`` (n,) on every resample (R, n); NaN: constant, or fewer than three."""
    size = draws.sum(axis=1, keepdims=True)  # (R, 1)
    middle = (size + 1) / 2  # mid-ranks always have this mean
    a, b = _ranks(x, draws) - middle, _ranks(y, draws) - middle  # (R, n)
    squares = np.sqrt((draws * a * a).sum(1) * (draws * b * b).sum(1))
    return _ratio((draws * a * b).sum(1), np.where(size[:, 0] < 3, 0.0, squares))


def _ranks(x: Floats, draws: Ints) -> Floats:
    """The mid-rank of each of ``x`` (n,) in every resample (R, n), held by it or not: (R, n).

    All copies of a value share the mean of their places: how many are below it, plus half of one
    more than there are copies.
    """
    _, group = np.unique(x, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    copies = np.add.reduceat(draws[:, order], starts, axis=1)  # (R, values)
    ranks: Floats = np.cumsum(copies, axis=1) - copies + (copies + 1) / 2
    return ranks[:, group]


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
