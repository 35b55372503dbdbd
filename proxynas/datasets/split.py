"""Stratified splits that never change: not with the machine, not with the version of numpy."""

import numpy as np
import torch
from torch import Tensor

from ..core.errors import DataError

SEED = 20210420
"""Seeds PCG64 for every split. Changing it changes the test images of every folder that brings no
test split."""

ORDER_SEED = SEED + 1
"""Seeds PCG64 for the order of a folder's images."""


def keys(n: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return `n` random sort keys: numpy promises to keep PCG64's raw stream, not what
    `permutation` makes of it."""
    return np.random.PCG64(seed).random_raw(n)


def stratified(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Split the indices of `y` int64 (N,) in two: the rest, and `n` that are drawn class by class.

    Each class gives its share of `n`, rounded by largest remainder, but at least one image, and
    keeps at least one; so where classes are many and small, more or fewer than `n` may be drawn.
    Both parts are in ascending order. Raises DataError where a class has fewer than two images.
    """
    counts = torch.bincount(y).tolist()
    if min(counts) < 2:
        label = counts.index(min(counts))
        raise DataError(
            "expected at least 2 images of each class to split, "
            f"but class {label} has {counts[label]}"
        )
    order = keys(len(y), SEED)
    labels = y.numpy()
    drawn = np.zeros(len(y), dtype=bool)
    for label, quota in enumerate(_quotas(counts, n)):
        members = np.flatnonzero(labels == label)
        drawn[members[np.argsort(order[members], kind="stable")[:quota]]] = True
    return torch.from_numpy(np.flatnonzero(~drawn)), torch.from_numpy(np.flatnonzero(drawn))


def _quotas(counts: list[int], n: int) -> list[int]:
    """Share `n` among classes of `counts` images by largest remainder, each class giving at least 1
    and keeping 1."""
    total = sum(counts)
    quotas = [min(max(count * n // total, 1), count - 1) for count in counts]
    rounded_down = [
        label
        for label, count in enumerate(counts)
        if quotas[label] == count * n // total < count - 1
    ]
    by_remainder = sorted(rounded_down, key=lambda label: (-(counts[label] * n % total), label))
    for label in by_remainder[: max(n - sum(quotas), 0)]:
        quotas[label] += 1
    return quotas
