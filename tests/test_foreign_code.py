"""Factories and networks of others: whatever they do, the run says which network it was, and either
refuses it before any training or goes on without it."""

import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from proxynas.core.errors import DivergedError, SpaceError
from proxynas.pipeline import flow
from proxynas.search.store import Store
from proxynas.spaces import load
from proxynas.spaces.guard import guarded
from proxynas.specs import SearchSpec

TINY = SearchSpec(
    candidates=3, updates=2, seeds=1, label=0, verify=0, steps=2, truth="none", val_size=50
)

HEAD = """
import os, sys, time
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, shape, classes, width):
        super().__init__()
        self.width = width
        self.calls = 0
        self.all = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, x):
        self.calls += 1
        return self.after(self.all(x))

    def after(self, y):
        return y


class Wrong(Net):
    def after(self, y):
        if self.width == 5:
            {wrong}
        return y


def make(shape, classes, width):
    {early}
    return Wrong(shape, classes, width)


def kind(arch):
    {kind}
"""

SPACE = """
name = "mine"
factory = "nets.py:make"
arch = "W{width}"
[axes]
width = [4, 5, 6]
"""


def space(folder: Path, wrong: str = "pass", early: str = "pass", kind: str = "") -> Path:
    kind_key = 'kind = "nets.py:kind"\n' if kind else ""
    code = HEAD.replace("{wrong}", wrong).replace("{early}", early)
    (folder / "nets.py").write_text(code.replace("{kind}", kind or "return arch"))
    (folder / "space.toml").write_text(SPACE.replace("arch =", f"{kind_key}arch ="))
    return folder / "space.toml"


REFUSED = {
    "too few outputs": ("return y[:, :3]", r"logits float32 \(2, 10\), but it returned float32"),
    "a tuple": ("return y, y", "returned a tuple"),
    "four dimensions": ("return y[..., None, None]", r"\(2, 10, 1, 1\)"),
    "float64": ("return y.double()", "returned float64"),
    "nothing": ("return None", "returned a NoneType"),
    "no gradient": ("return y.detach()", "does not require grad"),
    "a raise": ("raise ValueError('my\\nown [bold]words')", r"ValueError: my own \[bold\]words"),
    "sys.exit": ("sys.exit(0)", "called sys.exit"),
    "os._exit": ("os._exit(0)", "called sys.exit or os._exit"),
    "a loop without end": ("while True: time.sleep(0.01)", "longer than --time-limit 1 s"),
    "deaf to everything": (
        "\n            while True:\n                try:\n                    while True: pass\n"
        "                except Exception: pass",
        "longer than --time-limit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_cannot_be_trained_is_refused_before_any_training(
    case: str, tmp_path: Path
) -> None:
    wrong, message = REFUSED[case]
    spec = replace(TINY, space=str(space(tmp_path, wrong)), time_limit=1.0)
    with pytest.raises(SpaceError, match=message) as error:
        flow.search(spec, tmp_path / "run", workers=1)
    assert "'W5'" in str(error.value)
    assert Store(tmp_path / "run" / "run.sqlite").scores().empty


FACTORIES = {
    "raises": ("raise KeyError('lost')", "KeyError"),
    "exits": ("sys.exit(0)", "called sys.exit"),
    "exits at once": ("os._exit(0)", "called sys.exit or os._exit"),
    "never ends": ("time.sleep(1000)", "longer than --time-limit"),
    "gives no network": ("return 1", "must return a torch.nn.Module"),
    "gives nothing to train": ("return nn.Flatten()", "no parameters that can be trained"),
}


@pytest.mark.parametrize("case", FACTORIES)
def test_a_factory_that_gives_no_network(case: str, tmp_path: Path) -> None:
    early, message = FACTORIES[case]
    spec = replace(TINY, space=str(space(tmp_path, early=early)), time_limit=1.0)
    started = time.perf_counter()
    with pytest.raises(SpaceError, match=message) as error:
        flow.search(spec, tmp_path / "run", workers=1)
    assert "'W" in str(error.value)
    assert time.perf_counter() - started < 20
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["raise ValueError('lost')", "sys.exit(0)", "return undefined"])
def test_a_kind_that_fails(kind: str, tmp_path: Path) -> None:
    spec = replace(TINY, space=str(space(tmp_path, kind=kind)), distinct=True)
    with pytest.raises(SpaceError, match=r"kind 'nets.py:kind' failed on 'W"):
        flow.search(spec, tmp_path / "run", workers=1)


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "raise SystemExit", "1/0"])
def test_a_module_that_cannot_be_imported(line: str, tmp_path: Path) -> None:
    path = space(tmp_path)
    (tmp_path / "nets.py").write_text(line)
    with pytest.raises(SpaceError, match=r"cannot import 'nets.py:make'.*write \"package"):
        load(str(path))


