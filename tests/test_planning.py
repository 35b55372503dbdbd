from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from proxynas import spaces, truth
from proxynas.core import settings
from proxynas.core.errors import SpecError
from proxynas.core.seeds import derive
from proxynas.datasets import Dataset
from proxynas.distill.loop import distill
from proxynas.pipeline import planning
from proxynas.specs import DistillSpec, SearchSpec


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("45", 45)]
)
def test_times(text: str, seconds: float) -> None:
    assert planning.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10d", "-5m", "29s"])
def test_bad_times(text: str) -> None:
    with pytest.raises(SpecError, match="--budget must be"):
        planning.parse(text)


def test_more_time_buys_more_and_every_choice_has_its_reason(
    small_space: Path, tmp_path: Path
) -> None:
    flags = {"space": str(small_space)}
    plan = planning.plan("10m", None, flags, tmp_path / "run")
    assert plan.spec.candidates == 8  # all there are
    assert plan.spec.steps is not None
    assert plan.spec.steps >= 1
    assert len(plan.reasons) >= 4
    assert not (tmp_path / "run").exists()


def test_what_is_given_stays(small_space: Path, tmp_path: Path) -> None:
    flags = {
        "space": str(small_space),
        "ipc": 2,
        "candidates": 3,
        "seeds": 1,
        "updates": 7,
        "method": "random",
    }
    plan = planning.plan("10m", None, flags, tmp_path / "run")
    chosen = {key: getattr(plan.spec, key) for key in flags}
    assert chosen == flags


def test_a_file_and_flags_merge_as_without_a_budget(small_space: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        'method = "random"\nipc = 2\nseeds = 1\nupdates = 7\n'
        '[recipe]\nmomentum = 0.5\nschedule = "cosine"\n'
    )
    flags = {"space": str(small_space), "ipc": None, "recipe": {"momentum": 0.8}}
    merged = settings.load(SearchSpec, config, flags)
    spec = planning.plan("10m", config, flags, tmp_path / "run").spec
    assert spec.recipe == merged.recipe == {"momentum": 0.8, "schedule": "cosine"}
    assert (spec.method, spec.ipc, spec.seeds, spec.updates) == ("random", 2, 1, 7)


def test_a_run_that_has_begun_takes_a_part_of_its_own_tables(
    small_space: Path, tmp_path: Path
) -> None:
    begun = SearchSpec(space=str(small_space), settings={"lr": 0.5, "real_batch": 10}, steps=3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.toml").write_text(settings.to_toml(begun))
    flags = {"space": str(small_space), "settings": {"lr": 0.5}}
    assert planning.plan("5m", None, flags, tmp_path / "run").spec == begun


def test_with_a_proxy_set_no_images_a_class_are_chosen(
    small_space: Path, digits: Dataset, tmp_path: Path
) -> None:
    made = distill(DistillSpec(method="random", ipc=2), digits)
    made.save(tmp_path / "two.safetensors")
    flags = {"space": str(small_space), "proxy": str(tmp_path / "two.safetensors")}
    plan = planning.plan("10m", None, flags, tmp_path / "run")
    assert (plan.spec.ipc, plan.spec.proxy) == (1, flags["proxy"])
    assert not any("ipc" in reason for reason in plan.reasons)
    with pytest.raises(SpecError, match="so ipc would change nothing"):
        planning.plan("10m", None, {**flags, "ipc": 2}, tmp_path / "run")


def test_a_run_that_has_begun_keeps_its_plan(small_space: Path, tmp_path: Path) -> None:
    first = planning.plan("5m", None, {"space": str(small_space)}, tmp_path / "run")
    begun = replace(first.spec, steps=17)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.toml").write_text(settings.to_toml(begun))
    again = planning.plan("5m", None, {"space": str(small_space)}, tmp_path / "run")
    assert again.spec == begun
    assert "is kept" in again.reasons[0]


def test_labels_fit_the_budget_or_are_left_out(small_space: Path, tmp_path: Path) -> None:
    flags = {"space": str(small_space), "truth": "none"}
    short, long = (planning.plan(b, None, flags, tmp_path / b).spec for b in ("31s", "30m"))
    assert long.label >= short.label
    assert (long.label, long.verify, long.epochs) == (20, 5, 12)
    given = planning.plan("31s", None, {**flags, "label": 3, "verify": 0}, tmp_path / "given").spec
    assert (given.label, given.verify) == (3, 0)


def test_a_sample_of_truth_is_charged_where_it_has_the_planned_candidates(tmp_path: Path) -> None:
    table = truth.find("convnet-grid", "digits")
    assert table is not None
    given = {"candidates": 20, "method": "random"}
    archs = spaces.load("convnet-grid").sample(20, np.random.default_rng(derive(0, "candidates")))
    for known, charged in ((archs, True), (archs[1:], False)):
        rows = table.rows[table.rows["arch"].isin(known)]
        replace(table, rows=rows).write(tmp_path / "part.csv")
        flags = {**given, "truth": str(tmp_path / "part.csv")}
        plan = planning.plan("1h", None, flags, tmp_path / "out", workers=1)
        said = "the truth table is charged for labels: they take no time" in plan.reasons
        assert said == charged
        assert (plan.spec.label_epochs is None) == charged


def test_where_truth_is_charged_the_search_gets_the_time_of_labels(tmp_path: Path) -> None:
    plan = planning.plan("5m", None, {"steps": 1}, tmp_path / "run")
    assert "the truth table is charged for labels: they take no time" in plan.reasons
    assert (plan.spec.label, plan.spec.verify) == (20, 5)
