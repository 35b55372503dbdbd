"""How well networks do that are trained on a proxy set alone: mean and deviation over fresh ones (Zhao 2021, §3.1)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean, stdev

from . import proxyset, seeds, settings, spaces, train
from .datasets import Dataset
from .distill import students
from .nets.published import NETWORKS

GRID = "convnet-grid"

ALL = "all"
"""Stands for the six networks of Zhao 2021."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in [0, 1] on the test split over ``runs`` networks; a failed run counts as 0."""

    arch: str
    mean: float
    sd: float
    runs: int


def evaluate(
    proxy: str,
    dataset: Dataset,
    space_name: str | None,
    archs: list[str] | None,
    *,
    runs: int,
    updates: int,
    seed: int,
    augment: str | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Train ``runs`` networks of every architecture on the set and test them on the real test split.

    ``archs`` are written as :func:`proxynas.spaces.resolve` reads them, within the space ``space_name`` (``None``: the
    ConvNets); ``all`` stands for the six networks of Zhao 2021 (on tables for the MLP), and none at all for the default
    student. ``augment`` replaces the recipe's augmentation (Medvedev 2021, Table V: "test" augmentation).

    Raises:
        ProxyFileError: no such set, or it belongs to other data.
        SpaceError: an architecture that the space does not have, or that cannot be built for this data.
        SpecError: an unknown augmentation.
    """
    made = proxyset.read(proxyset.locate(proxy))
    proxyset.check(made, dataset)
    wanted, within = (archs, space_name or GRID) if archs else ([students.default_student(dataset.shape)], GRID)
    nets = [spaces.resolve(name, within) for arch in wanted for name in _expanded(arch, dataset)]
    for space, arch in nets:  # all are checked before the first is trained
        space.build(arch, dataset.shape, dataset.num_classes)
    recipe = replace(made.recipe, updates=updates, batch_size=256, schedule="step")
    if augment is not None:
        recipe = settings.make(train.Recipe, {**settings.to_dict(recipe), "augment": augment})
    device, found = dataset.train.x.device, []
    for place, (space, arch) in enumerate(nets):
        accuracies = []
        for r in range(runs):
            with seeds.seeded(seeds.derive(seed, "evaluate", arch, r)):
                net = space.build(arch, dataset.shape, dataset.num_classes).to(device)
            trained = train.fit(
                [net], made.x.to(device), made.y.to(device), recipe, seed=seed, replicas=[r], curriculum=made.curriculum
            )
            accuracy, _ = train.evaluate(net, dataset.test.x, dataset.test.y)
            accuracies.append(0.0 if trained.failed[0] else accuracy)
            on_done(place * runs + r + 1, len(nets) * runs)
        found.append(Evaluation(arch, mean(accuracies), stdev(accuracies) if runs > 1 else 0.0, runs))
    return found


def _expanded(arch: str, dataset: Dataset) -> list[str]:
    """The networks that ``arch`` stands for."""
    if arch != ALL:
        return [arch]
    return [f"{spaces.EVALUATION}:{name}" for name in (NETWORKS if len(dataset.shape) == 3 else ("mlp",))]
