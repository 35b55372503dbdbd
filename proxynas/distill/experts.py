"""Experts: networks trained on the real data, once, and shared by all distillations that want them.

A pool is a folder ``experts/<key>`` in the cache (:func:`proxynas.datasets.cache.cache_dir`); the
key is made of the data and of how an expert is trained (its ``pool.json``), so that another number
of experts is the same pool, longer or shorter. Expert i is one ``.safetensors`` file with its
weights, how well it validates and what it cost. It depends on nothing but the key and i, and is
written whole the moment it is trained: an interruption loses only the expert in training, and the
next call resumes and ends at the very same pool. A damaged expert is trained again.

Each expert keeps the weights that validate best of those it had at ``validations`` moments of its
training, evenly spaced (θ_T = the best θ_t by accuracy, then loss, on the validation split). The
test split is not read.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from torch import Tensor, nn

from .. import spaces, training
from ..core import files, hardware, seeds, tensorfile, text
from ..core.errors import DivergedError
from ..datasets import Dataset
from ..datasets.cache import cache_dir
from .method import Shared

log = logging.getLogger(__name__)

FORMAT = "proxynas-expert-1"


def _silent(done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Training:
    """How an expert is trained: ``epochs`` of SGD, by default a tenth of the rate from half on."""

    arch: str  # see spaces.resolve
    epochs: int = 100
    batch_size: int = 256
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = ""
    validations: int = 10
    seed: int = 0
    schedule: Literal["constant", "step"] = "step"

    def recipe(self, n: int) -> training.Recipe:
        """As the one training loop takes it, for ``n`` images."""
        return training.Recipe(
            max(1, self.epochs * n // min(n, self.batch_size)),
            self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            augment=self.augment,
        )


@dataclass(frozen=True)
class Expert:
    """An expert without its weights: how it validated after ``update``, its best, and its cost."""

    val_accuracy: float
    val_loss: float
    update: int
    seconds: float  # wall-clock
    core_seconds: float
    peak_mib: float
    made_on: str


@dataclass(frozen=True)
class Pool:
    """Experts 0 to ``size`` - 1 of a dataset, on disk; missing ones are trained when asked for."""

    dataset: Dataset
    training: Training
    size: int
    format: str = FORMAT

    @cached_property
    def identity(self) -> str:
        """Of which data the experts are and how they are trained, as JSON, whatever their number.

        The fingerprint is of the stored data; the first images show how they are preprocessed.
        """
        data = self.dataset
        images = data.train.x[:16]
        weights = self._new(0).state_dict()
        identity = {
            "format": self.format,
            "training": asdict(self.training),
            "fingerprint": data.fingerprint,
            "classes": data.num_classes,
            "dtype": str(images.dtype),
            "weights": [f"{name} {tuple(value.shape)}" for name, value in weights.items()],
            "images": hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest(),
        }
        return json.dumps(identity, sort_keys=True)

    @cached_property
    def key(self) -> str:
        """Identifies the pool, whatever its size."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:24]

    def path(self, i: int) -> Path:
        """The file of expert ``i``."""
        return cache_dir() / "experts" / self.key / f"{i:03}.safetensors"

    def complete(self, on_done: Callable[[int, int], None] = _silent) -> list[Expert]:
        """All experts; missing ones are trained, each saved before the next.

        ``on_done(done, total)`` is called after each.

        Raises:
            DivergedError: the training of one stopped being finite.
            RunFolderError: the cache cannot be written.
        """
        experts = []
        for i in range(self.size):
            experts.append(self._get(i)[0])
            on_done(i + 1, self.size)
        return experts

    def shared(self, on_done: Callable[[int, int], None] = _silent) -> Shared:
        """The pool as what distillations share, and what it cost when it was trained."""
        experts = self.complete(on_done)
        return Shared(
            "experts",
            self.key,
            sum(expert.seconds for expert in experts),
            sum(expert.core_seconds for expert in experts),
            max(expert.peak_mib for expert in experts),
            {
                "count": len(experts),
                "val_accuracy": [round(expert.val_accuracy, 4) for expert in experts],
                "made_on": sorted({expert.made_on for expert in experts}),
            },
        )

    def network(self, i: int) -> nn.Module:
        """Expert ``i`` in evaluation mode, its weights fixed. Raises as :meth:`complete`."""
        net = self._new(i)
        net.load_state_dict(self._get(i)[1])
        return net.eval().requires_grad_(False)

    def best(self) -> int:
        """The expert with the highest validation accuracy; ties: lowest loss, then the first."""
        experts = self.complete()
        quality = [(expert.val_accuracy, -expert.val_loss) for expert in experts]
        return quality.index(max(quality))

    def _new(self, i: int) -> nn.Module:
        space, name = spaces.resolve(self.training.arch)
        with seeds.seeded(seeds.derive(self.training.seed, "expert", i)):
            net = space.build(name, self.dataset.shape, self.dataset.num_classes)
        return net.to(self.dataset.train.x)

    def _get(self, i: int) -> tuple[Expert, dict[str, Tensor]]:
        there = _read(self.path(i))
        if there is not None:
            return there
        with files.locked(self.path(i).with_suffix(".lock")):  # another job may train it right now
            return _read(self.path(i)) or self._train(i)

    def _kept(self, net: nn.Module, updates: int) -> "BestSoFar":
        return BestSoFar(self.dataset, _points(updates, self.training.validations))

    def _train(self, i: int) -> tuple[Expert, dict[str, Tensor]]:
        started = time.perf_counter()
        started_core = time.process_time()
        files.write_text(self.path(i).with_name("pool.json"), self.identity)  # or fails before work
        data = self.dataset
        hardware.reset_peak(str(data.train.x.device))
        net = self._new(i)
        recipe = self.training.recipe(len(data.train))
        best = self._kept(net, recipe.updates)
        trained = training.fit(
            [net],
            data.train.x,
            data.train.y,
            recipe,
            seed=seeds.derive(self.training.seed, "expert", "order", i),
            fused=False,
            watch=best.look,
            watch_at=best.points,
        )
        if trained.failed[0] is not None:
            reason = trained.failed[0]
            raise DivergedError(f"expert {i}: {reason}; lower its learning rate (expert_lr)")
        device = str(data.train.x.device)
        expert = Expert(
            best.accuracy,
            best.loss,
            best.update,
            time.perf_counter() - started,
            time.process_time() - started_core,
            hardware.peak_mib(device),
            hardware.describe(device),
        )
        _write(self.path(i), expert, best.weights)
        return expert, best.weights


