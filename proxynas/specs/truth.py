"""How candidates are trained on the whole real data."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .data import DataSpec
from .distill import Seed
from .option import Option, Positive, PositiveNumber
from .recipe import Recipe, whole_data_recipe
from .search import SPACE_PANEL, Space, SpaceOptions

PANEL = "Training"


@checked(frozen=True, config=settings.CONFIG)
class TruthSpec(DataSpec):
    """``proxynas truth``: which candidates are trained on the whole real data, and how long."""

    space: Space = "convnet-grid"
    space_options: SpaceOptions = Field(default_factory=dict)
    candidates: Annotated[
        Positive | None,
        Option("How many networks to sample; the whole space by default", SPACE_PANEL),
    ] = None
    seeds: Annotated[Positive, Option("Training runs per network", PANEL)] = 3
    epochs: Annotated[Positive, Option("Passes over the real data", PANEL)] = 12
    batch_size: Annotated[Positive, Option("Batch size", PANEL)] = 25
    lr: Annotated[
        PositiveNumber, Option("Learning rate at the start; a cosine takes it to zero", PANEL)
    ] = 0.01
    seed: Seed = 0

    def recipe(self, n: int) -> Recipe:
        """SGD with momentum 0.9, weight decay 5e-4 and a cosine to zero, for ``epochs`` passes over
        ``n`` images."""
        return whole_data_recipe(n, self.epochs, self.batch_size, self.lr)
