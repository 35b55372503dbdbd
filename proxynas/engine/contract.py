"""What an engine is: where tasks are done, and how many of them at a time.

Tasks share a context that ``prepare`` makes once in each worker: a picklable function without
arguments, such as a :class:`functools.partial`. Tensors that it carries travel once to a machine,
and all its workers read the same copy; so no task may change them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

Prepare = Callable[[], Any]
"""Makes what a worker's tasks share."""


class Mapper(Protocol):
    """Does tasks with workers that live on until the next ones."""

    def __call__(
        self,
        work: Callable[[Any, Task], Result],
        tasks: Iterable[Task],
        lost: Callable[[Task, str], Result],
    ) -> Iterator[Result]:
        """Yield ``work(context, task)`` for every task as it is finished, until the last one.

        ``tasks`` are taken as workers become free. A task whose worker dies is tried again,
        :data:`proxynas.engine.dispatch.RETRIES` times; then its result is ``lost(task, reason)``.

        Raises:
            WorkerError: workers die before they do anything.
        """


class Engine(Protocol):
    """Where tasks are done: processes of this machine, or a cluster.

    It is how, not what: results do not depend on it, nor on the number of its workers.
    """

    def on(self, device: str) -> "Engine":
        """The same for work on a device: ``cpu``, ``cuda`` (any GPU) or ``cuda:N``.

        Raises:
            SpecError: it has no such device.
        """

    def workers(self, asked: int | None) -> int:
        """How many tasks are done at a time: as many as asked for, or as there is room for."""

    def opened(
        self, prepare: Prepare, workers: int, *, apart: bool = False
    ) -> AbstractContextManager[Mapper]:
        """Workers for several maps one after the other.

        They end with this process, however it ends; Ctrl-C is this process's to handle. With
        ``apart`` every task has a process to itself, so that its peak memory is that of no other.
        """