class BestSoFar:
    """The weights that validate best at the updates ``points``; the later of equally good ones."""

    def __init__(self, data: Dataset, points: list[int]) -> None:
        self.data = data
        self.points = points
        self.looks = 0
        self.accuracy = -math.inf
        self.loss = math.inf
        self.update = 0
        self.weights: dict[str, Tensor] = {}

    def look(self, place: int, net: nn.Module, losses: Tensor) -> None:
        """Validate ``net`` at the next point, and keep its weights if none were better."""
        update = self.points[self.looks]
        self.looks += 1
        accuracy, loss = training.evaluate(net, self.data.val.x, self.data.val.y)
        if self.looks == 1 or (accuracy, -loss) >= (self.accuracy, -self.loss):
            self.accuracy = accuracy
            self.loss = loss
            self.update = update
            weights = net.state_dict()
            self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}


def _points(updates: int, n: int) -> list[int]:
    """``n`` evenly spaced updates of a training, the last one its end; fewer if it has fewer."""
    return sorted({math.ceil(updates * (i + 1) / n) for i in range(n)})


def _write(path: Path, expert: Expert, weights: Mapping[str, Tensor]) -> None:
    tensorfile.write(path, {"format": FORMAT, "expert": asdict(expert)}, weights)


def _read(path: Path) -> tuple[Expert, dict[str, Tensor]] | None:
    """An expert and its weights, or None where there is nothing sound."""
    if not os.path.lexists(path):
        return None
    try:
        about, weights = tensorfile.read(path)
        return TypeAdapter(Expert).validate_python(about.get("expert")), weights
    except ValueError as error:
        log.warning("the expert %s is damaged (%s): it is trained again", path, text.reason(error))
        return None
