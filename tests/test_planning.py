from dataclasses import replace
from pathlib import Path

import pytest

from proxynas.core import settings
from proxynas.core.errors import SpecError
from proxynas.pipeline import planning


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45)])
def test_times(text: str, seconds: float) -> None:
    assert planning.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10d", "-5m", "29s"])
def test_bad_times(text: str) -> None:
    with pytest.raises(SpecError, match="--budget must be"):
        planning.parse(text)


def test_more_time_buys_more_and_every_choice_has_its_reason(small_space: Path, tmp_path: Path) -> None:
    flags = {"space": str(small_space)}
    plan = planning.plan("10m", None, flags, tmp_path / "run")
    assert plan.spec.candidates == 8  # all there are
    assert plan.spec.steps is not None
    assert plan.spec.steps >= 1
    assert len(plan.reasons) >= 4
    assert not (tmp_path / "run").exists()


def test_what_is_given_stays(small_space: Path, tmp_path: Path) -> None:
    flags = {"space": str(small_space), "ipc": 2, "candidates": 3, "seeds": 1, "updates": 7, "method": "random"}
    plan = planning.plan("10m", None, flags, tmp_path / "run")
    chosen = {key: getattr(plan.spec, key) for key in flags}
    assert chosen == flags


def test_a_run_that_has_begun_keeps_its_plan(small_space: Path, tmp_path: Path) -> None:
    first = planning.plan("5m", None, {"space": str(small_space)}, tmp_path / "run")
    begun = replace(first.spec, steps=17)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.toml").write_text(settings.to_toml(begun))
    again = planning.plan("5m", None, {"space": str(small_space)}, tmp_path / "run")
    assert again.spec == begun
    assert "is kept" in again.reasons[0]
