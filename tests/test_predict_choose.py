"""The choice of labels: its probabilities are what the draws do, and its weights undo them."""

import numpy as np
import pandas as pd
import pytest

from proxynas.core.errors import SpecError
from proxynas.predict import choose, predictor
from tests.test_predict_predictor import population, some


@pytest.mark.parametrize(
    ("labels", "batch", "expected"),
    [
        (9, None, [9]),
        (20, None, [10, 5, 5]),
        (41, None, [21, 10, 10]),
        (40, 8, [20, 8, 8, 4]),
        (1, None, [1]),
    ],
)
def test_rounds(labels: int, batch: int | None, expected: list[int]) -> None:
    assert choose.rounds(labels, batch) == expected


def test_rounds_refuse() -> None:
    with pytest.raises(SpecError, match="at least 1, but got 0"):
        choose.rounds(0)
    with pytest.raises(SpecError, match="at least 1 label, but got -1"):
        choose.rounds(30, -1)


def test_the_first_round_is_one_of_each_stratum() -> None:
    _, _, prior = population(103)
    design = choose.spread(prior, 10, seed=0)
    place = prior.rank(method="first").reindex(design.index).sort_values() - 1
    borders = np.cumsum([0, *map(len, np.array_split(np.arange(103), 10))])
    assert all(low <= at < high for low, at, high in zip(borders, place, borders[1:], strict=False))
    assert choose.weights(design, 103).sum() == pytest.approx(103)


def test_more_labels_than_candidates_are_all_of_them() -> None:
    features, truth, prior = population(12)
    design = choose.spread(prior, 11, seed=0)
    found = predictor.fit(features, truth[design.index], prior=prior, seed=0)
    design = choose.further(found, design, 50, seed=0)
    assert sorted(design.index) == sorted(features.index)
    assert choose.weights(design, 12).sum() == pytest.approx(12)


def test_the_same_seed_chooses_the_same_and_keeps_what_was() -> None:
    features, truth, prior = population()
    first = choose.spread(prior, 12, seed=5)
    found = predictor.fit(features, truth[first.index], prior=prior, seed=5)
    one, two = (choose.further(found, first, 6, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(one[:12], first)
    assert one.index.is_unique
    assert not one.equals(choose.further(found, first, 6, seed=6))


def test_later_rounds_look_for_the_best() -> None:
    features, truth, prior = population(400)
    labels = some(truth, 30)
    design = pd.DataFrame({"round": 0, "probability": 30 / 400}, index=labels.index)
    found = predictor.fit(features, labels, prior=prior, seed=0)
    chosen = [choose.further(found, design, 20, seed).index[30:] for seed in range(10)]
    assert truth.rank(pct=True)[np.concatenate(chosen)].mean() > 0.7


def test_weights_are_unbiased_over_draws() -> None:
    """Horvitz and Thompson's property: the mean over many draws of Σ w·y is Σ y, for both kinds of
    round.
    """
    features, truth, prior = population(40)
    found = predictor.fit(features, some(truth, 15), prior=prior, seed=0)
    sums, sizes = [], []
    for seed in range(500):
        design = choose.further(found, choose.spread(prior, 6, seed), 4, seed)
        w = choose.weights(design, 40)
        sums.append((w * truth[design.index]).sum())
        sizes.append(w.sum())
    assert np.mean(sums) == pytest.approx(truth.sum(), abs=4 * np.std(sums) / np.sqrt(500))
    assert np.mean(sizes) == pytest.approx(40, abs=4 * np.std(sizes) / np.sqrt(500))


def test_the_probability_noted_is_that_of_the_draw() -> None:
    features, truth, prior = population(20)
    found = predictor.fit(features, some(truth, 12), prior=prior, seed=0)
    first = choose.spread(prior, 10, seed=0)
    noted: dict[str, float] = {}
    drawn: dict[str, int] = {}
    for seed in range(600):
        last = choose.further(found, first, 1, seed).iloc[-1]
        noted[str(last.name)] = last["probability"]
        drawn[str(last.name)] = drawn.get(str(last.name), 0) + 1
    assert sum(noted.values()) == pytest.approx(1)
    for arch, times in drawn.items():
        assert times / 600 == pytest.approx(noted[arch], abs=4 * np.sqrt(noted[arch] / 600))
