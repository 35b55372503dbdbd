"""Proxy sets: images, their recipe, preprocessing and provenance, in one file.

>>> import tempfile
>>> from pathlib import Path
>>> import torch
>>> from proxynas.datasets import Preprocessing
>>> x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
>>> proxy = ProxySet(x, y, Preprocessing((0.0,), (1.0,)), ("cat", "dog"))
>>> with tempfile.TemporaryDirectory() as folder:
...     proxy.save(Path(folder) / "pets.safetensors")
...     same = read(Path(folder) / "pets.safetensors")
>>> len(same), same.class_names, torch.equal(same.x, x)
(4, ('cat', 'dog'), True)
"""

from .cards import Card, card
from .file import (
    ProxySet,
    candidate_recipe,
    check,
    locate,
    merge,
    names,
    read,
    recipe_for,
    stands_for,
)

__all__ = [
    "Card",
    "ProxySet",
    "candidate_recipe",
    "card",
    "check",
    "locate",
    "merge",
    "names",
    "read",
    "recipe_for",
    "stands_for",
]
