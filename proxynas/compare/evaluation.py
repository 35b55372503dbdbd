"""How well networks do that are trained on a proxy set alone: mean and deviation over fresh ones
(Zhao 2021, §3.1)."""

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
from ..nets.published import NETWORKS
from ..proxyset import ProxySet
from ..spaces import SearchSpace
from ..spaces.guard import guarded
from ..specs import EvaluationSpec, Extension, Protocol, Recipe
from ..training import curriculum

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
    spec: EvaluationSpec,
    *,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Train ``spec.students`` networks of every architecture on the set and test them on the real
    test split.

    Architectures are written as :func:`proxynas.spaces.resolve` reads them, within ``spec.space``
    (``None``: the ConvNets); ``all`` stands for the six networks of Zhao 2021 (on tables for the
    MLP), and none at all for the default student of the protocol's paper. ``spec.updates`` are the
    protocol's own where it is ``None``; ``spec.augment`` replaces the recipe's augmentation
    (Medvedev 2021, Table V: "test" augmentation).

    Raises:
        ProxyFileError: no such set, or it belongs to other data.
        SpaceError: an architecture that the space does not have, or that cannot be built for this
            data.
        SpecError: an unknown augmentation, or a set without steps that it could be trained past.
    """
    proxy_set = proxyset.read(proxy)
    proxyset.check(proxy_set, dataset)
    nets = networks(spec.archs, dataset, spec.protocol, spec.space)
    trainer = prepared(proxy_set, spec, dataset.train.x.device)
    rows = []
    for place, (space, arch) in enumerate(nets):
        accuracies = []
        for r in range(spec.students):
            accuracies.append(accuracy(trainer.network(space, arch, r), dataset.test))
            on_done(place * spec.students + r + 1, len(nets) * spec.students)
        sd = stdev(accuracies) if spec.students > 1 else 0.0
        rows.append(Evaluation(arch, mean(accuracies), sd, spec.students))
    return rows


@dataclass(frozen=True)
class Trainer:
    """Trains networks on a set: with its steps and its labels, by one recipe, on one device."""

    proxy_set: ProxySet
    recipe: Recipe
    seed: int
    device: torch.device

    def network(self, space: SearchSpace, arch: str, number: int) -> nn.Module | None:
        """Network ``number`` of an architecture, fresh, trained; ``None`` where that failed."""
        with guarded(f"training {arch!r} failed"):
            return self._trained(space, arch, number)

    def _trained(self, space: SearchSpace, arch: str, number: int) -> nn.Module | None:
        x, y = self.proxy_set.x.to(self.device), self.proxy_set.y.to(self.device)
        with seeds.seeded(seeds.derive(self.seed, "evaluate", arch, number)):
            net = space.build(arch, tuple(x.shape[1:]), self.proxy_set.num_classes).to(self.device)
        fitted = training.fit(
            [net],
            x,
            y,
            self.recipe,
            seed=self.seed,
            replicas=[number],
            curriculum=self.proxy_set.curriculum,
        )
        return net if fitted.failed[0] is None else None


def prepared(proxy_set: ProxySet, spec: EvaluationSpec, device: torch.device) -> Trainer:
    """What trains networks on a set as ``spec`` asks.

    Raises:
        SpecError: see :func:`extended` and :func:`recipe`.
    """
    proxy_set, updates = extended(proxy_set, spec.extend, spec.updates)
    trains = recipe(proxy_set, replace(spec, updates=updates))
    if spec.labels == "hard":
        proxy_set = replace(proxy_set, y=proxy_set.hard_labels())
        trains = replace(trains, loss="cross-entropy")
    return Trainer(proxy_set, trains, spec.seed, device)


def networks(
    archs: Sequence[str] | None, dataset: Dataset, protocol: Protocol, space_name: str | None = None
) -> list[tuple[SearchSpace, str]]:
    """The architectures that ``archs`` stand for, see :func:`evaluate`, each with its space; each
    was built once.

    Raises:
        SpaceError: one that the space does not have, or that cannot be built for this data.
    """
    if space_name is not None and not archs:
        raise SpecError(
            f"a space ({space_name}) is only where archs are looked up; name one or more (--arch)"
        )
    within = space_name or GRID
    resolved = [spaces.resolve(name, within) for name in named(archs, dataset, protocol)]
    for space, arch in resolved:
        space.check(arch, dataset.shape, dataset.num_classes)
    return resolved


def named(archs: Sequence[str] | None, dataset: Dataset, protocol: Protocol) -> list[str]:
    """The architectures as they are written: ``all`` as the six that it stands for, and without
    any the protocol's default."""
    given = archs or [_default(dataset, protocol)]
    return [name for arch in given for name in _expanded(arch, dataset)]


