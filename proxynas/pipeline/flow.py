"""The whole flow in one run folder: distil, search, rank, report. Every stage leaves its artefact and is never redone.

spec.toml                what was asked for; a folder belongs to one spec
proxy.safetensors        the proxy set
random.safetensors       the random coreset of the same size
also/                    further sets, compared in the same run
distill.checkpoint       how far the distillation was
run.sqlite               a row a (source, candidate, seed)
report.html, report.json, scores.csv, indicators.csv, values.csv.gz, timings.csv, figures/
pareto.csv               with several objectives: the front
"""

import functools
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import __version__, datasets, distill, proxyset, rank, report, spaces
from ..core import hardware, settings
from ..core.errors import RunFolderError
from ..core.progress import Watcher
from ..core.rundir import open_folder
from ..datasets import Dataset
from ..proxyset import ProxySet
from ..report import pareto
from ..search.pool import cores
from ..search.run import ZERO_COST, pending, run, runs
from ..search.store import Store
from ..search.strategies import ADAPTIVE
from ..spaces import SearchSpace
from ..specs import SearchSpec
from ..truth import TruthTable
from .rounds import Costs, Tally, add_costs, choose_in_rounds, first_candidates, make_strategy
from .selection import choose_indicator
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
    pareto: pd.DataFrame | None = None  # the front, where there are several objectives


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
    headline, _ = choose_indicator(spec, space)
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    table, tables = find_truth(spec, dataset, space), find_tables(spec, dataset, space)
    check_proxy(spec, dataset)
    cost = costs(space, dataset)
    strategy = make_strategy(spec, space, cost)
    archs = first_candidates(spec, space, strategy)
    check_covered(tables, archs)
    for seen_space in (space, looked_at):  # a space of images refuses tables here
        seen_space.build(archs[0], dataset.shape, dataset.num_classes)
    open_folder(spec, folder)
    proxy = get_proxy(spec, dataset, folder, watcher)
    store = Store(folder / "run.sqlite")
    try:
        store.claim(f"data {dataset.fingerprint}, space {space.fingerprint}{seen}")
        workers = 1 if spec.device != "cpu" else workers or cores()
        if spec.strategy in ADAPTIVE:
            watcher.say(
                f"choosing {spec.candidates} of {space.size:,} candidates by {spec.strategy}, {spec.round_size} at a "
                f"time, {workers} worker(s)"
            )
            with _stage(store, "search", spec.device):
                archs = choose_in_rounds(spec, headline, strategy, archs, cost, store, folder, workers, watcher)
            watcher.ended()
        score_all(spec, space, cost, archs, store, folder, workers, watcher)
        return write_report(spec, dataset, proxy, store, table, tables, folder)
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


def costs(space: SearchSpace, dataset: Dataset) -> Costs:
    """What a network of ``space`` costs on these data, counted once."""
    return functools.cache(lambda arch: space.cost(arch, dataset.shape, dataset.num_classes))


def score_all(
    spec: SearchSpec,
    space: SearchSpace,
    cost: Costs,
    archs: list[str],
    store: Store,
    folder: Path,
    workers: int,
    watcher: Watcher,
) -> None:
    """Train every candidate on every source; what the store has is kept."""
    with _stage(store, "costs", spec.device):
        add_costs(store, archs, cost)
    trained = training_sources(spec)
    sources = [*trained, *([ZERO_COST] if ZERO_COST in spec.baselines else [])]
    total = len(archs) * (len(trained) * spec.seeds + len(sources) - len(trained))
    done = total - runs(pending(store, archs, sources, range(spec.seeds)))
    watcher.say(
        f"searching: {len(archs)} of {space.size:,} candidates × {len(trained)} sources × {spec.seeds} seeds, "
        f"{workers} worker(s)" + (f"; {done} of {total} results found in the run folder" if done else "")
    )
    if done < total:
        tally = Tally(watcher, done, total)
        with _stage(store, "search", spec.device):
            run(store, archs, sources, range(spec.seeds), prepare, (spec, folder), workers=workers, on_done=tally)
    watcher.ended()


def write_report(
    spec: SearchSpec,
    dataset: Dataset,
    proxy: ProxySet,
    store: Store,
    table: TruthTable | None,
    tables: Mapping[str, TruthTable],
    folder: Path,
) -> Result:
    """Rank, add up, judge, and write the report."""
    scores, costs, zero_cost = store.scores(), store.candidates(), store.zero_cost()
    space = spaces.load(spec.space, spec.space_options)
    headline, reason = choose_indicator(spec, space)
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
        kinds=kinds,
        seed=spec.seed,
    )
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
        pareto=pareto.of_run(ranking, headline, costs, spec.objectives),
        provenance=_provenance(spec, proxy, table),
    )
    path = report.write(folder, inputs)
    judged = rank.verdict(ranking, ledger, headline, reason)
    return Result(
        path, ranking, ledger, judged, headline, None if inputs.pareto is None else pareto.front_table(inputs)
    )


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
        return write_report(spec, dataset, proxy, store, table, others, folder)
    finally:
        store.close()
