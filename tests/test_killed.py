"""A search whose workers die."""

import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from proxynas.core.progress import Watcher
from proxynas.pipeline import flow
from proxynas.search.run import Wanted, pending, run
from proxynas.search.sources import ZERO_COST
from proxynas.search.store import Store
from proxynas.specs import SearchSpec


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
