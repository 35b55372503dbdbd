"""What candidates are trained on: the proxy set, its baselines, and further sets; all of them lie
in the run directory."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from .. import proxyset, spaces
from ..core.errors import SpecError
from ..core.progress import Watcher
from ..datasets import Dataset, Split
from ..distill.loop import plan
from ..distill.reuse import Destination, reuse_or_distill
from ..proxyset import ProxySet
from ..search.score import Source, Work
from ..search.sources import EARLY_STOPPING, KINDS, PROXY, RANDOM
from ..specs import SearchSpec


def get_proxy(spec: SearchSpec, dataset: Dataset, folder: Path, watcher: Watcher) -> ProxySet:
    """The run's proxy set (made, copied or found in the folder) and beside it the random coreset of
    its size."""
    path = folder / "proxy.safetensors"
    if path.exists():
        watcher.say("proxy set: found in the run directory")
    if spec.proxy is not None:
        if not path.exists():
            proxyset.read(spec.proxy).save(path)
        proxy = proxyset.read(path)
        proxyset.check(proxy, dataset)
        if proxyset.stands_for(proxy, dataset):
            watcher.say(
                "the proxy set is of another copy of these data: some validation images "
                "may be among those that it was distilled from"
            )
    else:
        if not path.exists():
            unit = "image" if dataset.is_images else "row"
            watcher.say(f"distilling: {spec.method}, {spec.ipc} {unit}(s) per class")
        proxy = reuse_or_distill(
            Destination(path, folder / "distill.checkpoint"),
            spec.distillation(),
            dataset,
            spec.candidate_recipe(),
            watcher=watcher,
        )
        watcher.ended()
    ipc = max(1, len(proxy) // dataset.num_classes)  # soft labels may share an image
    drawn = replace(spec.distillation(), method="random", ipc=ipc, steps=0, settings={})
    coreset = Destination(folder / "random.safetensors")
    reuse_or_distill(coreset, drawn, dataset, spec.candidate_recipe())
    for given, name in zip(spec.also, also_names(spec), strict=True):
        if not (folder / "also" / f"{name}.safetensors").exists():
            proxyset.read(given).save(folder / "also" / f"{name}.safetensors")
    return proxy


def set_files(spec: SearchSpec, folder: Path) -> dict[str, Path]:
    """Where the sets lie that candidates are trained on, by source."""
    further = {name: folder / "also" / f"{name}.safetensors" for name in also_names(spec)}
    return {name: folder / f"{name}.safetensors" for name in (PROXY, RANDOM)} | further


def fingerprints(spec: SearchSpec, folder: Path) -> dict[str, str]:
    """Which sets candidates are trained on, by source; the store keeps these with its rows."""
    there = {source: path for source, path in set_files(spec, folder).items() if path.exists()}
    return {source: proxyset.read(path).fingerprint for source, path in there.items()}


def also_names(spec: SearchSpec) -> list[str]:
    """What the sources of the further proxy sets are called: as their files.

    Raises:
        SpecError: two of one name, or the name of another source; a table of such a name.
    """
    names: list[str] = []
    for given in spec.also:
        name = Path(given).name.removesuffix(".safetensors")
        if name in (*names, *KINDS):
            raise SpecError(f"also would make two sources called {name!r}; rename the file {given}")
        names.append(name)
    for name in spec.tables:
        if name in (*names, *KINDS) or not name.strip():
            raise SpecError(
                f"there is a source called {name!r} already; give that table another name"
            )
    return names


def training_sources(spec: SearchSpec) -> list[str]:
    """What every candidate is trained on."""
    baselines = [name for name in (RANDOM, EARLY_STOPPING) if name in spec.baselines]
    return [PROXY, *baselines, *also_names(spec)]


def check_proxy(spec: SearchSpec, dataset: Dataset) -> None:
    """Refuse a proxy set, or settings to make one, that cannot work, before anything is written.

    Raises:
        ProxyFileError: the file is damaged or was made from other data.
        SpecError: unknown method or setting, or an ipc that a class cannot hold.
    """
    if spec.proxy is not None:
        proxyset.check(proxyset.read(spec.proxy), dataset)
    else:
        plan(spec.distillation(), dataset)
    spec.whole_recipe(len(dataset.train))
    recipe = spec.candidate_recipe()
    if recipe.augment and not dataset.is_images:
        raise SpecError(f"augment is for images, but {dataset.name} is a table; leave it out")
    if spec.val_points > recipe.updates:
        raise SpecError(
            f"val_points must be at most the {recipe.updates} updates, but got {spec.val_points}"
        )
    also_names(spec)
    for given in spec.also:
        proxyset.check(proxyset.read(given), dataset)


def prepared(spec: SearchSpec, folder: Path, dataset: Dataset) -> partial[Work]:
    """What makes a worker's :class:`~proxynas.search.score.Work`, with all data that it takes: a
    part of the validation split, and the sources."""
    dataset = replace(dataset, val=_part(dataset.val, spec.val_size))
    return partial(prepare, spec, dataset, sources_of(spec, folder, dataset))


def prepare(spec: SearchSpec, dataset: Dataset, sources: dict[str, Source]) -> Work:
    """What a worker needs: the spaces, the data and the sources, on its device."""
    torch.set_flush_denormal(True)
    return Work(
        spaces.load(spec.space, spec.space_options),
        dataset,
        sources,
        spec.seed,
        spec.device,
        spaces.load(spec.space, spec.zero_cost_options) if spec.zero_cost_options else None,
        spec.time_limit,
    ).placed()


def sources_of(spec: SearchSpec, folder: Path, dataset: Dataset) -> dict[str, Source]:
    """All that candidates are trained on, by name; sets are read from the run directory."""
    calibration = dataset.train.x[: spec.calibrate] if spec.calibrate else None
    sets = set_files(spec, folder)
    whole = spec.candidate_recipe()
    size, sources = len(proxyset.read(sets[PROXY])), {}
    for name in training_sources(spec):
        recipe = replace(
            whole, batch_size=min(whole.batch_size, size)
        )  # the same number of images an update
        curriculum = None
        if name == EARLY_STOPPING:
            x, y = dataset.train.x, dataset.train.y
        else:
            proxy = proxyset.read(sets[name])
            x, y = proxy.x, proxy.y
            recipe, curriculum = proxyset.candidate_recipe(proxy, whole), proxy.curriculum
        sources[name] = Source(
            name,
            x,
            y,
            recipe,
            calibration=calibration,
            val_points=spec.val_points,
            curriculum=curriculum,
        )
    return sources


def _part(split: Split, size: int) -> Split:
    """The first ``size`` images; splits are shuffled, so they are a fair sample."""
    return Split(split.x[:size], split.y[:size])
