"""A training inside somebody else's program: it leaves their process as it was."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_TURN = threading.RLock()
"""PyTorch's generators, threads and flags belong to the process: who uses them takes turns."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """One PyTorch thread, gradients on and denormals flushed inside the block, as in a search.

    After it, also where it ends with an exception, all is as before: number of threads, whether
    denormals are flushed, and the global generators of Python, NumPy and PyTorch (those of GPUs
    among them). Blocks of several threads wait for each other.
    """
    with _TURN:
        threads, flushed = torch.get_num_threads(), _flushes()
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                torch.set_num_threads(1)
                torch.set_flush_denormal(True)
                yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushed)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _flushes() -> bool:
    """Whether this thread takes denormal numbers for zero."""
    smallest = torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32)
    return (smallest / 2).item() == 0
