"""Verification: the best K, the winner, and how much better one that was not trained may be."""

import numpy as np
import pandas as pd
import pytest

from proxynas.core.errors import SpecError
from proxynas.predict import predictor, verify
from tests.test_predict_predictor import population, some


def test_the_best_that_are_not_trained() -> None:
    features, truth, prior = population(60)
    labels = some(truth, 20)
    found = predictor.fit(features, labels, prior=prior, seed=0)
    best = verify.best(found, labels.index, 5)
    left = found.values.drop(labels.index)
    assert best == list(left.sort_values(ascending=False).index[:5])
    assert len(verify.best(found, labels.index, 500)) == 40
    with pytest.raises(SpecError, match="at least 0, but got -1"):
        verify.best(found, labels.index, -1)


def test_the_winner_is_the_highest_label_the_first_by_name() -> None:
    assert verify.winner(pd.Series({"b": 0.9, "a": 0.9, "c": np.nan, "d": 0.5})) == "a"
    with pytest.raises(SpecError, match="no training on the whole data succeeded"):
        verify.winner(pd.Series({"a": np.nan}))


def test_headroom_needs_a_fit_and_candidates() -> None:
    features, truth, prior = population(60)
    few = predictor.fit(features, some(truth, 5), prior=prior, seed=0)
    assert verify.headroom(few, some(truth, 5), 0) is None
    everything = predictor.fit(features, truth, prior=prior, seed=0)
    assert verify.headroom(everything, truth, 0) is None


def test_headroom_is_small_after_a_winner_out_of_reach() -> None:
    features, truth, prior = population(200)
    labels = some(truth, 40)
    found = predictor.fit(features, labels, prior=prior, seed=0)
    one = verify.headroom(found, labels, 0)
    assert one is not None
    assert one == verify.headroom(found, labels, 0)
    assert one.untrained == 160
    assert 0 <= one.probability <= 1
    labels = pd.concat([labels, truth.drop(labels.index).nlargest(40)])
    found = predictor.fit(features, labels, prior=prior, seed=0)
    two = verify.headroom(found, labels, 0)
    assert two is not None
    assert two.probability < one.probability
    assert two.high < one.high


def test_nothing_is_better_than_a_winner_without_an_error() -> None:
    features, truth, prior = population(60)
    labels = some(truth, 20)
    labels[labels.idxmax()] = 1.0
    found = predictor.fit(features, labels, prior=prior, seed=0)
    head = verify.headroom(found, labels, 0)
    assert head is not None
    assert head.probability == 0
    assert head.high <= 0


def test_the_bound_covers() -> None:
    """25 draws of 30 labels and 5 verified: 95 % would be 24, and fewer than 20 has a probability
    of 0.001.
    """
    features, truth, prior = population(300, seed=2)
    covered = 0
    for seed in range(25):
        labels = truth.sample(30, random_state=seed)
        found = predictor.fit(features, labels, prior=prior, seed=seed, repeats=1)
        labels = truth[[*labels.index, *verify.best(found, labels.index, 5)]]
        found = predictor.fit(features, labels, prior=prior, seed=seed, repeats=1)
        bound = verify.headroom(found, labels, seed)
        assert bound is not None
        covered += truth.drop(labels.index).max() - labels.max() <= bound.high
    assert covered >= 20
