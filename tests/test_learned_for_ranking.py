"""The gradient by which an experiment learns images for ranking, against finite differences."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from proxynas.core import resources, seeds
from proxynas.datasets import Split, load
from proxynas.distill.methods.unroll import InnerTraining

ARCHS = [f"D1-W32-sigmoid-{norm}-avgpooling" for norm in ("none", "instancenorm", "groupnorm")]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(resources.folder("experiments"))
    module = importlib.import_module("learned_for_ranking")
    build = module.Study.build
    monkeypatch.setattr(module.Study, "build", lambda *about: build(*about).double())
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("aim", ["ranking", "mean loss"])
def test_gradients_of_images_and_rates(aim: str, script: Any) -> None:
    """Smooth networks and noise: where pixels tie, as those of digits do, a finite difference
    crosses a kink."""
    digits = load("digits")
    real = Split(digits.train.x.double(), digits.train.y)
    truth = dict(zip(ARCHS, (0.9, 0.92, 0.94), strict=True))
    study = script.Study(replace(digits, train=real), ARCHS, truth, 0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 10, *digits.shape, generator=generator)
    log_rates = torch.full((5,), 0.05).log()
    labels = torch.arange(10)

    def value(images: torch.Tensor, log_rates: torch.Tensor) -> float:
        rows = torch.randperm(len(real), generator=seeds.generator(0, 0))[: script.REAL]
        losses = []
        for arch in ARCHS:
            net = study.build(arch, "learn", 0)
            optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=script.MOMENTUM)
            for update, rate in enumerate(log_rates.exp().tolist()):
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                F.cross_entropy(net(images[update % 2]), labels).backward()
                optimizer.step()
            losses.append(F.cross_entropy(net(real.x[rows]), real.y[rows]).detach())
        found = torch.stack(losses)
        if aim == "ranking":
            return script.disorder(-found.log(), torch.tensor([*truth.values()])).item()
        return found.mean().item()

    inner = InnerTraining(images, labels, log_rates.exp(), script.MOMENTUM)
    in_images, in_rates = script.gradients(study, inner, aim, 0)
    h = 1e-5
    for x, y in ((torch.randn(images.shape, generator=generator), torch.zeros(5)),
                 (torch.zeros_like(images), torch.randn(5, generator=generator))):  # fmt: skip
        numeric = (
            value(images + h * x, log_rates + h * y) - value(images - h * x, log_rates - h * y)
        ) / (2 * h)
        exact = ((in_images * x).sum() + (in_rates * y).sum()).item()
        assert numeric == pytest.approx(exact, rel=1e-6)
