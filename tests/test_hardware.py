"""Peak memory: that of this process, from when it was asked to begin anew."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxynas.core import hardware

LINUX = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux tells and resets the peak"
)


@LINUX
def test_the_peak_is_that_of_what_came_last() -> None:
    """In a process of its own: one that has run a thousand tests holds freed memory, from which
    50 MiB are served without asking the system."""
    code = """
import torch
from proxynas.core import hardware
big = torch.ones(50 * 2**18)  # 50 MiB
del big
base = hardware.reset_peak("cpu")
before = hardware.peak_mib("cpu") - base
big = torch.ones(50 * 2**18)
del big
print(before, hardware.peak_mib("cpu") - base)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, run.stdout.split())
    assert before < 10
    assert 45 < after < 70


@LINUX
def test_the_peak_of_a_distillation_is_its_own() -> None:
    code = """
import torch
from proxynas import datasets
from proxynas.distill.loop import distill
from proxynas.specs import DistillSpec
digits = datasets.load("digits")
first = distill(DistillSpec(method="random"), digits)
big = torch.ones(300 * 2**18)  # 300 MiB
del big
again = distill(DistillSpec(method="random"), digits)
print(again.provenance["peak_mib"] - first.provenance["peak_mib"])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 50


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("AMD EPYC, 2 threads", "AMD EPYC, 1 threads", True),
        ("NVIDIA H100", "NVIDIA H100", True),
        ("AMD EPYC, 2 threads", "Intel Xeon, 2 threads", False),
        ("AMD EPYC, 2 threads", "NVIDIA H100", False),
    ],
)
def test_threads_do_not_make_another_machine(a: str, b: str, same: bool) -> None:
    assert hardware.same_kind(a, b) is same
