"""Optuna's samplers as strategies, by ask and tell.

A study lives for one ``ask`` only: it is built again from all values so far, so that these may
change from round to round, as mean ranks do, and so that what comes next depends on the seed and on
the values in their order, nothing else. What a sampler notes with its trials is kept with them.

Axes of numbers in order are integers for a sampler (the value's place), all others are categories.
CMA-ES knows no categories: it searches the ordered axes, and TPE chooses the others beside it, one
by one. TPE and NSGA-II see architectures outside the limits as violated constraints; they are drawn
again by CMA-ES, which has no constraints; none of them is trained.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core import seeds
from ...core.errors import SpecError
from ...core.extras import need
from ...spaces import SearchSpace, Value
from .untried import Untried

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

SAMPLERS = ("tpe", "nsga2", "cmaes")
RETRIES = 20
"""Architectures asked of a sampler for each one that is wanted; after them the rest is drawn at
random."""


def space_distributions(space: SearchSpace) -> "dict[str, CategoricalDistribution]":
    """The axes of a space as Optuna's distributions; :meth:`SearchSpace.write` takes a trial's
    parameters.

    Raises:
        SpecError: Optuna is not installed.
    """
    distributions = need("optuna.distributions", "a space as distributions", "optuna")
    return {
        name: distributions.CategoricalDistribution(list(values))
        for name, values in space.axes.items()
    }


def is_ordered(values: Sequence[Value]) -> bool:
    """Whether an axis is one of numbers that rise, or fall, from value to value."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(values) < 2:
        return False
    return all(a < b for a, b in pairwise(numbers)) or all(a > b for a, b in pairwise(numbers))


def check(name: str, space: SearchSpace, objectives: int) -> None:
    """Refuse what the sampler cannot do.

    Raises:
        SpecError: a package is missing, CMA-ES has several objectives or fewer than two ordered
            axes.
    """
    _import("optuna")
    if name != "cmaes":
        return
    _import("cmaes")
    if objectives > 1:
        raise SpecError("the strategy cmaes takes one objective; take nsga2 or tpe for several")
    ordered = [axis for axis, values in space.axes.items() if is_ordered(values)]
    if len(ordered) < 2:
        raise SpecError(
            f"the strategy cmaes takes two axes or more of numbers in order, but the space "
            f"{space.name!r} has {len(ordered)}; take tpe or evolution"
        )


@dataclass(frozen=True)
class _Trial:
    """What is kept of a trial: the places of its values, what the sampler noted, and how far off
    the limits it is."""

    params: dict[str, int]
    notes: dict[str, Any]
    violation: float = 0.0


