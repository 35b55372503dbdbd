"""A table of accuracies: what is checked first, what is kept, and what the table says."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from proxynas import cli, compare, datasets, training
from proxynas.compare import evaluation, worker
from proxynas.compare.jobs import Job, all_jobs
from proxynas.compare.table import tabulate
from proxynas.compare.worker import Result
from proxynas.core import settings
from proxynas.core.errors import SpaceError, SpecError
from proxynas.datasets import Dataset
from proxynas.distill import loop, reuse
from proxynas.specs import CompareSpec, EvaluationSpec

ARCH = "D1-W32-relu-none-avgpooling"
GM = {"student": ARCH, "real_batch": 10}


def make(*rows: dict[str, Any], **values: Any) -> CompareSpec:
    usual = {
        "archs": [ARCH],
        "distillations": 1,
        "students": 2,
        "updates": 5,
        "steps": 2,
        "settings": {"gm": GM},
    }
    return settings.make(CompareSpec, {**usual, "rows": list(rows), **values})


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["proxynas", "compare", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


TOML = f"""
steps = 2
distillations = 1
students = 2
updates = 5
archs = ["{ARCH}", "mlp"]
[settings.gm]
student = "{ARCH}"
real_batch = 10
[[rows]]
name = "Random | images"
method = "random"
paper = {{ mlp = "27.1 ± 0.4" }}
[[rows]]
name = "GM"
archs = ["{ARCH}"]
[[rows]]
name = "GM, wild"
settings = {{ outer = 2, inner = 1, student_lr = 1e30 }}
steps = 5
"""


def untimed(folder: Path) -> dict[str, Any]:
    """All results of a folder without what differs from run to run."""
    timed = {"seconds", "core_seconds", "peak_mib", "base_mib", "curve"}
    results = {}
    for path in sorted((folder / "results").iterdir()):
        result = json.loads(path.read_text())
        results[path.name] = {key: value for key, value in result.items() if key not in timed}
    return results


@pytest.mark.slow
def test_the_command_from_a_file_to_the_table_and_on_from_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    digits: Dataset,
) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capsys, "-c", "mine.toml", "--seed", "4", "--workers", "2")
    assert (code, err) == (0, "")
    assert "3 rows × 1 distillations × 2 networks" in out
    folder = tmp_path / "runs" / "compare-mine"
    names = [f"{row}-{seed}" for row in ("gm-wild", "gm", "random-images") for seed in (4,)]
    assert {path.stem for path in (folder / "results").iterdir()} == set(names)
    assert {path.name for path in (folder / "sets").iterdir()} == {
        f"{n}.safetensors" for n in names if "wild" not in n
    }

    # what the table says is what 'proxynas evaluate' says of the set
    row = json.loads((folder / "table.json").read_text())["rows"][0]
    path = folder / "sets" / "random-images-4.safetensors"
    alone = evaluation.evaluate(
        str(path), digits, EvaluationSpec(archs=("mlp",), students=2, updates=5, seed=4)
    )[0]
    assert row["cells"]["mlp"] == {
        "mean": alone.mean,
        "sd": alone.sd,
        "sd_sets": None,
        "n": 2,
        "paper": "27.1 ± 0.4",
    }

    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0] == f"| row | {ARCH} | mlp | paper | steps | seconds | memory MiB |"
    assert lines[2].startswith("| Random \\| images | ")
    assert "| 27.1 ± 0.4 | 0 |" in lines[2]
    assert "| – |  | 2 |" in lines[3]
    assert lines[4] == "| GM, wild | diverged | diverged |  | – | – | – |"
    assert any(line.startswith("GM, wild: 1 of 1 diverged: gm ") for line in lines)

    # a result is lost: the rest is left alone, its set too, and the end is the same
    wanted = untimed(folder)
    (folder / "results" / "gm-4.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*-4.*")}
    code, out, err = run(monkeypatch, capsys, "-c", "mine.toml", "--seed", "4", "--workers", "1")
    assert (code, err) == (0, "")
    assert "2 of 3 sets found in the run directory" in out
    assert untimed(folder) == wanted
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())

    code, _, err = run(monkeypatch, capsys, "-c", "mine.toml", "--seed", "4", "--students", "3")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds another run: its students is 2" in err


BAD: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "no rows": ([], {}, "at least one row"),
    "unknown key": (
        [{"name": "a"}],
        {"student": 2},
        "unknown key 'student'; did you mean 'students'",
    ),
    "unknown key of a row": (
        [{"name": "a", "ipcs": 2}],
        {},
        "row 'a': unknown key 'ipcs'; did you mean 'ipc'",
    ),
    "wrong type in a row": (
        [{"name": "a", "ipc": 0}],
        {},
        "row 'a': ipc: input should be greater than",
    ),
    "a row without a name": ([{"ipc": 1}], {}, "row 1: name: "),
    "names alike": ([{"name": "GM, a"}, {"name": "gm a"}], {}, "would be called 'gm-a'"),
    "a name of signs": ([{"name": "§"}], {}, "must have a letter"),
    "unknown method": ([{"name": "a", "method": "gmm"}], {}, "row 'a': there is no method 'gmm'"),
    "unknown setting": (
        [{"name": "a", "settings": {"lrr": 1}}],
        {},
        "row 'a': settings of gm: unknown key 'lrr'",
    ),
    "settings of no method": ([{"name": "a"}], {"settings": {"lr": {}}}, "there is no method 'lr'"),
    "unknown default": (
        [{"name": "a"}],
        {"settings": {"apm": {"K": 1}}},
        "settings.apm: unknown key 'K'",
    ),
    "ipc too large": ([{"name": "a", "ipc": 5000}], {}, "row 'a': ipc must be at most"),
    "steps of a coreset": ([{"name": "a", "method": "random", "steps": 3}], {}, "takes no steps"),
    "unknown network": ([{"name": "a", "archs": ["lenett"]}], {}, "row 'a': architecture 'lenett'"),
    "unknown labels": (
        [{"name": "a", "labels": "soft"}],
        {},
        "labels: input should be 'stored' or 'hard'",
    ),
    "unknown augmentation": ([{"name": "a", "augment": "spin"}], {}, "there is no 'spin'"),
    "augmented tables": (
        [{"name": "a", "augment": "flip", "archs": ["mlp"], "settings": {"student": "mlp"}}],
        {"data": "moons"},
        "is for images, but moons is a table",
    ),
    "a figure for nothing": (
        [{"name": "a", "paper": {"mlpp": "9"}}],
        {"archs": ["mlp"]},
        "did you mean 'mlp'?",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_all_is_checked_before_the_first_set(case: str, tmp_path: Path) -> None:
    rows, values, message = BAD[case]
    with pytest.raises((SpecError, SpaceError), match=message.replace("?", "\\?")) as error:
        compare.compare(make(*rows, **values), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def one(spec: CompareSpec, dataset: Dataset, folder: Path, place: int = 0) -> tuple[Job, Result]:
    """A job done in this process."""
    return worker.measure(dataset, all_jobs(spec, dataset, folder)[place])


def test_accuracy_on_the_way_and_its_time(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, result = one(make({"name": "a"}, steps=None, seconds=1.6, points=3), digits, tmp_path)
    assert job.points == (0.25, 0.5, 1.0)
    assert [point["part"] for point in result.curve] == [0.25, 0.5, 1.0]
    seconds, steps = ([point[key] for point in result.curve] for key in ("seconds", "steps"))
    assert all(at >= 1.6 * part for at, part in zip(seconds, job.points, strict=True))
    assert seconds == sorted(seconds)
    assert steps == sorted(steps)
    assert (seconds[-1], steps[-1]) == (result.seconds, result.steps)
    assert {path.name for path in (tmp_path / "sets").iterdir()} == {
        f"a-0{part}"
        for part in (".at-1-4.safetensors", ".at-1-2.safetensors", ".safetensors", ".checkpoint")
    }
    monkeypatch.setattr(reuse, "distill", None)  # again: nothing is distilled
    assert (
        one(make({"name": "a"}, steps=None, seconds=1.6, points=3), digits, tmp_path)[1].curve
        == result.curve
    )
    job.clean()
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["a-0.safetensors"]


def test_core_seconds_are_a_limit_too(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loop.time, "process_time", itertools.count().__next__
    )  # a step takes one core second
    spec = make({"name": "a"}, steps=None, seconds=8.0, clock="core", points=2)
    _, result = one(spec, digits, tmp_path)
    assert [point["seconds"] for point in result.curve] == pytest.approx([4.0, 8.0], abs=2)
    assert result.core_seconds == result.curve[-1]["seconds"]
    assert result.seconds != result.core_seconds


def test_points_before_the_experts_are_paid_for_are_left_out(
    digits: Dataset, tmp_path: Path
) -> None:
    apm = {"epochs": 5, "checkpoints": 1, "experts": 2, "expert_epochs": 6, "student": ARCH}
    spec = make({"name": "a", "method": "apm", "settings": apm}, steps=None, seconds=60.0)
    job = all_jobs(spec, digits, tmp_path)[0]
    shared = worker._shared_seconds(digits, job)
    assert shared > 0
    job = replace(job, spec=replace(job.spec, seconds=shared * 1.2), points=(0.25, 0.5, 1.0))
    assert list(worker.distilled(digits, job)) == [1.0]
    job = replace(job, slug="b", made_by="b", spec=replace(job.spec, seconds=shared / 2))
    failed = worker.measure(digits, job)[1]
    assert failed.failed == "failed"
    assert "the experts of apm alone took" in failed.reason


def test_hard_labels(digits: Dataset, tmp_path: Path) -> None:
    rcig = {"name": "soft", "method": "rcig", "settings": {"width": 8, "models": 1}, "steps": 1}
    rows = [{**rcig, "settings": {}}, {**rcig, "settings": {}, "name": "hard", "labels": "hard"}]
    jobs = all_jobs(make(*rows), digits, tmp_path)
    proxy = replace(
        loop.distill(replace(jobs[0].spec, method="random", steps=0), digits),
        y=torch.eye(10) * 2 - 1,
    )
    proxy = replace(proxy, recipe=training.Recipe(loss="mse", lr=0.02))
    cpu = torch.device("cpu")
    soft, hard = (evaluation.prepared(proxy, job.evaluation, cpu) for job in jobs)
    assert soft.proxy_set.y.shape == (10, 10)
    assert (soft.recipe.loss, soft.recipe.updates) == ("mse", 5)
    assert hard.proxy_set.y.tolist() == list(range(10))
    assert (hard.recipe.loss, hard.recipe.lr) == ("cross-entropy", 0.02)


def test_rows_override_what_they_have_in_common(digits: Dataset, tmp_path: Path) -> None:
    rows = [
        {"name": "a", "settings": {"lr": 0.5}},
        {
            "name": "b",
            "method": "herding",
            "ipc": 2,
            "archs": ["all"],
            "protocol": "loo2023",
            "updates": 7,
            "augment": "crop",
            "batch_size": 4,
        },
    ]
    spec = make(*rows, seconds=9.0, distillations=2, seed=5, augment="scale")
    a, second, b, _ = all_jobs(spec, digits, tmp_path)
    assert (a.spec.settings, a.spec.steps, a.spec.seconds, a.spec.seed) == (
        {**GM, "lr": 0.5},
        2,
        9.0,
        5,
    )
    assert (second.spec.seed, a.evaluation.augment, a.evaluation.protocol, len(a.points)) == (
        6,
        "scale",
        "zhao2021",
        4,
    )
    assert (b.spec.method, b.spec.ipc, b.spec.steps, b.spec.seconds, b.points) == (
        "herding",
        2,
        None,
        None,
        (1.0,),
    )
    spec_of_b = b.evaluation
    assert (b.archs[0], len(b.archs)) == ("convnet", 6)
    assert (spec_of_b.protocol, spec_of_b.updates, spec_of_b.augment, spec_of_b.batch_size) == (
        "loo2023",
        7,
        "crop",
        4,
    )
    assert settings.make(CompareSpec, settings.to_dict(spec)) == spec


UNROLL = {
    "students": ["mlp-grid:L1-relu"],
    "inner": 4,
    "ic": 2,
    "learn_rates": True,
    "student_momentum": 0.0,
}


def on_moons(*rows: dict[str, Any], **values: Any) -> CompareSpec:
    usual = {
        "data": "moons",
        "archs": ["mlp-grid:L1-relu"],
        "method": "unroll",
        "ipc": 4,
        "settings": {"unroll": UNROLL},
    }
    return make(*rows, **{**usual, **values})


def test_rows_that_distil_the_same_share_their_sets(tmp_path: Path) -> None:
    rows = [
        {"name": "a"},
        {"name": "b", "extend": {"strategy": 1}},
        {"name": "c", "settings": {"ic": 4}},
        {"name": "d", "updates": 7},
    ]
    spec = on_moons(*rows, distillations=2, seconds=4.0)
    jobs = all_jobs(spec, datasets.load_for(spec), tmp_path)
    assert [(job.row, job.made_by, job.distils, len(job.points)) for job in jobs[::2]] == [
        ("a", "a", True, 4),
        ("b", "a", False, 1),
        ("c", "c", True, 4),
        ("d", "a", False, 1),
    ]
    assert jobs[1].set() == jobs[3].set() != jobs[0].set()
    assert jobs[0].result != jobs[2].result
    assert settings.make(CompareSpec, settings.to_dict(spec)) == spec


def test_training_past_the_distilled_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row has its steps, from one distillation; a set without steps to go on from is a failed
    one."""
    seen: list[int] = []
    fit = training.fit
    monkeypatch.setattr(
        training, "fit", lambda *a, **kw: seen.append(a[3].updates) or fit(*a, **kw)
    )
    distilled: list[int] = []
    monkeypatch.setattr(
        reuse, "distill", lambda *a, **kw: distilled.append(1) or loop.distill(*a, **kw)
    )
    rows = [
        {"name": "raw", "updates": 4},
        *({"name": str(n), "extend": {"strategy": n, "times": 3}} for n in (1, 2, 3)),
        {"name": "short", "extend": {"strategy": 2}, "updates": 6},
        {"name": "random", "method": "random", "extend": {"strategy": 2}},
    ]
    spec = on_moons(*rows, students=1, updates=5)
    data = datasets.load_for(spec)
    results = [worker.measure(data, job)[1] for job in all_jobs(spec, data, tmp_path)]
    assert seen == [4, 12, 12, 12, 6]
    assert len(distilled) == 2
    assert [result.failed for result in results] == [None] * 5 + ["failed"]
    assert "extend is for sets that were distilled for steps in an order" in results[-1].reason


def test_tables_of_data_too(tmp_path: Path) -> None:
    row = {"name": "random", "method": "random", "ipc": 10, "paper": "97"}
    spec = make(row, data="moons", archs=["mlp-grid:L2x10-relu"], updates=50)
    job, result = one(spec, datasets.load_for(spec), tmp_path)
    assert job.archs == ("mlp-grid:L2x10-relu",)
    assert mean(result.accuracies["mlp-grid:L2x10-relu"]) > 0.5
    table = tabulate(spec, [job], [result], {"name": "moons"})
    assert table.lines[0].cells[job.archs[0]].paper == "97"
