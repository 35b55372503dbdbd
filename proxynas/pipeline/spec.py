"""A search from the data to the report: the flags and TOML keys of ``proxynas search``."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.settings import NotNegative, Positive
from ..datasets.spec import DataSpec
from ..distill.spec import DistillSpec
from ..training import Recipe

Baseline = Literal["random", "early-stopping", "zero-cost"]


@checked(frozen=True, config=settings.CONFIG)
class SearchSpec(DataSpec):
    """``proxynas search``: the proxy set, the candidates and how they are trained.

    ``proxy`` is a proxy-set file or the name of a shipped one; without it a set is distilled by ``method`` with
    ``settings``, for ``steps`` steps (by default 400, or the method's own number if that is smaller). ``also`` are
    further sets, compared in the same run.

    Candidates are trained by SGD with momentum 0.9 and weight decay 5e-4 (Zhao 2021); ``training`` changes any field of
    :class:`~proxynas.Recipe`. They are scored on ``val_size`` validation images, ``val_points`` times a run,
    after their batch norms have seen ``calibrate`` real training images (0: none). ``space_settings`` replaces fixed
    settings of the space, ``zero_cost_settings`` those of the networks that zero-cost indicators look at (by default
    the same: a space may be shrunk for training alone), ``distinct`` samples no two isomorphic candidates, ``combine``
    ranks by mean ranks as well (``"sotl+synflow"``).

    ``truth`` is a table's path, ``auto`` (the one that ships or is installed for this space and data, if there is one)
    or ``none``; ``truth_data`` is what its data are called, where that is not the name of ours. ``tables`` are further
    ones, by the name of their row: accuracies measured elsewhere (after fewer epochs, say), ranked beside ours. Nothing
    is picked by them, so that test accuracies may stand there as a yardstick.
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

    def recipe(self) -> Recipe:
        """How a candidate is trained on a proxy set.

        Raises:
            SpecError: ``training`` has an unknown field or a wrong value.
        """
        own = {"updates": self.updates, "batch_size": self.batch_size, "lr": self.lr, **self.training}
        return settings.make(Recipe, own, where="training")

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
