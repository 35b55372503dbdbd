"""A search in its directory: what was asked for, what it works on, and where its results are
kept."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .. import datasets, distill, spaces
from ..core import hardware
from ..core.progress import Watcher
from ..datasets import Dataset
from ..engine import LOCAL, Engine
from ..rank import Key
from ..search.store import Store
from ..spaces import SearchSpace
from ..specs import Cost, SearchSpec
from ..truth import TruthTable
from .selection import choose_indicator
from .truth_tables import find_tables, find_truth

SEARCH_STEPS = 200
"""Distillation steps of a search that does not say how many: fewer than published, for a quick
first look."""


@dataclass(frozen=True)
class Run:
    """What every part of a search needs.

    ``zero_cost_space`` has the networks that zero-cost indicators look at, by default those of
    ``space``. ``headline`` is the selection indicator, ``reason`` why it is. ``workers`` is
    how many tasks ``engine`` does at a time.
    """

    spec: SearchSpec
    folder: Path
    dataset: Dataset
    space: SearchSpace
    zero_cost_space: SearchSpace
    truth: TruthTable | None
    tables: Mapping[str, TruthTable]
    headline: Key
    reason: str
    workers: int
    engine: Engine
    watcher: Watcher
    cost: Callable[[str], Cost]  # parameters and FLOPs of a network on these data, counted once

    @functools.cached_property
    def store(self) -> Store:
        """The run store, opened where it is first asked for."""
        return Store(self.folder / "run.sqlite")

    @property
    def identity(self) -> str:
        """What the rows of the run store belong to."""
        other = self.zero_cost_space
        seen = "" if other is self.space else f", zero-cost {other.fingerprint}"
        return f"data {self.dataset.fingerprint}, space {self.space.fingerprint}{seen}"

    @contextmanager
    def stage(self, name: str, *, once: bool = False) -> Iterator[None]:
        """Add the wall-clock seconds of what is done within to a stage of the run store.

        With ``once`` they do not count where the stage was done before and nothing was trained in
        it now, as when a report is written again.
        """
        started, trained = time.perf_counter(), self.store.trainings()
        try:
            yield
        finally:
            again = once and name in self.store.stages() and self.store.trainings() == trained
            if not again:
                seconds = time.perf_counter() - started
                self.store.add_stage_seconds(name, seconds, hardware.peak_mib(self.spec.device))


def prepare_run(
    spec: SearchSpec,
    folder: Path,
    workers: int | None,
    watcher: Watcher,
    engine: Engine = LOCAL,
) -> Run:
    """Load what a search works on, and check what can be checked before anything is written.

    Raises:
        ProxynasError: any of its kinds, see :mod:`proxynas.core.errors`.
    """
    device = hardware.check(spec.device)
    spec, engine = replace(spec, device=device, steps=search_steps(spec)), engine.on(device)
    space = spaces.load(spec.space, spec.space_options, spec.time_limit)
    larger = space
    if spec.zero_cost_options:
        larger = spaces.load(spec.space, spec.zero_cost_options, spec.time_limit)
    for line in spaces.notice(spec.space):
        watcher.say(line)
    headline, reason = choose_indicator(spec, space)
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    return Run(
        spec=spec,
        folder=folder,
        dataset=dataset,
        space=space,
        zero_cost_space=larger,
        truth=find_truth(spec, dataset, space),
        tables=find_tables(spec, dataset, space),
        headline=headline,
        reason=reason,
        workers=engine.workers(workers),
        engine=engine,
        watcher=watcher,
        cost=costs(space, dataset),
    )


def search_steps(spec: SearchSpec) -> int | None:
    """Distillation steps of a search; ``None`` where nothing is distilled."""
    if spec.steps is not None or spec.proxy is not None:
        return spec.steps
    usual = distill.find(spec.method).steps
    return min(usual, SEARCH_STEPS) if usual else None


def costs(space: SearchSpace, dataset: Dataset) -> Callable[[str], Cost]:
    """What a network of ``space`` costs on these data, counted once."""
    return functools.cache(lambda arch: space.cost(arch, dataset.shape, dataset.num_classes))
