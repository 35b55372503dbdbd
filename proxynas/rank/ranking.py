"""Ranking candidates by every indicator, and how far each ranking can be trusted."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..search.sources import ZERO_COST
from ..truth import TruthTable
from . import correlation
from .correlation import Floats, Ints, Names
from .indicators import VOTE, Key, columns

PARAMETERS = ("parameters", "parameters")

CUTS = (1, 5, 10, 20)
"""Percent of the candidates, truly best first, among which ρ is looked at as well."""

FEWEST = 10
"""Candidates that such a part must have: among fewer, ρ says nothing."""

FEWEST_KINDS = 5
"""Kinds of isomorphic candidates that resamples must be of: those of fewer are too much alike."""


@dataclass(frozen=True)
class NoiseCeiling:
    """How well one training of the truth ranks another: the mean ρ over all pairs of seeds.

    Truth is the mean over ``seeds``, which is steadier than one training, so an indicator can lie
    above. The best are chosen by that mean. A network is among them for luck in either training,
    rarely in both, so ρ among the best is, if anything, too low.
    """

    seeds: int  # of the candidates that have most of them
    n: int  # candidates with two seeds or more
    rho: float
    rho_best: dict[int, float]  # by percent of the candidates, truly best first, as in Ranking.cuts


@dataclass(frozen=True)
class Ranking:
    """How every (source, indicator) ranks the candidates, all on the same ones and the same
    resamples.

    ``rows`` has one row a (source, indicator):

    ===========================  ==================================================================
    source, indicator            what was trained on, and the number read off the run
    n                            candidates compared: those with truth and with every indicator
    rho, rho_low, rho_high       Spearman's ρ with truth, and its 95 % bootstrap interval
    tau, tau_low, tau_high       Kendall's τ-b likewise
    rho_best1, …_low, …_high     ρ among the truly best 1 % of the n (of those that tie at the
                                 border, some by lot), NaN where these are fewer than ten; likewise
                                 5, 10 and 20 %. It estimates ρ among all candidates of the space
                                 that are as good. The set is fixed, and resamples are drawn within
                                 it, the same ones for every row
    rho_distinct, n_distinct     ρ over the first by name of each kind of isomorphic candidates
    over_parameters, …_low, …    ρ minus that of parameters, and its interval on the same resamples
    over_vote, …_low, …_high     ρ minus that of the vote of zero-cost indicators likewise
    regret                       best known truth of all candidates minus winner_truth, in [0, 1]
    winner                       what the indicator ranks first, None: nothing (ties: the fewest
                                 parameters, then the first by name)
    tied                         how many others tie with it
    winner_truth                 truth of the winner in [0, 1], NaN where it is not known
    ===========================  ==================================================================

    Without truth all but source, indicator, n, winner and tied are NaN. Where n < 3, or the
    indicator or the truth is constant, the correlations are NaN.

    Resamples draw kinds of isomorphic candidates where the space knows them. Mean ranks and votes,
    which depend on the other candidates, are those of all candidates and not computed anew within a
    resample.
    """

    rows: pd.DataFrame
    values: pd.DataFrame  # index arch, columns (source, indicator), see indicators.columns
    truth: pd.Series | None  # mean accuracy by arch, of the candidates that have one
    agreement: pd.DataFrame  # Spearman's ρ between any two columns of values
    failed: pd.DataFrame  # the runs that failed: source, arch, seed, reason
    draws: pd.DataFrame  # ρ on every resample (resamples, rows), columns as those of values
    cuts: dict[int, int]  # the percents that rho_best has, and how many candidates each is
    ceiling: NoiseCeiling | None  # None: truth has one training a candidate
    measure: str = "test_accuracy"  # what truth is: test_accuracy or val_accuracy
    tables: tuple[str, ...] = ()  # sources that were measured elsewhere

    def row(self, key: Key) -> pd.Series:
        """The row of one (source, indicator); a ``KeyError`` where there is none."""
        rows = self.rows[(self.rows["source"] == key[0]) & (self.rows["indicator"] == key[1])]
        if rows.empty:
            raise KeyError(
                f"the ranking has no row {key}; it has {', '.join(map(str, self.keys()))}"
            )
        return rows.iloc[0]

    def keys(self) -> list[Key]:
        """All (source, indicator), in table order."""
        return list(zip(self.rows["source"], self.rows["indicator"], strict=True))

    @property
    def cut(self) -> int | None:
        """The percent to show where there is room for one: 10, else 20, else none."""
        return next((percent for percent in (10, 20) if percent in self.cuts), None)

    def best(self, key: Key, n: int = 10) -> pd.Series:
        """The ``n`` candidates that ``key`` ranks best and their values; ties as for the winner."""
        return _in_order(self.values, key).head(n)


@dataclass(frozen=True)
class Difference:
    """ρ of one row minus ρ of another, with its 95 % interval over the same resamples; NaN without
    truth."""

    value: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """The whole interval is above zero."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """The whole interval is below zero."""
        return self.high < 0


# reason: the one way to rank a run; all arguments but three have defaults
def rank(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    truth: TruthTable | None,
    *,
    zero_cost: pd.DataFrame | None = None,
    combine: Sequence[str] = (),
    tables: Mapping[str, TruthTable] | None = None,
    predictions: Mapping[Key, pd.Series] | None = None,
    kinds: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Ranking:
    """Rank the candidates by every indicator and compare each ranking with truth.

    Args:
        scores: the run store's rows (:meth:`~proxynas.search.store.Store.scores`).
        costs: ``parameters`` and ``flops`` of every candidate, indexed by architecture; its index
            is the candidates.
        truth: what the candidates really reach, or ``None``: then only the rankings' agreement is
            known.
        zero_cost: the store's zero-cost indicators
            (:meth:`~proxynas.search.store.Store.zero_cost`).
        combine: names joined by ``+``, ranked by their mean rank as well.
        tables: accuracies that were measured elsewhere, ranked as further rows under these names.
        predictions: what performance predictors say, as further rows.
        kinds: of each architecture; isomorphic ones are of one kind, and drawn together in a
            resample.
        seed: of the bootstrap and of how ties at the border of the truly best are broken.
        resamples: bootstrap resamples; one set of them serves all rows.

    An indicator is the mean over the seeds that did not fail; a candidate all of whose seeds failed
    ranks last.
    """
    values = columns(scores, zero_cost, costs, truth, combine, tables, predictions)
    archs = values.index
    accuracy = _truth(truth, archs)
    known = archs[:0] if accuracy is None else _common(values, accuracy)
    rng = np.random.default_rng(seed)
    known = known[rng.permutation(len(known))]  # ties at the border of the best fall by lot
    y = np.empty(0) if accuracy is None else accuracy[known].to_numpy()
    groups = None if kinds is None else np.array([kinds[arch] for arch in known], dtype=np.str_)
    draws = _resamples(len(known), resamples, rng, groups)
    best = _best_sets(y, resamples, rng, groups)
    rows, rho_draws = [], {}
    rhos: dict[Key, tuple[float, Floats]] = {}
    for key in values.columns:
        row, rho_draws[key] = _compare(values.loc[known, key].to_numpy(), y, draws, best)
        rhos[key[0], key[1]] = row["rho"], rho_draws[key]
        rows.append({"source": key[0], "indicator": key[1], **row})
        rows[-1] |= _winner(values, (key[0], key[1]), accuracy)
        rows[-1] |= _distinct(values.loc[known, key], accuracy, kinds)
        rows[-1]["n"] = int(len(known) if accuracy is not None else values[key].notna().sum())
    for pair, line in zip(rhos, rows, strict=True):
        line |= _over(pair, rhos)
    return Ranking(
        rows=pd.DataFrame(rows, columns=list(COLUMNS)),
        values=values,
        truth=accuracy,
        agreement=values.rank().corr(method="spearman"),
        failed=_failed(scores),
        draws=pd.DataFrame(rho_draws, columns=values.columns),
        cuts={percent: len(part) for percent, (part, _) in best.items()},
        ceiling=None if truth is None else _ceiling(truth, known),
        measure="test_accuracy" if truth is None else truth.measure,
        tables=tuple(tables or ()),
    )


def paired_difference(ranking: Ranking, a: Key, b: Key) -> Difference:
    """ρ of row ``a`` minus ρ of row ``b``; the interval pairs them on the same resamples, as their
    errors correlate."""
    of = {
        key: (float(ranking.row(key)["rho"]), ranking.draws[key].to_numpy(dtype=np.float64))
        for key in (a, b)
    }
    return _difference(of[a], of[b])


def _difference(a: tuple[float, Floats], b: tuple[float, Floats]) -> Difference:
    return Difference(a[0] - b[0], *correlation.interval(a[1] - b[1]))


INTERVALS = ("rho", "tau", *(f"rho_best{percent}" for percent in CUTS))
STATISTICS = tuple(f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high"))

_BestSets = dict[int, tuple[Ints, Ints]]
"""By percent: the candidates (k,), truly best first, and resamples of them (R, k)."""


def _best_sets(
    y: Floats, resamples: int, rng: np.random.Generator, kinds: Names | None
) -> _BestSets:
    order, cuts = np.argsort(-y, kind="stable"), {}
    for percent in CUTS:
        part = order[: len(y) * percent // 100]
        if len(part) >= FEWEST:
            of_part = None if kinds is None else kinds[part]
            cuts[percent] = part, _resamples(len(part), resamples, rng, of_part)
    return cuts


def _resamples(n: int, resamples: int, rng: np.random.Generator, kinds: Names | None) -> Ints:
    """Those of ``n`` candidates; none where these are of so few kinds that all would be alike."""
    draws = correlation.resample(n, resamples, rng, kinds)
    few = kinds is not None and len(set(kinds)) < min(n, FEWEST_KINDS)
    return draws[:0] if few else draws


def _compare(x: Floats, y: Floats, draws: Ints, best: _BestSets) -> tuple[dict[str, float], Floats]:
    """All correlations of an indicator (n,) with truth (n,), and its ρ on every resample (R,)."""
    row = dict.fromkeys(STATISTICS, math.nan)
    if len(x) < 3:
        return row, np.full(len(draws), math.nan)
    rho_draws = correlation.spearman_draws(x, y, draws)
    row |= _with_interval("rho", correlation.spearman(x, y), rho_draws)
    row |= _with_interval("tau", correlation.kendall(x, y), correlation.kendall_draws(x, y, draws))
    for percent, (part, within) in best.items():
        rho = correlation.spearman(x[part], y[part])
        resampled = correlation.spearman_draws(x[part], y[part], within)
        row |= _with_interval(f"rho_best{percent}", rho, resampled)
    return row, rho_draws


def _with_interval(name: str, estimate: float, resampled: Floats) -> dict[str, float]:
    low, high = correlation.interval(resampled) if math.isfinite(estimate) else (math.nan, math.nan)
    return {name: estimate, f"{name}_low": low, f"{name}_high": high}


def _ceiling(truth: TruthTable, known: pd.Index) -> NoiseCeiling | None:
    """Seed against seed over the compared candidates that have two trainings or more."""
    rows = truth.rows[truth.rows["arch"].isin(known)].sort_values(["arch", "seed"])
    trained = pd.DataFrame(
        {
            "arch": rows["arch"],
            "training": rows.groupby("arch").cumcount(),  # seeds go by other names elsewhere
            "accuracy": rows[truth.measure].fillna(0.0),  # a failed run, as in TruthTable
        }
    )
    wide = trained.pivot(index="arch", columns="training", values="accuracy").reindex(known)
    wide = wide[wide.notna().sum(axis=1) > 1]
    if len(wide) < 3:
        return None
    order = np.argsort(-wide.mean(axis=1).to_numpy(), kind="stable")
    sizes = {percent: len(wide) * percent // 100 for percent in CUTS}
    best = {percent: order[:size] for percent, size in sizes.items() if size >= FEWEST}
    return NoiseCeiling(
        seeds=wide.shape[1],
        n=len(wide),
        rho=_pairs(wide),
        rho_best={percent: _pairs(wide.iloc[part]) for percent, part in best.items()},
    )


def _pairs(wide: pd.DataFrame) -> float:
    """The mean ρ over all pairs of columns, each over the rows that have both; else NaN."""
    both = [wide[[a, b]].dropna().to_numpy() for a, b in itertools.combinations(wide.columns, 2)]
    found = [correlation.spearman(pair[:, 0], pair[:, 1]) for pair in both]
    known = [rho for rho in found if math.isfinite(rho)]
    return float(np.mean(known)) if known else math.nan


RIVALS = {"over_parameters": PARAMETERS, "over_vote": (ZERO_COST, VOTE)}
"""What takes no training, and so what every row is measured against."""

DISTINCT = ("rho_distinct", "n_distinct")
OVER = tuple(f"{name}{end}" for name in RIVALS for end in ("", "_low", "_high"))
COLUMNS = (
    *("source", "indicator", "n", *STATISTICS, *DISTINCT, *OVER),
    *("regret", "winner", "tied", "winner_truth"),
)


def _over(key: Key, rhos: Mapping[Key, tuple[float, Floats]]) -> dict[str, float]:
    """ρ of a row minus that of each rival, which is not there or is the row itself: NaN."""
    row = dict.fromkeys(OVER, math.nan)
    for name, rival in RIVALS.items():
        if rival in rhos and rival != key:
            d = _difference(rhos[key], rhos[rival])
            row |= {name: d.value, f"{name}_low": d.low, f"{name}_high": d.high}
    return row


def _distinct(
    column: pd.Series, truth: pd.Series | None, kinds: Mapping[str, str] | None
) -> dict[str, float]:
    """ρ over one candidate of each kind; NaN where all are different anyway or nothing is known."""
    if truth is None or kinds is None or len(column) < 3:
        return dict.fromkeys(DISTINCT, math.nan)
    ordered = column.sort_index()
    ordered = ordered[~ordered.index.map(kinds).duplicated()]
    rho = (
        correlation.spearman(ordered.to_numpy(), truth[ordered.index].to_numpy())
        if len(ordered) > 2
        else math.nan
    )
    return dict(zip(DISTINCT, (rho, len(ordered)), strict=True))


def _truth(truth: TruthTable | None, archs: pd.Index) -> pd.Series | None:
    if truth is None:
        return None
    accuracy = truth.accuracy()
    return accuracy[accuracy.index.isin(archs)].sort_index()


def _common(values: pd.DataFrame, truth: pd.Series) -> pd.Index:
    """The candidates that have a truth and every indicator, so that all rows are compared on the
    same ones."""
    complete = values.index[values.notna().all(axis=1)]
    return complete[complete.isin(truth.index)]


def _winner(values: pd.DataFrame, key: Key, truth: pd.Series | None) -> dict[str, object]:
    """The network that ``key`` ranks first, how many tie with it, its truth and its regret."""
    column = _in_order(values, key)
    if column.empty or column.iloc[0] == -math.inf:
        return {"winner": None, "tied": 0, "winner_truth": math.nan, "regret": math.nan}
    reached = math.nan if truth is None else float(truth.get(column.index[0], math.nan))
    return {
        "winner": column.index[0],
        "tied": int((column == column.iloc[0]).sum()) - 1,
        "winner_truth": reached,
        "regret": math.nan if truth is None else float(truth.max()) - reached,
    }


def _in_order(values: pd.DataFrame, key: Key) -> pd.Series:
    """The candidates that have ``key``, best first; ties by parameters, fewest first, then by
    name."""
    column = values[key].dropna().sort_index()
    size = values[PARAMETERS] if PARAMETERS in values else pd.Series(0.0, index=values.index)
    return column.iloc[np.lexsort((size.reindex(column.index), -column))]


def _failed(scores: pd.DataFrame) -> pd.DataFrame:
    rows: Sequence[str] = ["source", "arch", "seed", "failed"]
    failed = scores.loc[scores["failed"].notna(), list(rows)].rename(columns={"failed": "reason"})
    return failed.sort_values(["source", "arch", "seed"]).reset_index(drop=True)
