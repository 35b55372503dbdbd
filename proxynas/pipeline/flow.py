"""The whole flow in one run folder: distil, search, rank, report. Every stage leaves its artefact and is never redone.

spec.toml                what was asked for; a folder belongs to one spec
proxy.safetensors        the proxy set
random.safetensors       the random coreset of the same size
also/                    further sets, compared in the same run
distill.checkpoint       how far the distillation was
run.sqlite               a row a (source, candidate, seed)
report.html, report.json, scores.csv, indicators.csv, values.csv.gz, timings.csv, figures/
"""

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, datasets, distill, proxyset, rank, report, spaces
from ..core import hardware, seeds, settings
from ..core.errors import RunFolderError
from ..core.progress import Watcher
from ..core.rundir import open_folder
from ..datasets import Dataset
from ..proxyset import ProxySet
from ..rank.indicators import PREDICTED
from ..search.pool import cores
from ..search.run import ZERO_COST, pending, run, runs
from ..search.store import Score, Store, ZeroCost
from ..spaces import SearchSpace
from ..specs import SearchSpec
from ..truth import WHOLE, TruthTable
from . import winner
from .decision import Decision, decide
from .labelling import Charged, Labeller, Recorded, Trained
from .selection import choose_indicator
from .shown import decision_cost, shown_trust, shown_winner
from .sources import PROXY, also_names, check_proxy, get_proxy, prepare, training_sources
from .truth_tables import check_covered, find_tables, find_truth


@dataclass(frozen=True)
class Result:
    """What a search gives back."""

    report: Path
    ranking: rank.Ranking
    ledger: rank.Ledger
    verdict: rank.Verdict
    headline: tuple[str, str]
    summary: tuple[str, ...]  # two sentences: the winner, and how far to trust the ranking
    next_step: str


def search(spec: SearchSpec, folder: Path, *, workers: int | None = None, watcher: Watcher | None = None) -> Result:
    """Run, or finish, the search that ``spec`` describes in ``folder``.

    Raises:
        ProxynasError: any of its kinds, see :mod:`proxynas.core.errors`; what was done before stays in the folder.
    """
    watcher = watcher or Watcher()
    spec = replace(spec, device=hardware.check(spec.device), steps=_steps(spec))
    space = spaces.load(spec.space, spec.space_options)
    looked_at = spaces.load(spec.space, spec.zero_cost_options) if spec.zero_cost_options else space
    seen = "" if looked_at is space else f", zero-cost {looked_at.fingerprint}"
    choose_indicator(spec, space)
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    table, tables = find_truth(spec, dataset, space), find_tables(spec, dataset, space)
    check_proxy(spec, dataset)
    archs = candidates(spec, space)
    check_covered(tables, archs)
    for seen_space in (space, looked_at):  # a space of images refuses tables here
        seen_space.build(archs[0], dataset.shape, dataset.num_classes)
    open_folder(spec, folder)
    proxy = get_proxy(spec, dataset, folder, watcher)
    store = Store(folder / "run.sqlite")
    try:
        store.claim(f"data {dataset.fingerprint}, space {space.fingerprint}{seen}")
        score_all(spec, space, dataset, archs, store, folder, workers, watcher)
        labeller = labeller_for(spec, store, table, workers, watcher)
        decision = decide_in(spec, space, store, labeller, watcher)
        if decision is not None and trains_winner(spec, decision, table):
            with _stage(store, "winner", spec.device):
                winner.train(spec, str(decision.winner), store, folder, watcher)
        return write_report(spec, dataset, proxy, store, table, tables, folder, decision)
    finally:
        store.close()


SEARCH_STEPS = 400
"""Distillation steps of a search that does not say how many: fewer than published, so that a first look is quick."""


def _steps(spec: SearchSpec) -> int | None:
    usual = distill.find(spec.method).steps
    return spec.steps if spec.steps is not None or spec.proxy is not None or not usual else min(usual, SEARCH_STEPS)


def default_folder(spec: SearchSpec) -> Path:
    """``runs/<data>-<space>-<proxy>-<6 digits that change with any setting>``."""
    proxy = Path(spec.proxy).stem if spec.proxy is not None else f"{spec.method}-ipc{spec.ipc}"
    digest = hashlib.sha256(json.dumps(settings.to_dict(spec), sort_keys=True).encode()).hexdigest()[:6]
    return Path("runs") / "-".join([Path(spec.data).name, Path(spec.space).stem, proxy, digest])


