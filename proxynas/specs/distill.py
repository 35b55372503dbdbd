"""How a proxy set is made."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .data import DataSpec
from .option import DISTILLATION, RUN, NotNegative, Option, Positive, PositiveNumber

Method = Annotated[str, Option("How the proxy set is made: see 'proxynas list'.", DISTILLATION)]
Ipc = Annotated[Positive, Option("Images (or rows) per class in the proxy set.", DISTILLATION)]
Settings = Annotated[
    dict[str, Any],
    Option(
        "A setting of the method, such as --set init=real; an unknown one lists them all. "
        "Repeatable.",
        DISTILLATION,
        flag="--set",
    ),
]
Seed = Annotated[NotNegative, Option("Seed of every random choice.", RUN)]
Clock = Literal["wall", "core"]
ClockOption = Annotated[
    Clock,
    Option(
        "Which seconds limit it: wall-clock seconds, or core seconds, those of all cores together, "
        "which do not depend on other work.",
        DISTILLATION,
    ),
]


@checked(frozen=True, config=settings.CONFIG)
class DistillSpec(DataSpec):
    """``proxynas distill``: how a proxy set is made. ``steps`` or ``seconds`` ends it, whichever
    comes first.

    On a GPU the seconds are always wall-clock.
    """

    method: Method = "gm"
    ipc: Ipc = 1
    steps: Annotated[
        NotNegative | None,
        Option("Distillation steps. Default: the method's own number.", DISTILLATION),
    ] = None
    seconds: Annotated[
        PositiveNumber | None,
        Option(
            "Stop after this many seconds, over all starts; those of experts count.", DISTILLATION
        ),
    ] = None
    clock: ClockOption = "wall"
    settings: Settings = Field(default_factory=dict)
    seed: Seed = 0

    @property
    def core_clock(self) -> bool:
        """Whether core seconds limit it."""
        return self.clock == "core" and self.device == "cpu"
