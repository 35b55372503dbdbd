"""A Ray cluster, or Ray on this machine: one actor, and so one process, for each task at a time.

Tensors travel through the object store: this process puts each of them there once, every node
fetches it once, and its workers read it where it lies. Nodes need this package, and the files that
a space of one's own consists of, under the same path; they need no data. Ray itself restarts
nothing: which task died, and that it is tried again, is :mod:`proxynas.engine.dispatch`'s.
"""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..core.allocator import keep_freed_memory
from ..core.errors import DeviceError, SpecError, WorkerError
from . import sharing
from .contract import Mapper, Prepare
from .dispatch import Died, Dispatcher, Done, Event, Raised, Ready
from .local import portable

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5
"""How long a cluster's address may take to answer."""

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2 begins: its preface, and settings without any (RFC 9113, §3.4)."""

PATIENCE_SECONDS = 30
"""How long no worker starts before somebody is told."""


@dataclass(frozen=True)
class RayCluster:
    """The engine that takes a cluster.

    address: ``HOST:PORT`` of its head, ``ray://HOST:PORT``, or ``auto``; ``None``: that of
    RAY_ADDRESS, or else Ray is started on this machine. gpus_per_task: how much of a GPU a task
    takes; ``None``: one where work is for GPUs, else none.
    """

    address: str | None = None
    gpus_per_task: float | None = None
    device: str = "cpu"

    def on(self, device: str) -> "RayCluster":
        """The same for work on a device.

        Raises:
            SpecError: a GPU by number, or GPUs for work on the CPU.
            DeviceError: the cluster has no GPUs.
            WorkerError: Ray is not there, or does not answer.
        """
        if ":" in device:
            raise SpecError(
                f"Ray chooses the GPU of every task, but the device is {device}; use --device cuda"
            )
        if device == "cpu" and self.gpus_per_task:
            raise SpecError(
                f"--gpus-per-task {self.gpus_per_task:g} is for work on GPUs; add --device cuda"
            )
        placed = replace(self, device=device)
        if placed.gpus and not connected(self.address).cluster_resources().get("GPU"):
            raise DeviceError(
                f"{placed.gpus:g} GPU(s) a task are asked for, but the Ray cluster has none; "
                "leave out --gpus-per-task and use --device cpu"
            )
        return placed

    @property
    def gpus(self) -> float:
        """GPUs that a task takes."""
        if self.device == "cpu":
            return 0.0
        return 1.0 if self.gpus_per_task is None else self.gpus_per_task

    def workers(self, asked: int | None) -> int:
        """As asked for; by default as many as the cluster has cores, or parts of GPUs, for."""
        if asked is not None:
            return asked
        nodes = [n["Resources"] for n in connected(self.address).nodes() if n["Alive"]]
        kind, each = ("GPU", self.gpus) if self.gpus else ("CPU", 1)
        return max(1, sum(int(node.get(kind, 0) / each + 1e-9) for node in nodes))

    @contextmanager
    def opened(self, prepare: Prepare, workers: int, *, apart: bool = False) -> Iterator[Mapper]:
        """See :class:`~proxynas.engine.contract.Engine`."""
        team = Actors(connected(self.address), prepare, self.gpus)
        try:
            yield Dispatcher(team, workers, apart=apart)
        finally:
            for place in range(workers):
                team.stop(place)


def connected(address: str | None) -> Any:
    """The module ``ray``, connected to a cluster; once for this process.

    Raises:
        SpecError: Ray is not installed, or the address is none.
        WorkerError: there is no answer at the address, or it is no cluster that can be used.
    """
    try:
        ray = import_module("ray")
    except ImportError:
        raise SpecError(
            "the engine ray needs Ray, which is not installed: pip install 'proxynas[ray]'"
        ) from None
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check_answer(address)
    try:
        started = {} if address is not None else {"include_dashboard": False}
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **started)
    except Exception as error:  # Ray's are of many kinds: other versions, no such file, …
        where = "on this machine" if address is None else f"at {address}"
        raise WorkerError(
            f"cannot use Ray {where} ({_reason(error)}); 'ray status' says how it is"
        ) from None
    return ray


def _check_answer(address: str) -> None:
    """See that somebody speaks HTTP/2 at an address, as gRPC does: Ray itself tries for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise SpecError(
            f"--ray-address must be HOST:PORT, ray://HOST:PORT or auto, but got {address!r}"
        )
    try:
        where = (host.strip("[]"), int(port))
        with socket.create_connection(where, timeout=ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(GREETING)
                if not connection.recv(1):
                    raise ConnectionError("somebody listens, but not Ray")
    except (OSError, OverflowError) as error:
        raise WorkerError(
            f"no Ray cluster answers at {address} ({error}); start one with 'ray start --head', "
            "or correct --ray-address"
        ) from None


_put: Any = WeakIdKeyDictionary()
"""Of tensors that lie in an object store: whose, and where; kept as long as the tensor is."""


class Actors:
    """A team of Ray actors."""

    def __init__(self, ray: Any, prepare: Prepare, gpus: float) -> None:
        self._ray = ray
        rest, tensors = sharing.take_apart(prepare)
        self._arguments = (rest, [self._reference(t) for t in tensors], os.getcwd(), sys.path)
        self._class = ray.remote(max_restarts=0, num_cpus=1, num_gpus=gpus)(_Actor)
        self._actors: dict[int, Any] = {}
        self._expected: dict[Any, int] = {}  # what the actor in a place will answer
        self._patience: float | None = PATIENCE_SECONDS

    def start(self, place: int) -> None:
        """Ask for an actor; it starts when the cluster has room for it."""
        self._actors[place] = actor = self._class.remote()
        self._expected[actor.prepare.remote(*self._arguments)] = place

    def send(self, place: int, work: Callable[[Any, Any], Any], task: Any) -> None:
        """Call an actor with a task."""
        self._expected[self._actors[place].do.remote(work, task)] = place

    def wait(self) -> Sequence[Event]:
        """Wait for answers; an actor's death is one."""
        pending = list(self._expected)
        answered, _ = self._ray.wait(pending, num_returns=1, timeout=self._patience)
        self._patience = None
        if not answered:
            log.warning("the Ray cluster has started no worker yet; waiting until it has room")
            return self.wait()
        answered, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        return [self._read(self._expected.pop(reference), reference) for reference in answered]

    def stop(self, place: int) -> None:
        """End an actor at once."""
        actor = self._actors.pop(place, None)
        if actor is not None:
            self._expected = {r: other for r, other in self._expected.items() if other != place}
            with suppress(Exception):  # the cluster may be gone
                self._ray.kill(actor)

    def _read(self, place: int, reference: Any) -> Event:
        try:
            kind, value = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self.stop(place)
            return Died(place, _reason(error))
        event: Event = kind(place) if kind is Ready else kind(place, value)
        return event

    def _reference(self, tensor: Tensor) -> Any:
        job = self._ray.get_runtime_context().get_job_id()
        if tensor not in _put or _put[tensor][0] != job:
            _put[tensor] = job, self._ray.put(tensor.detach().cpu().contiguous().numpy())
        return _put[tensor][1]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no more is known'}"


class _Actor:
    """A worker: makes its context, and then does what it is called with."""

    def prepare(
        self, rest: bytes, references: Sequence[Any], folder: str, path: Sequence[str]
    ) -> tuple[type[Event], Any]:
        """Make the context, where the first process is: in its folder, with its modules."""
        with suppress(OSError):
            os.chdir(folder)
        sys.path += [place for place in path if place not in sys.path]
        torch.set_num_threads(1)
        keep_freed_memory()
        try:
            arrays = import_module("ray").get(list(references))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                tensors = [torch.from_numpy(array) for array in arrays]
            self._context = sharing.put_together(rest, tensors)()
        except Exception as error:
            return Raised, portable(error)
        return Ready, None

    def do(self, work: Callable[[Any, Any], Any], task: Any) -> tuple[type[Event], Any]:
        """Do a task."""
        try:
            return Done, work(self._context, task)
        except Exception as error:
            return Raised, portable(error)
