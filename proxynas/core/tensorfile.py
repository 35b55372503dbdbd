"""Tensors and what is to be known about them in one ``.safetensors`` file, with a checksum over
both.

Proxy sets, checkpoints and experts are such files. The metadata has a single key, ``proxynas``,
because the order of several is not fixed: JSON with ``about`` and ``checksum``.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from . import files, text

KEY = "proxynas"


class UnsoundError(ValueError):
    """A file that cannot be used; the message says why, and follows its name."""


def write(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the file whole.

    Raises:
        RunFolderError: the place cannot be written or is full.
    """
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    described = {"about": dict(about), "checksum": checksum(about, stored)}
    files.write_bytes(path, save(stored, {KEY: json.dumps(described, sort_keys=True)}))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says about its tensors, and these.

    Raises:
        UnsoundError: it is missing, cut short, of another kind, or changed since it was written.
    """
    try:
        files.check_regular(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UnsoundError(f"is not a readable .safetensors file ({text.reason(error)})") from None
    if KEY not in metadata:
        raise UnsoundError("is a .safetensors file, but not one that proxynas wrote")
    try:
        parsed = json.loads(metadata[KEY])
        about, expected = parsed["about"], parsed["checksum"]
        sound = isinstance(about, dict) and expected == checksum(about, tensors)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise UnsoundError("was changed after it was written (its checksum differs)")
    return about, tensors


def checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, over both."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
