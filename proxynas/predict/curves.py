"""Regret against cost, simulated on candidates whose truth is known: this search, and its rivals.

Every strategy spends from one :class:`Account`: a training on the whole data costs its seconds and
gives the accuracy of one run, a training with few epochs likewise, and indicators their seconds for
all candidates. After every payment the account notes the regret of the network that would be handed
over now: the best trained one, by its label; before any is trained, the one that the strategy would
pick. Regret is in accuracy (0.01: a point): how far the mean of that network's runs is below the
best mean of all candidates, so that a lucky run is not taken for a good network.

Rivals: random search; zero-cost pick (training in the order of the mean rank); few epochs on
    everything, then
training in that order; successive halving and Hyperband (Li et al. 2020, "A system for massively
parallel hyperparameter tuning"; 2018, "Hyperband"), by Optuna's pruners; regularised evolution
(Real et al. 2019, algorithm 1).
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..core import seeds
from ..core.errors import SpecError
from . import choose, predictor, verify
from .models import MODELS, Model

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Candidates with known truth, and what each way to look at one costs (seconds).

    runs: accuracies of each candidate's trainings on the whole data, one or more a candidate.
    seconds: of one such training, by candidate.
    features: their indicators, a row a candidate, as for :func:`.predictor.fit`; and so are
        ``prior`` and ``axes``.
    indicator_seconds: what the indicators of all candidates cost together.
    shown: what each of these trainings shows (its validation accuracy), where that is not what
        ``runs`` has; strategies see this, and regret is of ``runs``.
    partial: accuracy after few epochs, by candidate, and what one such training costs; ``None``
        without such a table.
    """

    runs: Mapping[str, Sequence[float]]
    seconds: pd.Series
    features: pd.DataFrame
    prior: pd.Series
    indicator_seconds: float
    axes: pd.DataFrame | None = None
    partial: pd.Series | None = None
    partial_seconds: pd.Series | None = None
    shown: Mapping[str, Sequence[float]] | None = None

    @property
    def names(self) -> list[str]:
        """The candidates, sorted."""
        return sorted(self.runs)

    def truth(self) -> pd.Series:
        """Mean accuracy by candidate."""
        return pd.Series({name: float(np.mean(self.runs[name])) for name in self.names})


class Spent(Exception):  # noqa: N818  # not an error: a strategy ends with its budget
    """The budget is used up."""


@dataclass
class Account:
    """What a strategy has paid, and what it would hand over after each payment."""

    pool: Pool
    budget: float
    rng: np.random.Generator
    cost: float = 0.0
    labels: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._truth = self.pool.truth()
        self._best = float(self._truth.max())

    def pay(self, seconds: float, pick: str) -> None:
        """Spend ``seconds``; ``pick`` would be handed over while no candidate has been trained."""
        self._charge(seconds)
        self._note(pick)

    def train(self, name: str) -> float:
        """The label of a candidate; a second time it is free and the same."""
        if name not in self.labels:
            self._charge(float(self.pool.seconds[name]))
            shown = self.pool.runs if self.pool.shown is None else self.pool.shown
            self.labels[name] = float(self.rng.choice(np.asarray(shown[name])))
            self._note(name)
        return self.labels[name]

    def glance(self, name: str) -> float:
        """The accuracy of a candidate after few epochs; a second time it is free."""
        if self.pool.partial is None or self.pool.partial_seconds is None:
            raise SpecError(
                "this strategy needs accuracies after few epochs, but there are none; leave it out"
            )
        if name not in self.seen:
            self._charge(float(self.pool.partial_seconds[name]))
            self.seen[name] = float(self.pool.partial[name])
            self._note(name)
        return self.seen[name]

    def _charge(self, seconds: float) -> None:
        self.cost += seconds
        if self.cost > self.budget:
            raise Spent

    def _note(self, pick: str) -> None:
        """Note the regret of the best by label, or else the best after few epochs, or else
        ``pick``.
        """
        known = self.labels or self.seen or {pick: 0.0}
        handed = max(known, key=lambda name: (known[name], name))
        self.costs.append(self.cost)
        self.regrets.append(self._best - float(self._truth[handed]))

    def order(self) -> list[str]:
        """All candidates in random order."""
        names = self.pool.names
        return [names[i] for i in self.rng.permutation(len(names))]


