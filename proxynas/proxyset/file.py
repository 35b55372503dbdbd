"""The proxy set on disk: one ``.safetensors`` file with images and all that training on them needs.

The file's metadata is JSON: the recipe for training on the set, the preprocessing of its images (so
that nobody has to guess), the class names and the provenance. A checksum over tensors and metadata
detects a changed file.

A set may also carry the steps it was distilled for (tensors ``order`` and ``rates``), the whitening
of its images (``zca.mean`` and ``zca.matrix``; the metadata's preprocessing has its setting) and
its generator (tensors under ``generator.``; the metadata's ``generator`` has its kind, its size k
and its batch). All of these may be missing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from .. import training
from ..core import resources, settings, tensorfile
from ..core.errors import ProxyFileError, SpecError
from ..core.text import quoted
from ..datasets import Dataset, Preprocessing
from ..datasets.zca import Whitening
from ..nets.generator import Distilled
from ..specs import Regularisation, parse_whitening
from ..training.curriculum import Curriculum
from . import cards, merging, schema
from .schema import GENERATOR

FORMAT = "proxynas-proxy-1"


@dataclass(frozen=True)
class ProxySet(TorchDataset[tuple[Tensor, Tensor]]):
    """Distilled or selected images; a torch ``Dataset`` of normalised (image, label) pairs.

    ``x`` is float32 (n, C, H, W), or rows of a table (n, D), normalised by ``preprocessing``; ``y``
    is int64 (n,), or float32 (n, K) where labels are soft. ``provenance`` has at least ``method``,
    ``ipc``, ``seed``, ``data``, ``fingerprint``, ``seconds`` (wall), ``core_seconds`` and
    ``peak_mib`` of the distillation. ``curriculum`` and ``generator`` are there where the method
    gives them; :func:`proxynas.training.fit` takes the one, :meth:`generate` needs the other.
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
        """Storage of images and labels in bytes, without a generator or a whitening."""
        return self.x.nbytes + self.y.nbytes

    @property
    def fingerprint(self) -> str:
        """Names what networks are trained on: tensors and recipe, whatever it cost to make them."""
        return tensorfile.checksum({"recipe": settings.to_dict(self.recipe)}, _tensors(self))[:16]

    @property
    def is_images(self) -> bool:
        """Whether its inputs are images, and not rows of a table."""
        return self.x.ndim == 4

    def hard_labels(self) -> Tensor:
        """Class indices, int64 (n,)."""
        return self.y if self.y.ndim == 1 else self.y.argmax(1)

    def images(self) -> Tensor:
        """The images as pixels in [0, 1], float32 (n, C, H, W), clamped.

        Rows (n, D) are in the units of their table.
        """
        x = self.preprocessing.invert(self.x)
        return x.clamp(0, 1) if self.is_images else x

    def generate(self, ipc: int, *, seed: int = 0) -> "ProxySet":
        """A set of ``ipc`` new images per class, from the distilled generator and fresh noise.

        Raises:
            SpecError: the set has no generator, or ``ipc`` is under 1.
        """
        if self.generator is None:
            raise SpecError(
                "the proxy set has no generator; distil one with --set synthetic=gtn-rnd or gtn-lrn"
            )
        if ipc < 1:
            raise SpecError(f"ipc must be at least 1, but got {ipc}")
        shape = tuple(self.x.shape[1:])
        x = self.generator.images(shape, self.num_classes, ipc, seed).flatten(0, 1)
        y = torch.arange(self.num_classes, device=x.device).repeat_interleave(ipc)
        provenance = {**self.provenance, "ipc": ipc, "generated": {"ipc": ipc, "seed": seed}}
        return replace(self, x=x, y=y, provenance=provenance, curriculum=None)

    def save(self, path: str | Path) -> None:
        """Write the file whole."""
        about: dict[str, Any] = {
            "format": FORMAT,
            "preprocessing": _preprocessing_as_dict(self.preprocessing),
            "class_names": list(self.class_names),
            "recipe": settings.to_dict(self.recipe),
            "provenance": dict(self.provenance),
        }
        if self.generator is not None:
            about["generator"] = {
                "kind": self.generator.kind,
                "k": len(self.generator.network["fc1.bias"]),
                "batch": self.generator.batch,
            }
        tensorfile.write(Path(path), about, _tensors(self))


