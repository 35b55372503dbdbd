"""A search space: a grid of architectures, none of which exists before it is asked for."""

import difflib
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from pydantic.dataclasses import dataclass as checked
from torch import nn

from ..core import settings
from ..core.errors import SpaceError, SpecError
from ..nets.flops import forward_flops
from . import notation
from .factories import Factory, Foreign, Found
from .guard import check_network, guarded
from .notation import Value


class Networks(Protocol):
    """What makes networks by name: a space, or anything else with its :meth:`build`."""

    def build(self, arch: str, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network, freshly initialised from PyTorch's global generator."""


@checked(frozen=True, config=settings.CONFIG)
class Headline:
    """The indicator that picks the best network of a kind of space, and the evidence for it."""

    indicator: str
    without_zero_cost: str
    reason: str


LISTABLE = 10_000_000
"""Networks that are still listed where all of a space, or a permutation of it, is asked for."""

TRIES = 1_000
"""Draws in a row, none of which is admitted, after which sampling gives up."""


@dataclass(frozen=True)
class SearchSpace:
    """A grid of architectures, none of which exists before it is asked for: 10^12 of them cost
    nothing.

    An architecture is a string; ``size``, iteration and ``in`` work as on a set of them.
    """

    name: str
    description: str
    factory: Factory
    arch: str
    axes: dict[str, tuple[Value, ...]]
    fixed: dict[str, Value]
    kind: Callable[[str], str] | None = None  # equal for isomorphic ones; None: all are different
    headline: Headline | None = None
    foreign: bool = False  # it does not ship with proxynas, so that its networks are checked
    time_limit: float | None = None  # wall-clock seconds that building or training one may take

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(len(values) for values in self.axes.values())

    def __len__(self) -> int:
        if self.size > sys.maxsize:  # what Python's len can say
            raise OverflowError(
                f"the space {self.name!r} has {self.size:,} networks, and len ends at "
                f"{sys.maxsize:,}; use size"
            )
        return self.size

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return (self.at(index) for index in range(self.size))

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, str) and self._parse(arch) is not None

    def at(self, index: int) -> str:
        """The architecture at ``index``; the last axis varies fastest.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} of a space of {self.size:,} networks")
        values: dict[str, Value] = {}
        for name, axis in reversed(self.axes.items()):
            index, place = divmod(index, len(axis))
            values[name] = axis[place]
        return self.arch.format(**values)

    def sample(
        self,
        n: int,
        rng: np.random.Generator,
        distinct: bool = False,
        admit: Callable[[str], bool] | None = None,
    ) -> list[str]:
        """``n`` different architectures, uniformly, in random order; all of them when ``n`` is the
        size or more.

        With ``distinct`` no two are isomorphic: a kind is drawn as often as it has architectures,
        and counts once. With ``admit``, whose text says what it admits, only those for which it is
        true.

        Raises:
            SpecError: ``n`` is less than 1, or more than can be listed; or none of ``TRIES`` draws
                in a row is admitted.
        """
        if n < 1:
            raise SpecError(f"the number of candidates must be at least 1, but got {n}")
        if min(n, self.size) > LISTABLE:
            raise SpecError(
                f"the space {self.name!r} has {self.size:,} networks, too many to list; "
                f"ask for {LISTABLE:,} at most"
            )
        if (self.kind is None or not distinct) and admit is None and self.size < 2**63:
            chosen = rng.choice(self.size, size=min(n, self.size), replace=False)
            return [self.at(int(i)) for i in chosen]
        archs = self.take(n, rng, distinct, admit)
        if not archs:
            raise SpecError(
                f"of the {self.size:,} networks of {self.name!r} none is within {admit}; loosen "
                "that"
            )
        return archs

    def take(
        self,
        n: int,
        rng: np.random.Generator,
        distinct: bool = False,
        admit: Callable[[str], bool] | None = None,
    ) -> list[str]:
        """As :meth:`sample`, one network after the other; fewer than ``n``, or none, where there
        are no more.

        Raises:
            SpecError: none of ``TRIES`` draws in a row is admitted.
        """
        taken: dict[str, str] = {}
        seen = tries = 0  # in all, and since the last one that was taken
        for arch in self._shuffled(rng):
            seen, tries = seen + 1, tries + 1
            key = self.kind(arch) if distinct and self.kind is not None else arch
            if key not in taken and (admit is None or admit(arch)):
                taken[key], tries = arch, 0
            if len(taken) == n:
                break
            if tries == TRIES and (admit is not None or self.size > LISTABLE):
                what = "not isomorphic to another" if admit is None else f"within {admit}"
                raise SpecError(
                    f"of {seen:,} networks drawn from {self.name!r} only {len(taken)} are {what}, "
                    f"but {n} are asked for; loosen that, or ask for fewer"
                )
        return list(taken.values())

    def _shuffled(self, rng: np.random.Generator) -> Iterator[str]:
        """All architectures in random order; where they cannot be listed, draws among which one may
        come again."""
        if self.size <= LISTABLE:
            yield from (self.at(int(index)) for index in rng.permutation(self.size))
            return
        while True:
            yield self.draw(rng)

    def draw(self, rng: np.random.Generator) -> str:
        """One architecture, uniformly."""
        values = {name: axis[int(rng.integers(len(axis)))] for name, axis in self.axes.items()}
        return self.arch.format(**values)

    def write(self, values: Mapping[str, Value]) -> str:
        """The architecture with these values of the axes: the inverse of :meth:`describe`.

        Raises:
            SpaceError: an axis is missing or unknown, or has no such value.
        """
        if values.keys() != self.axes.keys():
            raise SpaceError(
                f"the axes of {self.name!r} are {', '.join(self.axes)}, but got {', '.join(values)}"
            )
        for name, value in values.items():
            if not any(value == known and type(value) is type(known) for known in self.axes[name]):
                known = ", ".join(map(str, self.axes[name]))
                raise SpaceError(
                    f"the axis {name} of {self.name!r} has the values {known}, but got {value!r}"
                )
        return self.arch.format(**values)

    def describe(self, arch: str) -> dict[str, Value]:
        """The value of every axis of ``arch``.

        Raises:
            SpaceError: ``arch`` is not in the space.
        """
        values = self._parse(arch)
        if values is None:
            first = list(itertools.islice(self, 20_000))
            close = difflib.get_close_matches(arch, first, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"it is written as {self.arch}"
            raise SpaceError(f"architecture {arch!r} is not in the space {self.name!r}; {hint}")
        return values

    def build(self, arch: str, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network, freshly initialised from PyTorch's global generator (see
        :func:`proxynas.core.seeds.seeded`).

        Raises:
            SpaceError: ``arch`` is not in the space, or its factory fails on this shape.
        """
        values = self.describe(arch)
        failed = f"the factory of {self.name!r} failed on {arch!r} with shape {shape}"
        with guarded(failed, self.time_limit):
            net = self.factory(shape, classes, **values, **self.fixed)
        if not isinstance(net, nn.Module):
            raise SpaceError(
                f"the factory of {self.name!r} must return a torch.nn.Module, "
                f"but for {arch!r} it returned a {type(net).__name__}"
            )
        return net

    def check(self, arch: str, shape: tuple[int, ...], classes: int) -> None:
        """Build a network and, in a space that does not ship with proxynas, train it on two random
        inputs for a step.

        Raises:
            SpaceError: it cannot be built, or what it returns cannot be trained.
        """
        net = self.build(arch, shape, classes)
        if self.foreign:
            check_network(net, shape, classes, self._failed(arch, shape), self.time_limit)

    def _failed(self, arch: str, shape: tuple[int, ...]) -> str:
        return f"the network {arch!r} of {self.name!r} fails on inputs of shape {shape}"

    def cost(self, arch: str, shape: tuple[int, ...], classes: int) -> tuple[int, int]:
        """Trainable parameters, and floating-point operations of one image's forward pass (a
        multiply-add is two).

        Raises:
            SpaceError: see :meth:`check`.
        """
        self.check(arch, shape, classes)
        net = self.build(arch, shape, classes)
        with guarded(self._failed(arch, shape), self.time_limit):
            flops = forward_flops(net, torch.zeros(1, *shape))
        return sum(p.numel() for p in net.parameters() if p.requires_grad), flops

    @property
    def fingerprint(self) -> str:
        """Names the grid and the fixed settings: the same for the same architectures, built the
        same way. Where the factory is in a file, the file's content, too."""
        described = [self.name, self.arch, {k: list(v) for k, v in self.axes.items()}, self.fixed]
        if isinstance(self.factory, Foreign):
            described += [dict(self.factory.arguments), asdict(self.factory.input)]
        made_by = self.factory.function if isinstance(self.factory, Foreign) else self.factory
        if isinstance(made_by, Found) and made_by.code:
            described += [made_by.reference, made_by.code]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return notation.pattern(self.arch, self.axes)

    def _parse(self, arch: str) -> dict[str, Value] | None:
        match = self._pattern.fullmatch(arch)
        if match is None:
            return None
        return {
            name: next(v for v in axis if str(v) == match[name]) for name, axis in self.axes.items()
        }
