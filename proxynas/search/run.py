"""The search itself: every candidate on every source, on all cores, each result stored the moment
it is known."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .. import spaces
from ..datasets import Dataset
from .pool import opened
from .score import Source, score, score_zero_cost
from .sources import ZERO_COST
from .store import Score, Store, ZeroCost


@dataclass(frozen=True)
class Work:
    """What a worker needs to score any candidate: made in each process by a picklable function,
    never sent."""

    space: spaces.SearchSpace
    dataset: Dataset
    sources: dict[str, Source]
    seed: int
    device: str = "cpu"
    zero_cost_space: spaces.SearchSpace | None = (
        None  # whose networks zero-cost indicators look at; None: space's
    )


Task = tuple[str, str, list[int]]  # source, architecture, replicas


Scorer = Callable[[Sequence[str], Sequence[str]], int]
"""Scores architectures on sources, where the store does not have that yet; returns how many
training runs it added."""


@contextmanager
def scorer(
    store: Store,
    replicas: Sequence[int],
    prepare: Callable[..., Work],
    arguments: tuple[object, ...],
    *,
    workers: int,
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> Iterator[Scorer]:
    """Workers that score one set of architectures after the other.

    A candidate's replicas on one source are one task and one transaction. ``on_done`` is called for
    every new run, and once for a candidate's zero-cost indicators.
    """
    with opened(prepare, arguments, workers) as mapped:

        def score_missing(archs: Sequence[str], sources: Sequence[str]) -> int:
            added = 0
            for trained, indicators in mapped(_score, pending(store, archs, sources, replicas)):
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
    archs: Sequence[str],
    sources: Sequence[str],
    replicas: Sequence[int],
    prepare: Callable[..., Work],
    arguments: tuple[object, ...],
    *,
    workers: int,
    on_done: Callable[[Score | ZeroCost], None] = lambda score: None,
) -> int:
    """Score what the store does not have yet, see :func:`scorer`; returns how many training runs it
    added."""
    tasks = len(pending(store, archs, sources, replicas))
    if not tasks:
        return 0
    with scorer(
        store, replicas, prepare, arguments, workers=min(workers, tasks), on_done=on_done
    ) as score_missing:
        return score_missing(archs, sources)


def pending(
    store: Store, archs: Sequence[str], sources: Sequence[str], replicas: Sequence[int]
) -> list[Task]:
    """The tasks whose rows are not all in the store, candidate by candidate."""
    done, wanted, measured = store.done(), set(replicas), set(store.zero_cost()["arch"])

    def missing(source: str, arch: str) -> bool:
        return (
            arch not in measured
            if source == ZERO_COST
            else not wanted <= done.get((source, arch), set())
        )

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
        return [], score_zero_cost(
            work.zero_cost_space or work.space, arch, work.dataset, work.seed
        )
    return score(
        work.space, arch, work.sources[source], work.dataset, replicas, work.seed, work.device
    ), []
