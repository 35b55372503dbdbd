"""Handing tasks to workers, and what is done when one of them dies.

A worker does one task at a time, so it is known which task it died of. That task is tried again,
after all others; a new worker takes the dead one's place.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, Protocol

from ..core.errors import WorkerError
from .contract import Result, Task

log = logging.getLogger(__name__)

RETRIES = 2
"""How often a task is tried again whose worker died."""

STARTS = 3
"""Workers that die in one place before they are ready, after which the map gives up."""


@dataclass(frozen=True)
class Ready:
    """A worker has its context and can be given a task."""

    place: int


@dataclass(frozen=True)
class Done:
    """A worker has finished its task."""

    place: int
    result: Any


@dataclass(frozen=True)
class Raised:
    """A worker could not make its context, or its task raised an error."""

    place: int
    error: Exception


@dataclass(frozen=True)
class Died:
    """A worker is gone, and why."""

    place: int
    reason: str


Event = Ready | Done | Raised | Died


class Team(Protocol):
    """Workers in numbered places."""

    def start(self, place: int) -> None:
        """Start a worker; it is :class:`Ready` some time later."""

    def send(self, place: int, work: Callable[[Any, Any], Any], task: Any) -> None:
        """Give a ready worker a task."""

    def wait(self) -> Sequence[Event]:
        """Wait until something happens; all that has happened."""

    def stop(self, place: int) -> None:
        """End the worker in a place at once, if there is one."""


@dataclass(frozen=True)
class _Attempt(Generic[Task]):
    task: Task
    deaths: int = 0


class Dispatcher:
    """A :class:`~proxynas.engine.contract.Mapper` over a team."""

    def __init__(self, team: Team, places: int, *, apart: bool) -> None:
        self._team, self._apart = team, apart
        self._empty, self._idle = list(range(places)), list[int]()
        self._starting: set[int] = set()
        self._failed_starts = [0] * places

    def __call__(
        self,
        work: Callable[[Any, Task], Result],
        tasks: Iterable[Task],
        lost: Callable[[Task, str], Result],
    ) -> Iterator[Result]:
        """See :class:`~proxynas.engine.contract.Mapper`."""
        rest, places = iter(tasks), len(self._failed_starts)
        waiting: deque[_Attempt[Task]] = deque()
        again: deque[_Attempt[Task]] = deque()
        doing: dict[int, _Attempt[Task]] = {}
        results: list[Result] = []
        while True:
            waiting.extend(map(_Attempt, islice(rest, max(0, places - len(waiting)))))
            if not waiting:
                waiting, again = again, waiting
            while waiting and self._idle:  # before results are used, so that no worker waits
                place = self._idle.pop()
                doing[place] = waiting.popleft()
                self._team.send(place, work, doing[place].task)
            self._start(len(waiting))
            yield from results
            if not waiting and not doing:
                return
            results = []
            try:
                for event in self._team.wait():
                    attempt = doing.pop(event.place, None)
                    if isinstance(event, Died) and attempt is not None:
                        attempt = replace(attempt, deaths=attempt.deaths + 1)
                        if attempt.deaths > RETRIES:
                            results.append(lost(attempt.task, _gave_up(event.reason)))
                        else:
                            log.warning("a worker died (%s); its task is tried again", event.reason)
                            again.append(attempt)
                    elif isinstance(event, Done) and attempt is not None:
                        results.append(event.result)
                    self._note(event, busy=attempt is not None)
            except Exception:
                yield from results  # what was finished is kept
                raise

    def _start(self, needed: int) -> None:
        """Start workers where there are none, as many as are needed beyond those that start."""
        for _ in range(min(len(self._empty), needed - len(self._starting))):
            place = self._empty.pop(0)
            self._starting.add(place)
            self._team.start(place)

    def _note(self, event: Event, *, busy: bool) -> None:
        """What an event means for its place."""
        place = event.place
        self._starting.discard(place)
        if isinstance(event, Raised):
            raise event.error
        if isinstance(event, Died):
            self._empty.append(place)
            if place in self._idle:
                self._idle.remove(place)
            self._failed_starts[place] += not busy
            if self._failed_starts[place] == STARTS:
                raise WorkerError(
                    f"workers die before they do anything ({event.reason}), most likely for want "
                    "of memory; results so far are kept: rerun the same command with fewer "
                    "--workers"
                )
            return
        self._failed_starts[place] = 0
        if isinstance(event, Done) and self._apart:
            self._team.stop(place)
            self._empty.append(place)
        else:
            self._idle.append(place)


def _gave_up(reason: str) -> str:
    return f"the worker that did it died {RETRIES + 1} times ({reason})"
