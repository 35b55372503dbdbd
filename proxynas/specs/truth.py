"""How candidates are trained on the whole real data, or which of others' measurements are taken."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from .data import DataSpec
from .distill import Seed
from .option import IMPORT, SPACE, TRAINING, Option, Positive, PositiveNumber, Repeats
from .recipe import Recipe, whole_data_recipe
from .search import Constraints, Space, SpaceOptions, TimeLimit


@checked(frozen=True, config=settings.CONFIG)
class TruthSpec(DataSpec):
    """``proxynas truth``: which candidates are trained on the whole real data, and how long."""

    space: Space = "convnet-grid"
    space_options: SpaceOptions = Field(default_factory=dict)
    time_limit: TimeLimit = None
    candidates: Annotated[
        Positive | None,
        Option("How many networks to sample. Default: the whole space.", SPACE),
    ] = None
    constraints: Constraints = ()
    seeds: Annotated[Repeats, Option("Training runs per network.", TRAINING)] = 3
    epochs: Annotated[Positive, Option("Passes over the real data.", TRAINING)] = 12
    batch_size: Annotated[Positive, Option("Batch size.", TRAINING)] = 25
    lr: Annotated[
        PositiveNumber,
        Option("Learning rate at the start; a cosine takes it to zero.", TRAINING),
    ] = 0.01
    seed: Seed = 0

    def recipe(self, n: int) -> Recipe:
        """SGD with momentum 0.9, weight decay 5e-4 and a cosine to zero, for ``epochs`` passes over
        ``n`` images."""
        return whole_data_recipe(n, self.epochs, self.batch_size, self.lr)


@checked(frozen=True, config=settings.CONFIG)
class ImportSpec:
    """``proxynas truth import``: which measurements are taken, and from which columns of a CSV.

    ``split`` is the split that accuracies are of, ``epochs`` how long networks were trained.
    """

    split: Annotated[Literal["val", "test"], Option("Split that the accuracy is of.", IMPORT)] = (
        "test"
    )
    epochs: Annotated[
        int | None,
        Option(
            "Epochs of training; NAS-Bench-201 has 12 and 200, which rank differently. Default: "
            "its 200; of a CSV not known.",
            IMPORT,
        ),
    ] = None
    seeds: Annotated[
        tuple[int, ...],
        Option(
            "Take the runs of this seed only. Repeatable. Default: all.",
            IMPORT,
            flag="--seed",
            metavar="N",
        ),
    ] = ()
    space: Annotated[str, Option("Search space of a CSV.", IMPORT)] = "nasbench201"
    arch_column: Annotated[str, Option("Column of a CSV with the architectures.", IMPORT)] = "arch"
    accuracy_column: Annotated[str, Option("Column of a CSV with the accuracies.", IMPORT)] = (
        "accuracy"
    )
    seed_column: Annotated[str | None, Option("Column of a CSV with the seeds.", IMPORT)] = None
    percent: Annotated[bool, Option("Accuracies of a CSV are percent.", IMPORT)] = False
