"""A table of methods: the TOML keys of ``proxynas compare`` and of its rows."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.errors import SpecError
from ..core.settings import NotNegative, Positive
from ..datasets.augment import Strategy
from ..datasets.spec import DataSpec
from ..distill.spec import Clock
from ..training import GoingOn

Protocol = Literal["zhao", "loo"]
"""Whose way of training a network on a set: see :func:`proxynas.compare.evaluation.recipe`."""


@checked(frozen=True, config=settings.CONFIG)
class Row:
    """A row of a comparison: a method and its settings, laid over what the comparison says of that method.

    What is ``None`` is as the comparison says. ``labels`` is ``hard`` where networks are trained on the likeliest class
    of every image, by cross-entropy, and not on the labels that the set has. ``going_on`` is how they are trained past
    the steps that the set was distilled for, and so for how many updates, unless the row's own ``updates`` says
    otherwise. ``paper`` has published figures, shown as they are written: one for each architecture, or a single one
    for the first. Rows that distil the same share their sets.
    """

    name: str
    method: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    ipc: Positive | None = None
    steps: NotNegative | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    archs: tuple[str, ...] | None = None
    protocol: Protocol | None = None
    updates: Positive | None = None
    batch_size: Positive | None = None
    augment: Strategy | None = None
    labels: Literal["own", "hard"] = "own"
    going_on: GoingOn | None = None
    paper: str | dict[str, str] = ""


def _rows(found: Any) -> Any:
    """Rows are checked one by one, so that an error says which one it is of."""
    if not isinstance(found, list | tuple) or not found:
        raise SpecError("rows must have at least one row; write [[rows]], then name = … and method = …")
    return tuple(
        settings.make(Row, row, where=f"row {row.get('name', n + 1)!r}") if isinstance(row, dict) else row
        for n, row in enumerate(found)
    )


@checked(frozen=True, config=settings.CONFIG)
class CompareSpec(DataSpec):
    """``proxynas compare``: rows of a table, and what they have in common unless they say otherwise.

    Every row is distilled ``distillations`` times, with ``seed``, ``seed`` + 1, …, each until ``steps`` or ``seconds``
    end it, whichever comes first (``clock``: see :class:`DistillSpec`). ``students`` networks of each architecture are
    trained on every set, as ``proxynas evaluate`` does with the same ``archs``, ``protocol``, ``updates`` and
    ``augment``; ``batch_size`` is images an update. ``points`` is how often a distillation limited by seconds is looked
    at, at 1, 1/2, 1/4 … of them. ``settings`` are those of methods, by the method's name.
    """

    rows: Annotated[tuple[Row, ...], BeforeValidator(_rows)] = ()
    method: str = "gm"
    ipc: Positive = 1
    steps: NotNegative | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    clock: Clock = "wall"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    distillations: Positive = 3
    students: Positive = 5
    archs: tuple[str, ...] = ()
    protocol: Protocol = "zhao"
    updates: Positive | None = None
    batch_size: Positive | None = None
    augment: Strategy | None = None
    points: Annotated[int, Field(ge=1, le=10)] = 4
    seed: NotNegative = 0
