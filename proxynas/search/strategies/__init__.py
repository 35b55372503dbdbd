"""Search strategies: which architectures come next, given what earlier ones turned out to be worth.

A strategy has two methods: ``ask`` proposes architectures, and ``tell`` takes their values, higher
is better. What it proposes depends on its seed and on the values in their order, and on nothing
else: an interrupted search resumes by asking and telling again what the run store has.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ...core import seeds
from ...core.errors import SpecError
from ...spaces.space import LISTABLE
from ...specs import StrategyName
from .evolution import Evolution
from .pareto import front
from .untried import Untried
from .with_optuna import SAMPLERS, Sampled, space_distributions

__all__ = [
    "ADAPTIVE",
    "Evolution",
    "Sampled",
    "Strategy",
    "Untried",
    "front",
    "make",
    "space_distributions",
]

ADAPTIVE: tuple[StrategyName, ...] = ("tpe", "nsga2", "cmaes", "evolution")
"""Strategies whose proposals depend on the values of earlier ones."""


class Strategy(Protocol):
    """The interface of all of them."""

    def ask(self, n: int) -> list[str]:
        """The next ``n`` architectures, none of which came before; fewer, or none, where there are
        no more."""

    def tell(self, arch: str, values: Sequence[float]) -> None:
        """What ``arch`` is worth, one value an objective, higher is better; telling it again
        replaces that."""


class Listed:
    """A strategy that takes no notice of values: the architectures of ``archs`` in their order."""

    def __init__(self, archs: Iterator[str]) -> None:
        self._archs = archs

    def ask(self, n: int) -> list[str]:
        """The next ``n``."""
        return [arch for _, arch in zip(range(n), self._archs, strict=False)]

    def tell(self, arch: str, values: Sequence[float]) -> None:
        """Changes nothing."""


def make(
    name: StrategyName,
    untried: Untried,
    *,
    seed: int,
    candidates: int,
    together: int = 10,
    objectives: int = 1,
) -> Strategy:
    """The strategy ``name`` for a search of ``candidates`` in all, ``together`` of them at a time.

    ``random`` draws the sample that ``SearchSpace.sample`` gives; ``all`` has every architecture
    within the limits, in the order of the space. A population is a quarter of the candidates,
    between 10 and 100 (NSGA-II: 50), and a tournament a quarter of the population, as published for
    evolution (100 and 25).

    Raises:
        SpecError: what the strategy needs is not installed, or it cannot do this; or all of too
            large a space.
    """
    space = untried.space
    population = min(max(10, candidates // 4), 100)
    if name in SAMPLERS:
        population = min(population, 50)
        return Sampled(
            name, untried, seed, objectives=objectives, population=population, together=together
        )
    if name == "evolution":
        if objectives > 1:
            raise SpecError(
                "the strategy evolution takes one objective; take nsga2 or tpe for several"
            )
        return Evolution(untried, seed, population, max(2, population // 4))
    if name == "all":
        if space.size > LISTABLE:
            raise SpecError(
                f"the strategy all would list {space.size:,} networks; "
                "take random, tpe or evolution"
            )
        return Listed(filter(untried.limits, space))
    rng = np.random.default_rng(seeds.derive(seed, "candidates"))
    admit = untried.limits if untried.limits.constraints else None
    return Listed(iter(space.sample(candidates, rng, untried.distinct, admit)))
