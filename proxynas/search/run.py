"""The search itself: every candidate on every source, on all cores, each result stored the moment it is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import spaces
from ..datasets import Dataset
from .pool import map_unordered
from .score import Source, score
from .store import Score, Store


@dataclass(frozen=True)
class Work:
    """What a worker needs to score any candidate: made in each process by a picklable function, never sent."""

    space: spaces.SearchSpace
    dataset: Dataset
    sources: dict[str, Source]
    seed: int
    device: str = "cpu"


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
    on_done: Callable[[Score], None] = lambda score: None,
) -> int:
    """Score what the store does not have yet; returns how many rows it added.

    A candidate's replicas on one source are one task and one transaction. ``on_done`` is called for every new row.
    """
    tasks = pending(store, archs, sources, replicas)
    added = 0
    if tasks:
        for rows in map_unordered(_score, tasks, prepare, arguments, min(workers, len(tasks))):
            store.add(rows)
            added += len(rows)
            for row in rows:
                on_done(row)
    return added


def pending(store: Store, archs: Sequence[str], sources: Sequence[str], replicas: Sequence[int]) -> list[Task]:
    """The tasks whose rows are not all in the store, candidate by candidate."""
    done, wanted = store.done(), set(replicas)
    return [
        (source, arch, sorted(wanted))
        for arch in archs
        for source in sources
        if not wanted <= done.get((source, arch), set())
    ]


def _score(work: Work, task: Task) -> list[Score]:
    source, arch, replicas = task
    return score(work.space, arch, work.sources[source], work.dataset, replicas, work.seed, work.device)
