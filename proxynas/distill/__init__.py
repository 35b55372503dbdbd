"""Distillation: real data to a proxy set.

A method is one file in ``methods/`` and one entry of :data:`METHODS`.

    >>> from proxynas.datasets import load_for
    >>> from proxynas.distill.loop import distill
    >>> from proxynas.specs import DistillSpec
    >>> spec = DistillSpec(data="digits", method="random", ipc=2)
    >>> proxy = distill(spec, load_for(spec))
    >>> tuple(proxy.x.shape)  # ten classes, two images of each
    (20, 1, 8, 8)
    >>> list(METHODS)[:5]
    ['gm', 'unroll', 'ift', 'rcig', 'apm']
"""

from typing import Any

from ..core.errors import SpecError
from .method import Method
from .methods import apm, coreset, dm, gm, ift, mtt, rcig, unroll

METHODS: dict[str, Method[Any]] = {
    method.name: method
    for method in (
        *(gm.METHOD, unroll.METHOD, ift.METHOD, rcig.METHOD, apm.METHOD, dm.METHOD, mtt.METHOD),
        *coreset.METHODS,
    )
}


def find(name: str) -> Method[Any]:
    """The method called ``name``.

    Raises:
        SpecError: there is none.
    """
    if name not in METHODS:
        raise SpecError(f"there is no method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def learns(name: str) -> bool:
    """Whether a proxy set of this method was distilled, and not selected from real images.

    ``name`` is as in a set's provenance: joined by ``+`` where sets of several methods were merged.
    """
    selected = {method.name for method in coreset.METHODS}
    return not set(name.split("+")) <= selected
