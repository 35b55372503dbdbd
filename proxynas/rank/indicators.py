"""The indicators: what they are called, which way they point, and how a run's rows become one
column of each.

A name is that of a number read off a training run (:data:`TRAINING`), of a zero-cost indicator or
their ``vote``, or of a cost. Several joined by ``+`` mean their mean rank; with a training
indicator among them every source has its own.
"""

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..core.errors import SpecError
from ..search import zerocost
from ..search.sources import DECISION_SOURCES, PROXY, TRAINED, WHOLE, ZERO_COST
from ..specs.constraint import COSTS
from ..truth import TruthTable

Key = tuple[str, str]
"""A row of the ranking: (source, indicator)."""

TRAINING = ("val_accuracy", "val_loss", "val_auc", "sotl", "sotl_late")
"""Indicators that a training run gives, in the order in which tables show them."""

LOWER_IS_BETTER = frozenset({"val_loss", "sotl", "sotl_late"})
VOTE = "vote"
PREDICTED = "predicted"
"""What a performance predictor says that was fitted on labels (:mod:`proxynas.predict`)."""

VOTERS = ("synflow", "jacob_cov", "snip")
"""Who votes, as in Abdelfattah et al. 2021, §4.2."""


def table_order(source: str) -> tuple[int, str]:
    """What to sort sources by, so that every table and figure shows them in one order.

    First what candidates are trained on by default, then other sets, zero-cost indicators, costs,
    and the whole data.
    """
    if source in TRAINED:
        return TRAINED.index(source), source
    return len(TRAINED) + (source == ZERO_COST), source


def resolve(name: str, source: str = PROXY) -> Key:
    """The row of the ranking that an indicator's name means; ``source`` where it is read off a
    training run.

    Raises:
        SpecError: an unknown name.
    """
    known = (*TRAINING, *zerocost.INDICATORS, VOTE, *COSTS)
    terms = [term.strip() for term in name.split("+")]
    for term in terms:
        if term not in known:
            close = difflib.get_close_matches(term, known, n=1)
            hint = (
                f"did you mean {close[0]!r}?"
                if close
                else f"known: {', '.join(known)}, or several joined by +"
            )
            raise SpecError(f"there is no indicator {term!r}; {hint}")
    if any(term in TRAINING for term in terms):
        return source, "+".join(terms)
    if len(terms) == 1 and terms[0] in COSTS:
        return terms[0], terms[0]
    return ZERO_COST, "+".join(terms)


def untrained(name: str) -> str | None:
    """What is left of an indicator without what is read off training; ``None`` where nothing is, or
    where all is."""
    terms = name.split("+")
    left = [term for term in terms if term not in TRAINING]
    return "+".join(left) if 0 < len(left) < len(terms) else None


def counterparts(name: str) -> list[str]:
    """What an indicator is compared with to see what training adds: itself without it, or with
    it."""
    left = untrained(name)
    if left is not None:
        return [left]
    return [] if set(name.split("+")) <= set(TRAINING) else [f"sotl_late+{name}"]


# reason: each argument is one kind of column, and two thirds of them may be left out
def columns(
    scores: pd.DataFrame,
    zero_cost: pd.DataFrame | None,
    costs: pd.DataFrame,
    truth: TruthTable | None,
    combine: Sequence[str],
    tables: Mapping[str, TruthTable] | None = None,
    predictions: Mapping[Key, pd.Series] | None = None,
) -> pd.DataFrame:
    """One column a (source, indicator), one row a candidate in order of name; higher is better.

    ``predictions`` are further columns, of performance predictors (:data:`PREDICTED`).
    -inf: every seed failed, or the indicator cannot be had; NaN: not run.
    """
    archs = pd.Index(sorted(costs.index), name="arch")
    by_key: dict[Key, pd.Series] = {}
    there = dict.fromkeys(str(name) for name in scores["source"])
    sources = sorted((name for name in there if name not in DECISION_SOURCES), key=table_order)
    for source in sources:
        by_key |= _trained(source, scores[scores["source"] == source], archs)
    if zero_cost is not None and len(zero_cost):
        by_key |= _zero_cost(zero_cost, archs)
    by_key |= {
        (name, name): costs[name].reindex(archs).astype("float64")
        for name in COSTS
        if name in costs
    }
    by_key |= {
        (name, table.measure): table.accuracy().reindex(archs)
        for name, table in (tables or {}).items()
    }
    for name in combine:
        by_key |= _combined(name, sources, by_key)
    by_key |= {key: column.reindex(archs) for key, column in (predictions or {}).items()}
    by_key = dict(sorted(by_key.items(), key=lambda item: _place(item[0], sources)))
    if truth is not None:
        good = truth.rows[
            truth.rows["failed"].isna()
        ]  # a table of one's own may lack an indicator here and there
        whole = _trained(WHOLE, truth.rows, archs)
        complete = [key for key in whole if good[key[1]].notna().all() and key[1] != truth.measure]
        by_key |= {key: whole[key] for key in complete}
    frame = pd.DataFrame(by_key, index=archs)
    frame.columns = pd.MultiIndex.from_tuples(list(by_key), names=["source", "indicator"])
    return frame


def _place(key: Key, sources: Sequence[str]) -> int:
    """Sources first, each with all of its indicators, then zero-cost, then costs; sorting by it
    keeps their order."""
    order = [*sources, ZERO_COST, *COSTS]
    return order.index(key[0]) if key[0] in order else len(order)


def _trained(source: str, rows: pd.DataFrame, archs: pd.Index) -> dict[Key, pd.Series]:
    good = rows[rows["failed"].isna()]
    by_key = {}
    for name in TRAINING:
        if name not in rows:
            continue
        numbers = good[name].astype("float64").replace([np.inf, -np.inf], np.nan)
        if numbers.isna().all() and (
            len(good) or name == "val_auc"
        ):  # not measured; runs that failed rank last
            continue
        mean = numbers.groupby(good["arch"]).mean().reindex(archs)
        column = -mean if name in LOWER_IS_BETTER else mean
        by_key[source, name] = column.mask(column.isna() & archs.isin(rows["arch"]), -math.inf)
    return by_key


def _zero_cost(rows: pd.DataFrame, archs: pd.Index) -> dict[Key, pd.Series]:
    measured = archs.isin(rows["arch"])
    wide = rows.pivot(index="arch", columns="indicator", values="value").reindex(archs)
    by_key = {
        (ZERO_COST, name): wide[name].mask(wide[name].isna() & measured, -math.inf)
        for name in _known(wide)
    }
    if set(VOTERS) <= set(wide):
        vote = zerocost.vote(
            pd.DataFrame({name: by_key[ZERO_COST, name][measured] for name in VOTERS})
        )
        by_key[ZERO_COST, VOTE] = vote.reindex(archs)
    return by_key


def _known(wide: pd.DataFrame) -> list[str]:
    return [name for name in zerocost.INDICATORS if name in wide]


def _combined(
    name: str, sources: Sequence[str], by_key: dict[Key, pd.Series]
) -> dict[Key, pd.Series]:
    """The mean ranks of ``name``'s terms: a column for every source where one of them is read off
    training."""
    result = {}
    for source in sources or [PROXY]:  # what takes no training is there without a source
        key = resolve(name, source)
        terms = [resolve(term, source) for term in key[1].split("+")]
        if len(terms) > 1 and all(term in by_key for term in terms):
            wide = pd.DataFrame({str(i): by_key[term] for i, term in enumerate(terms)})
            result[key] = zerocost.mean_rank(wide).mask(wide.isna().any(axis=1))
    return result
