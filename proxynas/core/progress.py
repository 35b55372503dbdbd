"""Progress callbacks; the command line draws its bars from them."""

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far a distillation is, after every step."""

    step: int = 0
    steps: int = 0
    loss: float = math.nan
    seconds: float = 0.0  # wall, over all starts
    core_seconds: float = 0.0  # of all cores together, over all starts
    peak_mib: float = 0.0
    losses: list[float] = field(default_factory=list)


class Watcher:
    """Progress callbacks of a flow. These do nothing; the command line draws progress bars."""

    def say(self, text: str) -> None:
        """A stage begins, or is done already."""

    def loading(self, done: int, total: int) -> None:
        """Images decoded so far."""

    def preparing(self, done: int, total: int) -> None:
        """Experts trained or read so far."""

    def distilling(self, progress: Progress) -> None:
        """A distillation step is done."""

    def searching(self, done: int, total: int, arch: str) -> None:
        """Training runs done, those of earlier starts included; ``arch`` is the last one's."""

    def labelling(self, done: int, total: int, arch: str) -> None:
        """Candidates trained on the whole data, earlier ones included; ``arch`` is the last one."""

    def comparing(self, done: int, total: int, name: str) -> None:
        """Sets distilled and evaluated, earlier ones included; ``name`` is the last one's."""

    def ended(self) -> None:
        """The last stage is over."""
