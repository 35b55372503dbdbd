"""Scoring one candidate on one source of data: build its replicas, train them, read every indicator
off the run."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from safetensors.torch import save
from torch import Tensor, nn

from .. import training
from ..core import files, seeds
from ..datasets import Dataset
from ..spaces import SearchSpace
from ..training.curriculum import Curriculum
from . import zerocost
from .store import Score, ZeroCost


@dataclass(frozen=True)
class Source:
    """Data that candidates are trained on: images (N, …), labels, the recipe, and how the trained
    network is scored.

    Only truth is measured on the test split; a search never looks at it.
    """

    name: str
    x: Tensor
    y: Tensor
    recipe: training.Recipe
    test: bool = False  # on the test split as well
    calibration: Tensor | None = (
        None  # real images (M, …) that batch-norm averages are taken from before scoring
    )
    val_points: int = 1  # how often a run is validated, evenly; the last time at its end
    curriculum: Curriculum | None = None  # the steps that a proxy set was distilled for
    weights: Path | None = None  # where the weights of a trained candidate are kept; None: nowhere


def score(
    space: SearchSpace,
    arch: str,
    source: Source,
    dataset: Dataset,
    replicas: list[int],
    seed: int,
    device: str = "cpu",
) -> list[Score]:
    """Train the ``replicas`` (seed numbers) of ``arch`` on ``source``; one row each.

    Initialisation, data order and dropout depend on (seed, source, arch, replicas) alone, so the
    rows come out the same in any order and in any process.
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
    curves: list[list[float]] = [[] for _ in nets]  # validation accuracies on the way

    def watch(place: int, net: nn.Module) -> None:
        curves[place].append(_validate(net, dataset, source)[0])

    points = [
        source.recipe.updates * (i + 1) // source.val_points for i in range(source.val_points - 1)
    ]
    with seeds.seeded(seeds.derive(order_seed, "dropout")):  # which draws from the global generator
        trained = training.fit(
            nets,
            source.x,
            source.y,
            source.recipe,
            seed=order_seed,
            replicas=replicas,
            curriculum=source.curriculum,
            watch=watch,
            watch_at=points,
        )
    evaluated = [
        _evaluate(net, dataset, source, curve)
        for net, curve in zip(trained.nets, curves, strict=True)
    ]
    if source.weights is not None and trained.failed[0] is None:
        _keep(trained.nets[0], arch, source.weights)
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
        for replica, results, losses, reason in zip(
            replicas, evaluated, trained.losses, trained.failed, strict=True
        )
    ]


def _keep(net: nn.Module, arch: str, path: Path) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    files.write_bytes(path, save(state, {"arch": arch}))


def _evaluate(
    net: nn.Module, dataset: Dataset, source: Source, curve: list[float]
) -> dict[str, float | None]:
    val = _validate(net, dataset, source)
    tested = training.evaluate(net, dataset.test.x, dataset.test.y) if source.test else (None, None)
    return {
        "val_accuracy": val[0],
        "val_loss": val[1],
        "val_auc": mean([*curve, val[0]]) if source.val_points > 1 else None,
        "test_accuracy": tested[0],
        "test_loss": tested[1],
    }


def _validate(net: nn.Module, dataset: Dataset, source: Source) -> tuple[float, float]:
    if source.calibration is not None:
        training.calibrate(net, source.calibration)
    return training.evaluate(net, dataset.val.x, dataset.val.y)


def score_zero_cost(space: SearchSpace, arch: str, dataset: Dataset, seed: int) -> list[ZeroCost]:
    """All zero-cost indicators of ``arch``."""
    row = zerocost.zero_cost(space, arch, dataset, list(zerocost.INDICATORS), seed)
    return [ZeroCost(arch, name, row[name], row[f"{name}_seconds"]) for name in zerocost.INDICATORS]
