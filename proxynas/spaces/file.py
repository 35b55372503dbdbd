"""Search spaces: a TOML file names a network factory and the axes of its settings; nothing else is
needed.

    name = "convnet-grid"
    description = "one line"
    factory = "mypackage.nets:make"   # or "nets.py:make", a file beside the TOML
    arch = "D{depth}-W{width}"        # how an architecture is written; every axis once
    kind = "mypackage.nets:kind"      # optional: a function of it, equal for isomorphic ones
    [axes]
    depth = [1, 2, 3]
    width = [32, 64]
    [fixed]                           # optional: passed to the factory as they are
    stem = 16
    [headline]                        # optional: what picks the best network by default
    indicator = "sotl+vote"
    without_zero_cost = "sotl"        # where zero-cost is not among the baselines
    reason = "the evidence, in a few words"

The factory is called as ``make(shape, classes, depth=…, width=…, stem=…)`` with ``shape`` as (C, H,
W); how others' factories are called, the tables ``[arguments]`` and ``[input]`` say
(:mod:`proxynas.spaces.factories`).
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as checked

from ..core import resources, settings
from ..core.errors import SpaceError, SpecError
from ..core.text import quoted
from . import factories, notation
from .factories import Fact, Factory, Foreign, Found, Input
from .guard import guarded
from .notation import Value
from .space import Headline, SearchSpace

EVALUATION = "evaluation-nets"
"""The space of the six networks that a proxy set is usually evaluated with."""


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
    arguments: dict[str, Fact] = field(default_factory=dict)
    input: Input = field(default_factory=Input)
    headline: Headline | None = None


def names() -> list[str]:
    """The spaces that ship with proxynas."""
    return sorted(path.stem for path in resources.folder("search_spaces").glob("*.toml"))


def notice(name: str | None) -> list[str]:
    """What a command says once of a space that does not ship with proxynas; else nothing."""
    if name is None or not name.endswith(".toml"):
        return []
    return [f"the networks of {name} are made by code that its file names; it runs"]


def resolve(arch: str, space: str = "convnet-grid") -> tuple[SearchSpace, str]:
    """The space that an architecture belongs to, and its name there.

    ``arch`` is an architecture of ``space``, one of the six published networks
    (``evaluation-nets``), or ``other:architecture`` with another space's name or TOML file.

    Raises:
        SpaceError: no such space or architecture.
    """
    other, _, name = arch.rpartition(":")
    named = load(other or space)
    if not other and arch not in named:
        published = load(EVALUATION)
        if arch in published:
            return published, arch
        close = difflib.get_close_matches(arch, published, n=1)
        if close:
            raise SpaceError(
                f"architecture {arch!r} is not in the space {named.name!r}; "
                f"did you mean {close[0]!r}?"
            )
    named.describe(name)
    return named, name


def load(
    name: str, fixed: Mapping[str, Any] | None = None, time_limit: float | None = None
) -> SearchSpace:
    """A shipped space by name, or a TOML file by path; ``fixed`` replaces fixed settings that it
    has.

    A factory is a program, which runs from here on; ``time_limit`` is the seconds that building or
    training one network may take (see :mod:`proxynas.spaces.guard`).

    Raises:
        SpaceError: no such space, or its factory cannot be imported, or it has no such fixed
            setting.
        SpecError: the file is not valid TOML or has wrong keys.
    """
    shipped = resources.folder("search_spaces") / f"{name}.toml"
    path = Path(name) if name.endswith(".toml") else shipped
    if not os.path.isfile(path):  # unlike Path.is_file it never raises
        close = difflib.get_close_matches(name, names(), n=1)
        known = f"known: {', '.join(names())}, or the path of a .toml file"
        hint = f"did you mean {close[0]!r}?" if close else known
        raise SpaceError(f"there is no search space {quoted(name)}; {hint}")
    file = settings.make(SpaceFile, settings.read_toml(path), where=str(path))
    notation.check(file.arch, file.axes, path)
    axes = {axis: tuple(values) for axis, values in file.axes.items()}
    return SearchSpace(
        file.name,
        file.description,
        _factory(file, path),
        file.arch,
        axes,
        _replaced(file, fixed or {}),
        None if file.kind is None else _kind(file.kind, path, time_limit),
        file.headline,
        path != shipped,
        time_limit,
    )


@dataclass(frozen=True)
class _Kind:
    """The function that says which architectures are isomorphic, guarded; it can be pickled."""

    function: Found
    path: Path
    time_limit: float | None

    def __call__(self, arch: str) -> str:
        what = f"{self.path}: kind {self.function.reference!r} failed on {arch!r}"
        with guarded(what, self.time_limit):
            return str(self.function(arch))


def _kind(reference: str, path: Path, time_limit: float | None) -> _Kind:
    return _Kind(factories.find(reference, path), path, time_limit)


def _factory(file: SpaceFile, path: Path) -> Factory:
    taken = sorted({*file.arguments} & {*file.axes, *file.fixed})
    if taken:
        raise SpecError(
            f"{path}: {taken[0]!r} is in [arguments], so it cannot be an axis or fixed as well; "
            "leave one out"
        )
    function = factories.find(file.factory, path)
    if file.arguments or file.input != Input():
        return Foreign(function, file.arguments, file.input)
    return function


def _replaced(file: SpaceFile, values: Mapping[str, Any]) -> dict[str, Value]:
    for key, value in values.items():
        if key not in file.fixed:
            has = f"it has {', '.join(file.fixed)}" if file.fixed else "it has none"
            raise SpaceError(f"the space {file.name!r} has no fixed setting {key!r}; {has}")
        if type(value) is not type(file.fixed[key]):
            kind = type(file.fixed[key]).__name__
            raise SpaceError(
                f"{key} of the space {file.name!r} must be of type {kind}, but got {value!r}"
            )
    return {**file.fixed, **values}
