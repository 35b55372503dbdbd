"""The predictor against scikit-learn and closed forms, and what it must not be spoilt by."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import Ridge, RidgeCV

from proxynas.core.errors import SpecError
from proxynas.predict import models, predictor, scores


def population(n: int = 200, seed: int = 0) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Candidates whose accuracy (n,) is a monotone function of three noisy indicators (n, 3); and a
    mean rank.
    """
    rng = np.random.default_rng(seed)
    index = pd.Index([f"net{i:03d}" for i in range(n)], name="arch")
    quality = rng.standard_normal(n)
    columns = {f"i{k}": np.exp(quality + 0.6 * rng.standard_normal(n)) for k in range(3)}
    features = pd.DataFrame(columns, index=index)
    return (
        features,
        pd.Series(0.9 / (1 + np.exp(-2 - quality)), index=index),
        features.rank().mean(axis=1),
    )


def some(truth: pd.Series, n: int) -> pd.Series:
    return truth.sample(n, random_state=1)


def test_normal_scores_are_quantiles_of_mid_ranks() -> None:
    found = scores.normal_scores(np.array([3.0, 1.0, 3.0, -np.inf, np.nan]))
    ranks = np.array([4.5, 3.0, 4.5, 1.5, 1.5])
    np.testing.assert_allclose(found, stats.norm.ppf((ranks - 0.5) / 5))


def test_scale_is_increasing_and_gives_labels_back() -> None:
    accuracies = np.array([0.5, 0.9, 0.9, 0.95, 0.96, 0.1])
    scale = scores.fit_scale(accuracies)
    np.testing.assert_allclose(scale.accuracy(scores.normal_scores(accuracies)), accuracies)
    np.testing.assert_allclose(scale.accuracy(scale.score(accuracies)), accuracies)
    assert (np.diff(scale.accuracy(np.linspace(-4, 4, 200))) > 0).all()
    assert scale.accuracy(np.array([-50.0, 50.0])) == pytest.approx([0, 1], abs=1e-5)


def test_ridge_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((30, 4)), rng.standard_normal((7, 4))
    y = x @ [1.0, 0.5, 0.0, 0.0] + rng.standard_normal(30)
    penalty = RidgeCV(models.PENALTIES).fit(x, y).alpha_
    centred = x - x.mean(0)
    w = np.linalg.solve(centred.T @ centred + penalty * np.eye(4), centred.T @ (y - y.mean()))
    found = models.predict(models.ridge(x, y, 0), x, y, new)
    np.testing.assert_allclose(found, y.mean() + (new - x.mean(0)) @ w)


def test_gaussian_process_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((20, 2)), rng.standard_normal((5, 2))
    y = np.sin(x[:, 0]) + 0.1 * rng.standard_normal(20)
    model = models.gaussian_process(x, y, 0)
    signal, noise = model.kernel.k1, model.kernel.k2.noise_level
    k = signal(new, x) @ np.linalg.inv(signal(x) + (noise + model.alpha) * np.eye(20))
    np.testing.assert_allclose(
        models.predict(model, x, y, new),
        y.mean() + y.std() * k @ ((y - y.mean()) / y.std()),
        atol=1e-6,
    )
    variance = np.diag(signal(new) - k @ signal(x, new)) * y.var()
    np.testing.assert_allclose(models.unsure(model, x, y, new), np.sqrt(variance), atol=1e-4)


def test_one_ridge_is_ridge_of_normal_scores() -> None:
    features, truth, prior = population()
    labels = some(truth, 30)
    found = predictor.fit(
        features, labels, prior=prior, seed=0, models={"r": lambda x, y, seed: Ridge(1.0)}
    )
    x = features.rank().sub(0.5).div(len(features)).apply(stats.norm.ppf)
    x = (x - x.mean()) / x.std(ddof=0)
    y = stats.norm.ppf((labels.rank() - 0.5) / 30)
    expected = Ridge(1.0).fit(x.loc[labels.index], y).predict(x)
    np.testing.assert_allclose(found.scores, expected)
    assert found.values.rank().equals(found.scores.rank().rename("predicted"))


def test_out_of_fold_does_not_see_its_label() -> None:
    features, truth, prior = population()
    labels = some(truth, 20)
    moved = labels.copy()
    moved.iloc[3] = 0.8999  # keeps nobody's rank but its own
    folds = {"folds": 20, "repeats": 1, "models": {"r": lambda x, y, seed: Ridge(1.0)}}
    before = predictor.fit(features, labels, prior=prior, seed=0, **folds).out_of_fold
    after = predictor.fit(features, moved, prior=prior, seed=0, **folds).out_of_fold
    arch = labels.index[3]
    assert after[arch] == pytest.approx(before[arch])
    assert not np.allclose(after.drop(arch), before.drop(arch))


