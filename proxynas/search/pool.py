"""Work on all cores: one process per core, one thread each, so that no result depends on their
number.

What tasks share, their context, is made in each process by ``prepare``: a picklable function
without arguments, such as a :class:`functools.partial`.
"""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol, TypeVar

import torch

from ..core.errors import ProxynasError, WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")

_context: Any = None

Prepare = Callable[[], Any]


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(device: str, workers: int | None) -> int:
    """How many processes a command uses: ``workers``, by default one per core; on a GPU one."""
    return 1 if device != "cpu" else workers or cores()


class Mapper(Protocol):
    """Does tasks with workers that live on until the next ones."""

    def __call__(
        self, work: Callable[[Any, Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Yield ``work(context, task)`` for every task as it is finished."""


@contextmanager
def opened(prepare: Prepare, workers: int) -> Iterator[Mapper]:
    """Workers for several maps one after the other; each makes its context with its first task.

    With one worker everything runs in this process, on one thread all the same. Workers end with
    their parent, however it ends; Ctrl-C is the parent's to handle.

    Raises:
        WorkerError: a worker process died.
    """
    if workers == 1:
        yield _alone(prepare)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (prepare,))
    try:
        yield lambda work, tasks: _drain(pool, work, iter(tasks), 2 * workers)
    except BrokenProcessPool:
        raise WorkerError(DIED) from None
    except BaseException:
        _terminate(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _alone(prepare: Prepare) -> Mapper:
    context = functools.cache(prepare)

    def mapped(work: Callable[[Any, Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for task in tasks:
                yield work(context(), task)
        finally:
            torch.set_num_threads(threads)

    return mapped


def map_unordered(
    work: Callable[[Any, Task], Result], tasks: Iterable[Task], prepare: Prepare, workers: int
) -> Iterator[Result]:
    """The results of one map, see :func:`opened`.

    Raises:
        WorkerError: a worker process died.
    """
    with opened(prepare, workers) as mapped:
        yield from mapped(work, tasks)


def map_apart(
    work: Callable[[Any, Task], Result], tasks: Iterable[Task], prepare: Prepare, workers: int
) -> Iterator[Result]:
    """As :func:`map_unordered`, but every task has a process to itself, also with one worker, so
    that its peak memory is that of no other.

    Raises:
        WorkerError: a worker process died.
    """
    rest = iter(tasks)
    pools: dict[Future[Result], ProcessPoolExecutor] = {}
    try:
        while True:
            for task in islice(rest, workers - len(pools)):
                pool = ProcessPoolExecutor(1, get_context("spawn"), _start, (prepare,))
                with _interrupts_ignored():
                    pools[pool.submit(_call, work, task)] = pool
            if not pools:
                return
            for future in wait(pools, return_when=FIRST_COMPLETED).done:
                pools.pop(future).shutdown()
                yield future.result()
    except BrokenProcessPool:
        raise WorkerError(DIED) from None
    finally:  # whatever is left here is no longer wanted
        for pool in pools.values():
            _terminate(pool)


def _terminate(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


DIED = (
    "a worker process died, most likely for want of memory; results so far are kept: "
    "rerun the same command with fewer --workers"
)


def _drain(
    pool: ProcessPoolExecutor,
    work: Callable[[Any, Task], Result],
    tasks: Iterator[Task],
    ahead: int,
) -> Iterator[Result]:
    with _interrupts_ignored():  # the workers start here, and inherit it
        waiting: set[Future[Result]] = {
            pool.submit(_call, work, task) for task in islice(tasks, ahead)
        }
    while waiting:
        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        waiting |= {pool.submit(_call, work, task) for task in islice(tasks, len(finished))}
        for future in finished:
            yield future.result()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _start(prepare: Prepare) -> None:
    global _context
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        _context = prepare()
    except ProxynasError as error:
        _context = error  # the first task raises it, so that the parent sees it as it is


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _call(work: Callable[[Any, Task], Result], task: Task) -> Result:
    if isinstance(_context, ProxynasError):
        raise _context
    return work(_context, task)
