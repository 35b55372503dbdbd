"""A performance predictor: a model from indicators to accuracy, fitted on labels.

White et al. 2021, "How powerful are performance predictors in neural architecture search?"
(NeurIPS), compare 31 of them; the kind here is their model-based one on zero-cost and training
features. Features and labels are seen as normal scores (:mod:`.scores`). What predicts is the mean
of several models: choosing one of them by cross-validation makes its out-of-fold agreement look
better than it is.
Under :data:`LEAST_LABELS`, or where no feature tells candidates apart, nothing is fitted, and the
mean rank that the caller gives as prior ranks the candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.model_selection import RepeatedKFold

from ..core import seeds
from ..core.errors import SpecError
from .models import MODELS, Model, predict, unsure
from .scores import Scale, axis_scores, feature_scores, fit_scale, normal_scores, standardised

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_LABELS = 10
"""Labels under which nothing is fitted, and the mean rank stays."""

MEAN_RANK = "mean rank"
MEAN = "mean"
BEST = "best"
"""How to choose what predicts: the mean of all models, or the one that cross-validation prefers."""


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of every candidate, and how well it said it of labels that it had not
    seen.

    values: predicted accuracy by candidate, in the order of the features; higher is better. With
        :data:`MEAN_RANK` it is the prior.
    scores: the same as normal scores, which is what was predicted; they rank the candidates as
        ``values`` do, and also those that are equal there, next to an accuracy of 0 or 1.
    std: how unsure the prediction is of each candidate, in normal scores, without the noise of
        labels; ``None`` with :data:`MEAN_RANK`.
    error: root mean square of what the out-of-fold scores miss their labels' by; NaN with
        :data:`MEAN_RANK`.
    model: what predicted.
    agreement: for every model Spearman's ρ of its out-of-fold predictions with the labels; empty
        with the mean rank.
    out_of_fold: for every label that did not fail the mean score that models predicted which were
        fitted without it; only the Gaussian process's length, variance and noise are of all labels.
        With :data:`MEAN_RANK`, which sees none, the prior's.
    scale: from normal scores to accuracy; ``None`` with :data:`MEAN_RANK`.
    """

    values: pd.Series
    scores: pd.Series
    std: pd.Series | None
    error: float
    model: str
    agreement: dict[str, float]
    out_of_fold: pd.Series
    scale: Scale | None


# reason: what is known of the candidates, and how to fit; all arguments but four have defaults
def fit(
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    prior: pd.Series,
    seed: int,
    axes: pd.DataFrame | None = None,
    models: Mapping[str, Model] = MODELS,
    chosen: str = MEAN,
    folds: int = 10,
    repeats: int = 2,
) -> Prediction:
    """Fit a predictor on ``labels`` and predict every candidate. The same arguments give the same
    prediction.

    Args:
        features: a row a candidate, a column an indicator, higher or lower is better; NaN and -inf
            count as lowest.
        labels: accuracy in [0, 1] by candidate; those that failed (NaN) are left out.
        prior: the mean rank of some indicators by candidate, higher is better: the fallback.
        seed: of the folds, and of models that draw.
        axes: the space's axes by candidate, numbers or names. Every model is then fitted with and
            without them.
        models: what to fit.
        chosen: :data:`MEAN` predicts by the mean of them all, :data:`BEST` by the one that
            cross-validation prefers.
        folds: parts of the cross-validation; as many as labels at most.
        repeats: cross-validations with other parts.

    Raises:
        SpecError: a label is not of a candidate, the prior or the axes lack one, or a candidate
            comes twice.
    """
    known = _checked(features, labels, prior, axes)
    if len(known) < LEAST_LABELS or known.nunique() < 2:
        return _mean_rank(prior.reindex(features.index), known)
    at = features.index.get_indexer(known.index)
    y = known.to_numpy()
    target = normal_scores(y)
    inputs = {suffix: x for suffix, x in _inputs(features, axes).items() if x.shape[1]}
    if not inputs:  # all candidates look the same
        return _mean_rank(prior.reindex(features.index), known)
    fits = [
        Fit(name + suffix, model(x[at], target, seeds.derive(seed, name)), x, at)
        for suffix, x in inputs.items()
        for name, model in models.items()
    ]
    held_out = _held_out(fits, y, folds, repeats, seed)
    agreement = {name: float(stats.spearmanr(z, y).statistic) for name, z in held_out.items()}
    best = MEAN if chosen == MEAN else max(agreement, key=lambda name: agreement[name])
    predicted = {fit.name: fit.predict(target) for fit in fits}
    scores = np.mean([z for name, z in predicted.items() if best in (MEAN, name)], axis=0)
    scale, index = fit_scale(y), features.index
    return Prediction(
        values=pd.Series(scale.accuracy(scores), index=index, name="predicted"),
        scores=pd.Series(scores, index=index, name="score"),
        std=pd.Series(_spread(fits, predicted, target), index=index, name="std"),
        error=float(np.sqrt(np.mean((held_out[best] - target) ** 2))),
        model=best if best != MEAN else "mean of " + ", ".join(predicted),
        agreement=agreement,
        out_of_fold=pd.Series(held_out[best], index=known.index, name="out_of_fold"),
        scale=scale,
    )


