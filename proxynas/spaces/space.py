"""Search spaces: a TOML file names a network factory and the axes of its settings; nothing else is needed.

    name = "convnet-grid"
    description = "one line"
    factory = "mypackage.nets:make"       # or "nets.py:make", a file beside the TOML
    arch = "D{depth}-W{width}"            # how an architecture is written; every axis once
    [axes]
    depth = [1, 2, 3]
    width = [32, 64]
    kind = "mypackage.nets:kind"          # optional: a function of an architecture, equal for isomorphic ones
    [fixed]                               # optional: passed to the factory as they are
    stem = 16
    [headline]                            # optional: what picks the best network unless --indicator says otherwise
    indicator = "sotl+vote"
    without_zero_cost = "sotl"            # where zero-cost is not among the baselines
    reason = "the evidence, in a few words"

The factory is called as ``make(shape, classes, depth=…, width=…, stem=…)`` with ``shape`` as (C, H, W).
"""

import difflib
import hashlib
import importlib
import importlib.util
import json
import math
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic.dataclasses import dataclass as checked
from torch import nn

from ..core import resources, settings
from ..core.errors import SpaceError, SpecError
from ..nets.flops import forward_flops

EVALUATION = "evaluation-nets"
"""The space of the six networks that a proxy set is usually evaluated with."""

Value = str | int | float | bool
Factory = Callable[..., nn.Module]


@checked(frozen=True, config=settings.CONFIG)
class Headline:
    """The indicator that picks the best network of a kind of space, and the evidence for it."""

    indicator: str
    without_zero_cost: str
    reason: str


@checked(frozen=True, config=settings.CONFIG)
class SpaceFile:
    """The keys of a search space's TOML file."""

    name: str
    factory: str
    arch: str
    axes: dict[str, list[Value]]
    description: str = ""
    kind: str | None = None
    fixed: dict[str, Value] = field(default_factory=dict)
    headline: Headline | None = None


