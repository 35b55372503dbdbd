"""Scoring one candidate on one source of data: build its replicas, train them, read every indicator
off the run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from safetensors.torch import save
from torch import Tensor, nn

from .. import training
from ..core import files, seeds
from ..datasets import Dataset
from ..spaces import Networks
from ..training.curriculum import Curriculum
from . import zerocost
from .store import Score, ZeroCost


@dataclass(frozen=True)
class Glimpse:
    """Replica ``place`` after one of its validations; ``losses`` float64 (updates,) are its
    training losses so far, ``accuracies`` those of its validations so far."""

    place: int
    losses: Tensor
    accuracies: Sequence[float]
    val_loss: float


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
    calibration: Tensor | None = None  # real images (M, …) that batch norms see before scoring
    val_points: int = 1  # how often a run is validated, evenly; the last time at its end
    curriculum: Curriculum | None = None  # the steps that a proxy set was distilled for
    weights: Path | None = None  # where the weights of a trained candidate are kept; None: nowhere


@dataclass(frozen=True)
class Work:
    """What a worker needs to score any candidate.

    zero_cost_space: whose networks zero-cost indicators look at; ``None``: those of ``space``.
    """

    space: Networks
    dataset: Dataset
    sources: dict[str, Source]
    seed: int
    device: str = "cpu"
    zero_cost_space: Networks | None = None
    time_limit: float | None = None  # wall-clock seconds of a candidate on a source

    def placed(self) -> "Work":
        """The same with all data on ``device``; tensors that are one stay one."""
        data, sources = self.dataset.to(self.device), {}
        for name, source in self.sources.items():
            whole = source.x is self.dataset.train.x
            x, y = (data.train.x, data.train.y) if whole else (source.x, source.y)
            seen = None if source.calibration is None else source.calibration.to(self.device)
            x, y = x.to(self.device), y.to(self.device)
            sources[name] = replace(source, x=x, y=y, calibration=seen)
        return replace(self, dataset=data, sources=sources)


def score(
    work: Work,
    source: str,
    arch: str,
    replicas: list[int],
    watch: Callable[[Glimpse], None] = lambda glimpse: None,
) -> list[Score]:
    """Train the ``replicas`` (seed numbers) of ``arch`` on a source; one row each.

    ``watch`` sees every replica at each validation but the last; what it raises ends the training.

    Initialisation, data order and dropout depend on (seed, source, arch, replicas) alone, so the
    rows come out the same in any order and in any process.
    """
    # core seconds do not depend on what else computes
    clock = time.process_time if work.device == "cpu" else time.perf_counter
    started = clock()
    data = work.sources[source]
    trained, curves = _trained(work, data, arch, replicas, watch)
    evaluated = [
        _evaluate(net, work.dataset, data, curve)
        for net, curve in zip(trained.nets, curves, strict=True)
    ]
    if data.weights is not None and trained.failed[0] is None:
        _keep(trained.nets[0], arch, data.weights)
    share = (clock() - started) / len(replicas)
    return [
        Score(
            source=source,
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


def _trained(
    work: Work,
    source: Source,
    arch: str,
    replicas: list[int],
    watch: Callable[[Glimpse], None],
) -> tuple[training.Trained, list[list[float]]]:
    """The trained replicas, and of each the validation accuracies on the way."""
    nets, curves = [], [list[float]() for _ in replicas]
    for r in replicas:
        with seeds.seeded(seeds.derive(work.seed, source.name, arch, "init", r)):
            net = work.space.build(arch, work.dataset.shape, work.dataset.num_classes)
            nets.append(net.to(work.device))

    def look(place: int, net: nn.Module, losses: Tensor) -> None:
        accuracy, loss = _validate(net, work.dataset, source)
        curves[place].append(accuracy)
        watch(Glimpse(place, losses, tuple(curves[place]), loss))

    points, updates = source.val_points, source.recipe.updates
    trained = training.fit(
        nets,
        source.x,
        source.y,
        source.recipe,
        seed=seeds.derive(work.seed, source.name, arch),
        replicas=replicas,
        curriculum=source.curriculum,
        watch=look,
        watch_at=[updates * (i + 1) // points for i in range(points - 1)],
    )
    return trained, curves


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


def score_zero_cost(space: Networks, arch: str, dataset: Dataset, seed: int) -> list[ZeroCost]:
    """All zero-cost indicators of ``arch``."""
    row = zerocost.zero_cost(space, arch, dataset, list(zerocost.INDICATORS), seed)
    return [ZeroCost(arch, name, row[name], row[f"{name}_seconds"]) for name in zerocost.INDICATORS]