def test_it_predicts_and_beats_its_best_feature() -> None:
    features, truth, prior = population(400)
    labels = some(truth, 40)
    rest = features.index.difference(labels.index)
    found = predictor.fit(features, labels, prior=prior, seed=0)
    rho = stats.spearmanr(found.values[rest], truth[rest]).statistic
    assert rho > max(
        stats.spearmanr(features.loc[rest, c], truth[rest]).statistic for c in features
    )
    assert set(found.agreement) == {"ridge", "Gaussian process", "mean"}
    assert found.std is not None
    assert (found.std > 0).all()


def test_same_arguments_same_prediction_whatever_the_order_of_labels() -> None:
    features, truth, prior = population(100)
    labels = some(truth, 25)
    one = predictor.fit(features, labels, prior=prior, seed=3)
    two = predictor.fit(features, labels.iloc[::-1], prior=prior, seed=3)
    pd.testing.assert_series_equal(one.values, two.values)
    pd.testing.assert_series_equal(one.out_of_fold, two.out_of_fold)


def test_failed_labels_change_nothing() -> None:
    features, truth, prior = population(100)
    labels = some(truth, 25)
    failed = pd.concat(
        [labels, pd.Series(np.nan, index=features.index.difference(labels.index)[:5])]
    )
    one = predictor.fit(features, labels, prior=prior, seed=0)
    two = predictor.fit(features, failed, prior=prior, seed=0)
    pd.testing.assert_series_equal(one.values, two.values)


def test_the_scale_of_a_feature_does_not_matter_nor_do_constant_ones() -> None:
    features, truth, prior = population(100)
    labels = some(truth, 25)
    bent = features.assign(i0=np.log(features["i0"]), constant=1.0, missing=np.nan)
    one = predictor.fit(features, labels, prior=prior, seed=0)
    two = predictor.fit(bent, labels, prior=prior, seed=0)
    np.testing.assert_allclose(one.values, two.values)


@pytest.mark.parametrize("labels", [0, 9])
def test_few_labels_leave_the_mean_rank(labels: int) -> None:
    features, truth, prior = population(60)
    found = predictor.fit(features, some(truth, labels), prior=prior, seed=0)
    assert found.model == predictor.MEAN_RANK
    pd.testing.assert_series_equal(found.values, prior, check_names=False)
    assert found.std is None


def test_features_that_tell_nothing_apart_leave_the_mean_rank() -> None:
    features, truth, prior = population()
    found = predictor.fit(features * 0, some(truth, 20), prior=prior, seed=0)
    assert found.model == predictor.MEAN_RANK
    axes = pd.DataFrame({"width": range(len(prior))}, index=prior.index)
    found = predictor.fit(features * 0, some(truth, 20), prior=prior, seed=0, axes=axes)
    assert found.model == "mean of ridge + axes, Gaussian process + axes"


def test_axes_of_numbers_and_names_are_features() -> None:
    features, truth, prior = population(120)
    axes = pd.DataFrame(
        {"depth": np.arange(120) % 4, "norm": ["a", "b", "c"] * 40}, index=features.index
    )
    better = (truth + 0.2 * (axes["norm"] == "b")).clip(upper=1)  # what no indicator sees
    labels = some(better, 40)
    rest = features.index.difference(labels.index)
    rho = {
        given is not None: stats.spearmanr(
            predictor.fit(features, labels, prior=prior, seed=0, axes=given).values[rest],
            better[rest],
        ).statistic
        for given in (None, axes)
    }
    assert rho[True] > rho[False] + 0.05


def test_wrong_rows_are_refused() -> None:
    features, truth, prior = population(30)
    with pytest.raises(
        SpecError, match="features must have a row for every candidate, but lack other"
    ):
        predictor.fit(features, pd.Series({"other": 0.5}), prior=prior, seed=0)
    with pytest.raises(SpecError, match="prior must have a row"):
        predictor.fit(features, truth[:12], prior=prior[:20], seed=0)
    with pytest.raises(SpecError, match="labels must have one row a candidate"):
        predictor.fit(features, pd.concat([truth[:12], truth[:1]]), prior=prior, seed=0)