Strategy = Callable[[Account, int], None]
"""Spends an account until that raises :class:`Spent` or all is known. What does not draw from the
account's generator takes the seed."""


def random_search(account: Account, seed: int) -> None:
    """Train candidates in random order."""
    for name in account.order():
        account.train(name)


def zero_cost(account: Account, seed: int) -> None:
    """Train candidates in the order of the mean rank of their indicators, which are paid first."""
    order = _descending(account.pool.prior)
    account.pay(account.pool.indicator_seconds, order[0])
    for name in order:
        account.train(name)


def few_epochs(account: Account, seed: int) -> None:
    """A few epochs on every candidate, then train in the order of the accuracy after them."""
    _glance(account, account.order())
    _train(account, _descending(pd.Series(account.seen)))


def warm_start(looks: int) -> Strategy:
    """A few epochs on the ``looks`` best by the mean rank of indicators, then train in the order of
    those accuracies.

    What Abdelfattah et al. 2021, §4.3, call a zero-cost warm-up.
    """

    def run(account: Account, seed: int) -> None:
        order = _descending(account.pool.prior)
        account.pay(account.pool.indicator_seconds, order[0])
        _glance(account, order[:looks])
        _train(account, _descending(pd.Series(account.seen)))

    return run


def halving(pruner: Callable[[], Any], resource: int, whole: int) -> Strategy:
    """Successive halving or Hyperband: few epochs of candidates in random order, those go on that
    ``pruner`` lets.

    Args:
        pruner: makes one of Optuna's pruners.
        resource: epochs of the pool's partial training.
        whole: epochs of a whole one. It starts again from scratch, as in NAS-Bench-201, whose rate
            ends at 0 in both.
    """

    def run(account: Account, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="maximize", pruner=pruner(), sampler=optuna.samplers.RandomSampler(seed)
        )
        for name in account.order():
            trial = study.ask()
            trial.report(account.glance(name), resource)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            accuracy = account.train(name)
            trial.report(accuracy, whole)
            study.tell(trial, accuracy)

    return run


def evolution(population: int, tournament: int) -> Strategy:
    """Regularised evolution: the oldest dies, the best of a few random ones has a child.

    The child is one of the candidates that differ from its parent in the fewest axes and are not
    trained yet, so that it stays within the pool.
    """

    def run(account: Account, seed: int) -> None:
        if account.pool.axes is None:
            raise SpecError(
                "evolution needs the axes of the candidates, but the pool has none; leave it out"
            )
        axes = account.pool.axes.loc[account.pool.names].astype(str).to_numpy()  # (N, axes)
        names, left = account.pool.names, set(range(len(axes)))
        alive: deque[int] = deque()
        while left:
            if len(alive) < population:
                child = int(account.rng.choice(sorted(left)))
            else:
                rivals = account.rng.choice(
                    len(alive), size=min(tournament, len(alive)), replace=False
                )
                parent = max((alive[i] for i in rivals), key=lambda i: account.labels[names[i]])
                open_ = np.array(sorted(left))
                distance = (axes[open_] != axes[parent]).sum(1)
                child = int(account.rng.choice(open_[distance == distance.min()]))
                alive.popleft()
            account.train(names[child])
            alive.append(child)
            left.discard(child)

    return run


def predicted(
    labels: int, batch: int = 5, most: int = 60, models: Mapping[str, Model] = MODELS
) -> Strategy:
    """This search: ``labels`` chosen ones, then verification in batches, the predictor fitted again
    before each.

    Args:
        labels: how many are chosen before verification.
        batch: verified at a time.
        most: verified in all.
        models: what is fitted, see :func:`.predictor.fit`.
    """

    def run(account: Account, seed: int) -> None:
        account.pay(account.pool.indicator_seconds, _descending(account.pool.prior)[0])
        _label(account, labels, seed, _train, account.labels, models)
        for done in range(0, most, batch):
            prediction = _fit(account.pool, account.labels, seed, models)
            _train(account, verify.best(prediction, account.labels, min(batch, most - done)))

    return run