def read(path: str | Path) -> ProxySet:
    """Read a proxy set, a file or a shipped set by its name; all of it is checked
    (:mod:`proxynas.proxyset.schema`).

    Raises:
        ProxyFileError: missing, truncated, not a proxy set, or changed since it was written.
        SpecError: the card of a shipped set is damaged.
    """
    path, known = locate(path), cards.card(str(path))
    if not os.path.lexists(path):  # unlike Path.exists it never raises
        raise ProxyFileError(
            f"there is no proxy-set file {path}; make one with 'proxynas distill --out {path}'"
        )
    try:
        about, tensors = tensorfile.read(path)
    except tensorfile.UnsoundError as error:
        raise ProxyFileError(f"{path} {error}; copy or distil it again") from None
    if about.get("format") != FORMAT:
        problem = f"has format {quoted(about.get('format'))}, but this version reads {FORMAT!r}"
        raise ProxyFileError(f"{path} {problem}; distil it again")
    try:
        recipe = schema.check(about, tensors)
    except (ValueError, SpecError) as error:
        raise ProxyFileError(
            f"{path} is not a whole proxy set ({error}); expected one that proxynas wrote"
        ) from None
    return ProxySet(
        tensors["x"],
        tensors["y"],
        _preprocessing(about["preprocessing"], tensors),
        tuple(about["class_names"]),
        recipe,
        dict(about["provenance"]) | ({} if known is None else {"stands_for": known.data}),
        Curriculum(tensors["order"], tensors.get("rates")) if "order" in tensors else None,
        _generator(about, tensors),
    )


def candidate_recipe(proxy: ProxySet, recipe: training.Recipe) -> training.Recipe:
    """``recipe``, as a candidate is trained by it on the set: batches no larger than the set, the
    loss that soft labels are for, and see :func:`recipe_for`."""
    soft = "cross-entropy" if proxy.y.ndim == 1 else proxy.recipe.loss
    size = min(recipe.batch_size, len(proxy))
    return recipe_for(proxy, replace(recipe, loss=soft, batch_size=size))


def recipe_for(proxy: ProxySet, recipe: training.Recipe) -> training.Recipe:
    """``recipe``, with the momentum and decay that the set's learned rates go with, if any."""
    if proxy.curriculum is None or proxy.curriculum.rates is None:
        return recipe
    return replace(
        recipe,
        optimizer=proxy.recipe.optimizer,
        momentum=proxy.recipe.momentum,
        nesterov=proxy.recipe.nesterov,
        weight_decay=proxy.recipe.weight_decay,
    )


def merge(sets: Sequence[ProxySet], names: Sequence[str] | None = None) -> ProxySet:
    """One set of the images and labels of several, in order, that were distilled apart (APM, §4.3).

    The recipe is the first set's. ``names`` are the sets' names in errors. A generator is not kept:
    a merged set has images of several. See :mod:`proxynas.proxyset.merging` for
    provenance and steps.

    Raises:
        ProxyFileError: the sets are of different data, preprocessing or kind of labels, or there
            are fewer than two.
    """
    if len(sets) < 2:
        raise ProxyFileError(f"merging takes two sets or more, but got {len(sets)}")
    names = names or [f"set {place + 1}" for place in range(len(sets))]
    merging.agree(names, [_facts(part) for part in sets])
    x, y = torch.cat([part.x for part in sets]), torch.cat([part.y for part in sets])
    ipc = len(x) // sets[0].num_classes
    provenance = merging.provenance([part.provenance for part in sets], ipc)
    steps = merging.curriculum([part.curriculum for part in sets], [len(part) for part in sets])
    return replace(sets[0], x=x, y=y, provenance=provenance, curriculum=steps, generator=None)


def _facts(proxy: ProxySet) -> dict[str, Any]:
    """What sets must agree in to be merged."""
    soft = proxy.y.ndim == 2
    learned_rates = proxy.curriculum is not None and proxy.curriculum.rates is not None
    return {
        "image shape": tuple(proxy.x.shape[1:]),
        "classes": proxy.class_names,
        "data": proxy.provenance.get("fingerprint"),
        "preprocessing": _preprocessing_as_dict(proxy.preprocessing),
        "kind of labels": f"soft, for {proxy.recipe.loss}" if soft else "hard",
        "recipe": proxy.recipe if learned_rates else None,  # they go with its momentum and decay
    }


