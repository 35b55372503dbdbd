"""One colour a source, the same in every figure: for light pages and paper, and for dark pages."""

COLOURS = {
    "proxy": ("#0b62a4", "#6cb2ee"),
    "random": ("#77777c", "#a6a8ae"),
    "early-stopping": ("#c05e16", "#e79a5e"),
    "zero-cost": ("#1b7a87", "#5dbfcb"),
    "parameters": ("#3f7f4c", "#83c08f"),
    "flops": ("#7a58a6", "#b99be0"),
    "whole-data": ("#2b2b2e", "#e4e4e7"),
    "other-0": ("#a3364a", "#e88b9c"),
    "other-1": ("#86681b", "#d3b45c"),
    "other-2": ("#5558a0", "#a4a7ea"),
    "other-3": ("#4f7a1f", "#a1cb6c"),
    "ink": ("#1d1d1f", "#ececee"),
    "soft": ("#b9b9be", "#55585f"),
    "bad": ("#b3261e", "#f0877f"),
}
"""By name: on white, and on a dark ground."""

SERIES = ("proxy", "early-stopping", "zero-cost", "flops", "other-0", "other-1")
"""For curves that are not sources: tell-apart colours, in this order."""


def name(source: str) -> str:
    """The name of a source's colour; sources without one of their own share four, by their
    letters."""
    return source if source in COLOURS else f"other-{sum(source.encode()) % 4}"


def light(colour: str) -> str:
    """A colour on white, as ``#rrggbb``."""
    return COLOURS[colour][0]