def candidates(spec: SearchSpec, space: SearchSpace) -> list[str]:
    """The sample of the space that is searched."""
    return space.sample(spec.candidates, np.random.default_rng(seeds.derive(spec.seed, "candidates")), spec.distinct)


def score_all(
    spec: SearchSpec,
    space: SearchSpace,
    dataset: Dataset,
    archs: list[str],
    store: Store,
    folder: Path,
    workers: int | None,
    watcher: Watcher,
) -> None:
    """Train every candidate on every source; what the store has is kept."""
    with _stage(store, "costs", spec.device):
        known = set(store.candidates().index)
        for arch in archs:
            if arch not in known:
                store.add_candidates({arch: space.cost(arch, dataset.shape, dataset.num_classes)})
    workers = 1 if spec.device != "cpu" else workers or cores()
    trained = training_sources(spec)
    sources = [*trained, *([ZERO_COST] if ZERO_COST in spec.baselines else [])]
    total = len(archs) * (len(trained) * spec.seeds + len(sources) - len(trained))
    done = total - runs(pending(store, archs, sources, range(spec.seeds)))
    watcher.say(
        f"searching: {len(archs)} of {space.size:,} candidates × {len(trained)} sources × {spec.seeds} seeds, "
        f"{workers} worker(s)" + (f"; {done} of {total} results found in the run folder" if done else "")
    )

    def on_done(score: Score | ZeroCost) -> None:
        nonlocal done
        done += 1
        watcher.searching(done, total, score.arch)

    if done < total:
        with _stage(store, "search", spec.device):
            run(store, archs, sources, range(spec.seeds), prepare, (spec, folder), workers=workers, on_done=on_done)
    watcher.ended()


def labeller_for(
    spec: SearchSpec, store: Store, table: TruthTable | None, workers: int | None, watcher: Watcher
) -> Labeller:
    """Where accuracies on the whole data come from: the truth table where it knows all candidates, else training."""
    known = set() if table is None else set(table.rows["arch"])
    if table is not None and spec.oracle == "auto" and known.issuperset(store.candidates().index):
        return Charged(store, table)
    return Trained(spec, store, 1 if spec.device != "cpu" else workers or cores(), watcher)


def decide_in(
    spec: SearchSpec, space: SearchSpace, store: Store, labeller: Labeller, watcher: Watcher
) -> Decision | None:
    """Label, verify and pick; ``None`` where the spec asks for neither."""
    if not spec.label and not spec.verify:
        return None
    headline, _ = choose_indicator(spec, space)
    combine = [headline[1]] if "+" in headline[1] else []
    values = rank.indicators.columns(store.scores(), store.zero_cost(), store.candidates(), None, combine)
    if not labeller.charged:
        watcher.say(
            f"training on the whole data, {spec.epochs} epochs each: {min(spec.label, len(values))} labels, then the "
            f"{spec.verify} best (--label 0 --verify 0 leaves this out)"
        )
    with _stage(store, "labels", spec.device):
        decision = decide(spec, labeller, values, headline)
    watcher.ended()
    return decision


def trains_winner(spec: SearchSpec, decision: Decision, table: TruthTable | None) -> bool:
    """Whether the winner is trained afresh: always where asked, else unless accuracies came from others' table."""
    if decision.winner is None or spec.train_winner == "never":
        return False
    others = decision.charged and table is not None and table.made.get("made_on") is None
    return spec.train_winner == "always" or not others


