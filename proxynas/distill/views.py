"""What students see of a synthetic set: perhaps mirrored copies, perhaps a part at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .implicit import Pair


@dataclass(frozen=True)
class View:
    """A set of ``size`` images as students see it.

    ``mirrored``: with a mirrored copy of every image, after all of the set. ``subset``: how many
    images a gradient goes through; ``None``: all.
    """

    size: int
    mirrored: bool
    subset: int | None = None

    def __len__(self) -> int:
        return 2 * self.size if self.mirrored else self.size

    def of(self, x: Tensor, y: Tensor) -> Pair:
        """Images (n, …) and labels (n, C) that students are trained on, of those of the set."""
        return (torch.cat([x, x.flip(-1)]), torch.cat([y, y])) if self.mirrored else (x, y)

    def pull_back(self, in_view: Pair) -> Pair:
        """The gradient in the set's images and labels, of one in what students see."""
        x, y = in_view
        if not self.mirrored:
            return x, y
        x, mirrored_x = x.chunk(2)
        y, mirrored_y = y.chunk(2)
        return x + mirrored_x.flip(-1), y + mirrored_y

    def draw(self, generator: torch.Generator, device: torch.device) -> Tensor | None:
        """Images (k,) that a gradient goes through, drawn without replacement; ``None``: all."""
        if self.subset is None:
            return None
        return torch.randperm(len(self), generator=generator)[: self.subset].to(device)