@dataclass(frozen=True)
class SearchSpace:
    """A grid of architectures. An architecture is a string; ``len``, iteration and ``in`` work as on a set of them."""

    name: str
    description: str
    factory: Factory
    arch: str
    axes: dict[str, tuple[Value, ...]]
    fixed: dict[str, Value]
    kind: Callable[[str], str] | None = None  # equal for isomorphic architectures; None: all are different
    headline: Headline | None = None

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def __iter__(self) -> Iterator[str]:
        return (self.at(index) for index in range(len(self)))

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, str) and self._parse(arch) is not None

    def at(self, index: int) -> str:
        """The architecture at ``index``; the last axis varies fastest."""
        values: dict[str, Value] = {}
        for name, axis in reversed(self.axes.items()):
            index, place = divmod(index, len(axis))
            values[name] = axis[place]
        return self.arch.format(**values)

    def sample(self, n: int, rng: np.random.Generator, distinct: bool = False) -> list[str]:
        """``n`` different architectures, uniformly, in random order; all of them when ``n`` is the size or more.

        With ``distinct`` no two are isomorphic: a kind is drawn as often as it has architectures, and counts once.
        """
        if n < 1:
            raise SpecError(f"the number of candidates must be at least 1, but got {n}")
        if distinct and self.kind is not None:
            first: dict[str, str] = {}
            for index in rng.permutation(len(self)):
                arch = self.at(int(index))
                first.setdefault(self.kind(arch), arch)
                if len(first) == n:
                    break
            return list(first.values())
        return [self.at(int(i)) for i in rng.choice(len(self), size=min(n, len(self)), replace=False)]

    def describe(self, arch: str) -> dict[str, Value]:
        """The value of every axis of ``arch``.

        Raises:
            SpaceError: ``arch`` is not in the space.
        """
        values = self._parse(arch)
        if values is None:
            close = difflib.get_close_matches(
                arch, [self.at(i) for i in range(min(len(self), 20_000))], n=1, cutoff=0.5
            )
            hint = f"did you mean {close[0]!r}?" if close else f"it is written as {self.arch}"
            raise SpaceError(f"architecture {arch!r} is not in the space {self.name!r}; {hint}")
        return values

    def build(self, arch: str, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network, freshly initialised from PyTorch's global generator (see :func:`proxynas.core.seeds.seeded`).

        Raises:
            SpaceError: ``arch`` is not in the space, or its factory fails on this shape.
        """
        values = self.describe(arch)
        try:
            net = self.factory(shape, classes, **values, **self.fixed)
        except Exception as error:
            raise SpaceError(f"the factory of {self.name!r} failed on {arch!r} with shape {shape}: {error}") from error
        if not isinstance(net, nn.Module):
            raise SpaceError(
                f"the factory of {self.name!r} must return a torch.nn.Module, but returned {type(net).__name__}"
            )
        return net

    def cost(self, arch: str, shape: tuple[int, ...], classes: int) -> tuple[int, int]:
        """Trainable parameters, and floating-point operations of one image's forward pass (a multiply-add is two)."""
        net = self.build(arch, shape, classes)
        flops = forward_flops(net, torch.zeros(1, *shape))
        return sum(p.numel() for p in net.parameters() if p.requires_grad), flops

    @property
    def fingerprint(self) -> str:
        """Names the grid and the fixed settings: the same for the same architectures, built the same way."""
        described = json.dumps([self.name, self.arch, {k: list(v) for k, v in self.axes.items()}, self.fixed])
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _pattern(self.arch, self.axes)

    def _parse(self, arch: str) -> dict[str, Value] | None:
        match = self._pattern.fullmatch(arch)
        if match is None:
            return None
        return {name: next(v for v in axis if str(v) == match[name]) for name, axis in self.axes.items()}


def _pattern(template: str, axes: dict[str, tuple[Value, ...]]) -> re.Pattern[str]:
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if name is not None:
            choices = sorted((str(v) for v in axes[name]), key=len, reverse=True)
            parts.append(f"(?P<{name}>{'|'.join(map(re.escape, choices))})")
    return re.compile("".join(parts))


def names() -> list[str]:
    """The spaces that ship with proxynas."""
    return sorted(path.stem for path in resources.folder("search_spaces").glob("*.toml"))


def resolve(arch: str, space: str = "convnet-grid") -> tuple[SearchSpace, str]:
    """The space that an architecture belongs to, and its name there.

    ``arch`` is an architecture of ``space``, one of the six published networks (``evaluation-nets``), or
    ``other:architecture`` with another space's name or TOML file.

    Raises:
        SpaceError: no such space or architecture.
    """
    other, _, name = arch.rpartition(":")
    found = load(other or space)
    if not other and arch not in found:
        published = load(EVALUATION)
        if arch in published:
            return published, arch
        close = difflib.get_close_matches(arch, published, n=1)
        if close:
            raise SpaceError(f"architecture {arch!r} is not in the space {found.name!r}; did you mean {close[0]!r}?")
    found.describe(name)
    return found, name


def load(name: str, fixed: Mapping[str, Any] | None = None) -> SearchSpace:
    """A shipped space by name, or a TOML file by path; ``fixed`` replaces fixed settings that it has.

    Raises:
        SpaceError: no such space, or its factory cannot be imported, or it has no such fixed setting.
        SpecError: the file is not valid TOML or has wrong keys.
    """
    path = Path(name) if name.endswith(".toml") else resources.folder("search_spaces") / f"{name}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names())}, or the path of a .toml file"
        raise SpaceError(f"there is no search space {name!r}; {hint}")
    file = settings.make(SpaceFile, settings.read_toml(path), where=str(path))
    _check(file, path)
    axes = {axis: tuple(values) for axis, values in file.axes.items()}
    return SearchSpace(
        file.name,
        file.description,
        _function(file.factory, path),
        file.arch,
        axes,
        _replaced(file, fixed or {}),
        None if file.kind is None else _function(file.kind, path),
        file.headline,
    )


def _replaced(file: SpaceFile, values: Mapping[str, Any]) -> dict[str, Value]:
    for key, value in values.items():
        if key not in file.fixed:
            has = f"it has {', '.join(file.fixed)}" if file.fixed else "it has none"
            raise SpaceError(f"the space {file.name!r} has no fixed setting {key!r}; {has}")
        if type(value) is not type(file.fixed[key]):
            kind = type(file.fixed[key]).__name__
            raise SpaceError(f"{key} of the space {file.name!r} must be of type {kind}, but got {value!r}")
    return {**file.fixed, **values}


def _check(file: SpaceFile, path: Path) -> None:
    named = sorted(name for _, name, _, _ in string.Formatter().parse(file.arch) if name is not None)
    if named != sorted(file.axes):
        expected = ", ".join("{" + axis + "}" for axis in file.axes)
        raise SpecError(f"{path}: arch must name every axis once ({expected}), but it is {file.arch!r}")
    for axis, values in file.axes.items():
        if not values or len({str(v) for v in values}) != len(values):
            raise SpecError(f"{path}: axes.{axis} must list at least one value and no value twice, but got {values}")


def _function(reference: str, path: Path) -> Callable[..., Any]:
    module_name, _, attribute = reference.partition(":")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"proxynas_space_{path.stem}", path.parent / module_name)
            assert spec is not None
            assert spec.loader is not None
            module: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        function: Callable[..., Any] = getattr(module, attribute)
    except Exception as error:
        raise SpaceError(
            f"{path}: cannot import {reference!r} ({type(error).__name__}: {error}); "
            'write "package.module:function", or "file.py:function" for a file beside the TOML'
        ) from None
    return function
