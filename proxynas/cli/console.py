"""What the terminal shows while something runs: bars on a terminal, plain lines when the output is
piped."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..core.progress import Progress as Distilling
from ..core.progress import Watcher
from ..core.text import visible


class PlainConsole(Console):
    """A console that shows text as it is: without markup, emoji names and escape codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as what is drawn; all text, that in tables too, comes by here."""
        return super().render_str(visible(text, keep="\n"), **options)


out = PlainConsole(soft_wrap=False, width=None if sys.stdout.isatty() else 110)
err = PlainConsole(stderr=True, soft_wrap=True)

LINE_SECONDS = 10.0


class Bar:
    """One running task: ``update`` as often as you like; a line every ten seconds where there is no
    terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """``done`` of ``total`` (unknown: ``None``) is done; ``note`` is shown beside it."""
        if out.is_terminal:
            self._draw(done, total, note)
        elif time.monotonic() - self._shown > LINE_SECONDS:
            self._shown = time.monotonic()
            of = "" if total is None else f" of {total:,.0f}"
            out.print(f"  {self._title} {done:,.0f}{of}{'  ' + note if note else ''}", markup=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _draw(self, done: float, total: float | None, note: str) -> None:
        if self._progress is None:
            columns = (
                "  {task.description}",
                BarColumn(28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                "left",
                TimeRemainingColumn(),
            )
            self._progress = Progress(
                *columns, TextColumn("{task.fields[note]}", style="dim", markup=False), console=out
            )
            self._task = self._progress.add_task(self._title, total=total, note=note)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total, note=note)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ConsoleWatcher(Watcher):
    """Prints each stage of a search and draws its bar."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        self.ended()
        out.print(text, markup=False)

    def loading(self, done: int, total: int) -> None:
        """Images decoded."""
        self._on("decoding images").update(done, total)

    def preparing(self, done: int, total: int) -> None:
        """Experts trained or found."""
        self._on("experts").update(done, total)
        if done == total:
            self.ended()

    def distilling(self, progress: Distilling) -> None:
        """Distillation steps."""
        self._on("distilling").update(progress.step, progress.steps, f"loss {progress.loss:.3g}")

    def searching(self, done: int, total: int, arch: str) -> None:
        """Training runs."""
        self._on("training").update(done, total, arch)

    def labelling(self, done: int, total: int, arch: str) -> None:
        """Trainings on the whole data."""
        self._on("training on the whole data").update(done, total, arch)

    def comparing(self, done: int, total: int, name: str) -> None:
        """Sets distilled and evaluated."""
        self._on("sets").update(done, total, name)

    def ended(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _on(self, title: str) -> Bar:
        if self._bar is None:
            self._bar = Bar(title)
        return self._bar
