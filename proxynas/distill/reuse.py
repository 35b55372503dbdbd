"""Distil a set once: a file that has it already is read instead."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import proxyset, training
from ..core.errors import RunFolderError
from ..core.progress import Watcher
from ..datasets import Dataset
from ..proxyset import ProxySet
from ..specs import DistillSpec
from .loop import distill, fingerprint


@dataclass(frozen=True)
class Destination:
    """The file of a set, and that of the checkpoint of its distillation."""

    path: Path
    checkpoint: Path | None = None


def reuse_or_distill(
    at: Destination,
    spec: DistillSpec,
    dataset: Dataset,
    recipe: training.Recipe | None = None,
    *,
    watcher: Watcher | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ProxySet:
    """The set in ``at.path``; distilled and saved there first if there is no such file.

    ``watcher`` follows the steps, and what is shared. ``provenance`` is added to a new set's.

    Raises:
        RunFolderError: the file has a set of other settings.
        ProxyFileError: it is damaged, or of other data.
        ProxynasError: see :func:`proxynas.distill.loop.distill`.
    """
    if at.path.exists():
        stored = proxyset.read(at.path)
        proxyset.check(stored, dataset)
        if stored.provenance.get("spec") != fingerprint(spec, dataset):
            raise RunFolderError(
                f"{at.path} holds a proxy set of other settings; give another --out, or remove it"
            )
        return stored
    watcher = watcher or Watcher()
    proxy = distill(
        spec,
        dataset,
        recipe,
        checkpoint=at.checkpoint,
        on_step=watcher.distilling,
        on_shared=watcher.preparing,
    )
    proxy = replace(proxy, provenance={**proxy.provenance, **(provenance or {})})
    proxy.save(at.path)
    return proxy
