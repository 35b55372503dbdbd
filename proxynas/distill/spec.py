"""How a proxy set is made: the flags and TOML keys of a distillation."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.settings import NotNegative, Positive
from ..datasets.spec import DataSpec

Clock = Literal["wall", "core"]


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
