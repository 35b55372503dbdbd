"""How well networks do that are trained on a proxy set alone: mean and deviation over fresh ones (Zhao 2021, §3.1)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Literal

from . import proxyset, seeds, settings, spaces, train
from .datasets import Dataset
from .distill import rcig, students
from .nets.published import NETWORKS
from .proxyset import ProxySet

GRID = "convnet-grid"

ALL = "all"
"""Stands for the six networks of Zhao 2021."""

Protocol = Literal["zhao", "loo"]
"""Whose way of training a network on a set: see :func:`recipe`."""


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
    updates: int | None,
    seed: int,
    augment: str | None = None,
    protocol: Protocol = "zhao",
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Train ``runs`` networks of every architecture on the set and test them on the real test split.

    ``archs`` are written as :func:`proxynas.spaces.resolve` reads them, within the space ``space_name`` (``None``: the
    ConvNets); ``all`` stands for the six networks of Zhao 2021 (on tables for the MLP), and none at all for the default
    student of the ``protocol``'s paper. ``updates`` are the protocol's own where it is ``None``. ``augment`` replaces
    the recipe's augmentation (Medvedev 2021, Table V: "test" augmentation).

    Raises:
        ProxyFileError: no such set, or it belongs to other data.
        SpaceError: an architecture that the space does not have, or that cannot be built for this data.
        SpecError: an unknown augmentation.
    """
    made = proxyset.read(proxyset.locate(proxy))
    proxyset.check(made, dataset)
    wanted, within = (archs, space_name or GRID) if archs else ([_default(dataset, protocol)], GRID)
    nets = [spaces.resolve(name, within) for arch in wanted for name in _expanded(arch, dataset)]
    for space, arch in nets:  # all are checked before the first is trained
        space.build(arch, dataset.shape, dataset.num_classes)
    how = recipe(made, protocol, updates)
    if augment is not None:
        how = settings.make(train.Recipe, {**settings.to_dict(how), "augment": augment})
    device, found = dataset.train.x.device, []
    for place, (space, arch) in enumerate(nets):
        accuracies = []
        for r in range(runs):
            with seeds.seeded(seeds.derive(seed, "evaluate", arch, r)):
                net = space.build(arch, dataset.shape, dataset.num_classes).to(device)
            trained = train.fit(
                [net], made.x.to(device), made.y.to(device), how, seed=seed, replicas=[r], curriculum=made.curriculum
            )
            accuracy, _ = train.evaluate(net, dataset.test.x, dataset.test.y)
            accuracies.append(0.0 if trained.failed[0] else accuracy)
            on_done(place * runs + r + 1, len(nets) * runs)
        found.append(Evaluation(arch, mean(accuracies), stdev(accuracies) if runs > 1 else 0.0, runs))
    return found


def recipe(made: ProxySet, protocol: Protocol, updates: int | None = None) -> train.Recipe:
    """How networks are trained on ``made``, for ``updates`` or as many updates as published.

    ``zhao``: 300 updates of the set's own recipe, with a tenth of the rate from half-way on (Zhao 2021, §3.1).
    ``loo``: Adam 1e-4 on squared errors, 500 updates of warm-up and then a cosine, 1000 in all for ten images and 2000
    for more (Loo 2023, Appendix C; Zhou 2022).
    """
    if protocol == "zhao":
        return replace(made.recipe, updates=updates or 300, batch_size=256, schedule="step")
    updates = updates or (1000 if len(made) <= 10 else 2000)
    warmup = min(500, updates // 2)
    return train.Recipe(updates, 256, "adam", lr=1e-4, weight_decay=0.0, schedule="cosine", warmup=warmup, loss="mse")


def _default(dataset: Dataset, protocol: Protocol) -> str:
    """The student of Zhao 2021 or that of Loo 2023, with the ReLU that it is evaluated with."""
    if protocol == "zhao":
        return students.default_student(dataset.shape)
    return rcig.default_student(dataset.shape).replace("softplus", "relu")


def _expanded(arch: str, dataset: Dataset) -> list[str]:
    """The networks that ``arch`` stands for."""
    if arch != ALL:
        return [arch]
    return [f"{spaces.EVALUATION}:{name}" for name in (NETWORKS if len(dataset.shape) == 3 else ("mlp",))]
