"""How a proxy set is made."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .data import DataSpec
from .option import NotNegative, Option, Positive, PositiveNumber

PANEL = "Distillation"

Method = Annotated[str, Option("How the proxy set is made: see 'proxynas list'", PANEL)]
Ipc = Annotated[Positive, Option("Images (rows) per class in the proxy set", PANEL)]
Settings = Annotated[
    dict[str, Any],
    Option(
        "A setting of the method, such as --set init=real; repeatable. An unknown one lists them all",
        PANEL,
        flag="--set",
    ),
]
Seed = Annotated[NotNegative, Option("Of every random choice", "Run")]
Clock = Literal["wall", "core"]
ClockOption = Annotated[
    Clock,
    Option(
        "Which seconds: wall-clock, or those of all cores together, which other work does not shorten",
        PANEL,
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
        NotNegative | None, Option("Distillation steps; by default the method's own number", PANEL)
    ] = None
    seconds: Annotated[
        PositiveNumber | None,
        Option("Stop after this many seconds, over all starts; those of experts count", PANEL),
    ] = None
    clock: ClockOption = "wall"
    settings: Settings = Field(default_factory=dict)
    seed: Seed = 0

    @property
    def core_clock(self) -> bool:
        """Whether core seconds limit it."""
        return self.clock == "core" and self.device == "cpu"
