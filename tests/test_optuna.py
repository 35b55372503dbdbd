"""The objective in real studies of Optuna: any sampler, pruning, several objectives, threads,
processes."""

import multiprocessing
import pickle
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import proxynas as pn
from proxynas.core.errors import NetworkError, SpecError
from proxynas.datasets import Dataset
from proxynas.optuna import Objective, distributions, objective
from proxynas.specs import Recipe

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def evaluator(digits: Dataset) -> pn.Evaluator:
    return pn.Evaluator(
        pn.read_proxy("digits-gm-ipc1"), digits, Recipe(updates=6), val_points=3, val_size=50
    )


@pytest.fixture
def space(small_space: Path) -> pn.api.steps.SearchSpace:
    return pn.load_space(small_space)


WHOLE = optuna.pruners.NopPruner()
"""Optuna's default prunes by the median."""


class Always(optuna.pruners.BasePruner):  # type: ignore[misc, name-defined]
    """Prunes at the second report."""

    def prune(self, study: Any, trial: Any) -> bool:
        return len(trial.intermediate_values) == 2


SAMPLERS = ("RandomSampler", "TPESampler", "NSGAIISampler", "QMCSampler", "CmaEsSampler")


def sampler(name: str = "RandomSampler") -> Any:
    return getattr(optuna.samplers, name)(seed=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler(name: str, space: Any, evaluator: pn.Evaluator) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler(name))
    study.optimize(objective(space, evaluator), n_trials=4)
    for trial in study.trials:
        arch = trial.user_attrs["arch"]
        assert space.describe(arch) == trial.params
        make = partial(space.build, arch, evaluator.data.shape, 10)
        expected = evaluator.evaluate(make, name=arch)
        assert trial.value == expected["val_accuracy"]
        assert sorted(trial.intermediate_values) == [2, 4, 6]
        assert trial.intermediate_values[6] == trial.value
        assert {name: trial.user_attrs[name] for name in expected} == expected.indicators
        assert trial.user_attrs["seconds"] > 0
        assert trial.user_attrs["core_seconds"] > 0


def test_a_grid_of_the_distributions(space: Any, evaluator: pn.Evaluator) -> None:
    """The reverse way: axes as distributions, for ask and tell."""
    grid = {name: list(d.choices) for name, d in distributions(space).items()}
    study = optuna.create_study(
        direction="minimize", sampler=optuna.samplers.GridSampler(grid, seed=0)
    )
    study.optimize(objective(space, evaluator, "val_loss"), n_trials=20)
    assert sorted(trial.user_attrs["arch"] for trial in study.trials) == sorted(space)


@pytest.mark.parametrize("seeds", [1, 3])
def test_pruning_in_the_middle(seeds: int, space: Any, evaluator: pn.Evaluator) -> None:
    """Also of fused replicas: one line that says when, and the next trial is not disturbed."""
    several = replace(evaluator, seeds=seeds)
    study = optuna.create_study(direction="maximize", pruner=Always())
    fixed = {"depth": 1, "width": 8, "norm": "none"}
    study.enqueue_trial(fixed)
    study.optimize(objective(space, several), n_trials=1)
    (trial,) = study.trials
    assert trial.state.name == "PRUNED"
    assert sorted(trial.intermediate_values) == [2, 4]
    assert set(trial.user_attrs) == {"arch", "seconds", "core_seconds"}
    with pytest.raises(optuna.TrialPruned, match=r"^pruned after 4 of 6 updates: val_accuracy 0\."):
        objective(space, several)(Pruned(study, study._storage.create_new_trial(study._study_id)))
    expected = objective(space, several)(optuna.trial.FixedTrial(fixed))
    study.pruner = optuna.pruners.NopPruner()
    study.enqueue_trial(fixed)
    study.optimize(objective(space, several), n_trials=1)
    assert study.trials[-1].value == expected


class Pruned(optuna.trial.Trial):  # type: ignore[misc, name-defined]
    """A trial of which somebody reads the reason."""


def test_several_objectives(space: Any, evaluator: pn.Evaluator) -> None:
    goal = objective(space, evaluator, ["val_accuracy", "flops"])
    assert goal.directions == ["maximize", "minimize"]
    study = optuna.create_study(directions=goal.directions)
    study.optimize(goal, n_trials=5)
    for trial in study.trials:
        assert trial.values == [trial.user_attrs["val_accuracy"], trial.user_attrs["flops"]]
    assert study.best_trials


