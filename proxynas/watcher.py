"""Who is told how far a flow is; the command line draws progress bars from it."""

from .distill.loop import Progress
from .search.store import Score, ZeroCost


class Watcher:
    """Told how far the flow is. This one listens to nothing; the command line draws progress bars."""

    def say(self, text: str) -> None:
        """A stage begins or was found done."""

    def loading(self, done: int, total: int) -> None:
        """Images decoded so far."""

    def preparing(self, done: int, total: int) -> None:
        """Experts trained or found so far."""

    def distilling(self, progress: Progress) -> None:
        """A distillation step is done."""

    def searching(self, done: int, total: int, score: Score | ZeroCost | None) -> None:
        """Training runs done, found ones included."""

    def comparing(self, done: int, total: int, name: str) -> None:
        """Sets distilled and evaluated, found ones included; ``name`` is the last one's."""

    def ended(self) -> None:
        """The stage that was told about last is over."""
