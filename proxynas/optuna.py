"""A proxy set in a study of Optuna: what a trial's network is worth, with pruning on the way.

    import optuna

    import proxynas as pn
    from proxynas.optuna import objective

    data, space = pn.load_data("digits"), pn.load_space("convnet-grid")
    evaluator = pn.Evaluator(pn.read_proxy("digits-gm-ipc1"), data)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    study.optimize(objective(space, evaluator), n_trials=20)

Any sampler, pruner and storage will do. ``n_jobs`` are threads, and evaluations take turns in a
process; several at a time take several processes with one storage, such as Optuna's
``JournalStorage``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from .api.evaluator import TRAINED, Evaluation, Evaluator, check_indicator
from .core.errors import SpecError
from .core.extras import need
from .rank.indicators import LOWER_IS_BETTER
from .search.strategies import space_distributions as distributions
from .spaces import SearchSpace

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["Objective", "distributions", "objective"]

Networks = SearchSpace | Callable[["Trial"], nn.Module]


@dataclass(frozen=True)
class Objective:
    """A function of a trial, which can be pickled where its networks can; see :func:`objective`."""

    networks: Networks
    evaluator: Evaluator
    indicators: tuple[str, ...]
    seed: int

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """What ``optuna.create_study(directions=…)`` takes: lower is better for losses and
        costs."""
        return ["maximize" if _rises(name) else "minimize" for name in self.indicators]

    def __call__(self, trial: "Trial") -> float | tuple[float, ...]:
        """The values of the indicators for the trial's network.

        Raises:
            TrialPruned: the study's pruner says so at one of the evaluator's validations.
            SpecError: the study has other directions.
            NetworkError: the network does not fit the data.
        """
        self._check(trial)
        name, make = self._network(trial)
        watch = _Stopwatch()
        try:
            evaluation = self.evaluator.evaluate(
                watch.starting(make),
                name=name,
                indicator=self.indicators[0],
                report=None if len(self.indicators) > 1 else partial(self._report, trial),
                seed=self.seed,
            )
        except _pruned():
            for key, value in watch.read().items():
                trial.set_user_attr(key, value)
            raise
        _note(trial, evaluation)
        values = tuple(evaluation[name] for name in self.indicators)
        return values if len(values) > 1 else values[0]

    def _network(self, trial: "Trial") -> tuple[str, Callable[[], nn.Module]]:
        """The trial's network by name, and what builds it."""
        networks, data = self.networks, self.evaluator.data
        if not isinstance(networks, SearchSpace):
            return "", partial(networks, trial)
        values: dict[str, Any] = {
            axis: trial.suggest_categorical(axis, choices)
            for axis, choices in networks.axes.items()
        }
        arch = networks.write(values)
        trial.set_user_attr("arch", arch)
        return arch, partial(networks.build, arch, data.shape, data.num_classes)

    def _report(self, trial: "Trial", update: int, value: float) -> None:
        updates = self.evaluator.trained_by.updates
        trial.report(value, update)
        if update < updates and trial.should_prune():
            raise _pruned()(
                f"pruned after {update} of {updates} updates: {self.indicators[0]} {value:.4g}"
            )

    def _check(self, trial: "Trial") -> None:
        if not isinstance(trial, need("optuna.trial", "an objective", "optuna").Trial):
            return  # a fixed trial has no study
        there = [direction.name.lower() for direction in trial.study.directions]
        if len(there) != len(self.indicators):
            raise SpecError(
                f"the objective has {len(self.indicators)} value(s), {', '.join(self.indicators)}, "
                f"but the study has {len(there)} direction(s); "
                f"create it with directions={self.directions}"
            )
        for name, wanted, given in zip(self.indicators, self.directions, there, strict=True):
            if name in TRAINED and wanted != given:
                raise SpecError(
                    f"the study would {given} {name}; create it with directions={self.directions}"
                )


@dataclass
class _Stopwatch:
    """The seconds since a network was made, without those that an evaluation waited for others."""

    wall: float = 0.0
    core: float = 0.0

    def starting(self, make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        """``make``, which starts it when it is first called."""

        def made() -> nn.Module:
            if not self.wall:
                self.wall, self.core = time.perf_counter(), time.thread_time()
            return make()

        return made

    def read(self) -> dict[str, float]:
        """Wall-clock and core seconds."""
        return {
            "seconds": time.perf_counter() - self.wall,
            "core_seconds": time.thread_time() - self.core,
        }


def objective(
    networks: Networks,
    evaluator: Evaluator,
    indicator: str | Sequence[str] = "val_accuracy",
    *,
    seed: int = 0,
) -> Objective:
    """What ``study.optimize`` takes: a trial's network, trained on the evaluator's proxy set.

    Args:
        networks: a search space, whose axes become the trial's parameters; or a function of a trial
            that suggests parameters and makes a network.
        evaluator: trains and validates; the pruner is asked at each of its ``val_points``.
        indicator: what a trial's value is, one of ``val_accuracy``, ``val_loss``, ``val_auc``,
            ``sotl``, ``sotl_late``, ``parameters`` and ``flops``; several for a study of several
            directions, which Optuna does not prune.
        seed: of every training.

    A trial's user attributes have every indicator, ``seconds``, ``core_seconds``, ``failed`` where
    a training failed (the trial then fails), and ``arch`` where there is a space; those of a pruned
    trial its seconds and ``arch``.

    Raises:
        SpecError: an unknown indicator, or Optuna is not installed.
    """
    need("optuna", "an objective", "optuna")
    indicators = (indicator,) if isinstance(indicator, str) else tuple(indicator)
    for name in indicators or ("",):
        check_indicator(name)
    return Objective(networks, evaluator, indicators, seed)


def _note(trial: "Trial", evaluation: Evaluation) -> None:
    attributes: dict[str, Any] = {
        **evaluation,
        "seconds": evaluation.seconds,
        "core_seconds": evaluation.core_seconds,
    }
    if evaluation.failed is not None:
        attributes["failed"] = evaluation.failed
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def _rises(name: str) -> bool:
    return name in TRAINED and name not in LOWER_IS_BETTER


def _pruned() -> type[Exception]:
    pruned: type[Exception] = need("optuna", "an objective", "optuna").TrialPruned
    return pruned
