"""The search itself: every candidate on every source, on all cores, each result stored the moment it is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import spaces
from ..datasets import Dataset
from .pool import map_unordered
from .score import Source, score, score_zero_cost
from .store import Score, Store, ZeroCost


@dataclass(frozen=True)
class Work:
    """What a worker needs to score any candidate: made in each process by a picklable function, never sent."""

    space: spaces.SearchSpace
    dataset: Dataset
    sources: dict[str, Source]
    seed: int
    device: str = "cpu"
    zero_cost_space: spaces.SearchSpace | None = None  # whose networks zero-cost indicators look at; None: space's


ZERO_COST = "zero-cost"
"""The source that trains nothing: its task measures a candidate's zero-cost indicators."""

Task = tuple[str, str, list[int]]  # source, architecture, replicas


def run(
    store: Store,
    archs: Sequence[str],
    sources: Sequence[str],
    replicas: Sequence[int],
    prepare: Callable[..., Work],
    arguments: tuple[object, ...],
    *,
    workers: int,
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> int:
    """Score what the store does not have yet; returns how many training runs it added.

    A candidate's replicas on one source are one task and one transaction. ``on_done`` is called for every new run, and
    once for a candidate's zero-cost indicators.
    """
    tasks = pending(store, archs, sources, replicas)
    added = 0
    if tasks:
        for trained, indicators in map_unordered(_score, tasks, prepare, arguments, min(workers, len(tasks))):
            store.add(trained)
            store.add_zero_cost(indicators)
            added += len(trained)
            for run in trained:
                on_done(run)
            for indicator in indicators[:1]:
                on_done(indicator)
    return added


def pending(store: Store, archs: Sequence[str], sources: Sequence[str], replicas: Sequence[int]) -> list[Task]:
    """The tasks whose rows are not all in the store, candidate by candidate."""
    done, wanted, measured = store.done(), set(replicas), set(store.zero_cost()["arch"])

    def missing(source: str, arch: str) -> bool:
        return arch not in measured if source == ZERO_COST else not wanted <= done.get((source, arch), set())

    return [
        (source, arch, [] if source == ZERO_COST else sorted(wanted))
        for arch in archs
        for source in sources
        if missing(source, arch)
    ]


def runs(tasks: Sequence[Task]) -> int:
    """How many times ``on_done`` will be called for ``tasks``."""
    return sum(max(1, len(replicas)) for _, _, replicas in tasks)


def _score(work: Work, task: Task) -> tuple[list[Score], list[ZeroCost]]:
    source, arch, replicas = task
    if source == ZERO_COST:
        return [], score_zero_cost(work.zero_cost_space or work.space, arch, work.dataset, work.seed)
    return score(work.space, arch, work.sources[source], work.dataset, replicas, work.seed, work.device), []
