"""What every source of data is turned into: three splits, the normalisation that made them, and a
fingerprint.

Sources hand over `Images`, whole numbers between 0 and `levels`, exactly as they were stored.
Everything that follows (the split, the statistics, the fingerprint) is computed from those whole
numbers, so it is the same on every machine.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import DataError
from .zca import Whitening

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in images, from the thread that loads."""


@dataclass(frozen=True)
class Split:
    """Labelled images: `x` float32 (N, C, H, W), or rows of a table: (N, D); `y` int64 (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return self.y.shape[0]


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation per channel: subtract `mean`, divide by `std`, both of the train split with
    pixels in [0, 1].

    The columns of a table are normalised alike, in their own units. Images may be whitened after
    that (:mod:`proxynas.datasets.zca`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: Whitening | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Normalise `x`, pixels in [0, 1] of shape (N, C, H, W) or rows (N, D)."""
        mean, std = self._broadcast(x)
        x = x.sub(mean).div_(std)
        return x if self.zca is None else self.zca.apply(x)

    def invert(self, x: Tensor) -> Tensor:
        """Turn normalised `x` back into pixels (N, C, H, W), not clamped to [0, 1], or into rows
        (N, D)."""
        mean, std = self._broadcast(x)
        x = x if self.zca is None else self.zca.invert(x)
        return x.mul(std).add_(mean)

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(self.mean)
        if x.ndim not in (2, 4) or x.shape[1] != n:
            raise DataError(
                f"expected images of shape (N, {n}, H, W) or rows (N, {n}), "
                f"but got {tuple(x.shape)}"
            )
        mean, std = (
            torch.tensor(value, dtype=x.dtype, device=x.device) for value in (self.mean, self.std)
        )
        if x.ndim == 2:
            return mean, std  # (D,)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


@dataclass(frozen=True)
class Dataset:
    """Normalised images, or rows of a table, in three splits; nothing may select on `test`.

    `fingerprint` is the first 16 hex digits of a sha256 over what was stored (pixels or columns,
    and labels) of the three splits and their shapes: two datasets that share it hold the same in
    the same splits and order.
    """

    name: str
    train: Split
    val: Split
    test: Split
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of one image, or (D,) of one row of a table."""
        return tuple(self.train.x.shape[1:])

    @property
    def is_images(self) -> bool:
        """Whether one input is an image, and not a row of a table."""
        return len(self.shape) == 3

    def class_counts(self) -> tuple[int, ...]:
        """Images, or rows, of each class in the train split."""
        return tuple(torch.bincount(self.train.y, minlength=self.num_classes).tolist())

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same dataset with its tensors on `device`."""
        train, val, test = (
            Split(part.x.to(device), part.y.to(device))
            for part in (self.train, self.val, self.test)
        )
        return replace(self, train=train, val=val, test=test)


@dataclass(frozen=True)
class Images:
    """Images as stored: `x` uint8 (N, C, H, W) between 0 and the source's levels, `y` int64
    (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return self.y.shape[0]

    def __getitem__(self, index: Tensor) -> "Images":
        return Images(self.x[index], self.y[index])


@dataclass(frozen=True)
class Stored:
    """What a source hands over: three splits of stored images, their classes, and the value that is
    white."""

    name: str
    train: Images
    val: Images
    test: Images
    class_names: tuple[str, ...]
    levels: int = 255


def assemble(stored: Stored) -> Dataset:
    """Normalise by the train split's statistics and fingerprint what was stored."""
    pre = _statistics(stored.train.x, stored.levels)
    train, val, test = (
        Split(pre.apply(images.x.float().div_(stored.levels)), images.y)
        for images in (stored.train, stored.val, stored.test)
    )
    return Dataset(stored.name, train, val, test, pre, stored.class_names, _fingerprint(stored))


def _statistics(x: Tensor, levels: int) -> Preprocessing:
    """Mean and standard deviation of each channel of `x` uint8 (N, C, H, W), from whole-number
    counts and so exact.

    A channel that never varies gets a standard deviation of 1, which leaves it at zero after
    normalisation.
    """
    value = torch.arange(256, dtype=torch.float64) / levels
    means, stds = [], []
    for channel in range(x.shape[1]):
        share = torch.bincount(x[:, channel].reshape(-1), minlength=256).double()
        share /= share.sum()
        mean = (share * value).sum()
        variance = (share * (value - mean) ** 2).sum().item()
        means.append(mean.item())
        stds.append(variance**0.5 if variance > 1e-12 else 1.0)
    return Preprocessing(tuple(means), tuple(stds))


def _fingerprint(stored: Stored) -> str:
    digest = hashlib.sha256(f"levels {stored.levels}".encode())
    for part, images in (("train", stored.train), ("val", stored.val), ("test", stored.test)):
        digest.update(f"{part} {tuple(images.x.shape)}".encode())
        digest.update(images.x.contiguous().numpy().data)
        digest.update(images.y.numpy().astype("<i8").data)
    return digest.hexdigest()[:16]
