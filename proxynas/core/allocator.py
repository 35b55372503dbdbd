"""What the C library does with freed memory, in processes that are ours."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_… of malloc.h
KEPT = 2**30
"""Bytes: larger blocks, or more than this free at the end of the heap, go back to the system."""
OLD_LIMIT = 2**25
"""The largest block that glibc before 2.35 lets a process keep."""


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees for what it allocates next.

    By default glibc gives a block of some MiB back to the system when it is freed, so that each
    activation of a training step comes as fresh pages, which the system has to find and to zero:
    that can cost more than computing what is written there (``make bench``). The price is room that
    lies idle between blocks. It is for processes of our own alone, commands and workers; a program
    that imports the library decides for itself.
    Without effect where the C library has no ``mallopt``.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_MMAP_THRESHOLD, KEPT) or mallopt(_MMAP_THRESHOLD, OLD_LIMIT):
            mallopt(_TRIM_THRESHOLD, KEPT)
