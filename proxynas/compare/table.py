"""The table itself: results put together, as JSON, as Markdown and for the terminal."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from .. import __version__
from ..core import settings
from ..core.text import markdown
from ..specs import CompareSpec, Row
from .jobs import Job, label
from .worker import Result


@dataclass(frozen=True)
class Cell:
    """Accuracy in [0, 1] on the test split of one row and architecture, over ``n`` networks of all
    its sets.

    ``sd_sets`` is the deviation between the means of the sets, ``None`` where there is one set.
    ``paper`` is the published figure as it was written, or empty.
    """

    mean: float
    sd: float
    sd_sets: float | None
    n: int
    paper: str


@dataclass(frozen=True)
class Line:
    """A row of the table. Times and steps are means over the sets that there are, memory is the
    largest of them."""

    name: str
    method: str
    settings: dict[str, Any]
    ipc: int
    archs: tuple[str, ...]
    sets: int
    failed: tuple[str, ...]  # one word per set that is not there
    reasons: tuple[str, ...]
    cells: dict[str, Cell]  # by architecture
    paper: dict[str, str]  # by architecture
    seconds: float | None  # wall
    core_seconds: float | None
    steps: float | None
    peak_mib: float | None  # of the process or, on a GPU, of what was allocated
    memory_mib: float | None  # beyond what was in use before distilling began
    # seconds, steps and validation accuracy at each point, and of how many sets
    curve: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Table:
    """All rows and where they come from."""

    spec: CompareSpec
    data: dict[str, Any]
    hardware: tuple[str, ...]
    archs: tuple[str, ...]
    lines: tuple[Line, ...]

    def json(self) -> str:
        """All that is known, as JSON."""
        contents = {
            "spec": settings.to_dict(self.spec),
            "data": self.data,
            "hardware": list(self.hardware),
            "versions": {"proxynas": __version__, "torch": torch.__version__},
            "rows": [asdict(line) for line in self.lines],
        }
        return json.dumps(contents, indent=1, ensure_ascii=False) + "\n"

    def markdown(self) -> str:
        """The table as GitHub shows it, and what it says under it."""
        cells = (self._head(), *self._body())
        head, *rows = ([markdown(cell) for cell in row] for row in cells)
        ruler = ["---", *("---:" for _ in head[1:])]
        lines = [f"| {' | '.join(row)} |" for row in (head, ruler, *rows)]
        notes = [f"{markdown(note)}  " for note in self.notes()]
        return "\n".join([*lines, "", *notes]) + "\n"

    def rich(self) -> RichTable:
        """The table for the terminal."""
        first, *others = self._head()
        table = RichTable(title=f"test accuracy % on {self.data['name']}", box=SIMPLE_HEAD)
        table.add_column(first, overflow="fold")
        for name in others:
            table.add_column(name, justify="right", overflow="fold")
        for row in self._body():
            table.add_row(*row)
        return table

    def notes(self) -> list[str]:
        """What the figures are, and why some are missing."""
        sets, networks = self.spec.distillations, self.spec.students
        notes = [
            f"Accuracy in % on the test split of {self.data['name']}, mean ± sd over {sets} "
            f"distillations × {networks} networks; steps and seconds ({self.clock}) are means over "
            "distillations, memory is what the largest of them took beyond the data and the "
            "process itself.",
            f"Measured on {', '.join(self.hardware)}.",
        ]
        for line in self.lines:
            for kind in dict.fromkeys(line.failed):
                reason = line.reasons[line.failed.index(kind)]  # the first stands for all
                count = line.failed.count(kind)
                notes.append(f"{line.name}: {count} of {line.sets} {kind}: {reason}")
        return notes

    @property
    def clock(self) -> str:
        """Which seconds the table shows."""
        return "of all cores together" if self.spec.clock == "core" else "wall-clock"

    def _head(self) -> list[str]:
        columns: list[str] = []
        for arch in self.archs:
            columns += [arch, "paper"] if self._published(arch) else [arch]
        return ["row", *columns, "steps", "seconds", "memory MiB"]

    def _body(self) -> Iterable[list[str]]:
        for line in self.lines:
            figures = []
            for arch in self.archs:
                figures.append(_figure(line, arch))
                if self._published(arch):
                    figures.append(line.paper.get(arch, ""))
            seconds = line.core_seconds if self.spec.clock == "core" else line.seconds
            cost = [_number(line.steps, 0), _number(seconds, 1), _number(line.memory_mib, 0)]
            yield [line.name, *figures, *cost]

    def _published(self, arch: str) -> bool:
        return any(line.paper.get(arch) for line in self.lines)


def tabulate(
    spec: CompareSpec, jobs: Sequence[Job], results: Sequence[Result], data: dict[str, Any]
) -> Table:
    """Put the results of all jobs, in their order, together; ``data`` has at least the ``name`` of
    the data."""
    of_row: dict[str, list[tuple[Job, Result]]] = {}
    for job, result in zip(jobs, results, strict=True):
        of_row.setdefault(job.row, []).append((job, result))
    lines = tuple(_line(row, *zip(*of_row[row.name], strict=True)) for row in spec.rows)
    archs = tuple(dict.fromkeys(arch for job in jobs for arch in job.archs))
    return Table(spec, data, tuple(sorted({result.made_on for result in results})), archs, lines)


def _line(row: Row, jobs: Sequence[Job], results: Sequence[Result]) -> Line:
    job, good = jobs[0], [result for result in results if result.failed is None]
    failed = [result for result in results if result.failed is not None]
    paper = _published(row, job)
    cells = {}
    if good:
        for arch in job.archs:
            of_sets = [result.accuracies[arch] for result in good]
            cells[arch] = _cell(of_sets, paper.get(arch, ""))
    return Line(
        name=row.name,
        method=job.spec.method,
        settings=job.spec.settings,
        ipc=job.spec.ipc,
        archs=job.archs,
        sets=len(results),
        failed=tuple(str(result.failed) for result in failed),
        reasons=tuple(result.reason for result in failed),
        cells=cells,
        paper=paper,
        seconds=_mean(result.seconds for result in good),
        core_seconds=_mean(result.core_seconds for result in good),
        steps=_mean(result.steps for result in good),
        peak_mib=max((result.peak_mib for result in good), default=None),
        memory_mib=max((result.memory_mib for result in good), default=None),
        curve=_curve(job, good),
    )


def _published(row: Row, job: Job) -> dict[str, str]:
    """The published figures of a row, by architecture."""
    if isinstance(row.paper, dict):
        return {label(arch): figure for arch, figure in row.paper.items()}
    return {label(job.archs[0]): row.paper} if row.paper else {}


def _cell(of_sets: list[list[float]], paper: str) -> Cell:
    every = [value for each in of_sets for value in each]
    means = [mean(each) for each in of_sets]
    sd = stdev(every) if len(every) > 1 else 0.0
    return Cell(mean(every), sd, stdev(means) if len(means) > 1 else None, len(every), paper)


def _curve(job: Job, results: Sequence[Result]) -> tuple[dict[str, float], ...]:
    """Means over the sets that were looked at, at each part of the seconds."""
    curve = []
    for part in job.points:
        looks = [point for result in results for point in result.curve if point["part"] == part]
        if looks:
            keys = ("seconds", "steps", "accuracy")
            means = {key: mean(look[key] for look in looks) for key in keys}
            curve.append({"part": part, **means, "sets": len(looks)})
    return tuple(curve)


def _figure(line: Line, arch: str) -> str:
    """One accuracy; what became of the sets that are not there."""
    if arch not in line.archs:
        return "–"
    failed = line.failed[0] if line.failed else ""
    if not line.cells:
        return failed
    cell = line.cells[arch]
    short = f" ({len(line.failed)} of {line.sets} {failed})" if failed else ""
    return f"{100 * cell.mean:.1f} ± {100 * cell.sd:.1f}{short}"


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return mean(listed) if listed else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
