import logging
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from scipy import stats

from proxynas import spaces
from proxynas.core import seeds
from proxynas.core.errors import SpecError
from proxynas.search import strategies
from proxynas.search.strategies import Evolution, Strategy, Untried, evolution, with_optuna
from proxynas.spaces.limits import Limits
from proxynas.specs import StrategyName
from proxynas.specs.constraint import Constraint, Cost

NONE = Limits((), lambda arch: (0, 0))
CHAIN = spaces.load("chain")
TARGET = {name: (3 * i) % 10 for i, name in enumerate(CHAIN.axes)}


def worth(arch: str, space: spaces.SearchSpace = CHAIN) -> float:
    """How near to an architecture that nobody knows: 0 at the best, axis by axis; categories are
    right or wrong."""
    values = space.describe(arch)
    places = {
        name: [str(v) for v in axis].index(str(values[name])) for name, axis in space.axes.items()
    }
    off = {name: abs(places[name] - TARGET[name]) for name in places}
    return -float(sum(off[name] if name.startswith("w") else 4 * min(off[name], 1) for name in off))


def run(
    strategy: Strategy,
    n: int,
    together: int = 10,
    value: Callable[[str], tuple[float, ...]] | None = None,
) -> list[str]:
    archs: list[str] = []
    while len(archs) < n:
        asked = strategy.ask(together)
        if not asked:
            break
        for arch in asked:
            strategy.tell(arch, (worth(arch),) if value is None else value(arch))
        archs += asked
    return archs


def make(
    name: StrategyName, seed: int = 0, limits: Limits = NONE, candidates: int = 60, **more: int
) -> Strategy:
    return strategies.make(name, Untried(CHAIN, limits), seed=seed, candidates=candidates, **more)


@pytest.mark.parametrize("name", ["random", *strategies.ADAPTIVE])
def test_a_seed_and_what_was_told_decide_what_comes(name: StrategyName) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # the global generator must not matter
    first = run(make(name), 60)
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    assert run(make(name), 60) == first
    assert len(first) == len(set(first)) == 60
    assert all(arch in CHAIN for arch in first)
    assert run(make(name, seed=1), 60) != first


@pytest.mark.parametrize("name", strategies.ADAPTIVE)
def test_a_search_goes_on_from_what_was_told(name: StrategyName) -> None:
    """A new strategy that is told again what an interrupted one was goes the same way; other
    results, another way."""
    first = run(make(name), 60)
    again = make(name)
    known = {arch: worth(arch) for arch in first[:40]}  # what a run store has
    for _ in range(4):
        for arch in again.ask(10):
            again.tell(arch, (known[arch],))
    assert run(again, 20) == first[40:]
    other = make(name)
    assert run(other, 60, value=lambda arch: (-worth(arch),)) != first


@pytest.mark.parametrize("name", strategies.ADAPTIVE)
def test_adaptive_strategies_find_better_networks_than_chance(name: StrategyName) -> None:
    chosen = [
        np.mean([worth(a) for a in run(make(name, seed, candidates=150), 150)[-50:]])
        for seed in (0, 1)
    ]
    drawn = [
        np.mean([worth(a) for a in run(make("random", seed, candidates=150), 150)[-50:]])
        for seed in (0, 1)
    ]
    assert min(chosen) > max(drawn) + 5  # random networks are some 45 below the best


@pytest.mark.parametrize("name", ["tpe", "nsga2", "evolution"])
def test_values_may_change_after_they_were_told(name: StrategyName) -> None:
    """As mean ranks do: what comes next is as if the last values had been the first."""

    def begun(value: Callable[[str], float]) -> Strategy:
        strategy = make(name)
        for arch in strategy.ask(20):
            strategy.tell(arch, (value(arch),))
        return strategy

    known, learnt = begun(worth), begun(lambda arch: -worth(arch))
    assert begun(lambda arch: -worth(arch)).ask(10) != known.ask(10)
    for arch in make(name).ask(20):
        learnt.tell(arch, (worth(arch),))
    assert learnt.ask(10) == begun(worth).ask(10)


def width(arch: str) -> Cost:
    values = CHAIN.describe(arch)
    return sum(int(values[f"w{i}"]) for i in range(1, 7)), 0