CRASHES = {
    "a segmentation fault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "an abort": ("os.abort()", "SIGABRT"),
}


@pytest.mark.parametrize("case", CRASHES)
def test_a_crash_of_python_in_the_first_process_is_one_line(case: str, tmp_path: Path) -> None:
    crash, name = CRASHES[case]
    path = space(tmp_path, f"if self.calls > 4: {crash}")  # in training
    flags = "--updates 8 --seeds 1 --label 0 --verify 0 --steps 2 --truth none --workers 1"
    more = ["--space", str(path), "--out", str(tmp_path / "out"), "--candidates", "3"]
    command = [sys.executable, "-m", "proxynas", "search", *flags.split(), *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith("error: ")
    assert f"'W5' failed: it crashed Python ({name})" in ended.stderr


LATER = {
    "raises": ("if self.calls > 4: raise ValueError('late')", "ValueError: late"),
    "exits": ("if self.calls > 4: os._exit(0)", "called sys.exit"),
    "stops": ("if self.calls > 4: time.sleep(1000)", "longer than --time-limit 2 s"),
    "another size": ("if self.calls > 4: return y[:, :3]", "Error"),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("case", LATER)
def test_a_failure_in_training_is_that_candidates_alone(
    case: str, workers: int, tmp_path: Path
) -> None:
    if workers == 2 and case != "raises":
        pytest.skip("one case shows that workers do the same")
    wrong, message = LATER[case]
    path = space(tmp_path, wrong)
    limit = 2.0 if workers == 1 else 120.0  # a worker's first task waits for imports
    spec = replace(TINY, space=str(path), time_limit=limit, updates=8, verify=1, epochs=1)
    result = flow.search(spec, tmp_path / "run", workers=workers)
    rows = Store(tmp_path / "run" / "run.sqlite").scores()
    failed = rows[rows["failed"].notna()]
    assert set(failed["arch"]) == {"W5"}
    assert set(rows["arch"]) == {"W4", "W5", "W6"}
    assert failed["failed"].str.contains(message).all()
    assert failed["val_accuracy"].isna().all()
    assert "W5" in result.report.read_text()
    written = (tmp_path / "run" / "scores.csv").read_bytes()
    flow.search(spec, tmp_path / "run", workers=workers)
    assert (tmp_path / "run" / "scores.csv").read_bytes() == written


def test_all_candidates_fail(tmp_path: Path) -> None:
    path = space(tmp_path)
    code = (tmp_path / "nets.py").read_text()
    (tmp_path / "nets.py").write_text(
        code.replace("if self.width == 5:", "if self.calls > 3: 1 / 0\n        if 0:")
    )
    result = flow.search(replace(TINY, space=str(path), updates=8), tmp_path / "run", workers=1)
    assert result.report.exists()


def test_no_candidate_has_a_finite_selection_indicator(tmp_path: Path) -> None:
    path = space(tmp_path)
    code = (tmp_path / "nets.py").read_text()
    (tmp_path / "nets.py").write_text(
        code.replace("if self.width == 5:", "if self.calls > 2: return y / 0\n        if 0:")
    )
    spec = replace(TINY, space=str(path), updates=2)
    with pytest.raises(DivergedError, match=r"has a finite sotl\+val_loss\+vote on the proxy"):
        flow.search(spec, tmp_path / "run", workers=1)


def test_the_guard_lets_ctrl_c_through_and_gives_back_what_it_took() -> None:
    import os

    usual = os._exit
    with pytest.raises(KeyboardInterrupt), guarded("x", 5.0):
        raise KeyboardInterrupt
    assert os._exit is usual
    with guarded("x", 0.05):
        pass
    time.sleep(0.1)  # no alarm is left


def test_a_space_with_a_guarded_kind_can_be_sent(tmp_path: Path) -> None:
    mine = pickle.loads(pickle.dumps(load(str(space(tmp_path, kind="return arch[:1]")))))
    assert mine.kind("W5") == "W"


def test_a_check_of_networks_draws_no_random_number(tmp_path: Path) -> None:
    mine = load(str(space(tmp_path)))
    torch.manual_seed(0)
    mine.build("W4", (1, 8, 8), 10)
    expected = torch.rand(1)
    torch.manual_seed(0)
    mine.check("W4", (1, 8, 8), 10)
    assert torch.equal(torch.rand(1), expected)