def _tensors(proxy: ProxySet) -> dict[str, Tensor]:
    """All tensors of a set by their names in the file."""
    tensors = {"x": proxy.x, "y": proxy.y}
    if proxy.curriculum is not None:
        tensors["order"] = proxy.curriculum.order
        if proxy.curriculum.rates is not None:
            tensors["rates"] = proxy.curriculum.rates
    whitening = proxy.preprocessing.zca
    if whitening is not None:
        tensors |= {"zca.mean": whitening.mean, "zca.matrix": whitening.matrix}
    if proxy.generator is not None:
        network = proxy.generator.network
        tensors |= {f"{GENERATOR}{name}": value for name, value in network.items()}
    return tensors


def _preprocessing_as_dict(preprocessing: Preprocessing) -> dict[str, Any]:
    entries: dict[str, Any] = {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    if preprocessing.zca is not None:
        entries["zca"] = preprocessing.zca.regularisation.setting
    return entries


def _preprocessing(entries: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
    zca = None
    if "zca" in entries:
        regularisation = parse_whitening(entries["zca"])
        zca = Whitening(regularisation, tensors["zca.mean"], tensors["zca.matrix"])
    return Preprocessing(tuple(entries["mean"]), tuple(entries["std"]), zca)


def _generator(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Distilled | None:
    if "generator" not in about:
        return None
    network = {
        name.removeprefix(GENERATOR): value
        for name, value in tensors.items()
        if name.startswith(GENERATOR)
    }
    return Distilled(network, about["generator"]["kind"], about["generator"]["batch"])


def names() -> list[str]:
    """The names of the proxy sets that ship with proxynas."""
    return sorted(path.stem for path in resources.folder("distilled_sets").glob("*.safetensors"))


def locate(name: str | Path) -> Path:
    """The file of a shipped set by its name, or the path itself."""
    shipped = resources.folder("distilled_sets") / f"{name}.safetensors"
    return shipped if os.path.isfile(shipped) else Path(name)


def stands_for(proxy: ProxySet, dataset: Dataset) -> bool:
    """Whether a shipped set was distilled from another copy of the published data ``dataset``.

    The copy may be split otherwise, so that some validation images are among those that the set was
    distilled from.
    """
    about = proxy.provenance
    another = dataset.fingerprint != about.get("fingerprint") and dataset.name != about.get("data")
    return another and about.get("stands_for") == dataset.name


def check(proxy: ProxySet, dataset: Dataset) -> None:
    """Refuse a proxy set that was made from other data.

    A shipped set that was distilled from a copy of published data stands for these: it may be used
    with them, too, although their fingerprint is another (:func:`stands_for`).

    Raises:
        ProxyFileError: image shape, classes, the data's fingerprint or its whitening differ.
    """
    of_data = {
        "image shape": dataset.shape,
        "classes": dataset.class_names,
        "data": dataset.fingerprint,
    }
    made_from = proxy.provenance.get("fingerprint", dataset.fingerprint)
    of_set = {
        "image shape": tuple(proxy.x.shape[1:]),
        "classes": proxy.class_names,
        "data": dataset.fingerprint if stands_for(proxy, dataset) else made_from,
    }
    for key, value in of_data.items():
        if of_set[key] != value:
            raise ProxyFileError(
                f"the proxy set was made for {key} {of_set[key]!r}, "
                f"but {dataset.name} has {value!r}; "
                "give the data that it was distilled from, or distil this data"
            )
    expected = _regularisation(proxy.preprocessing)
    given = _regularisation(dataset.preprocessing)
    if expected != given:
        raise ProxyFileError(
            f"the proxy set was made for images {_whitened(expected)}, "
            f"but the data are images {_whitened(given)}; "
            + ("leave --zca out" if expected is None else f"give --zca {expected}")
        )


def _regularisation(preprocessing: Preprocessing) -> Regularisation | None:
    return None if preprocessing.zca is None else preprocessing.zca.regularisation


def _whitened(regularisation: Regularisation | None) -> str:
    if regularisation is None:
        return "that are not whitened"
    return f"whitened by --zca {regularisation}"
