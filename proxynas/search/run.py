"""The search itself: every candidate on every source, on all cores, each result stored the moment
it is known."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan

import numpy as np

from ..core.errors import SpaceError
from ..engine import LOCAL, Engine
from ..spaces.guard import guarded
from . import zerocost
from .score import Work, score, score_zero_cost
from .sources import ZERO_COST
from .store import ACCURACIES, Score, Store, ZeroCost


@dataclass(frozen=True)
class Wanted:
    """Training runs: every architecture on every source, once for each replica (seed number)."""

    archs: Sequence[str]
    sources: Sequence[str]
    replicas: Sequence[int]


Prepare = Callable[[], Work]
"""Makes in each process what it needs; picklable."""

Task = tuple[str, str, list[int]]  # source, architecture, replicas


Scorer = Callable[[Sequence[str], Sequence[str]], int]
"""Scores architectures on sources, where the store does not have that yet; returns how many
training runs it added."""


@contextmanager
def scorer(
    store: Store,
    replicas: Sequence[int],
    prepare: Prepare,
    *,
    workers: int,
    engine: Engine = LOCAL,
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> Iterator[Scorer]:
    """Workers that score one set of architectures after the other.

    A candidate's replicas on one source are one task and one transaction; one whose worker died
    again and again has failed. ``on_done`` is called for every new run, and once for a candidate's
    zero-cost indicators.
    """
    with engine.opened(prepare, workers) as mapped:

        def score_missing(archs: Sequence[str], sources: Sequence[str]) -> int:
            added = 0
            tasks = pending(store, Wanted(archs, sources, replicas))
            for trained, indicators in mapped(_score, tasks, _lost):
                store.add(trained)
                store.add_zero_cost(indicators)
                added += len(trained)
                results: list[Score | ZeroCost] = [*trained, *indicators[:1]]
                for result in results:
                    on_done(result)
            return added

        yield score_missing


def run(
    store: Store,
    wanted: Wanted,
    prepare: Prepare,
    *,
    workers: int,
    engine: Engine = LOCAL,
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> int:
    """Score what the store does not have yet, see :func:`scorer`; returns how many training runs it
    added."""
    tasks = len(pending(store, wanted))
    if not tasks:
        return 0
    workers = min(workers, tasks)
    scoring = scorer(
        store, wanted.replicas, prepare, workers=workers, engine=engine, on_done=on_done
    )
    with scoring as score_missing:
        return score_missing(wanted.archs, wanted.sources)


def pending(store: Store, wanted: Wanted) -> list[Task]:
    """The tasks whose rows are not all in the store, candidate by candidate."""
    done, replicas, measured = store.done(), set(wanted.replicas), set(store.zero_cost()["arch"])

    def missing(source: str, arch: str) -> bool:
        if source == ZERO_COST:
            return arch not in measured
        return not replicas <= done.get((source, arch), set())

    return [
        (source, arch, [] if source == ZERO_COST else sorted(replicas))
        for arch in wanted.archs
        for source in wanted.sources
        if missing(source, arch)
    ]


def runs(tasks: Sequence[Task]) -> int:
    """How many times ``on_done`` will be called for ``tasks``."""
    return sum(max(1, len(replicas)) for _, _, replicas in tasks)


def _score(work: Work, task: Task) -> tuple[list[Score], list[ZeroCost]]:
    """The rows of a task. Where its network fails (it is foreign code), or takes longer than the
    time limit, they say so, and all others go on."""
    source, arch, replicas = task
    started = time.perf_counter()
    try:
        with guarded(f"training {arch!r} failed", work.time_limit):
            if source == ZERO_COST:
                space = work.zero_cost_space or work.space
                return [], score_zero_cost(space, arch, work.dataset, work.seed)
            return score(work, source, arch, replicas), []
    except SpaceError as error:
        rows = len(zerocost.INDICATORS) if source == ZERO_COST else len(replicas)
        share = (time.perf_counter() - started) / rows
        return _lost(task, str(error), share)


def _lost(task: Task, reason: str, seconds: float = 0.0) -> tuple[list[Score], list[ZeroCost]]:
    """The rows of a task that could not be done: failed, and nothing known but ``seconds`` of
    each, where these are."""
    source, arch, replicas = task
    if source == ZERO_COST:
        return [], [ZeroCost(arch, name, nan, seconds) for name in zerocost.INDICATORS]
    nothing = dict.fromkeys((*ACCURACIES, "sotl"))
    losses = np.full(1, nan, dtype=np.float32)
    return [
        Score(source, arch, replica, **nothing, losses=losses, seconds=seconds, failed=reason)
        for replica in replicas
    ], []
