"""Curves of regret against cost: what is charged, what is handed over, and that rivals are what
they say.
"""

import math

import numpy as np
import optuna
import pandas as pd
import pytest

from proxynas.core.errors import SpecError
from proxynas.predict import curves
from tests.test_predict_predictor import population


def pool(n: int = 60, partial: bool = True) -> curves.Pool:
    features, truth, prior = population(n)
    runs = {str(name): [value - 0.001, value + 0.001] for name, value in truth.items()}
    seconds = pd.Series(100.0, index=features.index)
    axes = pd.DataFrame({"a": np.arange(n) % 5, "b": np.arange(n) // 5}, index=features.index)
    few = truth.rank(pct=True) if partial else None
    return curves.Pool(
        runs, seconds, features, prior, 60.0, axes, few, seconds / 10 if partial else None
    )


ALL = {
    "predicted": curves.predicted(20, most=10),
    "random": curves.random_search,
    "zero-cost": curves.zero_cost,
    "few epochs": curves.few_epochs,
    "predicted early": curves.predicted_early(20, 10),
    "warm start": curves.warm_start(20),
    "halving": curves.halving(
        lambda: optuna.pruners.SuccessiveHalvingPruner(12, reduction_factor=4), 12, 200
    ),
    "evolution": curves.evolution(8, 3),
}


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_is_charged_stays_in_its_budget_and_repeats(name: str) -> None:
    costs, regrets = curves.simulate(pool(), ALL[name], 3000.0, seed=1)
    assert 0 < costs[-1] <= 3000
    assert (np.diff(costs) >= 0).all()
    assert (regrets >= -1e-12).all()
    again = curves.simulate(pool(), ALL[name], 3000.0, seed=1)
    np.testing.assert_array_equal(again[0], costs)
    np.testing.assert_array_equal(again[1], regrets)


@pytest.mark.parametrize("name", ["random", "zero-cost", "few epochs", "evolution"])
def test_with_money_for_all_the_best_is_found_but_for_noise(name: str) -> None:
    _, regrets = curves.simulate(pool(), ALL[name], math.inf, seed=0)
    assert regrets[-1] <= 0.002


def test_random_search_pays_what_it_trains() -> None:
    costs, _ = curves.simulate(pool(), curves.random_search, 1050.0, seed=0)
    np.testing.assert_allclose(costs, 100 * np.arange(1, 11))


def test_zero_cost_pays_for_indicators_first_and_hands_its_pick_over() -> None:
    one = pool()
    costs, regrets = curves.simulate(one, curves.zero_cost, 200.0, seed=0)
    np.testing.assert_allclose(costs, [60, 160])
    truth = one.truth()
    assert regrets[0] == pytest.approx(truth.max() - truth[one.prior.idxmax()])


def test_few_epochs_pay_a_tenth_for_each_and_then_train_the_best() -> None:
    costs, regrets = curves.simulate(pool(), curves.few_epochs, 700.0, seed=0)
    np.testing.assert_allclose(costs, [*(10 * np.arange(1, 61)), 700])
    assert regrets[-1] == pytest.approx(0)


def test_halving_trains_about_a_quarter_of_what_it_looks_at() -> None:
    costs, _ = curves.simulate(pool(), ALL["halving"], math.inf, seed=0)
    trained = (costs[-1] - 60 * 10) / 100
    assert 12 <= trained <= 30


def test_this_search_labels_and_then_verifies() -> None:
    costs, regrets = curves.simulate(
        pool(), curves.predicted(20, batch=5, most=10), math.inf, seed=0
    )
    np.testing.assert_allclose(costs, 60 + 100 * np.arange(31))
    assert regrets[-1] < 0.01


def test_a_pool_without_few_epochs_or_axes_says_so() -> None:
    with pytest.raises(SpecError, match="accuracies after few epochs"):
        curves.simulate(pool(partial=False), curves.few_epochs, 1e4, seed=0)


def test_the_regret_at_a_cost_is_that_of_the_last_payment() -> None:
    grid = np.array([0.5, 1.0, 1.5, 2.0, 9.0])
    found = curves.at(np.array([1.0, 2.0]), np.array([0.3, 0.1]), grid)
    np.testing.assert_array_equal(found, [np.nan, 0.3, 0.3, 0.1, 0.1])
    assert np.isnan(curves.at(np.empty(0), np.empty(0), grid)).all()


def test_reached_is_where_it_stays() -> None:
    grid = np.array([1.0, 2.0, 3.0, 4.0])
    assert curves.reached(grid, np.array([0.3, 0.05, 0.2, 0.1]), 0.1) == 4
    assert curves.reached(grid, np.array([np.nan, 0.05, 0.1, 0.1]), 0.1) == 2
    assert curves.reached(grid, np.array([0.3, 0.3, 0.3, 0.2]), 0.1) == math.inf


def test_bands_are_quantiles_over_seeds() -> None:
    regrets = np.linspace(0, 1, 11)[:, None] * [1.0, 2.0]
    found = curves.bands(regrets)
    assert found["median"] == pytest.approx([0.5, 1.0])
    assert found["low"] == pytest.approx([0.1, 0.2])
    assert found["high"] == pytest.approx([0.9, 1.8])
