"""Search spaces: a TOML file names a function that makes networks, and the axes it is called
with."""

from .file import EVALUATION, SpaceFile, load, names, resolve
from .notation import Value
from .space import Headline, SearchSpace

__all__ = [
    "EVALUATION",
    "Headline",
    "SearchSpace",
    "SpaceFile",
    "Value",
    "load",
    "names",
    "resolve",
]
