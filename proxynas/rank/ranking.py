"""Ranking candidates by every indicator, and how far each ranking can be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..search.run import ZERO_COST
from ..truth import TruthTable
from . import correlation
from .correlation import Floats, Ints
from .indicators import VOTE, Key, columns


@dataclass(frozen=True)
class Ranking:
    """How every (source, indicator) ranks the candidates, compared on the same candidates and the same resamples.

    ``rows`` has one row a (source, indicator):

    ============================  =====================================================================================
    source, indicator             what was trained on, and the number read off the run
    n                             candidates compared: those with truth and with every indicator
    rho, rho_low, rho_high        Spearman's ρ with truth, and its 95 % bootstrap interval
    tau, tau_low, tau_high        Kendall's τ-b likewise
    rho_top10, …_low, …_high      ρ among the ``top`` candidates that this indicator ranks best (Zhao et al. 2021)
    rho_best                      ρ among the tenth of the candidates (three at least) whose truth is best
    rho_distinct, n_distinct      ρ over one candidate (the first by name) of each kind of isomorphic ones, and how many
    over_parameters, …_low, …     ρ minus that of parameters, and its 95 % interval (on the same resamples)
    over_vote, …_low, …_high      ρ minus that of the vote of zero-cost indicators likewise
    regret                        best truth among the n minus the truth of its winner among them, in [0, 1];
                                  where several candidates tie for winner, minus the mean of their truths
    winner                        the architecture ranked first of all candidates (ties: the first by name), NaN: none
    winner_truth                  truth of the winner in [0, 1], NaN where it is not known
    ============================  =====================================================================================

    Without truth all but source, indicator, n and winner are NaN. Where n < 3, or the indicator or the truth is
    constant, the correlations are NaN.
    """

    rows: pd.DataFrame
    values: (
        pd.DataFrame
    )  # index arch, columns (source, indicator): higher is better; -inf: all seeds failed; NaN: not run
    truth: pd.Series | None  # mean accuracy by arch, of the candidates that have one
    agreement: pd.DataFrame  # Spearman's ρ between any two columns of values
    failed: pd.DataFrame  # the runs that failed: source, arch, seed, reason
    draws: pd.DataFrame  # ρ on every resample (resamples, rows), columns as those of values
    top: int  # how many candidates rho_top10 looks at
    measure: str = "test_accuracy"  # what truth is: test_accuracy or val_accuracy
    tables: tuple[str, ...] = ()  # sources that were measured elsewhere

    def row(self, key: Key) -> pd.Series:
        """The row of one (source, indicator); a ``KeyError`` where there is none."""
        found = self.rows[(self.rows["source"] == key[0]) & (self.rows["indicator"] == key[1])]
        if found.empty:
            raise KeyError(f"the ranking has no row {key}; it has {', '.join(map(str, self.keys()))}")
        return found.iloc[0]

    def keys(self) -> list[Key]:
        """All (source, indicator), in table order."""
        return list(zip(self.rows["source"], self.rows["indicator"], strict=True))

    def best(self, key: Key, n: int = 10) -> pd.Series:
        """The ``n`` candidates that ``key`` ranks best and their values, best first; ties in order of name."""
        return self.values[key].dropna().sort_index().sort_values(ascending=False, kind="stable").head(n)


@dataclass(frozen=True)
class Difference:
    """ρ of one row minus ρ of another, with its 95 % interval over the same resamples; NaN without truth."""

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


def rank(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    truth: TruthTable | None,
    *,
    zero_cost: pd.DataFrame | None = None,
    combine: Sequence[str] = (),
    tables: Mapping[str, TruthTable] | None = None,
    kinds: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
    top: int = 10,
) -> Ranking:
    """Rank the candidates by every indicator and compare each ranking with truth.

    Args:
        scores: the run store's rows (:meth:`~proxynas.search.store.Store.scores`).
        costs: ``parameters`` and ``flops`` of every candidate, indexed by architecture; its index is the candidates.
        truth: what the candidates really reach, or ``None``: then only the rankings' agreement is known.
        zero_cost: the store's zero-cost indicators (:meth:`~proxynas.search.store.Store.zero_cost`).
        combine: names joined by ``+``, ranked by their mean rank as well.
        tables: accuracies that were measured elsewhere, ranked as further rows under these names.
        kinds: of each architecture; isomorphic ones are of one kind.
        seed: of the bootstrap and of how ties at the border of the top are broken.
        resamples: bootstrap resamples; one set of them serves all rows.
        top: how many of the best-ranked candidates ``rho_top10`` looks at.

    An indicator is the mean over the seeds that did not fail; a candidate all of whose seeds failed ranks last.
    """
    values = columns(scores, zero_cost, costs, truth, combine, tables)
    archs = values.index
    accuracy = _truth(truth, archs)
    known = archs[:0] if accuracy is None else _common(values, accuracy)
    rng = np.random.default_rng(seed)
    known = known[rng.permutation(len(known))]  # ties at the border of the top fall by lot, not by name
    draws = correlation.resample(len(known), resamples, rng)
    y = np.empty(0) if accuracy is None else accuracy[known].to_numpy()
    rows, rho_draws = [], {}
    rhos: dict[Key, tuple[float, Floats]] = {}
    for key in values.columns:
        row, rho_draws[key] = _compare(values.loc[known, key].to_numpy(), y, draws, top)
        rhos[key[0], key[1]] = row["rho"], rho_draws[key]
        rows.append({"source": key[0], "indicator": key[1], **row, **_winner(values[key], accuracy)})
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
        top=top,
        measure="test_accuracy" if truth is None else truth.measure,
        tables=tuple(tables or ()),
    )


def paired_difference(ranking: Ranking, a: Key, b: Key) -> Difference:
    """ρ of row ``a`` minus ρ of row ``b``; the interval pairs them on the same resamples, as their errors correlate."""
    of = {key: (float(ranking.row(key)["rho"]), ranking.draws[key].to_numpy(dtype=np.float64)) for key in (a, b)}
    return _difference(of[a], of[b])


def _difference(a: tuple[float, Floats], b: tuple[float, Floats]) -> Difference:
    return Difference(a[0] - b[0], *correlation.interval(a[1] - b[1]))


STATISTICS = (
    "rho", "rho_low", "rho_high", "tau", "tau_low", "tau_high", "rho_top10", "rho_top10_low", "rho_top10_high",
    "rho_best", "regret",
)  # fmt: skip


def _compare(x: Floats, y: Floats, draws: Ints, top: int) -> tuple[dict[str, float], Floats]:
    """All statistics of an indicator (n,) against truth (n,), and its ρ on every resample (R,)."""
    if len(x) < 3:
        regret = float(y.max() - y[x == x.max()].mean()) if len(x) else math.nan
        return {**dict.fromkeys(STATISTICS, math.nan), "regret": regret}, np.full(len(draws), math.nan)
    best = correlation.top_order(x, top)
    rho_draws = correlation.spearman_draws(x, y, draws)
    found = {
        "rho": (correlation.spearman(x, y), rho_draws),
        "tau": (correlation.kendall(x, y), correlation.kendall_draws(x, y, draws)),
        "rho_top10": (correlation.spearman(x[best], y[best]), correlation.top_draws(x, y, draws, top)),
    }
    good = np.argsort(-y, kind="stable")[: max(3, len(y) // 10)]
    row = {"regret": float(y.max() - y[x == x.max()].mean()), "rho_best": correlation.spearman(x[good], y[good])}
    for name, (estimate, resampled) in found.items():
        low, high = correlation.interval(resampled) if math.isfinite(estimate) else (math.nan, math.nan)
        row |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
    return row, rho_draws


RIVALS = {"over_parameters": ("parameters", "parameters"), "over_vote": (ZERO_COST, VOTE)}
"""What takes no training, and so what every row is measured against."""

DISTINCT = ("rho_distinct", "n_distinct")
OVER = tuple(f"{name}{end}" for name in RIVALS for end in ("", "_low", "_high"))
COLUMNS = ("source", "indicator", "n", *STATISTICS, *DISTINCT, *OVER, "winner", "winner_truth")


def _over(key: Key, found: Mapping[Key, tuple[float, Floats]]) -> dict[str, float]:
    """ρ of a row minus that of each rival, which is not there or is the row itself: NaN."""
    row = dict.fromkeys(OVER, math.nan)
    for name, rival in RIVALS.items():
        if rival in found and rival != key:
            d = _difference(found[key], found[rival])
            row |= {name: d.value, f"{name}_low": d.low, f"{name}_high": d.high}
    return row


def _distinct(column: pd.Series, truth: pd.Series | None, kinds: Mapping[str, str] | None) -> dict[str, float]:
    """ρ over one candidate of each kind; NaN where all are different anyway or nothing is known."""
    if truth is None or kinds is None or len(column) < 3:
        return dict.fromkeys(DISTINCT, math.nan)
    ordered = column.sort_index()
    ordered = ordered[~ordered.index.map(kinds).duplicated()]
    rho = correlation.spearman(ordered.to_numpy(), truth[ordered.index].to_numpy()) if len(ordered) > 2 else math.nan
    return dict(zip(DISTINCT, (rho, len(ordered)), strict=True))


def _truth(truth: TruthTable | None, archs: pd.Index) -> pd.Series | None:
    if truth is None:
        return None
    accuracy = truth.accuracy()
    return accuracy[accuracy.index.isin(archs)].sort_index()


def _common(values: pd.DataFrame, truth: pd.Series) -> pd.Index:
    """The candidates that have a truth and every indicator, so that all rows are compared on the same ones."""
    complete = values.index[values.notna().all(axis=1)]
    return complete[complete.isin(truth.index)]


def _winner(column: pd.Series, truth: pd.Series | None) -> dict[str, object]:
    known = column.dropna()
    if not np.isfinite(known).any():
        return {"winner": None, "winner_truth": math.nan}
    winner = known.idxmax()
    return {"winner": winner, "winner_truth": math.nan if truth is None else float(truth.get(winner, math.nan))}


def _failed(scores: pd.DataFrame) -> pd.DataFrame:
    rows: Sequence[str] = ["source", "arch", "seed", "failed"]
    failed = scores.loc[scores["failed"].notna(), list(rows)].rename(columns={"failed": "reason"})
    return failed.sort_values(["source", "arch", "seed"]).reset_index(drop=True)
