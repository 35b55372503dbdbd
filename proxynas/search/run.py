"""The search itself: every candidate on every source, on all cores, each result stored the moment
it is known."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .pool import opened
from .score import Work, score, score_zero_cost
from .sources import ZERO_COST
from .store import Score, Store, ZeroCost


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
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> Iterator[Scorer]:
    """Workers that score one set of architectures after the other.

    A candidate's replicas on one source are one task and one transaction. ``on_done`` is called for
    every new run, and once for a candidate's zero-cost indicators.
    """
    with opened(prepare, workers) as mapped:

        def score_missing(archs: Sequence[str], sources: Sequence[str]) -> int:
            added = 0
            for trained, indicators in mapped(
                _score, pending(store, Wanted(archs, sources, replicas))
            ):
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
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> int:
    """Score what the store does not have yet, see :func:`scorer`; returns how many training runs it
    added."""
    tasks = len(pending(store, wanted))
    if not tasks:
        return 0
    workers = min(workers, tasks)
    with scorer(store, wanted.replicas, prepare, workers=workers, on_done=on_done) as score_missing:
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
    source, arch, replicas = task
    if source == ZERO_COST:
        space = work.zero_cost_space or work.space
        return [], score_zero_cost(space, arch, work.dataset, work.seed)
    return score(work, source, arch, replicas), []
