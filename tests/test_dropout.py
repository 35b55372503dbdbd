"""Dropout draws from PyTorch's global generator, which nothing here may depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from proxynas import spaces
from proxynas.compare import evaluation
from proxynas.core.errors import SpecError
from proxynas.datasets import Dataset
from proxynas.distill import loop
from proxynas.search.score import Source, Work, score
from proxynas.specs import DistillSpec, EvaluationSpec, Recipe

from .test_methods import TABLE


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A space of networks with dropout."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes, *, p):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(p), nn.Linear(64, classes))\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text('name="mine"\nfactory="nets.py:make"\narch="P{p}"\n[axes]\np=[0.0, 0.5]\n')
    return str(path)


def test_candidates(digits: Dataset, mine: str) -> None:
    source = Source("proxy", digits.train.x[:20], digits.train.y[:20], Recipe(updates=3))
    work = Work(spaces.load(mine), digits, {"proxy": source}, seed=0)
    first = score(work, "proxy", "P0.5", [0, 1])
    torch.rand(5)
    for one, two in zip(first, score(work, "proxy", "P0.5", [0, 1]), strict=True):
        np.testing.assert_array_equal(one.losses, two.losses)
    assert not np.array_equal(first[0].losses, first[1].losses)


def test_networks_that_a_set_is_evaluated_with(digits: Dataset, mine: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    loop.distill(DistillSpec(method="random"), digits).save(path)
    spec = EvaluationSpec(archs=(f"{mine}:P0.5",), students=2, updates=20)
    first = evaluation.evaluate(str(path), digits, spec)
    torch.rand(5)
    assert evaluation.evaluate(str(path), digits, spec) == first
    assert first[0].sd > 0


@pytest.mark.parametrize("method", ["apm", "dm"])
def test_students_and_experts_of_a_distillation(
    method: str, digits: Dataset, mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {**TABLE[{"dm": "dm-pixels"}.get(method, method)][1], "student": f"{mine}:P0.5"}
    spec = DistillSpec(method=method, steps=2, settings=chosen)
    made = []
    for place in ("one", "two"):  # its experts are trained again
        monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / place))
        made.append(loop.distill(spec, digits))
        torch.rand(5)
    assert torch.equal(made[0].x, made[1].x)
    assert torch.equal(made[0].y, made[1].y)


@pytest.mark.parametrize("method", ["gm", "unroll", "ift", "mtt", "rcig"])
def test_methods_that_differentiate_training_refuse_it(
    method: str, digits: Dataset, mine: str
) -> None:
    key = "students" if method == "unroll" else "student"
    for arch, refused in (("P0.5", True), ("P0.0", False)):
        value = [f"{mine}:{arch}"] if key == "students" else f"{mine}:{arch}"
        spec = DistillSpec(method=method, settings={key: value})
        if refused:
            with pytest.raises(SpecError, match=r"P0\.5' has dropout; take one without, or apm"):
                loop.plan(spec, digits)
        else:
            loop.plan(spec, digits)