class Sampled:
    """A strategy that asks ``tpe``, ``nsga2`` (its generations have ``population``) or ``cmaes``.

    ``together`` is how many will be asked for at a time: the population of CMA-ES.
    """

    def __init__(
        self,
        name: str,
        untried: Untried,
        seed: int,
        *,
        objectives: int = 1,
        population: int = 50,
        together: int = 10,
    ) -> None:
        check(name, untried.space, objectives)
        self.name = name
        self.untried = untried
        self.seed = seed
        self.objectives = objectives
        self.population = population
        self.together = together
        self._trials: dict[str, _Trial] = {}  # by architecture, in the order of asking
        self._values: dict[str, tuple[float, ...]] = {}
        axes = untried.space.axes
        self._axes = {axis: values for axis, values in axes.items() if len(values) > 1}
        self._distributions = {name: _distribution(values) for name, values in self._axes.items()}

    def ask(self, n: int) -> list[str]:
        """The next ``n`` architectures; fewer, or none, where there are no more."""
        seed = seeds.derive(self.seed, self.name, len(self._trials))
        with _quiet():
            study = self._study(seed % 2**32)
            sampled = self._sample(study, n)
        drawn = self.untried.draw(n - len(sampled), np.random.default_rng(seed))
        for arch in drawn:
            self._trials[arch] = _Trial(self._places(arch), {})
        return sampled + drawn

    def tell(self, arch: str, values: Sequence[float]) -> None:
        """What ``arch`` is worth, higher is better in every objective; telling it again replaces
        that."""
        self._values[arch] = tuple(values)

    def _sample(self, study: "Study", n: int) -> list[str]:
        sampled: list[str] = []
        for _ in range(RETRIES * n if self._axes else 0):
            trial = study.ask(self._distributions)
            arch = self._arch(trial.params)
            notes = study.get_trials(deepcopy=False)[trial.number].system_attrs
            violation = self.untried.limits.violation(arch) if self.untried.is_new(arch) else 0.0
            if violation and self.name != "cmaes" and arch not in self._trials:
                trial.set_constraint("limits", violation)
                study.tell(trial, [0.0] * self.objectives)
                self._trials[arch] = _Trial(trial.params, dict(notes), violation)
            elif violation or not self.untried.is_new(arch):
                study.tell(trial, state=_import("optuna.trial").TrialState.FAIL)
            else:
                self.untried.take(arch)
                self._trials[arch] = _Trial(trial.params, dict(notes))
                sampled.append(arch)
            if len(sampled) == n:
                break
        return sampled

    def _study(self, seed: int) -> "Study":
        optuna = _import("optuna")
        study: Study = optuna.create_study(
            sampler=_sampler(self.name, seed, self.population, self.together),
            directions=["maximize"] * self.objectives,
        )
        worst = _finite(self._values.values(), self.objectives)
        states = optuna.trial.TrialState
        for arch, kept in self._trials.items():
            values = self._values.get(arch, worst if kept.violation else None)
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.RUNNING if values is None else states.COMPLETE,
                    values=None if values is None else list(map(max, values, worst)),
                    params=kept.params,
                    distributions=self._distributions,
                    system_attrs=kept.notes,
                    constraints={"limits": kept.violation},
                )
            )
        return study

    def _arch(self, places: Mapping[str, int]) -> str:
        axes = self.untried.space.axes
        return self.untried.space.write(
            {name: values[places.get(name, 0)] for name, values in axes.items()}
        )

    def _places(self, arch: str) -> dict[str, int]:
        values = self.untried.space.describe(arch)
        return {
            name: [str(v) for v in axis].index(str(values[name]))
            for name, axis in self._axes.items()
        }


def _distribution(values: Sequence[Value]) -> "BaseDistribution":
    distributions = _import("optuna.distributions")
    distribution: BaseDistribution = (
        distributions.IntDistribution(0, len(values) - 1)
        if is_ordered(values)
        else distributions.CategoricalDistribution(range(len(values)))
    )
    return distribution


def _sampler(name: str, seed: int, population: int, together: int) -> "BaseSampler":
    samplers = _import("optuna.samplers")
    tpe = samplers.TPESampler(seed=seed, multivariate=name == "tpe", constant_liar=name == "tpe")
    sampler: BaseSampler = tpe
    if name == "nsga2":
        sampler = samplers.NSGAIISampler(seed=seed, population_size=population)
    elif name == "cmaes":
        sampler = samplers.CmaEsSampler(
            seed=seed,
            popsize=max(5, together),
            with_margin=True,  # for integers: Hamano et al. 2022
            independent_sampler=tpe,
            warn_independent_sampling=False,
        )
    return sampler


def _finite(values: "Iterator[Any] | Any", objectives: int) -> tuple[float, ...]:
    """For each objective a value below all so far: what a candidate whose training failed counts
    as."""
    worst = []
    for column in zip(*values, strict=True) if values else [()] * objectives:
        numbers = [v for v in column if math.isfinite(v)] or [0.0]
        worst.append(min(numbers) - (max(numbers) - min(numbers) or 1.0))
    return tuple(worst)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's notes on every study, and its warnings that a sampler may change, are for nobody."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.filterwarnings(
                "ignore", category=_import("optuna.exceptions").ExperimentalWarning
            )
            yield
    finally:
        logger.setLevel(level)


def _import(name: str) -> Any:
    return need(name, "this strategy", "optuna")
