"""Which GPU each worker of this machine computes on."""

import os
from collections.abc import Sequence

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get(VISIBLE)
    return [str(n) for n in range(count)] if named is None else named.split(",")[:count]


def usual_workers(device: str, gpus: Sequence[str], cores: int) -> int:
    """How many workers there are unless somebody says so: one a core, or one a GPU."""
    if device == "cpu":
        return cores
    return max(1, len(gpus)) if device == "cuda" else 1


def assign(device: str, workers: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """What each worker finds in its environment: of several GPUs each sees one, in turn.

    ``cuda`` is any GPU, ``cuda:N`` that one for all workers.

    >>> assign("cuda", 3, ["0", "1"])
    [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}, {'CUDA_VISIBLE_DEVICES': '0'}]
    >>> assign("cuda:1", 2, ["0", "1"])
    [{}, {}]
    """
    if device != "cuda" or len(gpus) < 2:
        return [{} for _ in range(workers)]
    return [{VISIBLE: gpus[n % len(gpus)]} for n in range(workers)]
