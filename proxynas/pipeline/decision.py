"""From a ranking to a winner: label candidates, fit a predictor, estimate trust, verify the best,
pick.

A label is the accuracy of a candidate that was trained on the whole real data within this run, or
that a truth table gave and charged for. Labels are chosen in rounds
(:mod:`proxynas.predict.choose`), so that the ranking can be checked by them as well as fitted to
them. Everything is read back from the run store: an interrupted decision resumes as it would have
gone on. Nothing here looks at the test split, which is for the winner alone.

With ``--label-epochs`` labels are trainings of few epochs. The predictor is fitted on those, the
best by prediction get the same short training, ten at a time and the predictor fitted again before
each ten, and the best of all short trainings are trained whole. Whole accuracies alone are compared
to pick the winner; what trust and headroom then say is of accuracies after few epochs.
"""

from dataclasses import dataclass

import pandas as pd

from ..predict import choose, predictor, verify
from ..predict import trust as agreement
from ..predict.predictor import Prediction
from ..predict.trust import Trust
from ..predict.verify import Headroom
from ..rank import Key
from ..rank.indicators import PREDICTED
from ..search.sources import EARLY_STOPPING, PROXY, ZERO_COST
from ..specs import SearchSpec
from ..specs.constraint import COSTS
from .labelling import Labeller

BATCH = 10
"""Candidates that are shortlisted between two fits of the predictor."""


@dataclass(frozen=True)
class Decision:
    """What labels and verification say.

    labels: validation accuracy in [0, 1] by labelled candidate, in order of choice; NaN: its
    training failed.
    shortlisted: the same for the candidates that were trained for few epochs beside the labels.
    verified: the same for the candidates that were verified, best-ranked first.
    predictions: what was fitted, by the source whose indicators were the features; the first one
    decides.
    trust: agreement of the ranking with labels that it had not seen; ``None`` without labels.
    headroom: how much better the best candidate may be that was not trained: than the winner, or
    with short labels than the best of those, after as few epochs; ``None`` where not known.
    winner: the best of all that were trained whole; ``None`` where nothing was, or all failed.
    charged: accuracies came from tables, which were charged for them.
    label_epochs: of labels and shortlist; 0: as many as of a whole training.
    label_s, shortlist_s, verify_s: core seconds, or the tables' own; NaN where those have none.
    """

    labels: pd.Series
    shortlisted: pd.Series
    verified: pd.Series
    predictions: dict[str, Prediction]
    trust: Trust | None
    headroom: Headroom | None
    winner: str | None
    charged: bool
    label_epochs: int
    label_s: float
    shortlist_s: float
    verify_s: float

    @property
    def trained(self) -> pd.Series:
        """Accuracies of all candidates that had a whole training on the whole data; NaN where that
        failed."""
        whole = [self.verified] if self.label_epochs else [self.labels, self.verified]
        return _joined(*whole)

    def columns(self) -> dict[Key, pd.Series]:
        """The predictions as columns of the ranking.

        A labelled candidate has what was predicted for it without its label, so that labels do not
        leak into the agreement with truth.
        """
        return {
            (source, PREDICTED): p.scores.where(
                ~p.scores.index.isin(p.out_of_fold.index), p.out_of_fold.reindex(p.scores.index)
            )
            for source, p in self.predictions.items()
            if p.model != predictor.MEAN_RANK
        }


