"""The one guard around foreign code: the factories of search spaces, their networks, and the
functions that say which are isomorphic.

Such code is a program of somebody else. It may raise, leave the process or never end; whatever it
does becomes one error with the architecture's name. A crash of the interpreter itself (a
segmentation fault) cannot be undone: it ends the process, with the same line, and a rerun resumes;
a worker's crash fails its candidate alone.
"""

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import seeds
from ..core.errors import ProxynasError, SpaceError
from ..core.text import cut, reason, visible


class _Left(BaseException):
    """The code wanted to end the process."""


class _TimeUp(BaseException):
    """Its time is up; no ``except Exception`` of its own takes this."""


@contextmanager
def guarded(what: str, seconds: float | None = None) -> Iterator[None]:
    """Run foreign code within.

    Args:
        what: what the error begins with, such as "the factory of 'mine' failed on 'D2'".
        seconds: wall-clock time that it may take, where it runs in a process's main thread.

    Raises:
        SpaceError: it raised, left the process, or took longer.
    """
    try:
        with _staying(), _limited(seconds), _crashing(what):
            yield
    except ProxynasError:
        raise
    except _TimeUp:
        raise SpaceError(f"{what}: it took longer than --time-limit {seconds:g} s") from None
    except (SystemExit, _Left):
        raise SpaceError(f"{what}: it called sys.exit or os._exit; return or raise instead") from (
            None
        )
    except Exception as error:
        raise SpaceError(f"{what}: {reason(error)}") from error


@contextmanager
def _staying() -> Iterator[None]:
    """Keep this thread from ending the process by ``os._exit``."""
    usual, thread = os._exit, threading.get_ident()

    def leave(status: int) -> NoReturn:
        if threading.get_ident() == thread:
            raise _Left
        usual(status)

    os._exit = leave
    try:
        yield
    finally:
        os._exit = usual


CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
_leave, _running = os._exit, list[str]()
_libc = ctypes.CDLL(None)
_libc.signal.restype, _libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)


def _crashed(number: int) -> None:
    """Say whose code it was, and end: nothing else of the process can be trusted any more. Should
    even that hang (a lock of the allocator may be held), the system ends it after a few seconds."""
    _libc.signal(signal.SIGALRM, None)  # to what the system does
    _libc.alarm(5)
    name = signal.Signals(number).name
    advice = "what was done is kept; leave that network out (a worker's crash fails it alone)"
    line = cut(visible(f"error: {_running[-1]}: it crashed Python ({name}); {advice}"), 380)
    os.write(2, f"{line}\n".encode("utf-8", "backslashreplace"))
    _leave(2)


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(_crashed)


@contextmanager
def _crashing(what: str) -> Iterator[None]:
    """End the command in order where code in C crashes. Python's own handlers of signals cannot,
    as they wait for that code to return. A worker's parent knows by itself, and faulthandler stays
    where it is on."""
    main = threading.current_thread() is threading.main_thread()
    if (
        not main
        or sys.platform != "linux"
        or faulthandler.is_enabled()
        or multiprocessing.parent_process() is not None
    ):
        yield
        return
    _running.append(what)
    usual = {
        number: _libc.signal(number, ctypes.cast(_HANDLER, ctypes.c_void_p)) for number in CRASHES
    }
    try:
        yield
    finally:
        for number, handler in usual.items():
            _libc.signal(number, handler)
        _running.pop()


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def up(number: int, frame: FrameType | None) -> None:
        raise _TimeUp

    usual: Any = signal.signal(signal.SIGALRM, up)
    left = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)[0]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, AGAIN if left else 0)
        signal.signal(signal.SIGALRM, usual)


AGAIN = 1.0
"""Seconds after which code that goes on all the same is told once more."""


def check_network(
    net: nn.Module, shape: tuple[int, ...], classes: int, failed: str, seconds: float | None = None
) -> None:
    """Refuse a network that cannot be trained: two inputs of ``shape``, forward and backward.

    The network is changed by that (batch norms); it is to be thrown away. ``failed`` and
    ``seconds`` are as :func:`guarded` takes them.

    Raises:
        SpaceError: its output is not float32 (2, ``classes``), or it has nothing to train.
    """
    if not any(p.requires_grad for p in net.parameters()):
        raise SpaceError(f"{failed}: it has no parameters that can be trained")
    with seeds.seeded(0), guarded(failed, seconds):
        logits: object = net.train()(torch.randn(2, *shape))
        right = isinstance(logits, Tensor) and logits.dtype == torch.float32
        if not isinstance(logits, Tensor) or not right or logits.shape != (2, classes):
            raise SpaceError(
                f"{failed}: of two inputs it must return logits float32 (2, {classes}), "
                f"but it returned {_of(logits)}"
            )
        F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]


def _of(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
