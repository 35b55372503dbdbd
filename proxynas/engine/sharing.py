"""A value without its tensors, and the tensors beside it: so that each of them travels once, and
processes of one machine read one copy of it."""

import io
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        """The number of a tensor among those beside the value; one that is there twice has one."""
        if type(value) is not Tensor or value.requires_grad or value.dtype == torch.bfloat16:
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, number: Any) -> Tensor:
        """The tensor of that number."""
        tensor: Tensor = self._tensors[number]
        return tensor


def take_apart(value: Any) -> tuple[bytes, list[Tensor]]:
    """A picklable value without its tensors, and these, each once."""
    file = io.BytesIO()
    writer = _Writer(file)
    writer.dump(value)
    return file.getvalue(), writer.tensors


def put_together(rest: bytes, tensors: Sequence[Tensor]) -> Any:
    """The inverse of :func:`take_apart`."""
    return _Reader(io.BytesIO(rest), tensors).load()


SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps shared memory; containers often have 64 MiB of it."""


def fits(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors can lie in shared memory: all on the CPU, and there is room for those that
    are not there yet."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return False
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    new = sum(storage.nbytes() for storage in storages.values() if not storage.is_shared())
    return not SHARED_MEMORY.is_dir() or new < 0.9 * shutil.disk_usage(SHARED_MEMORY).free


def shared(tensors: Sequence[Tensor]) -> bool:
    """Move tensors to shared memory, where they fit and the system lets; whether all are there."""
    if not fits(tensors):
        return False
    try:
        for tensor in tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:  # it was filled meanwhile, or no file may be so large
        return False
    return True
