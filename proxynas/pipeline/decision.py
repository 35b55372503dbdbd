"""From a ranking to a winner: label candidates, fit a predictor, estimate trust, verify the best,
pick.

A label is the accuracy of a candidate that was trained on the whole real data within this run, or
that a truth table gave and charged for. Labels are chosen in rounds
(:mod:`proxynas.predict.choose`), so that the ranking can be checked by them as well as fitted to
them. Everything is read back from the run store: an interrupted decision resumes as it would have
gone on. Nothing here looks at the test split, which is for the winner alone.
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


@dataclass(frozen=True)
class Decision:
    """What labels and verification say.

    labels: validation accuracy in [0, 1] by labelled candidate, in order of choice; NaN: its
    training failed.
    verified: the same for the candidates that were verified, best-ranked first.
    predictions: what was fitted, by the source whose indicators were the features; the first one
    decides.
    trust: agreement of the ranking with labels that it had not seen; ``None`` without labels.
    headroom: how much better the best candidate may be that was not trained; ``None`` where not
    known.
    winner: the best of all that were trained; ``None`` where nothing was, or all failed.
    charged: accuracies came from a truth table, which was charged for them.
    label_s, verify_s: core seconds of both, or the table's own; NaN where the table has none.
    """

    labels: pd.Series
    verified: pd.Series
    predictions: dict[str, Prediction]
    trust: Trust | None
    headroom: Headroom | None
    winner: str | None
    charged: bool
    label_s: float
    verify_s: float

    @property
    def trained(self) -> pd.Series:
        """Accuracies of all candidates that were trained on the whole data; NaN where that
        failed."""
        both: pd.Series = pd.concat([self.labels, self.verified])
        return both

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


def decide(spec: SearchSpec, labeller: Labeller, values: pd.DataFrame, headline: Key) -> Decision:
    """Label, fit, verify and pick.

    Args:
        spec: how many to label and to verify.
        labeller: where accuracies come from.
        values: a row per candidate, a column per (source, indicator), higher is better.
        headline: the column that ranks the candidates as long as nothing is fitted.
    """
    prior = values[headline]
    labeller.expect(min(spec.label + spec.verify, len(values)))
    labels, design = label(spec, labeller, values, prior)
    predictions = {
        source: fitted(values, source, labels, prior, spec.seed)
        for source in feature_sources(values)
    }
    main = next(iter(predictions.values()))
    best = verify.best(main, labels.index, spec.verify)
    verified = labeller.accuracies(best)
    trained = pd.concat([labels, verified])
    final = fitted(values, next(iter(predictions)), trained, prior, spec.seed)
    return Decision(
        labels=labels,
        verified=verified,
        predictions=predictions,
        trust=_trust(main, labels, design, len(values)) if len(labels) else None,
        headroom=verify.headroom(final, trained, spec.seed) if trained.notna().any() else None,
        winner=verify.winner(trained) if trained.notna().any() else None,
        charged=labeller.charged,
        label_s=labeller.seconds(labels.index),
        verify_s=labeller.seconds(verified.index),
    )


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
    """The features for one source: its indicators, the zero-cost ones and the costs, no mean
    ranks."""
    sources, names = (values.columns.get_level_values(level) for level in (0, 1))
    wanted = [
        (str(first), str(name))
        for first, name in zip(sources, names, strict=True)
        if first in (source, ZERO_COST, *COSTS) and "+" not in name
    ]
    return pd.DataFrame({f"{first}:{name}": values[first, name] for first, name in wanted})


def _trust(main: Prediction, labels: pd.Series, design: pd.DataFrame, candidates: int) -> Trust:
    weights = choose.weights(design, candidates)
    return agreement.trust(main, labels, weights, candidates - len(labels))
