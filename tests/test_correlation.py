"""Correlations and their intervals against SciPy, closed cases and a known Gaussian."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from proxynas.rank import correlation, rank

from .rankings import costs_of, scores_of, truth_of

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


def gaussian(n: int, r: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, r * x + math.sqrt(1 - r * r) * rng.normal(size=n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0, 1_500])
def test_draws_are_what_scipy_says_of_each_resample(
    ties: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correlation, "PAIRS_LIMIT", limit)
    monkeypatch.setattr(correlation, "CELLS", 100)  # several parts
    rng = np.random.default_rng(0)
    x, y = gaussian(23, 0.5, rng)
    if ties:
        x, y = np.round(x), np.round(2 * y)
    draws = correlation.resample(23, 40, rng)
    rho, tau = correlation.spearman_draws(x, y, draws), correlation.kendall_draws(x, y, draws)
    for i, held in enumerate(draws):
        row = np.repeat(np.arange(23), held)
        assert rho[i] == pytest.approx(stats.spearmanr(x[row], y[row]).statistic)
        assert tau[i] == pytest.approx(stats.kendalltau(x[row], y[row]).statistic)


def test_a_resample_draws_as_many_candidates_as_there_are() -> None:
    draws = correlation.resample(30, 50, np.random.default_rng(1))
    assert draws.shape == (50, 30)
    assert (draws.sum(axis=1) == 30).all()
    assert correlation.resample(0, 50, np.random.default_rng(1)).shape == (0, 0)


def test_a_resample_of_kinds_draws_all_candidates_of_a_kind_together() -> None:
    kinds = np.array(["b", "a", "b", "c", "b"])
    draws = correlation.resample(5, 4000, np.random.default_rng(1), kinds)
    assert (draws[:, [0, 2, 4]] == draws[:, [0]]).all()
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()  # three kinds are drawn
    assert draws[:, :4].mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.06)  # sd 0.82 / √4000
    every = correlation.resample(
        5, 20, np.random.default_rng(1), np.array(["a", "b", "c", "d", "e"])
    )
    np.testing.assert_array_equal(every, correlation.resample(5, 20, np.random.default_rng(1)))


def test_constant_and_tiny_arrays_have_no_correlation() -> None:
    x = np.arange(5.0)
    for a, b in ((np.ones(5), x), (x, np.ones(5)), (x[:2], x[:2])):
        assert math.isnan(correlation.spearman(a, b))
        assert math.isnan(correlation.kendall(a, b))
    draws = np.zeros((4, 5), dtype=np.int64)
    draws[:, 0] = 5  # every resample holds one candidate five times
    assert np.isnan(correlation.spearman_draws(x, x, draws)).all()
    assert np.isnan(correlation.kendall_draws(x, x, draws)).all()
    assert np.isnan(correlation.interval(correlation.spearman_draws(x, x, draws))).all()
    assert np.isnan(
        correlation.spearman_draws(x, x, np.array([[1, 1, 0, 0, 0]]))
    ).all()  # two candidates


def test_interval_drops_degenerate_resamples() -> None:
    assert correlation.interval(np.array([math.nan, *np.linspace(0, 1, 101)])) == pytest.approx(
        (0.025, 0.975)
    )


def test_infinities_rank_last() -> None:
    x = np.array([-math.inf, 2.0, 3.0, -math.inf])
    assert correlation.spearman(x, np.array([0.0, 2.0, 3.0, 0.0])) == pytest.approx(1.0)
    assert correlation.kendall(x, np.array([0.0, 2.0, 3.0, 0.0])) == pytest.approx(1.0)
    assert np.isfinite(
        correlation.kendall_draws(x, np.arange(4.0), np.ones((1, 4), dtype=np.int64))
    ).all()


def test_interval_covers_the_known_rho_of_a_gaussian() -> None:
    r = 0.6
    known = 6 / math.pi * math.asin(r / 2)  # Pearson 1907: Spearman's ρ of a bivariate normal
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(150):
        x, y = gaussian(80, r, rng)
        low, high = correlation.interval(
            correlation.spearman_draws(x, y, correlation.resample(80, 300, rng))
        )
        covered += low <= known <= high
    assert 0.88 <= covered / 150 <= 0.99  # nominally 0.95; three standard errors are 0.05


def coverage(draw: Draw, known: float, repetitions: int) -> float:
    """How often the interval of ρ, as :func:`rank` makes it, holds the known one."""
    rng, covered = np.random.default_rng(5), 0
    for _ in range(repetitions):
        x, y, kinds = draw(rng)
        draws = correlation.resample(len(x), 300, rng, kinds)
        low, high = correlation.interval(correlation.spearman_draws(x, y, draws))
        covered += low <= known <= high
    return covered / repetitions


@pytest.mark.parametrize(("n", "percent"), [(400, 5), (200, 20), (1000, 10)])
def test_interval_among_the_truly_best_covers_what_it_estimates(n: int, percent: int) -> None:
    """ρ among the best fifth, tenth, … of all there are, which a sample of a million tells to
    0.003."""
    r, rng = 0.8, np.random.default_rng(6)
    x, y = gaussian(1_000_000, r, rng)
    best = y >= np.quantile(y, 1 - percent / 100)
    known = correlation.spearman(x[best], y[best])

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        x, y = gaussian(n, r, rng)
        part = np.argsort(-y)[: n * percent // 100]  # 20, 40 and 100 candidates
        return x[part], y[part], None

    assert (
        0.88 <= coverage(draw, known, 200) <= 0.99
    )  # nominally 0.95; three standard errors are 0.046


def test_interval_over_kinds_covers_where_one_over_candidates_is_too_narrow() -> None:
    """60 kinds of one to nine candidates each, which differ by little: a kind is one
    observation."""
    r = 0.6
    known = 6 / math.pi * math.asin(r / 2)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = gaussian(60, r, rng)
        kind = np.repeat(np.arange(60), rng.integers(1, 10, 60))
        noise = 0.01 * rng.normal(size=(2, len(kind)))
        return x[kind] + noise[0], y[kind] + noise[1], kind.astype(np.str_)

    def alone(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        return *draw(rng)[:2], None

    assert 0.88 <= coverage(draw, known, 200) <= 0.99
    assert coverage(alone, known, 200) < 0.8


def test_few_kinds_have_no_interval() -> None:
    """Twelve candidates of one kind: every resample would be all of them."""
    archs = [f"n{i:02}" for i in range(12)]
    truth = truth_of({arch: i / 12 for i, arch in enumerate(archs)})
    scores = scores_of({"proxy": {arch: [(i * 5 % 12) / 12] for i, arch in enumerate(archs)}})
    for kinds, known in ((1, False), (4, False), (5, True)):
        found = rank(
            scores, costs_of(archs), truth, kinds={a: str(i % kinds) for i, a in enumerate(archs)}
        )
        row = found.row(("proxy", "val_accuracy"))
        assert math.isfinite(row["rho"])
        assert math.isfinite(row["rho_low"]) is known
