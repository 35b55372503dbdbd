"""What there is to do: one job a row and seed, all of them checked before the first one starts."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .. import distill, spaces
from ..core import settings
from ..core.errors import ProxynasError, SpecError
from ..datasets import Dataset
from ..distill.loop import plan
from ..specs import CompareSpec, DataSpec, DistillSpec, EvaluationSpec, Row
from . import evaluation

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One distillation and all that is measured of its set; it is sent to the process that does
    it."""

    row: str
    folder: Path
    slug: str  # the row's name in file names
    spec: DistillSpec
    evaluation: EvaluationSpec  # its architectures as the table calls them
    points: tuple[float, ...]  # parts of the seconds when the set is looked at; the last is 1
    made_by: str  # the slug of the first row that distils the same: its set is this job's

    @property
    def archs(self) -> tuple[str, ...]:
        """The networks that are trained on the set."""
        return self.evaluation.archs

    @property
    def distils(self) -> bool:
        """Whether its set is made by itself, and not by a row before."""
        return self.made_by == self.slug

    @property
    def title(self) -> str:
        """The row and the seed."""
        return f"{self.row}, seed {self.spec.seed}"

    @property
    def fingerprint(self) -> str:
        """Names what it does, wherever its data lie."""
        described: dict[str, Any] = {
            "distillation": settings.to_dict(self.spec),
            "evaluation": settings.to_dict(self.evaluation),
            "points": self.points,
        }
        for key in ("data", "data_root", "download"):
            described["distillation"].pop(key, None)
        files = sorted({arch.rpartition(":")[0] for arch in self.archs if ".toml:" in arch})
        if files:
            described["spaces"] = [spaces.load(path).fingerprint for path in files]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def result(self) -> Path:
        """Where its result is written."""
        return self._result(self.slug)

    @property
    def maker(self) -> Path:
        """Where the result is written of the job that makes its set, perhaps itself."""
        return self._result(self.made_by)

    def _result(self, slug: str) -> Path:
        return self.folder / "results" / f"{slug}-{self.spec.seed}.json"

    def set(self, point: float = 1.0) -> Path:
        """The proxy set, as it is at a part of the seconds."""
        part = "" if point == 1 else f".at-1-{round(1 / point)}"
        return self.folder / "sets" / f"{self.made_by}-{self.spec.seed}{part}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """How far its distillation is."""
        return self.folder / "sets" / f"{self.made_by}-{self.spec.seed}.checkpoint"

    def clean(self) -> None:
        """Remove what is only there to resume from."""
        self.checkpoint.unlink(missing_ok=True)
        for point in self.points[:-1]:
            self.set(point).unlink(missing_ok=True)


def all_jobs(spec: CompareSpec, dataset: Dataset, folder: Path) -> list[Job]:
    """All jobs, row by row.

    Raises:
        SpecError: two rows of one name, an unknown method or setting, a budget or ipc that cannot
            be, augmentation of tables, a published figure for a network that the row does not have.
        SpaceError: an unknown network, or one for other shapes.
    """
    for method, values in spec.settings.items():
        settings.make(distill.find(method).settings, values, where=f"settings.{method}")
    jobs: list[Job] = []
    for row in spec.rows:
        with _named(row.name):
            slug = _slug(row, {job.slug: job.row for job in jobs})
            of_row = [_job(spec, row, dataset, folder, slug, n) for n in range(spec.distillations)]
            _check(row, of_row[0], dataset)
        jobs += [_sharing(job, jobs) for job in of_row]
    return jobs


def label(arch: str) -> str:
    """What a network's column is called: as it is written, without the name of a usual space."""
    return arch.removeprefix(f"{spaces.EVALUATION}:").removeprefix(f"{evaluation.GRID}:")


def _sharing(job: Job, before: list[Job]) -> Job:
    """The job, with the set of an earlier one that distils the same, which is then not looked at on
    the way again."""
    same = next((other for other in before if other.spec == job.spec), None)
    return job if same is None else replace(job, made_by=same.made_by, points=job.points[-1:])


@contextmanager
def _named(row: str) -> Iterator[None]:
    try:
        yield
    except ProxynasError as error:
        raise type(error)(f"row {row!r}: {error}") from None


def _slug(row: Row, taken: dict[str, str]) -> str:
    slug = re.sub(r"\W+", "-", row.name.lower()).strip("-")
    if not slug:
        raise SpecError("name must have a letter or a digit, because files are called after it")
    if slug in taken:
        raise SpecError(
            f"its files would be called {slug!r}, and so would those of {taken[slug]!r}; "
            "rename one of them"
        )
    return slug


def _job(spec: CompareSpec, row: Row, dataset: Dataset, folder: Path, slug: str, n: int) -> Job:
    distillation = _distillation(spec, row, spec.seed + n)
    protocol = _or(row.protocol, spec.protocol)
    archs = evaluation.named(row.archs or spec.archs or None, dataset, protocol)
    return Job(
        row=row.name,
        folder=folder,
        slug=slug,
        spec=distillation,
        evaluation=EvaluationSpec(
            archs=tuple(dict.fromkeys(label(arch) for arch in archs)),
            students=spec.students,
            updates=_or(row.updates, spec.updates if row.extend is None else None),
            batch_size=_or(row.batch_size, spec.batch_size),
            protocol=protocol,
            augment=_or(row.augment, spec.augment),
            labels=row.labels,
            extend=row.extend,
            seed=distillation.seed,
        ),
        points=_points(distillation, spec.points),
        made_by=slug,
    )


def _distillation(spec: CompareSpec, row: Row, seed: int) -> DistillSpec:
    """The row's distillation; limits of the whole comparison do not apply to a coreset."""
    method = _or(row.method, spec.method)
    steps = distill.find(method).steps > 0
    return replace(
        settings.part(DistillSpec, settings.part(DataSpec, spec)),
        method=method,
        ipc=_or(row.ipc, spec.ipc),
        steps=_or(row.steps, spec.steps if steps else None),
        seconds=_or(row.seconds, spec.seconds) if steps else None,
        clock=spec.clock,
        settings={**spec.settings.get(method, {}), **row.settings},
        seed=seed,
    )


def _points(spec: DistillSpec, n: int) -> tuple[float, ...]:
    return (1.0,) if spec.seconds is None else tuple(2.0**-k for k in range(n - 1, -1, -1))


def _check(row: Row, job: Job, dataset: Dataset) -> None:
    plan(job.spec, dataset)
    evaluation.networks(job.archs, dataset, job.evaluation.protocol)
    augment = job.evaluation.augment
    if augment and not dataset.is_images:
        raise SpecError(
            f"augment = {augment!r} is for images, but {dataset.name} is a table; leave it out"
        )
    for arch in row.paper if isinstance(row.paper, dict) else ():
        if label(arch) not in job.archs:
            close = difflib.get_close_matches(arch, job.archs, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(job.archs)}"
            raise SpecError(
                f"paper has a figure for {arch!r}, which is no network of the row; {hint}"
            )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