def extended(
    proxy_set: ProxySet, extension: Extension | None, updates: int | None
) -> tuple[ProxySet, int | None]:
    """The set with the steps of training past the distilled ones, and how many updates that takes.

    Without ``extension`` both are as they were; ``updates``, where given, stay.

    Raises:
        SpecError: the set has no steps that it was distilled for.
    """
    if extension is None:
        return proxy_set, updates
    if proxy_set.curriculum is None:
        raise SpecError(
            "extend is for sets that were distilled for steps in an order, but this set has none; "
            "leave it out, or distil with --method unroll and --set ic=… or --set learn_rates=true"
        )
    steps = curriculum.extended(proxy_set.curriculum, extension)
    return replace(proxy_set, curriculum=steps), updates or len(steps.order)


def accuracy(net: nn.Module | None, split: Split) -> float:
    """Accuracy in [0, 1] of a network; a failed one counts as 0."""
    return 0.0 if net is None else training.evaluate(net, split.x, split.y)[0]


def recipe(proxy_set: ProxySet, spec: EvaluationSpec) -> Recipe:
    """How networks are trained on a set, for ``spec.updates`` or as many as published, on batches
    of 256 images.

    ``zhao2021``: the set's own recipe for 300 passes over the set, with augmentation for 1000, with
    a tenth of the rate from half-way on (the code of Zhao 2021; the paper names no number).
    ``loo2023``: Adam 1e-4 on squared errors, 500 updates of warm-up and then a cosine, 1000 in all
    for ten images and 2000 for more (Loo 2023, Appendix C; Zhou 2022). ``augment`` and
    ``batch_size`` replace those; passes are of the batches that are really used, also where the set
    says which.
    """
    augmented = proxy_set.recipe.augment if spec.augment is None else spec.augment
    if spec.protocol == "zhao2021":
        published = _zhao2021(proxy_set, spec, passes=1000 if augmented else 300)
    else:
        published = _loo2023(proxy_set, spec.updates)
    changes = {"augment": spec.augment, "batch_size": spec.batch_size}
    given = {key: value for key, value in changes.items() if value is not None}
    return settings.make(Recipe, {**settings.to_dict(published), **given})


def _zhao2021(proxy_set: ProxySet, spec: EvaluationSpec, passes: int) -> Recipe:
    size, steps = spec.batch_size or 256, proxy_set.curriculum
    batch = size if steps is None else steps.order.shape[1]
    updates = spec.updates or passes * math.ceil(len(proxy_set) / batch)
    return replace(proxy_set.recipe, updates=updates, batch_size=size, schedule="step")


def _loo2023(proxy_set: ProxySet, updates: int | None) -> Recipe:
    updates = updates or (1000 if len(proxy_set) <= 10 else 2000)
    warmup = min(500, updates // 2)
    return Recipe(
        updates=updates,
        batch_size=256,
        optimizer="adam",
        lr=1e-4,
        weight_decay=0.0,
        schedule="cosine",
        warmup=warmup,
        loss="mse",
    )


def _default(dataset: Dataset, protocol: Protocol) -> str:
    """The student of Zhao 2021 or that of Loo 2023, with the ReLU that it is evaluated with."""
    if protocol == "zhao2021":
        return students.default_student(dataset.shape)
    return students.doubling_student(dataset.shape).replace("softplus", "relu")


def _expanded(arch: str, dataset: Dataset) -> list[str]:
    """The networks that ``arch`` stands for."""
    if arch != ALL:
        return [arch]
    names = NETWORKS if dataset.is_images else ("mlp",)
    return [f"{spaces.EVALUATION}:{name}" for name in names]