@dataclass(frozen=True)
class Fit:
    """A tuned model, its features (N, k) of all candidates, and which rows (n,) have labels."""

    name: str
    model: Any
    x: Floats
    at: Ints

    def predict(self, target: Floats) -> Floats:
        """Scores (N,) of all candidates, fitted to those of the labels (n,)."""
        return predict(self.model, self.x[self.at], target, self.x)


def _held_out(
    fits: Sequence[Fit], y: Floats, folds: int, repeats: int, seed: int
) -> dict[str, Floats]:
    """The scores that each model, and their mean, predicts of labels (n,) that it had not seen."""
    held_out = {fit.name: np.zeros(len(y)) for fit in fits}
    cv = RepeatedKFold(
        n_splits=min(folds, len(y)),
        n_repeats=repeats,
        random_state=seeds.derive(seed, "folds") % 2**32,
    )
    for train, test in cv.split(y):
        target = normal_scores(y[train])  # what is held out must not show in the others' ranks
        for fit in fits:
            x = fit.x[fit.at]
            held_out[fit.name][test] += predict(fit.model, x[train], target, x[test]) / repeats
    return held_out | {MEAN: np.mean(list(held_out.values()), axis=0)}


def _inputs(features: pd.DataFrame, axes: pd.DataFrame | None) -> dict[str, Floats]:
    """Standardised features (N, k): the indicators; and with the axes, where there are any."""
    indicators = feature_scores(features)
    inputs = {"": standardised(indicators)}
    if axes is not None:
        inputs[" + axes"] = standardised(
            np.hstack([indicators, axis_scores(axes.reindex(features.index))])
        )
    return inputs


def _spread(fits: Sequence[Fit], predicted: Mapping[str, Floats], target: Floats) -> Floats:
    """Standard deviation (N,) of the prediction: the models' own, on average, and how far they are
    apart.
    """
    between = np.var(list(predicted.values()), axis=0)
    stds = [unsure(fit.model, fit.x[fit.at], target, fit.x) for fit in fits]
    within = [std**2 for std in stds if std is not None]
    return np.asarray(np.sqrt(between + (np.mean(within, axis=0) if within else 0.0)))


def _checked(
    features: pd.DataFrame, labels: pd.Series, prior: pd.Series, axes: pd.DataFrame | None
) -> pd.Series:
    """The labels that did not fail, in order of name."""
    for what, index in (
        ("features", features.index),
        ("labels", labels.index),
        ("prior", prior.index),
    ):
        if not index.is_unique:
            twice = index[index.duplicated()][0]
            raise SpecError(f"the {what} must have one row a candidate, but {twice} comes twice")
    wanted = [("features", labels.index, features.index), ("prior", features.index, prior.index)]
    if axes is not None:
        wanted.append(("axes", features.index, axes.index))
    for what, index, there in wanted:
        missing = index.difference(there)
        if len(missing):
            raise SpecError(
                f"the {what} must have a row for every candidate, but lack {missing[0]}; add it"
            )
    return labels.dropna().astype("float64").sort_index()


def _mean_rank(prior: pd.Series, known: pd.Series) -> Prediction:
    scores = pd.Series(
        normal_scores(prior.to_numpy(dtype=np.float64)), index=prior.index, name="score"
    )
    seen = scores.reindex(known.index).rename("out_of_fold")
    values = prior.astype("float64").rename("predicted")
    return Prediction(values, scores, None, np.nan, MEAN_RANK, {}, seen, None)
