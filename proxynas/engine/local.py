"""Processes of this machine, one thread each, so that no result depends on their number."""

import functools
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
from torch import Tensor

from ..core.allocator import keep_freed_memory
from . import devices, sharing
from .contract import Mapper, Prepare, Result, Task
from .dispatch import Died, Dispatcher, Done, Event, Raised, Ready


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class LocalProcesses:
    """The engine that needs nothing: processes of this machine, by default one per core or per GPU.

    One worker is this process itself. Tensors of ``prepare`` move into shared memory where there is
    room for them, and stay there; otherwise every process has its own.
    """

    device: str = "cpu"

    def on(self, device: str) -> "LocalProcesses":
        """The same for work on a device."""
        return replace(self, device=device)

    def workers(self, asked: int | None) -> int:
        """As asked for; by default one per core, or per GPU."""
        return asked or devices.usual_workers(self.device, devices.gpus(), cores())

    @contextmanager
    def opened(self, prepare: Prepare, workers: int, *, apart: bool = False) -> Iterator[Mapper]:
        """See :class:`~proxynas.engine.contract.Engine`."""
        if workers == 1 and not apart:
            yield alone(prepare)
            return
        team = Processes(prepare, devices.assign(self.device, workers, devices.gpus()))
        try:
            yield Dispatcher(team, workers, apart=apart)
        finally:
            for place in range(workers):
                team.stop(place)


LOCAL = LocalProcesses()


def alone(prepare: Prepare) -> Mapper:
    """Does tasks in this process, on one thread; the context is made with the first of them."""
    context = functools.cache(prepare)

    def mapped(
        work: Callable[[Any, Task], Result],
        tasks: Iterable[Task],
        lost: Callable[[Task, str], Result],
    ) -> Iterator[Result]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for task in tasks:
                yield work(context(), task)
        finally:
            torch.set_num_threads(threads)

    return mapped


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection

    @property
    def watched(self) -> tuple[Connection, int]:
        """What can be waited for: that it wrote something, and that it is dead."""
        return self.pipe, self.process.sentinel


class Processes:
    """A team of processes, each behind a pipe that nobody else reads or writes."""

    def __init__(self, prepare: Prepare, environments: Sequence[Mapping[str, str]]) -> None:
        rest, tensors = sharing.take_apart(prepare)
        # processes get a tensor of shared memory as it is, and one on a GPU, or where there is no
        # such room, as numbers
        shared = sharing.shared(tensors)
        self._parts = (rest, tensors) if shared else (rest, [t.cpu().numpy() for t in tensors])
        self._environments = environments
        self._workers: dict[int, _Worker] = {}

    def start(self, place: int) -> None:
        """Start a process."""
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, *self._parts))
        with _interrupts_ignored(), _environment(self._environments[place]):
            process.start()
        there.close()  # so that a dead worker is the end of what can be read
        self._workers[place] = _Worker(process, here)

    def send(self, place: int, work: Callable[[Any, Any], Any], task: Any) -> None:
        """Write a task into a worker's pipe."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: wait() tells
            self._workers[place].pipe.send((work, task))

    def wait(self) -> Sequence[Event]:
        """Read what workers wrote; one that is dead has written all that it will."""
        workers = list(self._workers.items())
        ready = connection.wait([part for _, worker in workers for part in worker.watched])
        return [
            self._read(place, worker)
            for place, worker in workers
            if not set(worker.watched).isdisjoint(ready)
        ]

    def stop(self, place: int) -> None:
        """End a worker at once."""
        worker = self._workers.pop(place, None)
        if worker is not None:
            worker.process.terminate()
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
            worker.pipe.close()

    def _read(self, place: int, worker: _Worker) -> Event:
        try:
            if not worker.pipe.poll():
                raise EOFError
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):  # OSError: it died while it wrote
            worker.process.join()
            reason = _reason(worker.process.exitcode or 0)
            self.stop(place)
            return Died(place, reason)
        event: Event = kind(place) if kind is Ready else kind(place, value)
        return event


def _reason(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return f"killed by {signal.Signals(-exit_code).name}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that is started within ignores Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _serve(pipe: Connection, rest: bytes, parts: Sequence[Any]) -> None:
    """A worker: makes its context, and then does what comes out of its pipe."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    tensors = [part if isinstance(part, Tensor) else torch.from_numpy(part) for part in parts]
    try:
        context = sharing.put_together(rest, tensors)()
        pipe.send((Ready, None))
        while True:
            work, task = pipe.recv()
            pipe.send((Done, work(context, task)))
    except Exception as error:
        with suppress(OSError):  # nobody is left to be told
            pipe.send((Raised, portable(error)))


def portable(error: Exception) -> Exception:
    """An error that can be sent to another process, with the place where it was raised."""
    error.add_note(f"in a worker:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
