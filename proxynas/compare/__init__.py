"""A table of accuracies, as papers have them: rows are methods and their settings, columns are
networks.

Every row is distilled several times under one limit, networks are trained on every set, and the
table has their mean ± sd beside published figures. Rows that distil the same share their sets. In
its run directory:

spec.toml                       what was asked for; a directory belongs to one spec
sets/<row>-<seed>.safetensors   the proxy set; .at-1-8 etc.: as it was at that part of its seconds
sets/<row>-<seed>.checkpoint    how far that distillation is, while it runs
results/<row>-<seed>.json       what was measured of a set: accuracies, seconds, memory
table.json, table.md            written at the end

Rerunning the same command resumes and redoes nothing. Where steps limit the distillations, an
interrupted comparison has the accuracies of an uninterrupted one. Where seconds do it cannot: no
two runs do the same number of steps in the same time, interrupted or not.

>>> from pathlib import Path
>>> from proxynas import datasets
>>> from proxynas.compare.jobs import all_jobs
>>> from proxynas.specs import CompareSpec
>>> rows = [{"name": "random", "method": "random"}, {"name": "GM", "settings": {"lr": 0.5}}]
>>> spec = CompareSpec(rows=rows, steps=100, distillations=2)
>>> for job in all_jobs(spec, datasets.load("digits"), Path("runs/compare")):
...     print(job.title, job.spec.method, job.spec.steps, job.archs)
random, seed 0 random None ('D2-W32-relu-instancenorm-avgpooling',)
random, seed 1 random None ('D2-W32-relu-instancenorm-avgpooling',)
GM, seed 0 gm 100 ('D2-W32-relu-instancenorm-avgpooling',)
GM, seed 1 gm 100 ('D2-W32-relu-instancenorm-avgpooling',)

``compare(spec, Path("runs/compare"))`` does them and gives the
:class:`~proxynas.compare.table.Table`.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from .. import datasets
from ..core import files, hardware
from ..core.errors import RunFolderError
from ..core.progress import Watcher
from ..core.rundir import open_folder
from ..datasets import Dataset
from ..engine import LOCAL, Engine
from ..specs import CompareSpec
from .jobs import Job, all_jobs
from .table import Table, tabulate
from .worker import LOST, Result, lost, measure, prepare


def compare(
    spec: CompareSpec,
    folder: Path,
    *,
    workers: int | None = None,
    engine: Engine = LOCAL,
    watcher: Watcher | None = None,
) -> Table:
    """Make, or finish, the table that ``spec`` describes in ``folder``, with ``workers`` tasks at a
    time on ``engine``.

    A row that diverges, or whose settings turn out not to work, is a result; the others continue.
    Workers of a cluster write into ``folder``, so all of them must see it.

    Raises:
        SpecError, SpaceError: a row that cannot work, before anything is written.
        RunFolderError: the directory belongs to another comparison or other data, or cannot be
            written.
        WorkerError: workers cannot start; what was done stays in the directory.
    """
    watcher = watcher or Watcher()
    spec = replace(spec, device=hardware.check(spec.device))
    engine, folder = engine.on(spec.device), folder.resolve()
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    jobs = all_jobs(spec, dataset, folder)
    open_folder(spec, folder)
    results = {job.result: result for job in jobs if (result := _read(job, dataset)) is not None}
    missing = [job for job in jobs if job.result not in results]
    workers = min(len(missing), engine.workers(workers))
    watcher.say(_about(spec, len(jobs), len(results), workers))
    data = {"name": dataset.name, "fingerprint": dataset.fingerprint, "shape": list(dataset.shape)}
    if missing:
        watcher.comparing(len(results), len(jobs), "")
        work = partial(prepare, spec, dataset)
        with engine.opened(work, workers, apart=True) as mapped:
            for distils in (True, False):  # first those that make the sets of the others
                part = [job for job in missing if job.distils is distils]
                asked = [(job, _failed_before(job, results)) for job in part]
                known = [(job, found) for job, found in asked if found is not None]
                left = [job for job, found in asked if found is None]
                measured = mapped(measure, left, partial(lost, dataset.fingerprint))
                for job, result in chain(known, measured):
                    if result.failed != LOST:
                        files.write_text(job.result, json.dumps(result.to_dict(), indent=1) + "\n")
                        job.clean()
                    results[job.result] = result
                    watcher.comparing(len(results), len(jobs), job.title)
        watcher.ended()
    table = tabulate(spec, jobs, [results[job.result] for job in jobs], data)
    files.write_text(folder / "table.json", table.json())
    files.write_text(folder / "table.md", table.markdown())
    return table


def _failed_before(job: Job, results: Mapping[Path, Result]) -> Result | None:
    """What came of a job whose set another row was to make, but could not."""
    made = None if job.distils else results.get(job.maker)
    if made is None or made.failed is None or job.set().exists():
        return None
    return replace(made, row=job.row, job=job.fingerprint)


def _read(job: Job, dataset: Dataset) -> Result | None:
    """What is already known of a job.

    Raises:
        RunFolderError: it is damaged, or of other data or settings.
    """
    if not job.result.exists():
        return None
    try:
        result = TypeAdapter(Result).validate_json(job.result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunFolderError(
            f"{job.result} is not a readable result; remove it, and it is measured again"
        ) from None
    if result.fingerprint != dataset.fingerprint:
        raise RunFolderError(
            f"{job.result} is of other data than {dataset.name} is now; give another --out"
        )
    if result.job not in ("", job.fingerprint):
        raise RunFolderError(
            f"{job.result} is of other settings than row {job.row!r} has now; give another --out, "
            "or remove it"
        )
    return result


def _about(spec: CompareSpec, total: int, done: int, workers: int) -> str:
    counts = (
        f"{len(spec.rows)} rows × {spec.distillations} distillations × {spec.students} networks"
    )
    processes = f", {workers} worker(s)" if workers else ""
    resumed = f"; {done} of {total} sets found in the run directory" if done else ""
    return f"comparing: {counts}{processes}{resumed}"
