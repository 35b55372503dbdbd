"""The proxy set on disk: one ``.safetensors`` file with the images and all that is needed to train
on them.

The file's metadata is JSON: the recipe the set was made for, the preprocessing of its images (so
that nobody has to guess), the class names and the provenance. A checksum over tensors and metadata
makes a changed file known.

A set may also carry the steps it was distilled for (tensors ``order`` and ``rates``), the whitening
of its images (``zca.mean`` and ``zca.matrix``; the metadata's preprocessing has its setting) and
the generator that made it (tensors under ``generator.``; the metadata's ``generator`` has its kind,
its size k and its batch). Files without them are read as they always were.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from .. import training
from ..core import files, resources, settings
from ..core.errors import ProxyFileError, SpecError
from ..datasets import Dataset, Preprocessing, Split
from ..datasets.zca import Whitening
from ..nets.generator import Distilled
from ..specs import Regularisation, parse_whitening
from ..training.curriculum import Curriculum
from . import merging

FORMAT = "proxynas-proxy-1"
GENERATOR = "generator."


@dataclass(frozen=True)
class ProxySet(TorchDataset[tuple[Tensor, Tensor]]):
    """Distilled or selected images. As a torch ``Dataset`` its items are (image, label),
    normalised.

    ``x`` is float32 (n, C, H, W), or rows of a table (n, D), normalised by ``preprocessing``; ``y``
    is int64 (n,), or float32 (n, K) where labels are soft. ``provenance`` has at least ``method``,
    ``ipc``, ``seed``, ``data``, ``fingerprint``, ``seconds`` (wall), ``core_seconds`` and
    ``peak_mib`` of the distillation. ``curriculum`` and ``generator`` are there where the method
    made them; :func:`proxynas.training.fit` takes the one,
    :meth:`generate` needs the other.
    """

    x: Tensor
    y: Tensor
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    recipe: training.Recipe = field(default_factory=training.Recipe)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    curriculum: Curriculum | None = None
    generator: Distilled | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def nbytes(self) -> int:
        """Storage of images and labels, bytes; a generator or a whitening, if there is one, is not
        counted."""
        return self.x.nbytes + self.y.nbytes

    @property
    def is_images(self) -> bool:
        """Whether its inputs are images, and not rows of a table."""
        return self.x.ndim == 4

    def hard_labels(self) -> Tensor:
        """Class indices, int64 (n,)."""
        return self.y if self.y.ndim == 1 else self.y.argmax(1)

    def images(self) -> Tensor:
        """The images as pixels in [0, 1], float32 (n, C, H, W), clamped; rows (n, D) in the table's
        own units."""
        x = self.preprocessing.invert(self.x)
        return x.clamp(0, 1) if self.is_images else x

    def score(
        self,
        net: nn.Module,
        val: Split | None = None,
        *,
        calibration: Tensor | None = None,
        seed: int = 0,
    ) -> dict[str, float]:
        """Train ``net`` on this set by its recipe and its curriculum, in place, and give back the
        indicators.

        ``sotl`` is the sum of training losses (lower is better); with ``val`` there are also
        ``val_accuracy`` and ``val_loss``, after batch norms have seen the real images
        ``calibration`` (N, …), if given (:func:`proxynas.training.calibrate`). Those of a failed
        run are NaN.
        """
        trained = training.fit(
            [net], self.x, self.y, self.recipe, seed=seed, curriculum=self.curriculum
        )
        found = {"sotl": trained.sotl().item()}
        if val is not None:
            if calibration is not None:
                training.calibrate(net, calibration)
            accuracy, loss = training.evaluate(net, val.x, val.y)
            found |= {"val_accuracy": accuracy, "val_loss": loss}
        return found if trained.failed[0] is None else dict.fromkeys(found, float("nan"))

    def generate(self, ipc: int, *, seed: int = 0) -> "ProxySet":
        """A set of ``ipc`` new images a class, any number of them, from the distilled generator and
        fresh noise.

        Raises:
            SpecError: the set has no generator, or ``ipc`` is under 1.
        """
        if self.generator is None:
            raise SpecError(
                "the proxy set has no generator; distil one with --set synthetic=gtn-rnd or gtn-lrn"
            )
        if ipc < 1:
            raise SpecError(f"ipc must be at least 1, but got {ipc}")
        x = self.generator.images(tuple(self.x.shape[1:]), self.num_classes, ipc, seed).flatten(
            0, 1
        )
        y = torch.arange(self.num_classes, device=x.device).repeat_interleave(ipc)
        told = {**self.provenance, "ipc": ipc, "generated": {"ipc": ipc, "seed": seed}}
        return replace(self, x=x, y=y, provenance=told, curriculum=None)

    def save(self, path: Path) -> None:
        """Write the file whole."""
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in _tensors(self).items()
        }
        described: dict[str, Any] = {
            "format": FORMAT,
            "preprocessing": _described(self.preprocessing),
            "class_names": list(self.class_names),
            "recipe": settings.to_dict(self.recipe),
            "provenance": dict(self.provenance),
        }
        if self.generator is not None:
            size = len(self.generator.network["fc1.bias"])
            described["generator"] = {
                "kind": self.generator.kind,
                "k": size,
                "batch": self.generator.batch,
            }
        text = json.dumps(
            {"about": described, "checksum": _checksum(described, tensors)}, sort_keys=True
        )
        files.write_bytes(
            path, save(tensors, {"proxynas": text})
        )  # one key: the order of several is not fixed


def read(path: Path) -> ProxySet:
    """Read a proxy set.

    Raises:
        ProxyFileError: missing, truncated, not a proxy set, or changed since it was written.
    """
    if not path.is_file():
        raise ProxyFileError(
            f"there is no proxy-set file {path}; make one with 'proxynas distill --out {path}'"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise ProxyFileError(
            f"{path} is not a readable .safetensors file ({error}); copy or distil it again"
        ) from None
    if "proxynas" not in metadata or not {"x", "y"} <= set(tensors):
        raise ProxyFileError(
            f"{path} is a .safetensors file, but not a proxy set; expected one that proxynas wrote"
        )
    try:
        told = json.loads(metadata["proxynas"])
        described, checksum = told["about"], told["checksum"]
    except (ValueError, KeyError, TypeError):
        described, checksum = {}, None
    if checksum != _checksum(described, tensors):
        raise ProxyFileError(
            f"{path} was changed after it was written (its checksum differs); copy or distil it again"
        )
    if described.get("format") != FORMAT:
        raise ProxyFileError(
            f"{path} has format {described.get('format')!r}, but this version reads {FORMAT!r}; distil it again"
        )
    try:
        return ProxySet(
            tensors["x"],
            tensors["y"],
            _preprocessing(described["preprocessing"], tensors),
            tuple(described["class_names"]),
            settings.make(training.Recipe, described["recipe"], where=str(path)),
            dict(described["provenance"]),
            Curriculum(tensors["order"], tensors.get("rates")) if "order" in tensors else None,
            _generator(described, tensors),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProxyFileError(
            f"{path} is not a whole proxy set ({error!r}); expected one that proxynas wrote"
        ) from None


def recipe_for(proxy: ProxySet, recipe: training.Recipe) -> training.Recipe:
    """``recipe``, but where the set has learned learning rates with the momentum and decay that
    they go with."""
    if proxy.curriculum is None or proxy.curriculum.rates is None:
        return recipe
    own = proxy.recipe
    return replace(
        recipe,
        optimizer=own.optimizer,
        momentum=own.momentum,
        nesterov=own.nesterov,
        weight_decay=own.weight_decay,
    )


def merge(sets: Sequence[ProxySet], names: Sequence[str] | None = None) -> ProxySet:
    """One set out of several that were distilled apart (APM, §4.3): their images and labels, one
    set after the other.

    The recipe is the first set's. ``names`` is what the sets are called in errors. A generator is
    not kept: a merged set has images of several. See :mod:`proxynas.proxyset.merging` for
    provenance and steps.

    Raises:
        ProxyFileError: the sets are of different data, preprocessing or kind of labels, or there
            are fewer than two.
    """
    if len(sets) < 2:
        raise ProxyFileError(f"merging takes two sets or more, but got {len(sets)}")
    called = names or [f"set {place + 1}" for place in range(len(sets))]
    merging.agree(called, [_facts(part) for part in sets])
    x, y = torch.cat([part.x for part in sets]), torch.cat([part.y for part in sets])
    first, ipc = sets[0], len(x) // sets[0].num_classes
    told = merging.provenance([part.provenance for part in sets], ipc)
    steps = merging.curriculum([part.curriculum for part in sets], [len(part) for part in sets])
    return replace(first, x=x, y=y, provenance=told, curriculum=steps, generator=None)


def _facts(proxy: ProxySet) -> dict[str, Any]:
    """What sets must agree in to be merged."""
    soft, learned = (
        proxy.y.ndim == 2,
        proxy.curriculum is not None and proxy.curriculum.rates is not None,
    )
    return {
        "image shape": tuple(proxy.x.shape[1:]),
        "classes": proxy.class_names,
        "data": proxy.provenance.get("fingerprint"),
        "preprocessing": _described(proxy.preprocessing),
        "kind of labels": f"soft, for {proxy.recipe.loss}" if soft else "hard",
        "recipe": proxy.recipe if learned else None,  # learned rates go with its momentum and decay
    }


def _tensors(proxy: ProxySet) -> dict[str, Tensor]:
    """All tensors of a set by their names in the file."""
    found = {"x": proxy.x, "y": proxy.y}
    if proxy.curriculum is not None:
        found["order"] = proxy.curriculum.order
        if proxy.curriculum.rates is not None:
            found["rates"] = proxy.curriculum.rates
    if proxy.preprocessing.zca is not None:
        found |= {
            "zca.mean": proxy.preprocessing.zca.mean,
            "zca.matrix": proxy.preprocessing.zca.matrix,
        }
    if proxy.generator is not None:
        found |= {f"{GENERATOR}{name}": value for name, value in proxy.generator.network.items()}
    return found


def _described(preprocessing: Preprocessing) -> dict[str, Any]:
    told: dict[str, Any] = {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    return (
        told
        if preprocessing.zca is None
        else {**told, "zca": preprocessing.zca.regularisation.setting}
    )


def _preprocessing(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
    if "zca" in told:
        regularisation = parse_whitening(told["zca"])
        zca = Whitening(regularisation, tensors["zca.mean"], tensors["zca.matrix"])
    else:
        zca = None
    return Preprocessing(tuple(told["mean"]), tuple(told["std"]), zca)


def _generator(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Distilled | None:
    if "generator" not in described:
        return None
    network = {
        name.removeprefix(GENERATOR): value
        for name, value in tensors.items()
        if name.startswith(GENERATOR)
    }
    return Distilled(network, described["generator"]["kind"], described["generator"]["batch"])


def names() -> list[str]:
    """The proxy sets that ship with proxynas."""
    return sorted(path.stem for path in resources.folder("distilled_sets").glob("*.safetensors"))


def locate(name: str) -> Path:
    """The file of a shipped set by its name, or the path itself."""
    shipped = resources.folder("distilled_sets") / f"{name}.safetensors"
    return shipped if shipped.is_file() else Path(name)


def check(proxy: ProxySet, dataset: Dataset) -> None:
    """Refuse a proxy set that was made from other data.

    Raises:
        ProxyFileError: image shape, classes, the data's fingerprint or its whitening differ.
    """
    wanted = {
        "image shape": dataset.shape,
        "classes": dataset.class_names,
        "data": dataset.fingerprint,
    }
    found = {"image shape": tuple(proxy.x.shape[1:]), "classes": proxy.class_names}
    found["data"] = proxy.provenance.get("fingerprint", dataset.fingerprint)
    for key, value in wanted.items():
        if found[key] != value:
            raise ProxyFileError(
                f"the proxy set was made for {key} {found[key]!r}, but {dataset.name} has {value!r}; "
                "give the data that it was distilled from, or distil this data"
            )
    made, here = (
        None if p.zca is None else p.zca.regularisation
        for p in (proxy.preprocessing, dataset.preprocessing)
    )
    if made != here:
        raise ProxyFileError(
            f"the proxy set was made for images {_whitened(made)}, but the data are images {_whitened(here)}; "
            + ("leave --zca out" if made is None else f"give --zca {made}")
        )


def _whitened(regularisation: Regularisation | None) -> str:
    return (
        "that are not whitened" if regularisation is None else f"whitened by --zca {regularisation}"
    )


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()
