"""ZCA whitening, and back, as FRePo and RCIG do to colour images before they distil them (APM with another λ).

Images, normalised by channel, are turned by (Σ + λI)^(−1/2), with Σ the covariance of the train split's pixels and λ
``strength`` times the mean of its eigenvalues (0.1 as published), so that neighbouring pixels say little about each
other. It can be undone: the proxy set keeps mean and matrix, and shows its images as pixels. The matrix of 32×32 colour
images takes 36 MiB.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core import files
from ..core.errors import DataError, RunFolderError
from .cache import cache_dir

log = logging.getLogger(__name__)

LARGEST = 64 * 64 * 3
"""Values of an image above which its covariance is refused: it would take over 1 GiB."""
CHUNK = 5000


@dataclass(frozen=True, eq=False)
class Whitening:
    """Subtract ``mean`` (D,) and multiply by the symmetric ``matrix`` (D, D), both float32, of flattened images."""

    strength: float
    mean: Tensor
    matrix: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Whiten images (N, C, H, W), normalised by channel."""
        flat = self._flat(x)
        white = (flat - self.mean.to(flat)) @ self.matrix.to(flat)
        return white.reshape(x.shape)

    def invert(self, x: Tensor) -> Tensor:
        """Turn whitened images (N, C, H, W) back into what :meth:`apply` was given."""
        flat = self._flat(x)
        back = flat @ self._inverse.to(flat) + self.mean.to(flat)
        return back.reshape(x.shape)

    @cached_property
    def _inverse(self) -> Tensor:
        inverse: Tensor = torch.linalg.inv(self.matrix.double())
        return inverse

    def _flat(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != len(self.mean):
            raise DataError(f"expected images of {len(self.mean)} values, as were whitened, but got {tuple(x.shape)}")
        return flat

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Whitening)
            and self.strength == other.strength
            and torch.equal(self.mean, other.mean)
            and torch.equal(self.matrix, other.matrix)
        )

    def __hash__(self) -> int:
        return hash((self.strength, len(self.mean)))


def fit(x: Tensor, strength: float) -> Whitening:
    """The whitening of images ``x`` (N, C, H, W), normalised by channel.

    Raises:
        DataError: rows of a table, images that are too large, a strength that is not positive.
    """
    if not strength > 0:
        raise DataError(f"the strength of zca must be over 0, but got {strength}; 0.1 is published")
    if x.ndim != 4:
        raise DataError("zca is for images, but the data are a table; leave it out")
    flat = x.flatten(1)
    if flat.shape[1] > LARGEST:
        raise DataError(f"zca is for images of up to {LARGEST:,} values, but got {tuple(x.shape[1:])}; use image_size")
    mean = flat.mean(0, dtype=torch.float64)
    covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device=x.device)
    for chunk in torch.split(flat, CHUNK):
        centred = chunk.double() - mean
        covariance += centred.T @ centred / len(flat)
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values.clamp(min=0) + strength * values.mean()).rsqrt()
    matrix = (vectors * scale) @ vectors.T
    return Whitening(strength, mean.float().cpu(), matrix.float().cpu())


def fitted(x: Tensor, strength: float, fingerprint: str) -> Whitening:
    """:func:`fit`, kept in the cache under the data's ``fingerprint``; a cache that fails costs time, no more."""
    path = cache_dir() / "datasets" / f"zca-{fingerprint}-{strength:g}.safetensors"
    found = _read(path, strength)
    if found is None:
        found = fit(x, strength)
        try:
            files.write_bytes(path, save({"mean": found.mean, "matrix": found.matrix}, {"sum": _sum(found)}))
        except RunFolderError as error:
            log.warning("the whitening will be computed each time: %s", error)
    return found


def _read(path: Path, strength: float) -> Whitening | None:
    try:
        with safe_open(path, "pt") as file:
            found = Whitening(strength, file.get_tensor("mean"), file.get_tensor("matrix"))
            return found if (file.metadata() or {}).get("sum") == _sum(found) else None
    except (OSError, SafetensorError):
        return None


def _sum(found: Whitening) -> str:
    """Notices a file that was damaged."""
    return repr(found.matrix.double().sum().item() + found.mean.double().sum().item())
