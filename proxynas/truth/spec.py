"""How candidates are trained on the whole real data: the flags and TOML keys of ``proxynas truth``."""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.settings import NotNegative, Positive
from ..datasets.spec import DataSpec
from ..training import Recipe


@checked(frozen=True, config=settings.CONFIG)
class TruthSpec(DataSpec):
    """``proxynas truth``: which candidates are trained on the whole real data, and how long."""

    space: str = "convnet-grid"
    space_settings: dict[str, Any] = Field(default_factory=dict)
    candidates: Positive | None = None  # None: the whole space
    seeds: Positive = 3
    epochs: Positive = 12
    batch_size: Positive = 25
    lr: Annotated[float, Field(gt=0)] = 0.01
    seed: NotNegative = 0

    def recipe(self, n: int) -> Recipe:
        """SGD with momentum 0.9, weight decay 5e-4 and a cosine to zero, for ``epochs`` passes over ``n`` images."""
        updates = max(1, self.epochs * n // min(n, self.batch_size))
        return Recipe(updates=updates, batch_size=self.batch_size, lr=self.lr, schedule="cosine")
