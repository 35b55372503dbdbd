"""What replicas in training are shown: batches of one set of images, augmented for each replica by
itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import augment


@dataclass(frozen=True)
class Feed:
    """Images (N, …), labels, and the augmentation with a generator for each replica, so that its
    company does not change what it sees.
    """

    x: Tensor
    y: Tensor
    augment: str
    generators: tuple[torch.Generator, ...]

    def images(self, batch: Tensor, replica: int) -> Tensor:
        """The next images (B, …) of a replica: those of the indices ``batch`` (B,), each augmented
        in its own way."""
        x = self.x[batch]
        if not self.augment:
            return x
        return augment.draw(self.augment, tuple(x.shape[1:]), self.generators[replica], len(x))(x)

    def stacked(self, batch: Tensor) -> Tensor:
        """The next images of all replicas: indices (R, B) to (R, B, …)."""
        if not self.augment:
            return self.x[batch]
        return torch.stack([self.images(indices, r) for r, indices in enumerate(batch)])
