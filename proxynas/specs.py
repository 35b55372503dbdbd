"""The settings of each stage, one frozen dataclass each: what the flags and the TOML keys of a command are."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass as checked

from . import datasets, settings, train
from .augment import Strategy
from .curriculum import GoingOn
from .datasets import Dataset
from .errors import SpecError

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Clock = Literal["wall", "core"]
Baseline = Literal["random", "early-stopping", "zero-cost"]
Protocol = Literal["zhao", "loo"]
"""Whose way of training a network on a set: see :func:`proxynas.evaluation.recipe`."""


@checked(frozen=True, config=settings.CONFIG)
class DataSpec:
    """Which real data: a name, a folder of images or a CSV table, where it is, and how it is decoded.

    ``zca`` whitens images with that strength (0.1 as published for colour images).
    """

    data: str = "digits"
    data_root: str | None = None
    download: bool = False
    image_size: Positive | None = None
    zca: Annotated[float, Field(gt=0)] | None = None
    device: str = "cpu"

    def dataset(self, progress: Callable[[int, int], None] | None = None) -> Dataset:
        """Load the data; see :func:`proxynas.datasets.load`."""
        root = None if self.data_root is None else Path(self.data_root)
        return datasets.load(
            self.data,
            root,
            download=self.download,
            image_size=self.image_size,
            whiten=self.zca,
            device=self.device,
            progress=progress,
        )


@checked(frozen=True, config=settings.CONFIG)
class DistillSpec(DataSpec):
    """``proxynas distill``: how a proxy set is made. ``steps`` or ``seconds`` ends it, whichever comes first.

    ``clock`` says which seconds: those on the wall, or those of all cores together (``core``), which other work on the
    machine does not shorten; a GPU has the wall's.
    """

    method: str = "gm"
    ipc: Positive = 1
    steps: Annotated[int, Field(ge=0)] | None = None  # None: the method's own default
    seconds: Annotated[float, Field(gt=0)] | None = None
    clock: Clock = "wall"
    settings: dict[str, Any] = Field(default_factory=dict)  # the method's own
    seed: NotNegative = 0

    @property
    def core_clock(self) -> bool:
        """Whether core seconds limit it."""
        return self.clock == "core" and self.device == "cpu"


@checked(frozen=True, config=settings.CONFIG)
class TruthSpec(DataSpec):
    """``proxynas truth``: which candidates are trained on the whole real data, and how long."""

    space: str = "convnet-grid"
    space_settings: dict[str, Any] = Field(default_factory=dict)
    candidates: Positive | None = None  # None: the whole space
    seeds: Positive = 3
    epochs: Positive = 12
    batch_size: Positive = 25
    lr: Annotated[float, Field(gt=0)] = 0.01
    seed: NotNegative = 0

    def recipe(self, n: int) -> train.Recipe:
        """SGD with momentum 0.9, weight decay 5e-4 and a cosine to zero, for ``epochs`` passes over ``n`` images."""
        updates = max(1, self.epochs * n // min(n, self.batch_size))
        return train.Recipe(updates=updates, batch_size=self.batch_size, lr=self.lr, schedule="cosine")


@checked(frozen=True, config=settings.CONFIG)
class SearchSpec(DataSpec):
    """``proxynas search``: the proxy set, the candidates and how they are trained.

    ``proxy`` is a proxy-set file or the name of a shipped one; without it a set is distilled by ``method`` with
    ``settings``, for ``steps`` steps (by default 400, or the method's own number if that is smaller). ``also`` are
    further sets, compared in the same run.

    Candidates are trained by SGD with momentum 0.9 and weight decay 5e-4 (Zhao 2021); ``training`` changes any field of
    :class:`~proxynas.train.Recipe`. They are scored on ``val_size`` validation images, ``val_points`` times a run,
    after their batch norms have seen ``calibrate`` real training images (0: none). ``space_settings`` replaces fixed
    settings of the space, ``zero_cost_settings`` those of the networks that zero-cost indicators look at (by default
    the same: a space may be shrunk for training alone), ``distinct`` samples no two isomorphic candidates, ``combine``
    ranks by mean ranks as well (``"sotl+synflow"``).

    ``truth`` is a table's path, ``auto`` (the one that ships or is installed for this space and data, if there is one)
    or ``none``; ``truth_data`` is what its data are called, where that is not the name of ours. ``tables`` are further
    ones, by the name of their row: accuracies measured elsewhere (after fewer epochs, say), ranked beside ours.
    """

    space: str = "convnet-grid"
    space_settings: dict[str, Any] = Field(default_factory=dict)
    zero_cost_settings: dict[str, Any] = Field(default_factory=dict)
    proxy: str | None = None
    method: str = "gm"
    ipc: Positive = 1
    steps: Annotated[int, Field(ge=0)] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    also: tuple[str, ...] = ()
    baselines: tuple[Baseline, ...] = ("random", "early-stopping", "zero-cost")
    candidates: Positive = 60
    distinct: bool = False
    seeds: Positive = 2
    updates: Positive = 100
    batch_size: Positive = 256
    lr: Annotated[float, Field(gt=0)] = 0.01
    training: dict[str, Any] = Field(default_factory=dict)
    val_size: Positive = 1000
    val_points: Positive = 1
    calibrate: NotNegative = 256
    combine: tuple[str, ...] = ()
    truth: str = "auto"
    truth_data: str | None = None
    tables: dict[str, str] = Field(default_factory=dict)
    indicator: str = "auto"
    seed: NotNegative = 0

    def recipe(self) -> train.Recipe:
        """How a candidate is trained on a proxy set.

        Raises:
            SpecError: ``training`` has an unknown field or a wrong value.
        """
        own = {"updates": self.updates, "batch_size": self.batch_size, "lr": self.lr, **self.training}
        return settings.make(train.Recipe, own, where="training")

    def distillation(self) -> DistillSpec:
        """The settings of the distillation that this search starts with."""
        return DistillSpec(
            data=self.data,
            data_root=self.data_root,
            download=self.download,
            image_size=self.image_size,
            zca=self.zca,
            device=self.device,
            method=self.method,
            ipc=self.ipc,
            steps=self.steps,
            settings=self.settings,
            seed=self.seed,
        )


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
