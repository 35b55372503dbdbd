"""Search spaces: a TOML file names a function that makes networks, and the axes it is called with."""

from .space import EVALUATION, Headline, SearchSpace, SpaceFile, load, names, resolve

__all__ = ["EVALUATION", "Headline", "SearchSpace", "SpaceFile", "load", "names", "resolve"]
