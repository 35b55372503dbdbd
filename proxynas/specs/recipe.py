"""How a network is trained, whatever on."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .option import NotNegative, Positive, PositiveNumber, Updates

Loss = Literal["cross-entropy", "l1", "mse"]

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""Augmentations that :mod:`proxynas.datasets.augment` has."""
ZHAO2021 = "zhao2021"
"""The one that stands alone: an operation for every image, as the code of Zhao 2021 evaluates with
on MNIST."""


def check_operations(strategy: str) -> str:
    """The strategy itself.

    Raises:
        ValueError: an operation is unknown.
    """
    if strategy == ZHAO2021:
        return strategy
    for name in strategy.split("+") if strategy else ():
        if name not in OPERATIONS:
            known = f"{', '.join(OPERATIONS)}, or {ZHAO2021} alone"
            raise ValueError(
                f"operations joined by '+' are expected, of {known}; there is no {name!r}"
            )
    return strategy


Strategy = Annotated[str, AfterValidator(check_operations)]
"""A setting that names operations joined by ``+``, or ``zhao2021``; empty for none."""


@checked(frozen=True, config=settings.CONFIG)
class Recipe:
    """How a network is trained: ``updates`` steps on batches of ``batch_size`` images.

    ``schedule`` is what the learning rate does: nothing, a tenth from half of the updates on, or a
    cosine to zero. In the first ``warmup`` updates it rises linearly, and the schedule is that of
    what is left. Labels may be hard (class indices) or soft (one row per class distribution, or
    logits for ``l1`` and ``mse``). ``augment`` names operations joined by ``+``
    (:mod:`proxynas.datasets.augment`); each batch is treated by one of them, with parameters of its
    own for every image. ``zhao2021`` draws an operation for every image, too.
    """

    updates: Updates = 100
    batch_size: Positive = 256
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: PositiveNumber = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = 5e-4
    schedule: Literal["constant", "step", "cosine"] = "constant"
    warmup: NotNegative = 0
    loss: Loss = "cross-entropy"
    augment: Strategy = ""

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum == 0 or self.optimizer != "sgd"):
            raise ValueError(
                "nesterov takes sgd with a momentum above 0; leave it out, or set both"
            )


def whole_data_recipe(n: int, epochs: int, batch_size: int, lr: float) -> Recipe:
    """SGD with momentum 0.9, weight decay 5e-4 and a cosine to zero, for ``epochs`` passes over
    ``n`` images.

    Raises:
        SpecError: those are too many updates.
    """
    updates = max(1, epochs * n // min(n, batch_size))
    values = {"updates": updates, "batch_size": batch_size, "lr": lr, "schedule": "cosine"}
    return settings.make(Recipe, values, where=f"{epochs:,} epochs of {n:,} images")
