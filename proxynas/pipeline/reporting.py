"""From a run's store to its report: rank, add up, judge, write."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import __version__, distill, rank, report
from ..core import hardware, settings
from ..core.errors import DivergedError
from ..core.text import quoted
from ..datasets import Dataset
from ..proxyset import ProxySet
from ..rank import Key
from ..rank.indicators import PREDICTED
from ..report import Next, pareto
from ..search.sources import PROXY
from ..search.strategies import ADAPTIVE
from ..specs import SearchSpec
from ..truth import TruthTable
from . import oracles, winner
from .decision import Decision
from .regret import regret_curves
from .run import Run
from .shown import decision_cost, shown_trust, shown_winner
from .winner import TrainedWinner


@dataclass(frozen=True)
class Result:
    """What a search gives back."""

    report: Path
    ranking: rank.Ranking
    ledger: rank.Ledger
    verdict: rank.Verdict
    headline: Key
    summary: tuple[str, ...]  # two sentences: the winner, and how far to trust the ranking
    next_step: Next
    pareto: pd.DataFrame | None = None  # the front, where there are several objectives


def write_report(this: Run, proxy: ProxySet, decision: Decision | None) -> Result:
    """Rank, add up, judge, and write the report."""
    spec, store = this.spec, this.store
    headline, reason = selected(this, decision)
    ranking = ranked(this, decision)
    last = None
    if decision is not None and decision.winner is not None:
        last = winner.last_training(store, decision.winner, this.folder)
    ledger = spent(this, proxy, decision, last)
    costs = store.candidates()
    inputs = report.ReportInputs(
        title=f"{len(costs)} networks of {spec.space} on {this.dataset.name}{_chosen(spec)}",
        spec=settings.to_dict(spec),
        dataset=_described(this.dataset),
        images=proxy.images() if proxy.is_images else None,
        labels=proxy.hard_labels(),
        class_names=proxy.class_names,
        ranking=ranking,
        ledger=ledger,
        scores=store.scores(),
        costs=costs,
        headline=headline,
        headline_reason=reason,
        pareto=pareto.of_run(ranking, headline, costs, spec.objectives),
        provenance=_provenance(this, proxy),
        winner=None
        if decision is None
        else shown_winner(spec, this.dataset, decision, last, this.truth),
        trust=None if decision is None else shown_trust(decision),
        regret_curve=[] if decision is None else regret_curves(this, ranking.values, ledger),
    )
    path = report.write(this.folder, inputs)
    judged = rank.verdict(ranking, ledger, headline, reason)
    return Result(
        report=path,
        ranking=ranking,
        ledger=ledger,
        verdict=judged,
        headline=headline,
        summary=report.summary(inputs, judged),
        next_step=report.next_step(inputs, judged, str(this.folder)),
        pareto=None if inputs.pareto is None else pareto.front_table(inputs),
    )


def selected(this: Run, decision: Decision | None) -> tuple[Key, str]:
    """The selection indicator and why: the fitted predictor, where there is one and no other was
    asked for."""
    predicted = (PROXY, PREDICTED)
    if decision is None or this.spec.indicator != "auto" or predicted not in decision.columns():
        return this.headline, this.reason
    few = f" of {rank.words.times(decision.label_epochs, 'epoch')}" if decision.label_epochs else ""
    return predicted, f"fitted on {decision.labels.notna().sum()} labels{few}"


def ranked(this: Run, decision: Decision | None) -> rank.Ranking:
    """All rankings, compared with truth."""
    costs, spec = this.store.candidates(), this.spec
    name = this.headline[1]
    names = (
        name,
        *rank.indicators.counterparts(name),
    )  # so that the verdict can say what training adds
    combine = dict.fromkeys((*spec.combine, *(other for other in names if "+" in other)))
    kind = this.space.kind
    ranking = rank.rank(
        this.store.scores(),
        costs,
        this.truth,
        zero_cost=this.store.zero_cost(),
        combine=list(combine),
        tables=this.tables,
        predictions={} if decision is None else decision.columns(),
        kinds=None if kind is None else {arch: kind(arch) for arch in costs.index},
        seed=spec.seed,
    )
    if this.headline not in ranking.keys():  # noqa: SIM118  # no mapping
        raise DivergedError(_nothing_to_select_by(this.headline, ranking))
    return ranking


def _nothing_to_select_by(headline: Key, ranking: rank.Ranking) -> str:
    """What to do where no candidate has the selection indicator."""
    reasons = ranking.failed.loc[ranking.failed["source"] == headline[0], "reason"]
    why = f"; the first that failed: {reasons.iloc[0]}" if len(reasons) else ""
    there = [name for source, name in ranking.keys() if source == headline[0]]  # noqa: SIM118
    return (
        f"no candidate has a finite {headline[1]} on the {headline[0]} set{why}; choose "
        f"another --indicator ({quoted(', '.join(there) or 'none is finite')}) and --out, "
        "or mend the networks"
    )


def spent(
    this: Run, proxy: ProxySet, decision: Decision | None, last: TrainedWinner | None
) -> rank.Ledger:
    """What the run cost."""
    stages, train = this.store.stages(), this.dataset.train
    provenance = {
        **proxy.provenance,
        "reused": this.spec.proxy is not None,
        "distilled": distill.learns(str(proxy.provenance.get("method"))),
    }
    return rank.ledger(
        this.store.scores(),
        stages,
        this.truth,
        distill=provenance,
        device=hardware.describe(this.spec.device),
        proxy_bytes=proxy.nbytes,
        real_bytes=train.x.nbytes + train.y.nbytes,
        zero_cost=this.store.zero_cost(),
        fingerprint=this.dataset.fingerprint,
        space_options=this.spec.space_options,
        decision=None if decision is None else decision_cost(decision, last, stages),
    )


def _chosen(spec: SearchSpec) -> str:
    """Correlations over candidates that an indicator chose are not those over a random sample."""
    return f", chosen by {spec.strategy}" if spec.strategy in ADAPTIVE else ""


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "shape": list(dataset.shape),
        "classes": dataset.num_classes,
        "train": len(dataset.train),
        "val": len(dataset.val),
        "test": len(dataset.test),
        "fingerprint": dataset.fingerprint,
    }


def _provenance(this: Run, proxy: ProxySet) -> dict[str, Any]:
    spec, table, short = this.spec, this.truth, oracles.label_table(this)
    tables = {"truth": None if table is None else _header(table)}
    if short is not None:
        tables["label_table"] = {**_header(short), "seconds": oracles.costs_in_words(this, short)}
    return {
        "proxynas": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": hardware.describe(spec.device),
        "proxy": {key: value for key, value in proxy.provenance.items() if key != "losses"},
        **tables,
    }


def _header(table: TruthTable) -> dict[str, Any]:
    return {key: value for key, value in table.header.items() if key != "command"}
