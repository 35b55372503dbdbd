"""What a search asks of an engine: workers that die, data on another device."""

import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxynas import spaces
from proxynas.core.errors import SpaceError
from proxynas.core.progress import Watcher
from proxynas.datasets import Dataset
from proxynas.pipeline import flow
from proxynas.search import run as run_module
from proxynas.search.run import Wanted, pending, run
from proxynas.search.score import Source, Work
from proxynas.search.sources import ZERO_COST
from proxynas.search.store import Store
from proxynas.specs import Recipe, SearchSpec


class Killing(Watcher):
    """Kills a worker when the second result is there."""

    def searching(self, done: int, total: int, arch: str) -> None:
        if done == 2:
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)


def test_a_search_goes_on_when_a_worker_is_killed(
    small_spec: SearchSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = replace(small_spec, updates=40)
    flow.search(spec, tmp_path / "whole", workers=1)
    flow.search(spec, tmp_path / "killed", workers=2, watcher=Killing())
    assert caplog.messages == ["a worker died (killed by SIGKILL); its task is tried again"]
    csv = "scores.csv"
    assert (tmp_path / "whole" / csv).read_bytes() == (tmp_path / "killed" / csv).read_bytes()


def test_a_candidate_that_is_given_up_is_a_failed_row(tmp_path: Path) -> None:
    class Dying:
        def opened(self, prepare: Any, workers: int, *, apart: bool = False) -> Any:
            return nullcontext(
                lambda work, tasks, lost: [lost(task, "it died 3 times") for task in tasks]
            )

    store = Store(tmp_path / "run.sqlite")
    wanted = Wanted(["a"], ["proxy", ZERO_COST], [0, 1])
    engine: Any = Dying()
    assert run(store, wanted, lambda: None, workers=2, engine=engine) == 2
    assert list(store.scores()["failed"]) == ["it died 3 times"] * 2
    assert store.scores()["sotl_late"].isna().all()
    assert store.zero_cost()["value"].isna().all()
    assert pending(store, wanted) == []


def test_data_that_are_one_stay_one_on_another_device(digits: Dataset) -> None:
    train, recipe = digits.train, Recipe(updates=1)
    sources = {
        "whole": Source("whole", train.x, train.y, recipe, calibration=train.x[:5]),
        "part": Source("part", train.x[:9], train.y[:9], recipe),
    }
    work = Work(spaces.load("convnet-grid"), digits, sources, seed=0, device="meta").placed()
    whole, part = work.sources["whole"], work.sources["part"]
    assert whole.x is work.dataset.train.x
    assert {t.device.type for t in (whole.x, whole.y, part.x, part.y)} == {"meta"}
    assert whole.calibration is not None
    assert whole.calibration.device.type == "meta"
    here = Work(work.space, digits, sources, seed=0).placed()
    assert here.sources["part"].x is sources["part"].x


def test_a_network_that_fails_without_training_is_charged_once(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise SpaceError("it fails")

    clock = iter([10.0, 13.0])
    monkeypatch.setattr(run_module, "score_zero_cost", fails)
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    work = Work(spaces.load("convnet-grid"), digits, {}, seed=0)
    _, rows = run_module._score(work, ("zero-cost", "D1-W32-relu-none-none", []))
    assert len(rows) > 1
    assert sum(row.seconds for row in rows) == pytest.approx(3.0)
