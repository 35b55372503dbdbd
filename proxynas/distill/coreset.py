"""Coresets: real images chosen instead of learned. They are the baselines every distilled set has to beat.

Random draws ipc images a class. Herding (Welling 2009, as Zhao 2021 uses it: §3.1) chooses, one after the other, the
image that brings the mean feature of the chosen ones nearest to the mean feature of the class. Zhao 2021 takes the
features of a network trained on the whole data; ours is a ConvNet, and its training is part of what the method costs.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from .. import seeds, settings, train
from ..nets import convnet
from .method import Method, State, Task, class_labels, draw, real_images


@checked(frozen=True, config=settings.CONFIG)
class Random:
    """Random selection has no settings."""


@checked(frozen=True, config=settings.CONFIG)
class Herding:
    """Settings of herding: the network whose features are used."""

    width: Annotated[int, Field(ge=1)] = 64
    updates: Annotated[int, Field(ge=1)] = 500
    batch_size: Annotated[int, Field(ge=1)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.01


def init_random(task: Task) -> State:
    """Real images drawn at random, (C, ipc, …)."""
    return {"x": real_images(task.dataset, task.ipc, seeds.generator(task.seed, "random"))}


def init_herding(task: Task) -> State:
    """Real images whose features average as the whole class's do, (C, ipc, …)."""
    dataset = task.dataset
    features = _features(task)  # (N, F)
    chosen = []
    for members in draw(
        dataset.train.y, dataset.num_classes, len(dataset.train), seeds.generator(task.seed, "herding")
    ):
        chosen.append(dataset.train.x[members[herd(features[members], task.ipc)]])
    return {"x": torch.stack(chosen)}


def herd(features: Tensor, n: int) -> Tensor:
    """Indices (n,) of the rows of ``features`` (N, F) chosen by herding (Welling 2009), first chosen first."""
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for size in range(1, n + 1):
        gaps = (mean - (total + features) / size).norm(dim=1).where(free, torch.inf)  # (N,)
        best = int(gaps.argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(chosen, device=features.device)


def no_step(task: Task, state: State, k: int) -> tuple[State, float]:
    """A coreset is whole once it is chosen."""
    raise AssertionError("a coreset has no steps")


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    x = state["x"].flatten(0, 1)
    return x, class_labels(task.dataset.num_classes, task.ipc, x.device)


def _features(task: Task) -> Tensor:
    dataset, herding = task.dataset, task.settings
    with seeds.seeded(seeds.derive(task.seed, "herding", "net")):
        net = convnet.ConvNet(
            dataset.shape, dataset.num_classes, depth=3, width=herding.width, norm="instancenorm", activation="relu",
            pooling="avgpooling",
        ).to(dataset.train.x.device)  # fmt: skip
    recipe = train.Recipe(herding.updates, herding.batch_size, lr=herding.lr)
    train.fit([net], dataset.train.x, dataset.train.y, recipe, seed=seeds.derive(task.seed, "herding", "order"))
    net.eval()
    with torch.no_grad():
        return torch.cat([net.features(batch).flatten(1) for batch in torch.split(dataset.train.x, 512)])


RANDOM = Method("random", "a random coreset: real images drawn at random", Random, 0, init_random, no_step, finish)
HERDING = Method(
    "herding", "herding: real images near the class mean in feature space", Herding, 0, init_herding, no_step, finish
)
