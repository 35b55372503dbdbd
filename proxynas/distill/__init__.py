"""Distillation: real data to a proxy set. A method is one file here and one line in
:data:`METHODS`."""

from ..core.errors import SpecError
from .method import Method
from .methods import apm, coreset, gm, ift, rcig, unroll

METHODS: dict[str, Method] = {
    method.name: method
    for method in (gm.METHOD, unroll.METHOD, ift.METHOD, rcig.METHOD, apm.METHOD, *coreset.METHODS)
}


def find(name: str) -> Method:
    """The method called ``name``.

    Raises:
        SpecError: there is none.
    """
    if name not in METHODS:
        raise SpecError(f"there is no method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def learns(name: str) -> bool:
    """Whether a proxy set of this method was distilled, and not selected from real images.

    ``name`` is as in a set's provenance: where sets of several methods were merged, joined by
    ``+``.
    """
    selected = {method.name for method in coreset.METHODS}
    return not set(name.split("+")) <= selected