def write_report(
    spec: SearchSpec,
    dataset: Dataset,
    proxy: ProxySet,
    store: Store,
    table: TruthTable | None,
    tables: Mapping[str, TruthTable],
    folder: Path,
    decision: Decision | None,
) -> Result:
    """Rank, add up, judge, and write the report."""
    scores, costs, zero_cost = store.scores(), store.candidates(), store.zero_cost()
    space = spaces.load(spec.space, spec.space_options)
    headline, reason = choose_indicator(spec, space)
    predicted = (PROXY, PREDICTED)
    names = (headline[1], *rank.indicators.counterparts(headline[1]))  # so that the verdict can say what training adds
    combine = dict.fromkeys((*spec.combine, *(name for name in names if "+" in name)))
    kinds = None if space.kind is None else {arch: space.kind(arch) for arch in costs.index}
    ranking = rank.rank(
        scores,
        costs,
        table,
        zero_cost=zero_cost,
        combine=list(combine),
        tables=tables,
        predictions={} if decision is None else decision.columns(),
        kinds=kinds,
        seed=spec.seed,
    )
    if decision is not None and predicted in decision.columns() and spec.indicator == "auto":
        headline, reason = predicted, f"fitted on {decision.labels.notna().sum()} labels"
    last = None if decision is None or decision.winner is None else winner.found(store, decision.winner, folder)
    made = {
        "reused": spec.proxy is not None,
        "distilled": distill.learns(str(proxy.provenance.get("method"))),
    }
    ledger = rank.ledger(
        scores,
        store.stages(),
        table,
        distill={**proxy.provenance, **made},
        device=hardware.describe(spec.device),
        proxy_bytes=proxy.nbytes,
        real_bytes=dataset.train.x.nbytes + dataset.train.y.nbytes,
        zero_cost=zero_cost,
        fingerprint=dataset.fingerprint,
        space_options=spec.space_options,
        decision=None if decision is None else decision_cost(decision, last, store.stages()),
    )
    inputs = report.ReportInputs(
        title=f"{len(costs)} networks of {spec.space} on {dataset.name}",
        spec=settings.to_dict(spec),
        dataset=_described(dataset),
        images=proxy.images() if proxy.x.ndim == 4 else None,
        labels=proxy.hard_labels(),
        class_names=proxy.class_names,
        ranking=ranking,
        ledger=ledger,
        scores=scores,
        costs=costs,
        headline=headline,
        headline_reason=reason,
        provenance=_provenance(spec, proxy, table),
        winner=None if decision is None else shown_winner(spec, dataset, decision, last, table),
        trust=None if decision is None else shown_trust(decision),
    )
    path, judged = report.write(folder, inputs), rank.verdict(ranking, ledger, headline, reason)
    step = report.next_step(inputs, judged)
    following = f"{step.text} {step.command}".strip()
    return Result(path, ranking, ledger, judged, headline, report.summary(inputs, judged), following)


@contextmanager
def _stage(store: Store, name: str, device: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        store.add_stage_seconds(name, time.perf_counter() - started, hardware.peak_mib(device))


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


def _provenance(spec: SearchSpec, proxy: ProxySet, table: TruthTable | None) -> dict[str, Any]:
    return {
        "proxynas": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": hardware.describe(spec.device),
        "proxy": {key: value for key, value in proxy.provenance.items() if key != "losses"},
        "truth": None if table is None else {k: v for k, v in table.made.items() if k != "command"},
    }


def rewrite(
    folder: Path,
    *,
    truth_table: str | None = None,
    indicator: str | None = None,
    combine: Sequence[str] = (),
    tables: Mapping[str, str] | None = None,
) -> Result:
    """The report of a finished (or unfinished) run, written anew; ``combine`` and ``tables`` are added to the run's.

    Raises:
        RunFolderError: it is not a run folder, or nothing in it is scored yet.
    """
    if not (folder / "spec.toml").is_file() or not (folder / "run.sqlite").is_file():
        raise RunFolderError(f"{folder} is not a run folder; give the --out of a 'proxynas search'")
    spec = settings.make(SearchSpec, settings.read_toml(folder / "spec.toml"), where=str(folder / "spec.toml"))
    spec = replace(spec, truth=truth_table or spec.truth, indicator=indicator or spec.indicator)
    spec = replace(spec, combine=(*spec.combine, *combine), tables={**spec.tables, **(tables or {})})
    also_names(spec)  # a table must not take the place of a source
    dataset, store = datasets.load_for(spec), Store(folder / "run.sqlite")
    try:
        if store.scores().empty:
            raise RunFolderError(f"{folder} has no scores yet; start its search again")
        space = spaces.load(spec.space, spec.space_options)
        table, others = find_truth(spec, dataset, space), find_tables(spec, dataset, space)
        check_covered(others, list(store.candidates().index))
        proxy = proxyset.read(folder / f"{PROXY}.safetensors")
        proxyset.check(proxy, dataset)
        labelled = (store.scores()["source"] == WHOLE).any()
        decision = decide_in(spec, space, store, Recorded(store), Watcher()) if labelled else None
        return write_report(spec, dataset, proxy, store, table, others, folder, decision)
    finally:
        store.close()
