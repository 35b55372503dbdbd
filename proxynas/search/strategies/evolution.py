"""Regularised evolution: Real, Aggarwal, Huang & Le, "Regularized Evolution for Image Classifier
Architecture Search" (AAAI 2019), algorithm 1.

A population of the ``population`` youngest; a child is the best of ``tournament`` of them, drawn
with replacement, with one axis changed; the oldest leaves, however good it is. Two things differ:
several children are asked for before the value of the first is known, as with the paper's parallel
workers, and a child that was tried before, or is outside the limits, is replaced by another one, as
its training would say nothing new.
"""

from collections.abc import Sequence

import numpy as np

from ...core import seeds
from ...spaces import SearchSpace
from .untried import Untried

CHILDREN = 200
"""Mutations tried for one child that may be proposed; after them it is drawn at random."""


class Evolution:
    """A strategy with one objective. The first ``population`` architectures are drawn at random."""

    def __init__(
        self, untried: Untried, seed: int, population: int = 100, tournament: int = 25
    ) -> None:
        self.untried = untried
        self.seed = seed
        self.population = population
        self.tournament = tournament
        self._asked = 0
        self._values: dict[str, float] = {}  # oldest first

    def ask(self, n: int) -> list[str]:
        """The next ``n`` architectures; fewer, or none, where there are no more."""
        rng = np.random.default_rng(seeds.derive(self.seed, "evolution", self._asked))
        random = n if not self._values else min(n, max(0, self.population - self._asked))
        archs = self.untried.draw(random, rng)
        parents = list(self._values)[-self.population :]
        while len(archs) < n:
            child = self._child(parents, rng) if parents else None
            proposed = [child] if child is not None else self.untried.draw(1, rng)
            if not proposed:
                break
            archs += proposed
        self._asked += len(archs)
        return archs

    def tell(self, arch: str, values: Sequence[float]) -> None:
        """What ``arch`` is worth, higher is better; telling it again replaces that."""
        (self._values[arch],) = values

    def _child(self, parents: list[str], rng: np.random.Generator) -> str | None:
        for _ in range(CHILDREN):
            drawn = [parents[int(i)] for i in rng.integers(len(parents), size=self.tournament)]
            child = mutate(self.untried.space, max(drawn, key=self._values.__getitem__), rng)
            if self.untried(child):
                self.untried.take(child)
                return child
        return None


def mutate(space: SearchSpace, arch: str, rng: np.random.Generator) -> str:
    """``arch`` with another value on one axis, both drawn uniformly; itself where no axis has two
    values."""
    axes = [name for name, values in space.axes.items() if len(values) > 1]
    if not axes:
        return arch
    values = space.describe(arch)
    axis = axes[int(rng.integers(len(axes)))]
    others = [value for value in space.axes[axis] if str(value) != str(values[axis])]
    return space.write({**values, axis: others[int(rng.integers(len(others)))]})
