"""Experts: networks trained on the real data, once, and shared by every distillation that asks for the same ones.

A pool is a folder ``experts/<key>`` in the cache (:func:`proxynas.datasets.cache.cache_dir`); the key is made of the
data and of how an expert is trained, so that another number of experts is the same pool, longer or shorter. Expert i is
one ``.safetensors`` file with its weights, how well it validates and what it cost. It depends on nothing but the key
and i, and is written whole the moment it is trained: whoever is interrupted loses the expert in training, and the next
to ask goes on to the very same pool. A damaged file is trained again.

Each expert keeps the weights that validate best of those it had at ``validations`` moments of its training, evenly
spaced. The test split is not read.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .. import spaces, training
from ..core import files, hardware, seeds
from ..core.errors import DivergedError
from ..datasets import Dataset
from ..datasets.cache import cache_dir

log = logging.getLogger(__name__)

FORMAT = "proxynas-expert-1"


@dataclass(frozen=True)
class Training:
    """How an expert is trained: ``epochs`` of SGD on the train split, a tenth of the rate from half-way on."""

    arch: str  # see spaces.resolve
    epochs: int = 100
    batch_size: int = 256
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = ""
    validations: int = 10
    seed: int = 0

    def recipe(self, n: int) -> training.Recipe:
        """As the one training loop takes it, for ``n`` images."""
        return training.Recipe(
            max(1, self.epochs * n // min(n, self.batch_size)),
            self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="step",
            augment=self.augment,
        )


@dataclass(frozen=True)
class Expert:
    """What is known of an expert without its weights; ``update`` is the one after which it validated best."""

    val_accuracy: float
    val_loss: float
    update: int
    seconds: float  # wall
    core_seconds: float
    peak_mib: float
    made_on: str


@dataclass(frozen=True)
class Pool:
    """Experts number 0 to ``size`` - 1 of a dataset, on disk; those that are not there are trained when asked for."""

    dataset: Dataset
    training: Training
    size: int

    @cached_property
    def key(self) -> str:
        """Names the pool, whatever its size: the data as the experts see them, and how they are trained.

        A fingerprint tells what is stored; the first images, as they are after preprocessing, tell the rest.
        """
        data, start = self.dataset, self.dataset.train.x[:16]
        told = {
            "format": FORMAT,
            "training": asdict(self.training),
            "fingerprint": data.fingerprint,
            "classes": data.num_classes,
            "dtype": str(start.dtype),
            "weights": [f"{name} {tuple(value.shape)}" for name, value in self._new(0).state_dict().items()],
            "images": hashlib.sha256(start.cpu().contiguous().numpy().data).hexdigest(),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]

    def path(self, i: int) -> Path:
        """The file of expert ``i``."""
        return cache_dir() / "experts" / self.key / f"{i:03}.safetensors"

    def complete(self, on_done: Callable[[int, int], None] = lambda done, total: None) -> list[Expert]:
        """All experts; those that are missing are trained, each one saved before the next. Told (done, total).

        Raises:
            DivergedError: the training of one stopped being finite.
            RunFolderError: the cache cannot be written.
        """
        found = []
        for i in range(self.size):
            found.append(self._get(i)[0])
            on_done(i + 1, self.size)
        return found

    def network(self, i: int) -> nn.Module:
        """Expert ``i`` in evaluation mode, its weights fixed. Raises as :meth:`complete`."""
        net = self._new(i)
        net.load_state_dict(self._get(i)[1])
        return net.eval().requires_grad_(False)

    def best(self) -> int:
        """The expert with the highest validation accuracy; ties: the lowest loss, then the first."""
        told = self.complete()
        return max(range(self.size), key=lambda i: (told[i].val_accuracy, -told[i].val_loss, -i))

    def _new(self, i: int) -> nn.Module:
        space, name = spaces.resolve(self.training.arch)
        with seeds.seeded(seeds.derive(self.training.seed, "expert", i)):
            net = space.build(name, self.dataset.shape, self.dataset.num_classes)
        return net.to(self.dataset.train.x)

    def _get(self, i: int) -> tuple[Expert, dict[str, Tensor]]:
        return _read(self.path(i)) or self._train(i)

    def _train(self, i: int) -> tuple[Expert, dict[str, Tensor]]:
        started, started_core = time.perf_counter(), time.process_time()
        data, net = self.dataset, self._new(i)
        recipe = self.training.recipe(len(data.train))
        points = _points(recipe.updates, self.training.validations)
        scores: dict[int, tuple[float, float]] = {}  # by update: accuracy, loss with its sign turned
        kept: dict[str, Tensor] = {}

        def look(place: int, watched: nn.Module) -> None:
            update = points[len(scores)]
            accuracy, loss = training.evaluate(watched, data.val.x, data.val.y)
            if not scores or (accuracy, -loss) >= max(scores.values()):
                kept.update({name: value.detach().cpu().clone() for name, value in watched.state_dict().items()})
            scores[update] = (accuracy, -loss)

        trained = training.fit(
            [net],
            data.train.x,
            data.train.y,
            recipe,
            seed=seeds.derive(self.training.seed, "expert", "order", i),
            fused=False,
            watch=look,
            watch_at=points,
        )
        if trained.failed[0] is not None:
            raise DivergedError(f"expert {i}: {trained.failed[0]}; lower its learning rate (expert_lr)")
        update = max(scores, key=lambda u: (scores[u], u))
        device = str(data.train.x.device)
        told = Expert(
            scores[update][0],
            -scores[update][1],
            update,
            time.perf_counter() - started,
            time.process_time() - started_core,
            hardware.peak_mib(device),
            hardware.describe(device),
        )
        _write(self.path(i), told, kept)
        return told, kept


def _points(updates: int, n: int) -> list[int]:
    """``n`` moments of a training, evenly spaced, the last one its end; fewer where there are fewer updates."""
    return sorted({math.ceil(updates * (i + 1) / n) for i in range(n)})


def _write(path: Path, told: Expert, weights: Mapping[str, Tensor]) -> None:
    about = {"format": FORMAT, "expert": asdict(told)}
    text = json.dumps({"about": about, "checksum": _checksum(about, weights)}, sort_keys=True)
    files.write_bytes(path, save({name: value.contiguous() for name, value in weights.items()}, {"proxynas": text}))


def _read(path: Path) -> tuple[Expert, dict[str, Tensor]] | None:
    """An expert and its weights, or None where there is nothing sound."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["proxynas"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        if told["checksum"] != _checksum(told["about"], weights):
            raise ValueError("its checksum differs")
        return Expert(**told["about"]["expert"]), weights
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the expert %s is damaged (%s): it is trained again", path, error)
        return None


def _checksum(about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
