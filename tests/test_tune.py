"""The trainable on a real Ray of this machine: a scheduler stops trials, a tuner is restored."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import proxynas as pn
from proxynas.core.errors import SpecError
from proxynas.datasets import Dataset
from proxynas.specs import Recipe
from proxynas.tune import param_space, trainable

from . import local_ray

REASON = "pip install 'proxynas[ray]'"
tune = pytest.importorskip("ray.tune", reason=REASON)
pytestmark = [pytest.mark.filterwarnings(text) for text in local_ray.WARNINGS]
pytestmark.append(pytest.mark.xdist_group("ray"))  # one Ray at a time


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray.started():
        yield


@pytest.fixture
def evaluator(digits: Dataset) -> pn.Evaluator:
    return pn.Evaluator(
        pn.read_proxy("digits-gm-ipc1"), digits, Recipe(updates=8), val_points=4, val_size=50
    )


def run_config(folder: Path, name: str, **more: Any) -> Any:
    return tune.RunConfig(name=name, storage_path=str(folder), verbose=0, **more)


def test_asha_stops_trials_and_whole_ones_are_those_of_the_evaluator(
    cluster: None, small_space: Path, evaluator: pn.Evaluator, tmp_path: Path
) -> None:
    space = pn.load_space(small_space)
    asha = tune.schedulers.ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2)
    config = tune.TuneConfig(
        metric="val_accuracy",
        mode="max",
        scheduler=asha,
        max_concurrent_trials=1,  # one after the other: who is stopped is always the same
        reuse_actors=True,
    )
    grid = {"depth": tune.grid_search([1, 2]), "norm": tune.grid_search(["instancenorm", "none"])}
    tuner = tune.Tuner(
        trainable(space, evaluator),
        param_space={**param_space(space), **grid, "width": 8},
        tune_config=config,
        run_config=run_config(tmp_path, "asha"),
    )
    results = tuner.fit()
    assert not results.errors
    assert set(param_space(space)) == set(space.axes)
    assert all(param_space(space)["width"].sample() in (4, 8) for _ in range(9))
    whole = [result.metrics for result in results if result.metrics["update"] == 8]
    stopped = [result.metrics for result in results if result.metrics["update"] < 8]
    assert len(whole) + len(stopped) == 4
    assert whole
    assert stopped
    for metrics in whole:
        arch = metrics["arch"]
        make = partial(space.build, arch, evaluator.data.shape, 10)
        expected = evaluator.evaluate(make, name=arch)
        assert {name: metrics[name] for name in expected} == expected.indicators
        assert metrics["seconds"] > 0


def flaky(flag: str, config: dict[str, Any]) -> Any:
    """A network, but for one trial the first time."""
    from torch import nn

    if config["width"] == 4 and not Path(flag).exists():
        Path(flag).touch()
        raise RuntimeError("the machine stopped")
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, config["width"]), nn.Linear(config["width"], 10)
    )


def test_a_tuner_is_restored(cluster: None, evaluator: pn.Evaluator, tmp_path: Path) -> None:
    """What ended is kept, what broke off is run from its start."""
    goal = trainable(partial(flaky, str(tmp_path / "flag")), evaluator, "val_loss")
    tuner = tune.Tuner(
        goal,
        param_space={"width": tune.grid_search([2, 3, 4])},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", reuse_actors=True),
        run_config=run_config(tmp_path, "broken"),
    )
    first = tuner.fit()
    assert len(first.errors) == 1
    path = str(tmp_path / "broken")
    assert tune.Tuner.can_restore(path)
    again = tune.Tuner.restore(path, goal, restart_errored=True).fit()
    assert not again.errors
    rows = {result.config["width"]: result.metrics for result in again}
    assert sorted(rows) == [2, 3, 4]
    for result in first:
        if result.error is None:  # not run again: its seconds are the same
            assert rows[result.config["width"]]["seconds"] == result.metrics["seconds"]
    expected = evaluator.evaluate(partial(flaky, str(tmp_path / "flag"), {"width": 4}))
    assert rows[4]["val_loss"] == expected["val_loss"]


def test_bad_input(
    small_space: Path, evaluator: pn.Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = pn.load_space(small_space)
    with pytest.raises(SpecError, match="but got 'accuracy'"):
        trainable(space, evaluator, "accuracy")
    with pytest.raises(SpecError, match="but got 'flops'"):  # no report on the way has it
        trainable(space, evaluator, "flops")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    for call in (partial(trainable, space, evaluator), partial(param_space, space)):
        with pytest.raises(SpecError, match=r"ray, which .*: pip install 'proxynas\[ray\]'"):
            call()