def predicted_early(
    labels: int, looks: int, batch: int = 10, models: Mapping[str, Model] = MODELS
) -> Strategy:
    """This search with labels of few epochs: ``labels`` chosen ones and the ``looks`` best of the
    prediction, in batches; then train in the order of :func:`.verify.finalists`.

    Args:
        labels: how many are chosen and trained for few epochs.
        looks: how many more, the best by prediction, are trained for few epochs.
        batch: of those, between two fits of the predictor.
        models: what is fitted, see :func:`.predictor.fit`.
    """

    def run(account: Account, seed: int) -> None:
        account.pay(account.pool.indicator_seconds, _descending(account.pool.prior)[0])
        if labels:
            _label(account, labels, seed, _glance, account.seen, models)
        for done in range(0, looks, batch):
            prediction = _fit(account.pool, account.seen, seed, models)
            _glance(account, verify.best(prediction, account.seen, min(batch, looks - done)))
        seen, prediction = pd.Series(account.seen), _fit(account.pool, account.seen, seed, models)
        _train(account, verify.finalists(seen, prediction, len(account.pool.runs)))

    return run


def _label(
    account: Account,
    labels: int,
    seed: int,
    measure: Callable[[Account, Iterable[str]], None],
    known: Mapping[str, float],
    models: Mapping[str, Model] = MODELS,
) -> None:
    """Choose ``labels`` candidates in rounds and ``measure`` them, which adds to ``known``."""
    first, *later = choose.rounds(labels)
    design = choose.spread(account.pool.prior, first, seed)
    measure(account, design.index)
    for more in later:
        design = choose.further(_fit(account.pool, known, seed, models), design, more, seed)
        measure(account, design.index[-more:])


def _fit(
    pool: Pool, known: Mapping[str, float], seed: int, models: Mapping[str, Model] = MODELS
) -> predictor.Prediction:
    labels = pd.Series(dict(known), dtype="float64")
    return predictor.fit(
        pool.features,
        labels,
        prior=pool.prior,
        axes=pool.axes,
        seed=seed,
        models=models,
        repeats=1,
        folds=5,
    )


def simulate(pool: Pool, strategy: Strategy, budget: float, seed: int) -> tuple[Floats, Floats]:
    """The costs (n,) after which the regret changed or was looked at, ascending, and the regrets
    (n,) then.
    """
    account = Account(pool, budget, np.random.default_rng(seeds.derive(seed, "curve")))
    with contextlib.suppress(Spent):
        strategy(account, seed)
    return np.array(account.costs), np.array(account.regrets)


def at(costs: Floats, regrets: Floats, grid: Floats) -> Floats:
    """The regret after each cost of ``grid`` (g,); NaN before there is anything to hand over."""
    place = np.searchsorted(costs, grid, side="right") - 1
    return np.where(
        place >= 0, regrets[np.maximum(place, 0)] if len(regrets) else math.nan, math.nan
    )


def bands(regrets: Floats) -> dict[str, list[float]]:
    """Median, mean and the middle 80 % of regrets (seeds, g) at each cost; NaN where any seed has
    nothing yet.
    """
    low, median, high = np.quantile(regrets, [0.1, 0.5, 0.9], axis=0)
    return {
        "median": median.tolist(),
        "mean": regrets.mean(axis=0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def reached(grid: Floats, regret: Floats, goal: float) -> float:
    """The first cost of ``grid`` (g,) from which ``regret`` (g,) stays within ``goal``; infinite if
    it never does.
    """
    bad = np.flatnonzero(~(regret <= goal))
    first = int(bad[-1]) + 1 if len(bad) else 0
    return float(grid[first]) if first < len(grid) else math.inf


def _glance(account: Account, names: Iterable[str]) -> None:
    for name in names:
        account.glance(str(name))


def _train(account: Account, names: Iterable[str]) -> None:
    for name in names:
        account.train(str(name))


def _descending(values: pd.Series) -> list[str]:
    return [
        str(name) for name in values.sort_index().sort_values(ascending=False, kind="stable").index
    ]