@pytest.mark.parametrize("name", ["random", *strategies.ADAPTIVE])
def test_nothing_outside_the_limits_is_proposed(name: StrategyName) -> None:
    """A third of all chains is within, and the objective pulls the other way."""
    limits = Limits((Constraint("parameters", "<", 110),), width)
    archs = run(make(name, limits=limits), 60, value=lambda arch: (float(width(arch)[0]),))
    assert len(set(archs)) == 60
    assert max(width(arch)[0] for arch in archs) < 110
    if name in ("tpe", "evolution"):  # which have come near to the limit by then
        assert np.mean([width(arch)[0] for arch in archs[-20:]]) > np.mean(
            [width(arch)[0] for arch in archs[:10]]
        )


@pytest.mark.parametrize("name", strategies.ADAPTIVE)
def test_limits_that_admit_nothing_end_with_a_line(name: StrategyName) -> None:
    with pytest.raises(SpecError, match="only 0 are within parameters<1, but"):
        make(name, limits=Limits((Constraint("parameters", "<", 1),), width)).ask(10)


@pytest.mark.parametrize("name", ["random", "all", *strategies.ADAPTIVE])
def test_a_small_space_is_searched_to_its_end(name: StrategyName, small_space: Path) -> None:
    space = spaces.load(str(small_space))
    strategy = strategies.make(name, Untried(space, NONE), seed=0, candidates=99)
    archs = run(strategy, 99, together=3, value=lambda arch: (float(len(arch)),))
    assert sorted(archs) == sorted(space)
    assert strategy.ask(3) == []
    if name == "all":
        assert archs == list(space)


@pytest.mark.parametrize("name", ["random", *strategies.ADAPTIVE])
def test_isomorphic_networks_count_once(name: StrategyName) -> None:
    space = replace(CHAIN, kind=lambda arch: arch[:5])
    untried = Untried(space, NONE, distinct=True)
    archs = run(strategies.make(name, untried, seed=0, candidates=20), 20)
    assert len({arch[:5] for arch in archs}) == 20


def test_random_is_the_sample_of_every_search_before() -> None:
    space = spaces.load("convnet-grid")
    archs = strategies.make("random", Untried(space, NONE), seed=5, candidates=60).ask(60)
    assert archs == space.sample(60, np.random.default_rng(seeds.derive(5, "candidates")))


def test_all_of_too_many_is_refused() -> None:
    with pytest.raises(
        SpecError, match="would list 1,000,000,000,000 networks; take random, tpe or evolution"
    ):
        make("all")


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_two_objectives(name: StrategyName) -> None:
    """Against each other: what is asked for last is better in both than what came first."""

    def value(arch: str) -> tuple[float, float]:
        return worth(arch), -float(width(arch)[0])

    archs = run(make(name, candidates=150, objectives=2), 150, value=value)
    first, last = (np.mean([value(arch) for arch in part], 0) for part in (archs[:40], archs[-40:]))
    assert (last > first + 3).all()


@pytest.mark.parametrize("name", ["cmaes", "evolution"])
def test_one_objective_only(name: StrategyName) -> None:
    with pytest.raises(
        SpecError, match=f"the strategy {name} takes one objective; take nsga2 or tpe"
    ):
        make(name, objectives=2)


@pytest.mark.parametrize("name", strategies.ADAPTIVE)
def test_candidates_that_failed_are_the_worst(name: StrategyName) -> None:
    """All whose first block is narrow fail: the strategy leaves them."""

    def value(arch: str) -> tuple[float]:
        return (-np.inf if int(CHAIN.describe(arch)["w1"]) < 20 else 0.0,)

    archs = run(make(name, candidates=120), 120, value=value)
    failed = [np.isinf(value(arch)[0]) for arch in archs]
    assert np.mean(failed[-40:]) < 0.3  # of all chains half


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_failures_with_two_objectives(name: StrategyName) -> None:
    archs = run(
        make(name, objectives=2),
        40,
        value=lambda a: (-np.inf, -np.inf) if "max" in a else (worth(a), 1.0),
    )
    assert len(archs) == 40