def make_network(trial: Any) -> nn.Module:
    width = trial.suggest_int("width", 2, 32, log=True)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def test_networks_of_a_function(evaluator: pn.Evaluator) -> None:
    study = optuna.create_study(direction="minimize", sampler=sampler())
    study.optimize(objective(make_network, evaluator, "sotl"), n_trials=3)
    for trial in study.trials:
        assert trial.user_attrs["parameters"] == 65 * trial.params["width"] + 10 * (
            trial.params["width"] + 1
        )
        assert list(trial.intermediate_values.values())[-1] == trial.value


def test_threads_take_turns(space: Any, evaluator: pn.Evaluator) -> None:
    """n_jobs gives what one thread gives, network by network."""
    study = optuna.create_study(direction="maximize", sampler=sampler(), pruner=WHOLE)
    study.optimize(objective(space, evaluator), n_trials=8, n_jobs=3)
    assert len(study.trials) == 8
    one = objective(space, evaluator)
    for trial in study.trials:
        assert trial.value == one(optuna.trial.FixedTrial(trial.params))


def storage(path: str) -> Any:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))


def take_part(path: str, goal: Objective, number: int) -> int:
    """What another process does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name="shared",
        storage=storage(path),
        sampler=optuna.samplers.RandomSampler(number),
        pruner=WHOLE,
    )
    study.optimize(goal, n_trials=4)
    return len(study.trials)


def test_processes_share_a_journal(space: Any, evaluator: pn.Evaluator, tmp_path: Path) -> None:
    path, goal = str(tmp_path / "journal.log"), objective(space, evaluator)
    optuna.create_study(study_name="shared", storage=storage(path), direction="maximize")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(take_part, [(path, goal, number) for number in range(2)])
    study = optuna.load_study(study_name="shared", storage=storage(path))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    for trial in study.trials:
        assert trial.value == goal(optuna.trial.FixedTrial(trial.params))


def test_it_can_be_pickled(space: Any, evaluator: pn.Evaluator) -> None:
    goal = objective(space, evaluator)
    trial = optuna.trial.FixedTrial({"depth": 2, "width": 4, "norm": "instancenorm"})
    assert pickle.loads(pickle.dumps(goal))(trial) == goal(trial)


def test_a_training_that_fails_is_a_trial_that_fails(space: Any, evaluator: pn.Evaluator) -> None:
    hot = replace(evaluator, recipe=Recipe(updates=40, lr=1e20), val_points=1)
    study = optuna.create_study(direction="minimize")
    study.optimize(objective(space, hot, "val_loss"), n_trials=1)
    assert study.trials[0].state.name == "FAIL"
    assert "stopped being finite" in study.trials[0].user_attrs["failed"]


def test_bad_input(space: Any, evaluator: pn.Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"one of val_accuracy, val_loss, .* but got 'accuracy'"):
        objective(space, evaluator, "accuracy")
    with pytest.raises(SpecError, match="but got ''"):
        objective(space, evaluator, [])
    with pytest.raises(SpecError, match=r"would minimize val_accuracy; .*=\['maximize'\]"):
        optuna.create_study().optimize(objective(space, evaluator), n_trials=1)
    two = objective(space, evaluator, ["val_loss", "flops"])
    with pytest.raises(SpecError, match=r"2 value\(s\).*but the study has 1 direction\(s\)"):
        optuna.create_study().optimize(two, n_trials=1)
    flat = objective(lambda trial: nn.Flatten(), evaluator)
    with pytest.raises(NetworkError, match="make its last layer give 10"):
        optuna.create_study(direction="maximize").optimize(flat, n_trials=1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "optuna.distributions", None)
    for call in (partial(objective, space, evaluator), partial(distributions, space)):
        with pytest.raises(SpecError, match=r"optuna, which .*: pip install 'proxynas\[optuna\]'"):
            call()
    assert np.isfinite(evaluator.evaluate(lambda: make_network(Fixed()))["sotl"])


class Fixed:
    """Suggests the lowest."""

    def suggest_int(self, name: str, low: int, high: int, log: bool) -> int:
        return low
