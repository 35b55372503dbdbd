"""Trust: the weighted ρ against SciPy's, and the interval's coverage where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from proxynas.predict import choose, predictor, trust
from tests.test_predict_predictor import population


def test_equal_weights_give_spearman() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 30).astype(float), rng.standard_normal(30)
    expected = stats.spearmanr(x, y).statistic
    assert trust.weighted_spearman(x, y, np.full(30, 2.5)) == pytest.approx(expected)


def test_a_weight_of_two_is_a_pair_that_comes_twice() -> None:
    rng = np.random.default_rng(0)
    x, y, times = rng.standard_normal(12), rng.standard_normal(12), rng.integers(1, 4, 12)
    expected = stats.spearmanr(np.repeat(x, times), np.repeat(y, times)).statistic
    assert trust.weighted_spearman(x, y, times.astype(float)) == pytest.approx(expected)


def test_few_or_constant_pairs_have_no_correlation() -> None:
    assert math.isnan(trust.weighted_spearman(np.arange(3.0), np.arange(3.0), np.ones(3)))
    assert math.isnan(trust.weighted_spearman(np.ones(5), np.arange(5.0), np.ones(5)))


def test_labels_that_stand_for_no_others_are_no_pairs() -> None:
    w = np.array([2.0, 2.0, 2.0, 0.0, 0.0])
    assert math.isnan(trust.weighted_spearman(np.arange(5.0), np.arange(5.0), w))


def test_the_standard_error_is_bonett_and_wrights_or_more() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(50)
    y = x + rng.standard_normal(50)
    rho = stats.spearmanr(x, y).statistic
    found = trust.standard_error(x, y, np.ones(50), 10**9)
    assert found >= math.sqrt((1 + rho**2 / 2) / 47) - 1e-12
    assert found < 2 / math.sqrt(47)
    finite = trust.standard_error(x, y, np.ones(50), 53)
    assert finite**2 - found**2 == pytest.approx((1 + rho**2 / 2) / 50)


def test_labels_of_the_verification_and_failed_ones_do_not_count() -> None:
    features, truth, prior = population()
    design = choose.spread(prior, 30, seed=0)
    labels = truth[[*design.index, *truth.nlargest(5).index.difference(design.index)]].copy()
    labels[design.index[0]] = np.nan
    found = predictor.fit(features, labels, prior=prior, seed=0)
    trusted = trust.trust(found, labels, choose.weights(design, len(features)), 150)
    assert trusted.labels == 29
    assert trusted.low < trusted.rho < trusted.high


def test_nothing_is_known_of_few_labels() -> None:
    features, truth, prior = population()
    design = choose.spread(prior, 3, seed=0)
    found = predictor.fit(features, truth[design.index], prior=prior, seed=0)
    trusted = trust.trust(found, truth[design.index], choose.weights(design, len(features)), 197)
    assert (trusted.low, trusted.high) == (-1, 1)
    assert math.isnan(trusted.rho)


def test_the_mean_rank_is_trusted_too() -> None:
    features, truth, prior = population()
    design = choose.spread(prior, 8, seed=0)
    found = predictor.fit(features, truth[design.index], prior=prior, seed=0)
    trusted = trust.trust(found, truth[design.index], choose.weights(design, len(features)), 192)
    assert trusted.rho == pytest.approx(
        stats.spearmanr(prior[design.index], truth[design.index]).statistic, abs=0.02
    )
    assert trusted.low < trusted.rho < trusted.high


@pytest.mark.parametrize("promising", [False, True])
def test_the_interval_covers(promising: bool) -> None:
    """30 draws of 20 labels: 95 % of them would be 28.5, and fewer than 25 has a probability of
    0.003.
    """
    features, truth, prior = population(300, seed=4)
    covered = 0
    for seed in range(30):
        design = choose.spread(prior, 10 if promising else 20, seed)
        if promising:
            found = predictor.fit(features, truth[design.index], prior=prior, seed=seed, repeats=1)
            design = choose.further(found, design, 10, seed)
        labels, rest = truth[design.index], truth.index.difference(design.index)
        found = predictor.fit(features, labels, prior=prior, seed=seed, repeats=1)
        trusted = trust.trust(found, labels, choose.weights(design, len(features)), len(rest))
        real = stats.spearmanr(found.values[rest], truth[rest]).statistic
        covered += trusted.low <= real <= trusted.high
    assert covered >= 25
