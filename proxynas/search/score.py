"""Scoring one candidate on one source of data: build its replicas, train them, read every indicator off the run."""

import time
from dataclasses import dataclass

from torch import Tensor, nn

from .. import seeds, train
from ..curriculum import Curriculum
from ..datasets import Dataset
from ..spaces import SearchSpace
from .store import Score


@dataclass(frozen=True)
class Source:
    """Data that candidates are trained on: images (N, …), labels, the recipe, the distilled steps where there are any,
    and whether the test split is scored too.

    Only truth is measured on the test split; a search never looks at it.
    """

    name: str
    x: Tensor
    y: Tensor
    recipe: train.Recipe
    test: bool = False
    curriculum: Curriculum | None = None


def score(
    space: SearchSpace, arch: str, source: Source, dataset: Dataset, replicas: list[int], seed: int, device: str = "cpu"
) -> list[Score]:
    """Train the ``replicas`` (seed numbers) of ``arch`` on ``source``; one row each.

    Initialisation and data order depend on (seed, source, arch, replica) alone, so the rows come out the same in any
    order and in any process.
    """
    clock = (
        time.process_time if device == "cpu" else time.perf_counter
    )  # core seconds do not depend on who else computes
    started = clock()
    nets = []
    for r in replicas:
        with seeds.seeded(seeds.derive(seed, source.name, arch, "init", r)):
            nets.append(space.build(arch, dataset.shape, dataset.num_classes).to(device))
    order_seed = seeds.derive(seed, source.name, arch)
    trained = train.fit(
        nets, source.x, source.y, source.recipe, seed=order_seed, replicas=replicas, curriculum=source.curriculum
    )
    evaluated = [_evaluate(net, dataset, source.test) for net in trained.nets]
    share = (clock() - started) / len(replicas)
    return [
        Score(
            source=source.name,
            arch=arch,
            seed=replica,
            **(dict.fromkeys(results) if reason else results),
            sotl=None if reason else losses.sum().item(),
            losses=losses.numpy(),
            seconds=share,
            failed=reason,
        )
        for replica, results, losses, reason in zip(replicas, evaluated, trained.losses, trained.failed, strict=True)
    ]


def _evaluate(net: nn.Module, dataset: Dataset, test: bool) -> dict[str, float | None]:
    val = train.evaluate(net, dataset.val.x, dataset.val.y)
    tested = train.evaluate(net, dataset.test.x, dataset.test.y) if test else (None, None)
    return {"val_accuracy": val[0], "val_loss": val[1], "test_accuracy": tested[0], "test_loss": tested[1]}
