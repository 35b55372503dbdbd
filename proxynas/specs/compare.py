"""How networks are trained on a proxy set and tested, and tables of such accuracies."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.errors import SpecError
from .data import DataSpec
from .distill import ClockOption, Seed
from .option import (
    COMPARISON,
    EVALUATION,
    NotNegative,
    Option,
    Positive,
    PositiveNumber,
    Repeats,
    Updates,
)
from .recipe import Strategy

Protocol = Literal["zhao2021", "loo2023"]
"""Whose way of training a network on a set: see :func:`proxynas.compare.evaluation.recipe`."""


@checked(frozen=True, config=settings.CONFIG)
class Extension:
    """Training past the distilled steps, ``times`` as many in all, by a strategy of Medvedev &
    D'yakonov 2020, §5.3.

    ``1``: other rates instead of the learned ones. ``2``: all epochs over and over, the
    learned rates multiplied by ``decay`` each time. ``3``: the last epoch over and over, likewise.
    """

    strategy: Literal[1, 2, 3]
    times: Annotated[int, Field(ge=1, le=1000)] = 10
    rate: PositiveNumber = 0.3  # where the first strategy's begin
    decay: Annotated[float, Field(gt=0, le=1)] = 0.98  # of the second's and third's


@checked(frozen=True, config=settings.CONFIG)
class EvaluationSpec:
    """``proxynas evaluate``: which networks are trained on a set, how often, and by whose
    recipe."""

    archs: Annotated[
        tuple[str, ...],
        Option(
            "Network to train: convnet, lenet, alexnet, vgg11, resnet18, mlp, all (those six), "
            "vit, or an architecture of --space. Repeatable. Default: the student of Zhao 2021, "
            "for tables mlp.",
            EVALUATION,
            flag="--arch",
            metavar="NAME",
        ),
    ] = ()
    space: Annotated[
        str | None, Option("Where --arch is looked up, instead of the ConvNets.", EVALUATION)
    ] = None
    students: Annotated[
        Repeats, Option("Networks to train per architecture.", EVALUATION, flag="--runs")
    ] = 5
    updates: Annotated[
        Updates | None,
        Option("Optimiser updates of each. Default: as published.", EVALUATION),
    ] = None
    batch_size: Annotated[
        Positive | None, Option("Batch size. Default: as published.", EVALUATION)
    ] = None
    protocol: Annotated[
        Protocol, Option("Whose recipe: Zhao 2021's, or Loo 2023's (for rcig).", EVALUATION)
    ] = "zhao2021"
    augment: Annotated[
        Strategy | None,
        Option(
            "Augmentation while networks are trained, such as crop+scale+rotate: one of color, "
            "crop, cutout, flip, scale and rotate per batch. Or zhao2021: each image is shifted, "
            "scaled or turned by up to 45°, as that paper's code does on MNIST.",
            EVALUATION,
        ),
    ] = None
    labels: Literal["stored", "hard"] = "stored"
    extend: Annotated[
        Extension | None,
        Option(
            "Train past the steps that the set was distilled for, by a strategy of Medvedev 2020, "
            "such as --extend strategy=3. Further keys: times=10 as many steps in all, decay=0.98, "
            "rate=0.3. Repeatable.",
            EVALUATION,
            metavar="KEY=VALUE",
        ),
    ] = None
    seed: Seed = 0


@checked(frozen=True, config=settings.CONFIG)
class Row:
    """A row of a comparison: a method and its settings, laid over what the comparison says of that
    method.

    What is ``None`` is as the comparison says. ``labels`` is ``hard`` where networks are trained on
    the likeliest class of every image, by cross-entropy, and not on the labels that the set has.
    ``extend`` is how they are trained past the steps that the set was distilled for, and so for how
    many updates, unless the row's own ``updates`` says otherwise. ``paper`` has published figures,
    shown as they are written: one for each architecture, or a single one for the first. Rows that
    distil the same share their sets.
    """

    name: str
    method: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    ipc: Positive | None = None
    steps: NotNegative | None = None
    seconds: PositiveNumber | None = None
    archs: tuple[str, ...] | None = None
    protocol: Protocol | None = None
    updates: Updates | None = None
    batch_size: Positive | None = None
    augment: Strategy | None = None
    labels: Literal["stored", "hard"] = "stored"
    extend: Extension | None = None
    paper: str | dict[str, str] = ""


def _rows(rows: Any) -> Any:
    """Rows are checked one by one, so that an error says which one it is of."""
    if not isinstance(rows, list | tuple) or not rows:
        raise SpecError(
            "rows must have at least one row; write [[rows]], then name = … and method = …"
        )
    return tuple(
        settings.make(Row, row, where=f"row {row.get('name', n + 1)!r}")
        if isinstance(row, dict)
        else row
        for n, row in enumerate(rows)
    )


@checked(frozen=True, config=settings.CONFIG)
class CompareSpec(DataSpec):
    """``proxynas compare``: rows of a table, and what they have in common unless they say
    otherwise.

    Every row is distilled ``distillations`` times, with ``seed``, ``seed`` + 1, …, each until
    ``steps`` or ``seconds`` end it, whichever comes first. ``students`` networks of each
    architecture are trained on every set, as ``proxynas evaluate`` does with the same ``archs``,
    ``protocol``, ``updates``, ``batch_size`` and ``augment``. ``points`` is how often a
    distillation limited by seconds is looked at, at 1, 1/2, 1/4 … of them. ``settings`` are those
    of methods, by the method's name.
    """

    rows: Annotated[tuple[Row, ...], BeforeValidator(_rows)] = ()
    method: str = "gm"
    ipc: Positive = 1
    steps: NotNegative | None = None
    seconds: Annotated[
        PositiveNumber | None,
        Option("Limit of each distillation; rows that set one keep it.", COMPARISON),
    ] = None
    clock: ClockOption = "wall"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    distillations: Annotated[Repeats, Option("Proxy sets per row.", COMPARISON)] = 3
    students: Annotated[Repeats, Option("Networks per architecture and set.", COMPARISON)] = 5
    archs: tuple[str, ...] = ()
    protocol: Protocol = "zhao2021"
    updates: Updates | None = None
    batch_size: Positive | None = None
    augment: Strategy | None = None
    points: Annotated[int, Field(ge=1, le=10)] = 4
    seed: Seed = 0
