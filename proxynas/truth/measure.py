"""Measuring truth: every candidate trained on the whole real data, resumable."""

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .. import __version__, datasets, spaces
from ..core import hardware, seeds, settings
from ..core.errors import RunFolderError
from ..datasets import Dataset
from ..engine import LOCAL, Engine
from ..search.run import Wanted, pending, run
from ..search.score import Source, Work
from ..search.sources import WHOLE
from ..search.store import Score, Store, ZeroCost
from ..spaces.limits import Limits
from ..specs import TruthSpec
from ..specs.constraint import parse
from .table import COLUMNS, FORMAT, TruthTable


def prepare(spec: TruthSpec, dataset: Dataset) -> Work:
    """What a worker needs to measure truth: the space, and the whole training split as the only
    source."""
    torch.set_flush_denormal(True)
    x, y = dataset.train.x, dataset.train.y
    source = Source(WHOLE, x, y, spec.recipe(len(x)), test=True)
    space, limit = spaces.load(spec.space, spec.space_options), spec.time_limit
    return Work(space, dataset, {WHOLE: source}, spec.seed, spec.device, time_limit=limit).placed()


def candidates(spec: TruthSpec, space: spaces.SearchSpace, dataset: Dataset) -> list[str]:
    """The candidates in the order in which they are measured: a random one, so that a part of a
    table is a sample. A random search with as many candidates and the same seed has the same.

    Raises:
        SpecError: none, or almost none, is within the constraints.
    """
    rng = np.random.default_rng(seeds.derive(spec.seed, "candidates"))  # a random search's
    cost = partial(space.cost, shape=dataset.shape, classes=dataset.num_classes)
    limits = Limits([parse(text) for text in spec.constraints], cost)
    wanted = spec.candidates or space.size
    return space.sample(wanted, rng, admit=limits if limits.constraints else None)


def measure(
    spec: TruthSpec,
    out: Path,
    *,
    workers: int | None = None,
    engine: Engine = LOCAL,
    on_done: Callable[[int, int, Score | ZeroCost], None] = lambda done, total, score: None,
) -> TruthTable:
    """Train every candidate on the whole real data, write the table to ``out`` and give it back.

    Every run is in the store beside ``out`` the moment it is done, and an interrupted measurement
    writes the table of what it has; the same call again resumes it. ``on_done`` gets (runs done,
    runs in all, the run).

    Raises:
        RunFolderError: the store beside ``out`` belongs to another measurement, or ``out`` is not a
            table of it.
        SpaceError: the space does not fit the data.
    """
    space = spaces.load(spec.space, spec.space_options, spec.time_limit)
    dataset = datasets.load_for(spec)
    engine = engine.on(spec.device)
    archs = candidates(spec, space, dataset)
    wanted = Wanted(archs, [WHOLE], range(spec.seeds))
    space.check(archs[0], dataset.shape, dataset.num_classes)
    if out.suffix != ".csv":
        raise RunFolderError(f"--out must be a .csv file, but got '{out}'")
    if out.exists() and not out.with_suffix(".sqlite").exists():
        raise RunFolderError(
            f"{out} exists already and is not of this measurement; give another --out, or remove it"
        )
    store = Store(out.with_suffix(".sqlite"))
    try:
        identity = {**settings.to_dict(spec), "fingerprint": dataset.fingerprint}
        if not spec.constraints:  # stores of versions that had none go on
            del identity["constraints"]
        if spec.candidates is not None and spec.candidates < space.size:
            identity["drawn"] = "as a search draws"
        if space.foreign:
            identity["space_fingerprint"] = space.fingerprint
        store.claim(json.dumps(identity, sort_keys=True))
        total = len(archs) * spec.seeds
        done = total - spec.seeds * len(pending(store, wanted))

        def count(score: Score | ZeroCost) -> None:
            nonlocal done
            done += 1
            on_done(done, total, score)

        work = partial(prepare, spec, dataset)
        try:
            run(store, wanted, work, workers=engine.workers(workers), engine=engine, on_done=count)
        finally:
            measured = table(spec, space.name, store, dataset)
            measured.write(out)
    finally:
        store.close()
    return measured


def table(spec: TruthSpec, space: str, store: Store, dataset: Dataset) -> TruthTable:
    """The table of what ``store`` has so far."""
    rows = store.scores()
    header = {
        "format": FORMAT,
        "space": space,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "splits": {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)},
        "command": settings.to_dict(spec),
        "recipe": settings.to_dict(spec.recipe(len(dataset.train))),
        "made_on": hardware.describe(spec.device),
        "versions": {
            "proxynas": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    return TruthTable(rows[rows["source"] == WHOLE].loc[:, list(COLUMNS)], header)
