"""One job: distil a set, train networks on it, measure both. It runs in a process of its own."""

import platform
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from typing import Any

from ..core import hardware
from ..core.errors import (
    DataError,
    DivergedError,
    RunFolderError,
    SpaceError,
    SpecError,
    out_of_memory,
)
from ..core.text import reason as described
from ..datasets import Dataset
from ..distill import find
from ..distill.loop import plan
from ..distill.reuse import Destination, reuse_or_distill
from ..proxyset import ProxySet
from ..specs import CompareSpec
from . import evaluation
from .jobs import Job

LOOKS = 2
"""Networks that are trained at each point on the way, of the first architecture, and tested on the
validation split."""


LOST = "lost"
"""What a result says that a machine did not suffice for: it is not kept, so that the next run tries
again."""
AGAIN = "rerun to try again, perhaps with fewer --workers"
MEASURED = ("seconds", "core_seconds", "peak_mib", "base_mib", "steps", "made_on")
"""Entries of a set's provenance that a result has as well."""


@dataclass(frozen=True)
class Result:
    """What was measured of one set; or, where there is none, why.

    ``accuracies`` are those of each network on the test split, in [0, 1], by architecture; a failed
    network counts 0. ``curve`` has what was seen on the way: ``part`` of the seconds, ``seconds``,
    ``steps`` and the mean ``accuracy`` on the validation split. ``base_mib`` is the process's
    memory before it began to distil, the data among it, and ``peak_mib`` its highest until the last
    step, experts that were trained for it included.
    """

    row: str
    seed: int
    fingerprint: str  # of the data
    failed: str | None = None  # "diverged", "failed", or LOST
    reason: str = ""
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0  # wall
    core_seconds: float = 0.0
    peak_mib: float = 0.0
    base_mib: float = 0.0
    steps: int = 0
    made_on: str = ""
    job: str = ""  # the fingerprint of what was done

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def memory_mib(self) -> float:
        """Memory of the distillation itself: what it took at most beyond what was in use before."""
        return max(0.0, self.peak_mib - self.base_mib)


def prepare(spec: CompareSpec, dataset: Dataset) -> Dataset:
    """The data on the device, all of them read once: they are in the memory of this process before
    it begins to measure."""
    for split in (dataset.train, dataset.val, dataset.test):
        split.x.sum(), split.y.sum()
    return dataset.to(spec.device)


def lost(fingerprint: str, job: Job, reason: str) -> tuple[Job, Result]:
    """The result of a job whose worker died again and again."""
    return job, Result(
        job.row, job.spec.seed, fingerprint, failed=LOST, reason=f"{reason}; {AGAIN}"
    )


def measure(dataset: Dataset, job: Job) -> tuple[Job, Result]:
    """Do a job, or finish it.

    A distillation that diverges or cannot be done is a result; one that memory did not suffice for
    is :data:`LOST`.

    Raises:
        RunFolderError, ProxyFileError: the folder cannot be written, or what is in it is damaged or
            of other data; or a worker on another machine does not see it.
    """
    if not job.folder.is_dir():
        raise RunFolderError(
            f"there is no {job.folder} on {platform.node()}, where a worker would write into it; "
            "give an --out that all nodes of the cluster share"
        )
    here = hardware.describe(job.spec.device)
    empty = Result(job.row, job.spec.seed, dataset.fingerprint, made_on=here, job=job.fingerprint)
    try:
        sets = distilled(dataset, job)
        accuracies, curve = evaluated(dataset, job, sets)
    except Exception as error:
        if out_of_memory(error):
            return job, replace(empty, failed=LOST, reason=f"{described(error)}; {AGAIN}")
        if not isinstance(error, (DivergedError, SpecError, SpaceError, DataError)):
            raise
        kind = "diverged" if isinstance(error, DivergedError) else "failed"
        return job, replace(empty, failed=kind, reason=str(error))
    about = sets[1.0].provenance
    measured = {key: about[key] for key in MEASURED}
    return job, replace(empty, accuracies=accuracies, curve=curve, **measured)


def distilled(dataset: Dataset, job: Job) -> dict[float, ProxySet]:
    """The job's set, and as it was on the way, by the part of the seconds; each is written
    as soon as it is known.

    Nothing is evaluated here, so that neither time nor memory of that is in what is measured. A
    point that comes before the shared experts are paid for is left out.
    """
    base = hardware.reset_peak(job.spec.device)
    shared = _shared_seconds(dataset, job)
    sets = {}
    for point in job.points:
        seconds = None if job.spec.seconds is None else job.spec.seconds * point
        if point < 1 and seconds is not None and seconds <= shared:
            continue
        sets[point] = reuse_or_distill(
            Destination(job.set(point), job.checkpoint),
            replace(job.spec, seconds=seconds),
            dataset,
            provenance={"base_mib": round(base, 1)},
        )
    return sets


def evaluated(
    dataset: Dataset, job: Job, sets: dict[float, ProxySet]
) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Accuracies on the test split by architecture, and the curve of validation accuracy."""
    accuracies: dict[str, list[float]] = {}
    curve = []
    networks = evaluation.networks(job.archs, dataset, job.evaluation.protocol)
    columns = list(zip(networks, job.archs, strict=True))
    for point, proxy in sets.items():
        end = point == 1
        looks: list[float] = []
        trainer = evaluation.prepared(proxy, job.evaluation, dataset.train.x.device)
        for (space, arch), name in columns if end else columns[:1]:
            count = job.evaluation.students if end else LOOKS
            trained = [trainer.network(space, arch, number) for number in range(count)]
            looks = looks or [evaluation.accuracy(net, dataset.val) for net in trained[:LOOKS]]
            if end:
                accuracies[name] = [evaluation.accuracy(net, dataset.test) for net in trained]
        about = proxy.provenance
        seconds = about["core_seconds" if job.spec.core_clock else "seconds"]
        curve.append(
            {"part": point, "seconds": seconds, "steps": about["steps"], "accuracy": mean(looks)}
        )
    return accuracies, curve


def _shared_seconds(dataset: Dataset, job: Job) -> float:
    """Seconds of what is shared with other distillations; it is made first where missing."""
    method = find(job.spec.method)
    if method.prepare is None:
        return 0.0
    shared = method.prepare(plan(job.spec, dataset)[0], lambda done, total: None)
    return shared.core_seconds if job.spec.core_clock else shared.seconds
