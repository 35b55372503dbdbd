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
    """The file that a set is kept in, and the one that says how far its distillation is."""

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

    ``watcher`` gets the steps, and how far what is shared is. ``provenance`` is added to that of a
    new set.

    Raises:
        RunFolderError: the file has a set of other settings or data.
        ProxynasError: see :func:`proxynas.distill.loop.distill` and :func:`proxynas.proxyset.read`.
    """
    if at.path.exists():
        kept = proxyset.read(at.path)
        if kept.provenance.get("spec") != fingerprint(spec, dataset):
            raise RunFolderError(
                f"{at.path} holds a proxy set of other settings or data; "
                "give another --out, or remove it"
            )
        return kept
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
