"""experiments/gpu.sh, end to end at a tiny size on the processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "gpu.sh"


def call(*arguments: str, out: Path, limit: str = "3600") -> subprocess.CompletedProcess[str]:
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("PROXYNAS_CACHE", "PYTEST_ADDOPTS")
    }
    environment = {**inherited, "PYTHON": sys.executable, "LIMIT": limit, "OMP_NUM_THREADS": "1"}
    command = [str(SCRIPT), *arguments, "--tiny", "--device", "cpu", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.is_file(), reason="not a checkout")
def test_all_six_calls_run_on_a_processor(tmp_path: Path) -> None:
    done = call(out=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = {path.name for path in tmp_path.iterdir()}
    sets = {"random-ipc10", "herding-ipc50", "gm-ipc10", "rcig-ipc10", "apm-ipc50"}
    assert made >= {f"{name}.safetensors" for name in sets}
    assert made >= {"speed.json", "convnets-truth.csv", "cells", "convnets", "cache"}
    parts = json.loads((tmp_path / "speed.json").read_text())["parts"]
    ways = {row["way"] for row in parts["tiny ConvNet, ways"]}
    assert ways >= {"float32", "bfloat16", "CUDA graph"}
    again = call("sets", "strong", out=tmp_path)
    assert again.returncode == 0
    assert "--" not in again.stdout  # every set is there


def test_a_call_without_time_says_to_call_again(tmp_path: Path) -> None:
    stopped = call("sets", out=tmp_path, limit="1")
    assert stopped.returncode == 75
    assert "call it again" in stopped.stdout


def test_candidates_wait_for_all_sets(tmp_path: Path) -> None:
    """Or the next call would train them on others, and its run folder refuse it."""
    early = call("cells", "convnets", out=tmp_path)
    assert early.returncode == 75
    assert "random-ipc10 is not there yet" in early.stdout
    assert not (tmp_path / "cells").exists()


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    for wrong in (["bogus"], ["--data"], ["--out", ""], ["--data", "--tiny"]):
        refused = subprocess.run([str(SCRIPT), *wrong], capture_output=True, text=True)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1
