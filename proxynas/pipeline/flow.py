"""The whole flow in one run directory: distil, search, decide, report. No stage is ever redone.

spec.toml                what was asked for; a directory belongs to one spec
proxy.safetensors        the proxy set
random.safetensors       the random coreset of the same size
also/                    further sets, compared in the same run
distill.checkpoint       how far the distillation was
run.sqlite               a row per (source, candidate, seed), labels and verification among them
winner.safetensors, winner.py   the winner's weights, and code that loads them
report.html, report.json, scores.csv, indicators.csv, values.csv.gz, timings.csv, figures/
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import proxyset, rank
from ..core import settings
from ..core.errors import RunFolderError
from ..core.progress import Watcher
from ..core.rundir import open_folder
from ..engine import LOCAL, Engine
from ..rank import Key
from ..search.run import Wanted, pending, run, runs
from ..search.sources import FEW_EPOCHS, PROXY, WHOLE, ZERO_COST
from ..search.strategies import ADAPTIVE
from ..specs import SearchSpec
from . import oracles, winner
from .decision import Decision, decide
from .oracles import Oracles
from .reporting import Result, write_report
from .rounds import Tally, add_costs, choose_in_rounds, first_candidates, make_strategy
from .run import Run, prepare_run
from .selection import choose_indicator
from .sources import (
    also_names,
    check_proxy,
    fingerprints,
    get_proxy,
    prepared,
    training_sources,
)
from .truth_tables import check_covered


def search(
    spec: SearchSpec,
    folder: Path,
    *,
    workers: int | None = None,
    engine: Engine = LOCAL,
    watcher: Watcher | None = None,
) -> Result:
    """Run, or finish, the search that ``spec`` describes in ``folder``, with ``workers`` tasks at a
    time on ``engine``; neither changes the result.

    Raises:
        ProxynasError: any of its kinds, see :mod:`proxynas.core.errors`; what was done before stays
            in the directory.
    """
    this = prepare_run(spec, folder, workers, watcher or Watcher(), engine)
    check_proxy(this.spec, this.dataset)
    strategy = make_strategy(this.spec, this.space, this.cost)
    archs = first_candidates(this.spec, this.space, strategy)
    adaptive = spec.strategy in ADAPTIVE
    known = None if adaptive else archs
    this = oracles.settled(this, known)
    oracles.check(this, known)
    if not adaptive:
        _say_how_many_are_known(this, archs)
    check_covered(this.tables, archs)
    for space in (this.space, this.zero_cost_space):  # a space of images refuses tables here
        space.check(archs[0], this.dataset.shape, this.dataset.num_classes)
    open_folder(this.spec, folder)
    proxy = get_proxy(this.spec, this.dataset, folder, this.watcher)
    try:
        this.store.claim(this.identity)
        this.store.claim_sets(fingerprints(this.spec, folder))
        if adaptive:
            archs = choose_in_rounds(this, strategy, archs)
        score_all(this, archs)
        decision = decide_by(this, oracles.of_run(this), this.headline)
        if decision is not None and trains_winner(this, decision):
            with this.stage("winner"):
                winner.train(this, str(decision.winner))
        return write_report(this, proxy, decision)
    finally:
        this.store.close()


def _say_how_many_are_known(this: Run, archs: Sequence[str]) -> None:
    if this.truth is not None:
        known = set(archs).intersection(this.truth.rows["arch"])
        if len(known) < len(archs):
            this.watcher.say(
                f"the truth table knows {len(known)} of the {len(archs)} candidates, so that none "
                "is charged to it"
            )


def default_folder(spec: SearchSpec) -> Path:
    """``runs/<data>-<space>-<proxy>-<6 digits that change with any setting>``."""
    proxy = Path(spec.proxy).stem if spec.proxy is not None else f"{spec.method}-ipc{spec.ipc}"
    text = json.dumps(settings.to_dict(spec), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return Path("runs") / "-".join([Path(spec.data).name, Path(spec.space).stem, proxy, digest])


def score_all(this: Run, archs: list[str]) -> None:
    """Train every candidate on every source; what the store has is kept."""
    spec, store = this.spec, this.store
    with this.stage("costs"):
        add_costs(store, archs, this.cost)
    trained = training_sources(spec)
    sources = [*trained, *([ZERO_COST] if ZERO_COST in spec.baselines else [])]
    wanted = Wanted(archs, sources, range(spec.seeds))
    total = len(archs) * (len(trained) * spec.seeds + len(sources) - len(trained))
    done = total - runs(pending(store, wanted))
    this.watcher.say(
        f"searching: {len(archs)} of {this.space.size:,} candidates × {len(trained)} sources × "
        f"{spec.seeds} seeds, {this.workers} worker(s)"
        + (f"; {done} of {total} results found in the run directory" if done else "")
    )
    if done < total:
        tally = Tally(this.watcher, done, total)
        with this.stage("search"):
            run(
                store,
                wanted,
                prepared(spec, this.folder, this.dataset),
                workers=this.workers,
                engine=this.engine,
                on_done=tally,
            )
    this.watcher.ended()


def decide_by(this: Run, given: Oracles, prior: Key) -> Decision | None:
    """Label, verify and pick; ``None`` where the spec asks for neither. ``prior`` ranks the
    candidates as long as nothing is fitted."""
    spec, store = this.spec, this.store
    if not spec.label and not spec.verify:
        return None
    combine = [prior[1]] if "+" in prior[1] else []
    values = rank.indicators.columns(
        store.scores(), store.zero_cost(), store.candidates(), None, combine
    )
    if not given.whole.charged:
        this.watcher.say(_announced(spec, len(values)))
    with this.stage("labels", once=True):
        decision = decide(spec, given.whole, values, prior, given.short)
    this.watcher.ended()
    return decision


def _announced(spec: SearchSpec, candidates: int) -> str:
    """What is about to be trained on the whole data."""
    labels, epochs = min(spec.label, candidates), rank.words.times(spec.epochs, "epoch")
    off = "(--label 0 --verify 0 leaves this out)"
    if not spec.label_epochs:
        return (
            f"training on the whole data, {epochs} each: {labels} labels, then the {spec.verify} "
            f"best {off}"
        )
    few = rank.words.times(spec.label_epochs, "epoch")
    more = min(spec.shortlisted, candidates - labels)
    return (
        f"training on the whole data: {few} each for {labels} labels and the {more} best by "
        f"prediction, then {epochs} for the best {spec.verify} of these {off}"
    )


def trains_winner(this: Run, decision: Decision) -> bool:
    """Whether the winner is trained afresh: where asked, else unless accuracies come from others'
    table."""
    if decision.winner is None or this.spec.train_winner == "never":
        return False
    table = this.truth
    others = decision.charged and table is not None and table.header.get("made_on") is None
    return this.spec.train_winner == "always" or not others


def rewrite(
    folder: Path,
    *,
    truth_table: str | None = None,
    indicator: str | None = None,
    combine: Sequence[str] = (),
    tables: Mapping[str, str] | None = None,
) -> Result:
    """The report of a run, written anew; ``combine`` and ``tables`` are added to the run's own.

    Raises:
        RunFolderError: it is not a run directory, or nothing in it is scored yet.
    """
    path = folder / "spec.toml"
    if not path.is_file() or not (folder / "run.sqlite").is_file():
        raise RunFolderError(
            f"{folder} is not a run directory; give the --out of a 'proxynas search'"
        )
    searched = settings.make(SearchSpec, settings.read_toml(path), where=str(path))
    spec = replace(
        searched,
        truth=truth_table or searched.truth,
        indicator=indicator or searched.indicator,
        combine=(*searched.combine, *combine),
        tables={**searched.tables, **(tables or {})},
        label_epochs=searched.label_epochs or 0,
    )
    also_names(spec)  # a table must not take the place of a source
    this = prepare_run(spec, folder, 1, Watcher())
    try:
        scores = this.store.scores()
        if scores.empty:
            raise RunFolderError(f"{folder} has no scores yet; start its search again")
        check_covered(this.tables, list(this.store.candidates().index))
        proxy = proxyset.read(folder / f"{PROXY}.safetensors")
        proxyset.check(proxy, this.dataset)
        this.store.claim_sets(fingerprints(this.spec, folder))
        labelled = scores["source"].isin((WHOLE, FEW_EPOCHS)).any()
        prior, _ = choose_indicator(searched, this.space)  # what was labelled hangs by it
        decision = decide_by(this, oracles.recorded(this), prior) if labelled else None
        return write_report(this, proxy, decision)
    finally:
        this.store.close()