@pytest.mark.parametrize(
    ("name", "package"), [("tpe", "optuna"), ("nsga2", "optuna"), ("cmaes", "cmaes")]
)
def test_a_missing_package_is_one_line(
    name: StrategyName, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        SpecError, match=rf"takes the package {package}, .*: pip install 'proxynas\[optuna\]'"
    ):
        make(name)


def test_cmaes_takes_axes_in_order() -> None:
    with pytest.raises(
        SpecError,
        match=r"cmaes takes two axes or more of numbers in order, but .* 'nasbench201' has 0",
    ):
        strategies.make("cmaes", Untried(spaces.load("nasbench201"), NONE), seed=0, candidates=9)


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ((1, 2, 3), True),
        ((0.5, 0.25), True),
        ((1, 3, 2), False),
        ((1,), False),
        ((True, False), False),
        (("1", "2"), False),
        ((1, "2"), False),
    ],
)
def test_ordered_axes(values: tuple[spaces.Value, ...], ordered: bool) -> None:
    assert with_optuna.is_ordered(values) == ordered


def test_a_space_as_distributions_of_optuna() -> None:
    distributions = strategies.space_distributions(CHAIN)
    assert {name: d.choices for name, d in distributions.items()} == CHAIN.axes
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask(dict(distributions))
    arch = CHAIN.write(trial.params)
    assert CHAIN.describe(arch) == trial.params


def test_nothing_global_is_changed() -> None:
    level, state = logging.getLogger("optuna").level, random.getstate()
    np_state, torch_state = np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    for name in strategies.ADAPTIVE:
        run(make(name), 20)
    assert logging.getLogger("optuna").level == level
    assert random.getstate() == state
    np.testing.assert_array_equal(np.random.get_state()[1], np_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_mutation_changes_one_axis_evenly() -> None:
    arch, rng = CHAIN.at(123_456_789_012), np.random.default_rng(0)
    before, changes = CHAIN.describe(arch), []
    for _ in range(3000):
        after = CHAIN.describe(evolution.mutate(CHAIN, arch, rng))
        (axis,) = [name for name in before if before[name] != after[name]]
        changes.append((axis, after[axis]))
    counts = [
        changes.count((name, v)) for name in before for v in CHAIN.axes[name] if v != before[name]
    ]
    assert len(counts) == 12 * 9
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_fittest_of_the_youngest_have_children() -> None:
    """With a tournament far larger than the population the parent is always the best; an old one is
    no parent."""
    strategy = Evolution(Untried(CHAIN, NONE), seed=0, population=10, tournament=500)
    first = strategy.ask(10)
    for place, arch in enumerate(first):
        strategy.tell(arch, (float(-place),))  # the oldest is the best
    child = strategy.ask(1)[0]
    assert distance(child, first[0]) == 1
    strategy.tell(child, (-99.0,))  # and with that the oldest has left
    assert distance(strategy.ask(1)[0], first[1]) == 1


def distance(one: str, other: str) -> int:
    a, b = CHAIN.describe(one), CHAIN.describe(other)
    return sum(a[name] != b[name] for name in a)


def test_a_tournament_of_one_picks_any_parent() -> None:
    strategy = Evolution(Untried(CHAIN, NONE), seed=0, population=5, tournament=1)
    first = strategy.ask(5)
    for arch in first:
        strategy.tell(arch, (0.0,))
    parents = [min(first, key=lambda a: distance(a, child)) for child in strategy.ask(100)]
    assert set(parents) == set(first)


def brute_front(values: np.ndarray) -> list[bool]:
    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(
            x > y for x, y in zip(a, b, strict=True)
        )

    return [not any(dominates(a, b) for a in values) for b in values]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_what_nothing_dominates(objectives: int) -> None:
    values = np.random.default_rng(0).integers(0, 6, (80, objectives)).astype(float)
    assert strategies.front(values).tolist() == brute_front(values)


def test_a_front_by_hand() -> None:
    values = np.array([[1, 5], [2, 4], [2, 4], [1, 4], [3, 1], [np.nan, 9], [-np.inf, 5]])
    assert strategies.front(values).tolist() == [True, True, True, False, True, False, False]
    assert strategies.front(np.empty((0, 2))).tolist() == []
