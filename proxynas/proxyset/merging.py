"""Merging proxy sets: what they must agree in, and the provenance and steps of the merged one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ProxyFileError
from ..training.curriculum import Curriculum

METERED = ("seconds", "core_seconds")


def agree(names: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse sets that differ in a fact; ``names`` are their names in the error.

    Raises:
        ProxyFileError: the first difference.
    """
    for name, of_set in zip(names[1:], facts[1:], strict=True):
        for key, value in of_set.items():
            if value != facts[0][key]:
                raise ProxyFileError(
                    f"{names[0]} and {name} cannot be merged: "
                    f"{key} is {_short(facts[0][key])} and {_short(value)}; "
                    "merge sets that were distilled from the same data in the same way"
                )


def provenance(parts: Sequence[Mapping[str, Any]], ipc: int) -> dict[str, Any]:
    """The provenance of a merged set of ``ipc`` images per class.

    Its ``merged`` has that of every part, in order. Seconds are added up, as if one machine had
    distilled all; what parts shared (experts) is counted once. Memory is the most that any part
    took. What is the same in all parts stays; where methods differ they are joined by ``+``.
    """
    leaves = [dict(leaf) for part in parts for leaf in part.get("merged", [part])]
    common = {
        key: value
        for key, value in leaves[0].items()
        if all(leaf.get(key) == value for leaf in leaves)
    }
    for key in ("losses", "spec", "ipc"):
        common.pop(key, None)
    methods = dict.fromkeys(str(leaf.get("method")) for leaf in leaves)
    return {
        **common,
        "method": "+".join(methods),
        "ipc": ipc,
        "seed": leaves[0].get("seed"),
        "steps": sum(leaf.get("steps", 0) for leaf in leaves),
        **{key: round(_spent(leaves, key), 3) for key in METERED},
        "peak_mib": max(float(leaf.get("peak_mib", 0.0)) for leaf in leaves),
        "losses": [],
        "merged": leaves,
    }


def curriculum(parts: Sequence[Curriculum | None], sizes: Sequence[int]) -> Curriculum | None:
    """The steps of every part after those of the one before, over the merged images.

    Raises:
        ProxyFileError: some have steps and some have none, or their batches differ in size, or only
            some have rates.
    """
    steps = [part for part in parts if part is not None]
    kinds = {None if part is None else (part.order.shape[1], part.rates is None) for part in parts}
    if len(kinds) > 1:
        raise ProxyFileError(
            "sets with and without an order of steps, or with steps of other sizes, cannot be "
            "merged; distil them with the same settings"
        )
    if not steps:
        return None
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    order = torch.cat([part.order + int(start) for part, start in zip(steps, starts, strict=True)])
    rates: list[Tensor] = [part.rates for part in steps if part.rates is not None]
    return Curriculum(order, torch.cat(rates) if rates else None)


def _spent(leaves: Sequence[Mapping[str, Any]], key: str) -> float:
    """Seconds of all parts, experts of one pool counted once: the most that a part used of it."""
    total = 0.0
    pools: dict[str, float] = {}
    for leaf in leaves:
        shared = leaf.get("shared", {})
        of_pool = float(shared.get(key, 0.0))
        total += float(leaf.get(key, 0.0)) - of_pool
        if shared:
            pools[shared["key"]] = max(of_pool, pools.get(shared["key"], 0.0))
    return total + sum(pools.values())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
