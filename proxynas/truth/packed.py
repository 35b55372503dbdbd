"""CSV files as people keep them: plain, or compressed by gzip, xz or zip."""

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import TruthError
from ..core.text import reason


def unpacked(path: Path) -> bytes:
    """The contents of a file that is plain, or compressed as the end of its name says.

    Raises:
        TruthError: it is missing, damaged, or unpacks to more than can be a table.
    """
    data = files.read_bytes(path, TruthError, "a CSV file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = archive.namelist()
                if len(names) != 1:
                    raise TruthError(f"{path} must hold one file, but holds {len(names)}")
                with archive.open(names[0]) as file:
                    data = file.read(LARGEST + 1)
        elif suffix in PACKED:
            with PACKED[suffix](io.BytesIO(data)) as file:
                data = file.read(LARGEST + 1)
    except (*BROKEN, OSError) as error:
        raise TruthError(
            f"{path} is not a CSV file: it cannot be unpacked ({reason(error)}); pack it again"
        ) from None
    if len(data) > LARGEST:
        raise TruthError(f"{path} unpacks to more than {LARGEST >> 20} MiB, which is no table")
    return data


PACKED: dict[str, Callable[[io.BytesIO], Any]] = {".gz": gzip.open, ".xz": lzma.open}
LARGEST = 2**28
"""Bytes of an unpacked table."""
BROKEN = (
    *(EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile),
    *(RuntimeError, NotImplementedError),
)
"""What unpacking raises for a file that is cut short, damaged or encrypted."""
