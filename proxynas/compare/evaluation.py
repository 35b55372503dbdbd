"""How well networks do that are trained on a proxy set alone: mean and deviation over fresh ones (Zhao 2021, §3.1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import nn

from .. import proxyset, spaces, training
from ..core import seeds, settings
from ..core.errors import SpecError
from ..datasets import Dataset, Split
from ..distill import students
from ..distill.methods import rcig
from ..nets.published import NETWORKS
from ..proxyset import ProxySet
from ..spaces import SearchSpace
from ..training.curriculum import GoingOn
from .spec import Protocol

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
    updates: int | None,
    seed: int,
    augment: str | None = None,
    protocol: Protocol = "zhao",
    going_on: GoingOn | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Train ``runs`` networks of every architecture on the set and test them on the real test split.

    ``archs`` are written as :func:`proxynas.spaces.resolve` reads them, within the space ``space_name`` (``None``: the
    ConvNets); ``all`` stands for the six networks of Zhao 2021 (on tables for the MLP), and none at all for the default
    student of the ``protocol``'s paper. ``updates`` are the protocol's own where it is ``None``. ``augment`` replaces
    the recipe's augmentation (Medvedev 2021, Table V: "test" augmentation). ``going_on``: see :func:`gone_on`.

    Raises:
        ProxyFileError: no such set, or it belongs to other data.
        SpaceError: an architecture that the space does not have, or that cannot be built for this data.
        SpecError: an unknown augmentation, or nothing to go on from.
    """
    made = proxyset.read(proxyset.locate(proxy))
    proxyset.check(made, dataset)
    made, updates = gone_on(made, going_on, updates)
    wanted = networks(archs, dataset, protocol, space_name)
    how = recipe(made, protocol, updates, augment)
    found = []
    for place, (space, arch) in enumerate(wanted):
        accuracies = []
        for r in range(runs):
            net = trained(made, space, arch, how, dataset.train.x.device, seed=seed, number=r)
            accuracies.append(accuracy(net, dataset.test))
            on_done(place * runs + r + 1, len(wanted) * runs)
        found.append(Evaluation(arch, mean(accuracies), stdev(accuracies) if runs > 1 else 0.0, runs))
    return found


def networks(
    archs: Sequence[str] | None, dataset: Dataset, protocol: Protocol, space_name: str | None = None
) -> list[tuple[SearchSpace, str]]:
    """The architectures that ``archs`` stand for, see :func:`evaluate`, each with its space; each was built once.

    Raises:
        SpaceError: one that the space does not have, or that cannot be built for this data.
    """
    if space_name is not None and not archs:
        raise SpecError(f"a space ({space_name}) is only where archs are looked up; name one or more (--arch)")
    within = space_name or GRID
    found = [spaces.resolve(name, within) for name in named(archs, dataset, protocol)]
    for space, arch in found:
        space.build(arch, dataset.shape, dataset.num_classes)
    return found


def named(archs: Sequence[str] | None, dataset: Dataset, protocol: Protocol) -> list[str]:
    """The architectures as they are written: ``all`` taken apart, and the protocol's own where there are none."""
    return [name for arch in archs or [_default(dataset, protocol)] for name in _expanded(arch, dataset)]


def gone_on(made: ProxySet, how: GoingOn | None, updates: int | None) -> tuple[ProxySet, int | None]:
    """The set with the steps of training past the distilled ones, and how many updates that takes.

    Without ``how`` both are as they were; ``updates``, where given, stay.

    Raises:
        SpecError: the set has no steps that it was distilled for.
    """
    if how is None:
        return made, updates
    if made.curriculum is None:
        raise SpecError(
            "going_on is for sets that were distilled for steps in an order, but this set has none; leave it out, or "
            "distil with --method unroll and --set ic=… or --set learn_rates=true"
        )
    steps = how.after(made.curriculum)
    return replace(made, curriculum=steps), updates or len(steps.order)


def trained(
    made: ProxySet, space: SearchSpace, arch: str, how: training.Recipe, device: torch.device, *, seed: int, number: int
) -> nn.Module | None:
    """Network ``number`` of an architecture, fresh, trained on the set; ``None`` where that failed."""
    with seeds.seeded(seeds.derive(seed, "evaluate", arch, number)):
        net = space.build(arch, tuple(made.x.shape[1:]), made.num_classes).to(device)
    fitted = training.fit(
        [net], made.x.to(device), made.y.to(device), how, seed=seed, replicas=[number], curriculum=made.curriculum
    )
    return net if fitted.failed[0] is None else None


def accuracy(net: nn.Module | None, split: Split) -> float:
    """Accuracy in [0, 1] of a network; a failed one counts as 0."""
    return 0.0 if net is None else training.evaluate(net, split.x, split.y)[0]


def recipe(
    made: ProxySet,
    protocol: Protocol,
    updates: int | None = None,
    augment: str | None = None,
    batch_size: int | None = None,
) -> training.Recipe:
    """How networks are trained on ``made``, for ``updates`` or as many updates as published, on 256 images each.

    ``zhao``: the set's own recipe for 300 passes over the set, with augmentation for 1000, with a tenth of the rate
    from half-way on (the code of Zhao 2021; the paper names no number).
    ``loo``: Adam 1e-4 on squared errors, 500 updates of warm-up and then a cosine, 1000 in all for ten images and 2000
    for more (Loo 2023, Appendix C; Zhou 2022). ``augment`` and ``batch_size`` replace those.

    Raises:
        SpecError: an unknown augmentation.
    """
    passes = 1000 if augment or (augment is None and made.recipe.augment) else 300
    how = _zhao(made, updates, passes) if protocol == "zhao" else _loo(made, updates)
    own = {"augment": augment, "batch_size": batch_size}
    given = {key: value for key, value in own.items() if value is not None}
    return settings.make(training.Recipe, {**settings.to_dict(how), **given})


def _zhao(made: ProxySet, updates: int | None, passes: int) -> training.Recipe:
    return replace(made.recipe, updates=updates or passes * math.ceil(len(made) / 256), batch_size=256, schedule="step")


def _loo(made: ProxySet, updates: int | None) -> training.Recipe:
    updates = updates or (1000 if len(made) <= 10 else 2000)
    warmup = min(500, updates // 2)
    return training.Recipe(
        updates, 256, "adam", lr=1e-4, weight_decay=0.0, schedule="cosine", warmup=warmup, loss="mse"
    )


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
