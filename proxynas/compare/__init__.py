"""A table of accuracies, as papers have them: rows are methods and their settings, columns are
networks.

Every row is distilled several times under one limit, networks are trained on every set, and the
table has their mean ± sd beside published figures. Rows that distil the same share their sets. In
its folder:

spec.toml                       what was asked for; a folder belongs to one spec
sets/<row>-<seed>.safetensors   the proxy set; .at-1-8 and so on: as it was at that part of its seconds
sets/<row>-<seed>.checkpoint    how far that distillation is, while it runs
results/<row>-<seed>.json       what was measured of a set: accuracies, seconds, memory
table.json, table.md            written at the end

The same command again goes on where it stopped and redoes nothing. Where steps limit the
distillations an interrupted comparison has the accuracies of an uninterrupted one. Where seconds do
it cannot: no two runs do the same number of steps in the same time, interrupted or not.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from .. import datasets
from ..core import files, hardware
from ..core.errors import RunFolderError
from ..core.progress import Watcher
from ..core.rundir import open_folder
from ..datasets import Dataset
from ..search.pool import map_apart, processes
from ..specs import CompareSpec
from .jobs import Job, all_jobs
from .table import Table, tabulate
from .worker import Result, measure, prepare


def compare(
    spec: CompareSpec, folder: Path, *, workers: int | None = None, watcher: Watcher | None = None
) -> Table:
    """Make, or finish, the table that ``spec`` describes in ``folder``, with ``workers`` processes
    at a time.

    A row that diverges, or whose settings turn out not to work, is a result; the others go on. On a
    GPU there is one process at a time.

    Raises:
        SpecError, SpaceError: a row that cannot work, before anything is written.
        RunFolderError: the folder belongs to another comparison or other data, or cannot be
            written.
        WorkerError: a process died; what was done stays in the folder.
    """
    watcher = watcher or Watcher()
    spec = replace(spec, device=hardware.check(spec.device))
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    wanted = all_jobs(spec, dataset, folder)
    open_folder(spec, folder)
    found = {job.result: result for job in wanted if (result := _read(job, dataset)) is not None}
    left = [job for job in wanted if job.result not in found]
    workers = min(len(left), processes(spec.device, workers))
    watcher.say(_about(spec, len(wanted), len(found), workers))
    data = {"name": dataset.name, "fingerprint": dataset.fingerprint, "shape": list(dataset.shape)}
    del dataset  # every process has its own
    if left:
        watcher.comparing(len(found), len(wanted), "")
        for part in (
            [job for job in left if job.distils],
            [job for job in left if not job.distils],
        ):  # sets are there
            for job, result in map_apart(measure, part, partial(prepare, spec), workers):
                files.write_text(job.result, json.dumps(result.to_dict(), indent=1) + "\n")
                job.clean()
                found[job.result] = result
                watcher.comparing(len(found), len(wanted), job.title)
        watcher.ended()
    table = tabulate(spec, wanted, [found[job.result] for job in wanted], data)
    files.write_text(folder / "table.json", table.json())
    files.write_text(folder / "table.md", table.markdown())
    return table


def _read(job: Job, dataset: Dataset) -> Result | None:
    """What is already known of a job.

    Raises:
        RunFolderError: it is damaged, or of other data.
    """
    if not job.result.exists():
        return None
    try:
        found = TypeAdapter(Result).validate_json(job.result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunFolderError(
            f"{job.result} is not a readable result; remove it, and it is measured again"
        ) from None
    if found.fingerprint != dataset.fingerprint:
        raise RunFolderError(
            f"{job.result} is of other data than {dataset.name} is now; give another --out"
        )
    return found


def _about(spec: CompareSpec, total: int, found: int, workers: int) -> str:
    told = f"comparing: {len(spec.rows)} rows × {spec.distillations} distillations × {spec.students} networks"
    there = f"; {found} of {total} sets found in the run folder" if found else ""
    return f"{told}, {workers} worker(s){there}" if workers else f"{told}{there}"
