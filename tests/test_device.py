"""What computes on a device, against the processor. ``PROXYNAS_TEST_DEVICE=cuda pytest
tests/test_device.py`` is the test of a GPU; without it the device is the processor itself, and what
is tested is the way there."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from proxynas import spaces, training
from proxynas.compare import evaluation
from proxynas.core.hardware import check
from proxynas.datasets import Dataset
from proxynas.distill import METHODS
from proxynas.distill.loop import distill, fingerprint
from proxynas.pipeline import flow
from proxynas.search import zerocost
from proxynas.specs import DistillSpec, EvaluationSpec

from .test_damaged import TINY
from .test_methods import TABLE

DEVICE = check(os.environ.get("PROXYNAS_TEST_DEVICE", "cpu"))
NEAR = {"rtol": 0.0, "atol": 0.0} if DEVICE == "cpu" else {"rtol": 2e-2, "atol": 2e-3}
"""How near a device's numbers are after a few steps: it adds in another order, and has its own
random numbers for dropout and noise alone."""

ARCH = "D2-W32-relu-batchnorm-avgpooling"


ROWS = TABLE if DEVICE != "cpu" else ("gm-pixels", "unroll-gtn-lrn", "rcig", "herding")
"""On the processor a few show the way there; the contract of all is in test_methods.py."""


@pytest.fixture(scope="module")
def there(digits: Dataset) -> Dataset:
    return digits.to(DEVICE)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, and not in TF32, which is PyTorch's choice on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("row", ROWS)
def test_a_method_takes_a_step_on_it(row: str, digits: Dataset, there: Dataset) -> None:
    """On the device first: what is shared, such as experts, is made there and kept."""
    method, chosen = TABLE[row]
    steps = 1 if METHODS[method].steps else None
    spec = DistillSpec(method=method, ipc=chosen.get("ic", 1), steps=steps, settings=chosen)
    made = distill(replace(spec, device=DEVICE), there)
    assert made.x.device.type == "cpu"
    assert made.x.isfinite().all()
    if steps is None:  # which images a network chooses may hang by the last bit
        equal = (made.x.flatten(1)[:, None] == digits.train.x.flatten(1)[None]).all(2)
        assert (digits.train.y[equal.int().argmax(1)] == made.y).all()
    elif "gtn" not in row:  # whose noise is drawn on the device
        here = distill(spec, digits).x
        assert (made.x - here).norm() / here.norm() <= (0.0 if DEVICE == "cpu" else 0.05)


def test_a_distillation_is_of_a_kind_of_device(digits: Dataset) -> None:
    cpu, gpu, other = (
        fingerprint(DistillSpec(device=device), digits) for device in ("cpu", "cuda", "cuda:1")
    )
    assert cpu != gpu == other


@pytest.mark.parametrize("fused", [False, True])
def test_training_on_it_has_the_losses_of_the_processor(
    fused: bool, digits: Dataset, there: Dataset
) -> None:
    def losses(data: Dataset, device: str) -> torch.Tensor:
        torch.manual_seed(0)
        space = spaces.load("convnet-grid")
        nets: list[nn.Module] = [space.build(ARCH, data.shape, 10).to(device) for _ in range(3)]
        recipe = training.Recipe(updates=5, batch_size=32)
        return training.fit(nets, data.train.x, data.train.y, recipe, fused=fused).losses

    torch.testing.assert_close(losses(there, DEVICE), losses(digits, "cpu"), **NEAR)


def test_zero_cost_indicators_on_it_are_those_of_the_processor(
    digits: Dataset, there: Dataset
) -> None:
    space, names = spaces.load("convnet-grid"), list(zerocost.INDICATORS)
    here = zerocost.zero_cost(space, ARCH, digits, names, 0)
    on_it = zerocost.zero_cost(space, ARCH, there, names, 0)
    for name in names:
        assert on_it[name] == pytest.approx(here[name], rel=1e-2 if DEVICE != "cpu" else 0)


def test_networks_are_evaluated_on_it(there: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    distill(DistillSpec(method="random", ipc=10, device=DEVICE), there).save(path)
    spec = EvaluationSpec(archs=(ARCH,), students=2, updates=50)
    assert evaluation.evaluate(str(path), there, spec)[0].mean > 0.3


def test_a_search_with_truth_runs_on_it(tmp_path: Path) -> None:
    spec = replace(TINY, device=DEVICE, label=2, verify=1, epochs=1, seeds=3)
    result = flow.search(spec, tmp_path / "run", workers=1)
    assert result.report.is_file()
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert scores["failed"].isna().all()
