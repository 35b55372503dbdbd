"""The ledger: what ranking cost, distillation included, and from how many candidates on it has paid
for itself."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ..search.sources import DECISION_SOURCES, EARLY_STOPPING, PROXY, ZERO_COST
from ..truth import TruthTable
from .indicators import table_order


@dataclass(frozen=True)
class SourceCost:
    """Training candidates on one source: core seconds (device seconds on a GPU), all seeds
    together."""

    runs: int  # training runs, failed ones included
    candidates: int
    core_s: float
    core_s_per_candidate: float
    core_s_per_run: float


@dataclass(frozen=True)
class DecisionCost:
    """Trainings on the whole data within the search: core seconds, or a truth table's own where it
    was charged.

    ``label_s``, ``shortlist_s`` and ``verify_s`` are NaN where a table does not say what a run of
    it cost. ``winner_s`` is always of this machine, and so is ``wall_s``, which is for all of it.
    ``label_epochs`` is of labels and shortlist; 0: as many as of whole trainings.
    """

    labels: int
    label_s: float
    verified: int
    verify_s: float
    winner_s: float
    charged: bool
    wall_s: float
    label_epochs: int = 0
    shortlisted: int = 0
    shortlist_s: float = 0.0


@dataclass(frozen=True)
class Ledger:
    """Time, memory and storage of a search. ``total_s`` always includes distillation, also of a
    proxy that was reused.

    Wall seconds depend on how many cores worked; core seconds do not, so comparisons use those. A
    source's cost a candidate counts all of its seeds; the whole data's is for as many seeds as the
    proxy's, and is given only where the same networks were trained on the same data and the same
    kind of machine, so that like meets like. What takes no distilling (a coreset) has nothing to
    pay back, and no break-even.
    """

    distilled: bool  # false: the proxy set is a coreset, and distill_s is what selecting it took
    distill_s: float  # wall
    distill_core_s: float
    reused: bool  # the proxy was there already: distillation was paid for in an earlier run
    search_s: float  # wall, all sources together
    total_s: float  # wall: distillation, search, labels and verification
    sources: dict[str, SourceCost]
    truth_core_s_per_candidate: float | None
    truth_made_on: str | None
    peak_mib: float
    device: str
    break_even: float | None  # candidates, against the whole data; None: never, or not comparable
    break_even_early_stopping: float | None  # candidates, against early stopping on the real data
    proxy_bytes: int
    real_bytes: int
    decision: DecisionCost | None = None

    def decision_rows(self) -> list[tuple[str, float, int]]:
        """Trainings on the whole data: what for, core seconds (NaN: not known), and how many."""
        cost = self.decision
        if cost is None:
            return []
        charged = " (charged)" if cost.charged else ""
        short = ""
        if cost.label_epochs:
            short = f", {cost.label_epochs} epoch{'s' if cost.label_epochs > 1 else ''}"
        rows = [
            (f"labels{short}{charged}", cost.label_s, cost.labels),
            (f"shortlist{short}{charged}", cost.shortlist_s, cost.shortlisted),
            (f"verification{charged}", cost.verify_s, cost.verified),
            ("winner, trained afresh", cost.winner_s, int(cost.winner_s > 0)),
        ]
        return [row for row in rows if row[2]]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


# reason: it adds up everything there is, and each argument is one thing that was spent
def ledger(
    scores: pd.DataFrame,
    stages: Mapping[str, Mapping[str, float]],
    truth: TruthTable | None,
    *,
    distill: Mapping[str, Any],
    device: str,
    proxy_bytes: int,
    real_bytes: int,
    zero_cost: pd.DataFrame | None = None,
    fingerprint: str | None = None,
    space_options: Mapping[str, Any] | None = None,
    decision: DecisionCost | None = None,
) -> Ledger:
    """Add up what was spent.

    Args:
        scores: the run store's rows; their ``seconds`` are core seconds.
        stages: wall ``seconds`` and ``peak_mib`` of each stage of this run; the search is
            ``search``.
        truth: gives the cost of the whole data, where its ``seconds`` compare with ours
            (:meth:`~proxynas.truth.TruthTable.costs_like`).
        distill: from the proxy's provenance: ``seconds`` (wall), ``core_seconds``, ``peak_mib``;
            whether it was ``reused``, and ``distilled`` (unless it says no) or selected.
        device: what it ran on, in words.
        proxy_bytes: size of the proxy set.
        real_bytes: size of the real training split.
        zero_cost: the run store's zero-cost indicators.
        fingerprint: of the data.
        space_options: what the search replaced in its space.
        decision: what labels and verification cost.
    """
    costs = _sources(scores[~scores["source"].isin(DECISION_SOURCES)])
    if zero_cost is not None and len(zero_cost):
        spent, each = float(zero_cost["seconds"].sum()), zero_cost["arch"].nunique()
        costs[ZERO_COST] = SourceCost(each, each, spent, spent / each, spent / each)
    distill_s, distill_core_s = (
        float(distill.get("seconds", 0.0)),
        float(distill.get("core_seconds", 0.0)),
    )
    search_s = float(stages.get("search", {}).get("seconds", 0.0))
    proxy = costs.get(PROXY)
    comparable = truth is not None and truth.costs_like(device, fingerprint, space_options or {})
    whole = _whole(truth, scores, proxy) if comparable else None
    early = costs[EARLY_STOPPING].core_s_per_candidate if EARLY_STOPPING in costs else None
    distilled = bool(distill.get("distilled", True))
    learnt = proxy if distilled else None
    return Ledger(
        distilled=distilled,
        distill_s=distill_s,
        distill_core_s=distill_core_s,
        reused=bool(distill.get("reused", False)),
        search_s=search_s,
        total_s=distill_s + search_s + (0.0 if decision is None else decision.wall_s),
        sources=costs,
        truth_core_s_per_candidate=whole,
        truth_made_on=None if truth is None else truth.header.get("made_on"),
        peak_mib=max(
            [
                float(distill.get("peak_mib") or 0.0),
                *(float(s["peak_mib"]) for s in stages.values()),
            ]
        ),
        device=device,
        break_even=_break_even(distill_core_s, whole, learnt),
        break_even_early_stopping=_break_even(distill_core_s, early, learnt),
        proxy_bytes=proxy_bytes,
        real_bytes=real_bytes,
        decision=decision,
    )


def _sources(scores: pd.DataFrame) -> dict[str, SourceCost]:
    costs = {}
    names = sorted(scores["source"].unique(), key=table_order)
    for source, rows in ((name, scores[scores["source"] == name]) for name in names):
        runs, candidates, seconds = len(rows), rows["arch"].nunique(), float(rows["seconds"].sum())
        costs[str(source)] = SourceCost(
            runs, candidates, seconds, seconds / candidates, seconds / runs
        )
    return costs


def _whole(
    truth: TruthTable | None, scores: pd.DataFrame, proxy: SourceCost | None
) -> float | None:
    """Core seconds to train a candidate on the whole data, for as many seeds as on the proxy; None
    where not known."""
    if truth is None:
        return None
    rows = truth.rows[truth.rows["arch"].isin(scores["arch"])]
    a_run = float(rows["seconds"].astype("float64").mean()) if len(rows) else math.nan
    if not math.isfinite(a_run):
        return None
    return a_run * (proxy.runs / proxy.candidates if proxy is not None else 1.0)


def _break_even(
    distill_core_s: float, other: float | None, proxy: SourceCost | None
) -> float | None:
    """From how many candidates on distilling and scoring on the proxy costs less than the ``other``
    way of scoring."""
    if other is None or proxy is None or other <= proxy.core_s_per_candidate:
        return None
    return distill_core_s / (other - proxy.core_s_per_candidate)
