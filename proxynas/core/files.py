"""Files are read whole, once it is known that they are files and not too large; they are written
whole, to a temporary file beside the target, which is then renamed over it.

New files get the permissions that the user's umask leaves.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import ProxynasError, RunFolderError

LARGEST = 2**29
"""Bytes of a file that is read whole, by default."""


def check_regular(path: Path) -> None:
    """Refuse what is no file: a pipe, a socket or a device gives bytes without end, or none.

    Raises:
        OSError: it is not a regular file, is not there, or has a name that cannot be.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a NUL or broken Unicode in the name
        raise OSError(0, str(error)) from None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(0, "it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is no regular file")


def read_bytes(
    path: Path, kind: type[ProxynasError], wanted: str, name: str = "", limit: int = LARGEST
) -> bytes:
    """The contents of a file.

    Args:
        path: the file.
        kind: the error that is raised.
        wanted: what it should be, such as "a TOML file", for that error.
        name: what the error calls it, by default ``path``.
        limit: bytes that it may have.

    Raises:
        ProxynasError: ``kind``, where it is missing, unreadable, no file, or too large.
    """
    name = name or str(path)
    try:
        check_regular(path)
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise kind(
            f"cannot read {name}: {error.strerror or error}; give the path of {wanted}"
        ) from None
    if len(data) > limit:
        raise kind(f"{name} has more than {limit >> 20:,} MiB; give the path of {wanted}")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all; folders are made.

    Raises:
        RunFolderError: the place cannot be written or is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}")
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; "
            "give a directory that can be written and has room"
        ) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` within; whoever else wants it waits, also in other processes.

    Where the place knows no locks, nobody waits: this is for work that would be done twice, not for
    results that would be wrong.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "ab"))  # closing it gives the lock back
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, what is broken in it as escapes; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))
