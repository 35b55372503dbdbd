"""ZCA whitening of images, and back, as colour images are treated before they are distilled.

The covariance Σ of the train split's pixels has eigenvalues s and eigenvectors U. Images, less
their mean, are multiplied by U (s + λ)^(−1/2) Uᵀ, so that neighbouring pixels say little about each
other. It can be undone: the proxy set keeps mean and matrix, and shows its images as pixels. The
matrix of 32×32 colour images takes 36 MiB.

Published codes write "0.1" and mean two different things; a setting names which:

- ``0.1``, or ``"0.1"``: relative, as FRePo and RCIG have it. Images are normalised by channel
  first, and λ is 0.1 times the mean of the eigenvalues.
- ``"kornia:0.1"``: absolute, as ``kornia.enhance.ZCAWhitening(eps=0.1)``, which the codes of MTT
  and APM call. Images are pixels in [0, 1], not normalised by channel, and λ is 0.1 (Σ is divided
  by N − 1). It whitens less: the variance left along an axis is s / (s + λ), and λ, over the mean
  eigenvalue of these pixels, is 1.63 on CIFAR-10 (``experiments/README.md``).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core import files
from ..core.errors import DataError, RunFolderError
from ..specs import Regularisation
from .cache import cache_dir

log = logging.getLogger(__name__)

LARGEST = 64 * 64 * 3
"""Values of an image above which its covariance is refused: it would take over 1 GiB."""
CHUNK = 5000


@dataclass(frozen=True, eq=False)
class Whitening:
    """Subtract ``mean`` (D,) and multiply by ``matrix`` (D, D), both float32, of flattened images.

    Images are normalised by channel. The matrix is symmetric where λ is relative; with Kornia's it
    undoes the division by each channel's deviation first.
    """

    regularisation: Regularisation
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
        try:
            inverse: Tensor = torch.linalg.inv(self.matrix.double())
        except RuntimeError:
            raise DataError("the whitening cannot be undone: its matrix is singular") from None
        return inverse

    def _flat(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != len(self.mean):
            raise DataError(
                f"expected images of {len(self.mean)} values, as were whitened, "
                f"but got {tuple(x.shape)}"
            )
        return flat

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Whitening)
            and self.regularisation == other.regularisation
            and torch.equal(self.mean, other.mean)
            and torch.equal(self.matrix, other.matrix)
        )

    def __hash__(self) -> int:
        return hash((self.regularisation, len(self.mean)))


def fit(x: Tensor, regularisation: Regularisation, std: Sequence[float]) -> Whitening:
    """The whitening of images ``x`` (N, C, H, W), normalised by channel, whose deviations were
    ``std`` (C,).

    Raises:
        DataError: rows of a table, images that are too large.
    """
    if x.ndim != 4:
        raise DataError("zca is for images, but the data are a table; leave it out")
    flat = x.flatten(1)
    if flat.shape[1] > LARGEST:
        raise DataError(
            f"zca is for images of up to {LARGEST:,} values, but got {tuple(x.shape[1:])}; "
            "use image_size"
        )
    mean = flat.mean(0, dtype=torch.float64)
    covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device=x.device)
    for chunk in torch.split(flat, CHUNK):
        centred = chunk.double() - mean
        covariance += centred.T @ centred / len(flat)
    if regularisation.convention == "relative":
        matrix = _inverse_root(covariance, regularisation.strength * covariance.diagonal().mean())
    else:
        pixels = torch.tensor(std, dtype=torch.float64, device=x.device)  # (C,), of one unit in x
        scale = pixels.repeat_interleave(flat.shape[1] // len(std))  # (D,)
        unbiased = covariance * scale[:, None] * scale * (len(flat) / (len(flat) - 1))
        matrix = scale[:, None] * _inverse_root(unbiased, torch.tensor(regularisation.strength))
    return Whitening(regularisation, mean.float().cpu(), matrix.float().cpu())


def _inverse_root(covariance: Tensor, added: Tensor) -> Tensor:
    """(Σ + λI)^(−1/2) of a symmetric Σ (D, D) and a number λ."""
    values, vectors = torch.linalg.eigh(covariance)
    inverse: Tensor = (vectors * (values.clamp(min=0) + added.to(values)).rsqrt()) @ vectors.T
    return inverse


def fitted(
    x: Tensor,
    regularisation: Regularisation,
    std: Sequence[float],
    fingerprint: str,
) -> Whitening:
    """:func:`fit`, kept in the cache under ``fingerprint``; a cache that fails only costs time."""
    named = str(regularisation).replace(":", "-")
    path = cache_dir() / "datasets" / f"zca-{fingerprint}-{named}.safetensors"
    whitening = _read(path, regularisation)
    if whitening is None:
        whitening = fit(x, regularisation, std)
        tensors = {"mean": whitening.mean, "matrix": whitening.matrix}
        try:
            files.write_bytes(path, save(tensors, {"sum": _sum(whitening)}))
        except RunFolderError as error:
            log.warning("the whitening will be computed each time: %s", error)
    return whitening


def _read(path: Path, regularisation: Regularisation) -> Whitening | None:
    try:
        with safe_open(path, "pt") as file:
            mean = file.get_tensor("mean")
            whitening = Whitening(regularisation, mean, file.get_tensor("matrix"))
            sound = (file.metadata() or {}).get("sum") == _sum(whitening)
            return whitening if sound else None
    except (OSError, SafetensorError):
        return None


def _sum(whitening: Whitening) -> str:
    """Notices a file that was damaged."""
    return repr(whitening.matrix.double().sum().item() + whitening.mean.double().sum().item())
