"""One colour a source, the same in every figure: for light pages and paper, and for dark pages."""

from ..search.sources import EARLY_STOPPING, FLOPS, KINDS, PROXY, ZERO_COST

COLOURS = {
    **{kind.name: kind.colours for kind in KINDS.values() if kind.colours is not None},
    "other-0": ("#a3364a", "#e88b9c"),
    "other-1": ("#86681b", "#d3b45c"),
    "other-2": ("#5558a0", "#a4a7ea"),
    "other-3": ("#4f7a1f", "#a1cb6c"),
    "ink": ("#1d1d1f", "#ececee"),
    "soft": ("#b9b9be", "#55585f"),
    "bad": ("#b3261e", "#f0877f"),
}
"""By name: on white, and on a dark ground."""

SERIES = (PROXY, EARLY_STOPPING, ZERO_COST, FLOPS, "other-0", "other-1", "other-3", "other-2")
"""For curves that are not sources: tell-apart colours, in this order."""


def name(source: str) -> str:
    """The name of a source's colour; sources without one of their own share four, by their
    letters."""
    return source if source in COLOURS else f"other-{sum(source.encode()) % 4}"


def light(colour: str) -> str:
    """A colour on white, as ``#rrggbb``."""
    return COLOURS[colour][0]
