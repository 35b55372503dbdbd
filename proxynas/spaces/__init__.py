"""Search spaces: a TOML file names a function that makes networks, and the axes it is called with.

:func:`load` gives a shipped space or one of a file. An architecture is a string, and a space is
like a set of them, none of which exists before it is asked for.

>>> import numpy as np
>>> from proxynas import spaces
>>> space = spaces.load("convnet-grid")
>>> arch = space.sample(1, np.random.default_rng(0))[0]
>>> space.size, arch, space.describe(arch)["depth"]
(720, 'D4-W64-sigmoid-instancenorm-none', 4)
>>> net = space.build(arch, shape=(1, 8, 8), classes=10)
>>> sum(p.numel() for p in net.parameters())
152906
"""

from .file import EVALUATION, SpaceFile, load, names, notice, resolve
from .notation import Value
from .space import Headline, Networks, SearchSpace

__all__ = [
    "EVALUATION",
    "Headline",
    "Networks",
    "SearchSpace",
    "SpaceFile",
    "Value",
    "load",
    "names",
    "notice",
    "resolve",
]
