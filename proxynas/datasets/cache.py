"""Decoded images, kept so that a folder of 60,000 files is read one by one only once.

A cache is a convenience: one that is absent, truncated, altered or unwritable costs time, never a
result.
"""

import hashlib
import logging
import os
import tempfile
import zlib
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the folder for everything that can be made again: $PROXYNAS_CACHE, or the user's cache
    folder."""
    place = os.environ.get("PROXYNAS_CACHE")
    usual = platformdirs.user_cache_dir("proxynas")
    return Path(os.path.expanduser(place) if place else usual)


class ImageCache:
    """The decoded images of one source: `source` says whose they are, `contents` what exactly is in
    them.

    There is one file for each source; saving it with new contents removes the old.
    """

    def __init__(self, source: str, contents: str) -> None:
        self.folder = cache_dir() / "datasets"
        self.stem = _digest(source)
        self.path = self.folder / f"{self.stem}-{_digest(contents)}.safetensors"

    def load(self) -> Tensor | None:
        """Return what was saved, uint8 (N, C, H, W), or None where there is nothing sound."""
        if not os.path.isfile(self.path):  # unlike Path.is_file it never raises
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                x: Tensor = file.get_tensor("x")
                expected = (file.metadata() or {}).get("crc32")
        except (OSError, SafetensorError) as error:
            log.warning(
                "cannot read the cache %s (%s): decoding the images again", self.path, error
            )
            return None
        if x.dtype != torch.uint8 or x.ndim != 4 or str(_crc32(x)) != expected:
            log.warning("the cache %s is corrupt: decoding the images again", self.path)
            return None
        return x

    def save(self, x: Tensor) -> None:
        """Keep `x` uint8 (N, C, H, W), written whole under another name and then renamed."""
        temporary: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=self.stem, suffix=".part")
            os.close(handle)
            temporary = Path(name)
            save_file({"x": x}, temporary, metadata={"crc32": str(_crc32(x))})
            temporary.replace(self.path)
            for old in self.folder.glob(f"{self.stem}-*.safetensors"):
                if old != self.path:
                    old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            log.warning(
                "cannot keep the decoded images in %s (%s): they will be decoded each time",
                self.path,
                error,
            )
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _crc32(x: Tensor) -> int:
    return zlib.crc32(x.contiguous().numpy().data)