def decide(
    spec: SearchSpec,
    labeller: Labeller,
    values: pd.DataFrame,
    headline: Key,
    short: Labeller | None = None,
) -> Decision:
    """Label, fit, verify and pick.

    Args:
        spec: how many to label, to shortlist and to verify.
        labeller: where accuracies of whole trainings come from.
        values: a row per candidate, a column per (source, indicator), higher is better.
        headline: the column that ranks the candidates as long as nothing is fitted.
        short: where labels of few epochs come from; ``None``: labels are whole trainings.
    """
    prior, source = values[headline], feature_sources(values)[0]
    few = 0 if short is None else spec.label_epochs or 0
    asked = labeller if short is None else short
    asked.expect(min(spec.label + (spec.shortlisted if few else spec.verify), len(values)))
    labels, design = label(spec, asked, values, prior)
    predictions = {
        name: fitted(values, name, labels, prior, spec.seed) for name in feature_sources(values)
    }
    shortlisted = shortlist(spec, asked, values, prior, labels) if few else labels[:0]
    seen = _joined(labels, shortlisted)
    last = fitted(values, source, seen, prior, spec.seed) if few else predictions[source]
    if short is not None:
        labeller.expect(min(spec.verify, len(values)))
        best = verify.finalists(seen, last, spec.verify)
    else:
        best = verify.best(last, labels.index, spec.verify)
    verified = labeller.accuracies(best)
    trained = verified if few else _joined(labels, verified)
    if not few:
        seen, last = trained, fitted(values, source, trained, prior, spec.seed)
    return Decision(
        labels=labels,
        shortlisted=shortlisted,
        verified=verified,
        predictions=predictions,
        trust=_trust(predictions[source], labels, design, len(values)) if len(labels) else None,
        headroom=verify.headroom(last, seen, spec.seed) if seen.notna().any() else None,
        winner=verify.winner(trained) if trained.notna().any() else None,
        charged=labeller.charged or asked.charged,
        label_epochs=few,
        label_s=asked.seconds(labels.index),
        shortlist_s=asked.seconds(shortlisted.index),
        verify_s=labeller.seconds(verified.index),
    )


def shortlist(
    spec: SearchSpec, short: Labeller, values: pd.DataFrame, prior: pd.Series, labels: pd.Series
) -> pd.Series:
    """Accuracies after few epochs of the best by prediction, in order of choice; the predictor is
    fitted again before each :data:`BATCH`."""
    seen, source, left = labels, feature_sources(values)[0], spec.shortlisted
    while left:
        prediction = fitted(values, source, seen, prior, spec.seed)
        batch = verify.best(prediction, seen.index, min(BATCH, left))
        if not batch:
            break
        seen = _joined(seen, short.accuracies(batch))
        left -= len(batch)
    return seen.iloc[len(labels) :]


def label(
    spec: SearchSpec, labeller: Labeller, values: pd.DataFrame, prior: pd.Series
) -> tuple[pd.Series, pd.DataFrame]:
    """The labels, in order of choice, and the design that chose them
    (:mod:`proxynas.predict.choose`)."""
    if not spec.label:
        return pd.Series(dtype="float64"), pd.DataFrame(columns=list(choose.COLUMNS))
    first, *later = choose.rounds(min(spec.label, len(values)))
    design = choose.spread(prior, first, spec.seed)
    labels = labeller.accuracies(list(design.index))
    source = feature_sources(values)[0]
    for count in later:
        prediction = fitted(values, source, labels, prior, spec.seed)
        design = choose.further(prediction, design, count, spec.seed)
        labels = labeller.accuracies(list(design.index))
    return labels, design


def fitted(
    values: pd.DataFrame, source: str, labels: pd.Series, prior: pd.Series, seed: int
) -> Prediction:
    """A predictor on the indicators that a training on ``source`` gives, beside those that take
    none."""
    return predictor.fit(features(values, source), labels, prior=prior, seed=seed)


def feature_sources(values: pd.DataFrame) -> list[str]:
    """Whose indicators predictors are fitted on: each trained source, first the proxy set; then
    none of them."""
    trained = [
        s for s in dict.fromkeys(values.columns.get_level_values(0)) if s not in (ZERO_COST, *COSTS)
    ]
    ordered = sorted(trained, key=lambda source: (source != PROXY, source == EARLY_STOPPING))
    return [*ordered, ZERO_COST]


def features(values: pd.DataFrame, source: str) -> pd.DataFrame:
    """The features for one source: its indicators, the zero-cost ones and the costs; no mean ranks,
    and no predictions, which have seen labels."""
    sources, names = (values.columns.get_level_values(level) for level in (0, 1))
    wanted = [
        (str(first), str(name))
        for first, name in zip(sources, names, strict=True)
        if first in (source, ZERO_COST, *COSTS) and "+" not in name and name != PREDICTED
    ]
    return pd.DataFrame({f"{first}:{name}": values[first, name] for first, name in wanted})


def _trust(main: Prediction, labels: pd.Series, design: pd.DataFrame, candidates: int) -> Trust:
    weights = choose.weights(design, candidates)
    return agreement.trust(main, labels, weights, candidates - len(labels))


def _joined(*parts: pd.Series) -> pd.Series:
    both: pd.Series = pd.concat([part.astype("float64") for part in parts])
    return both
