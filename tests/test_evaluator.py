"""The evaluator: the numbers of a search, nothing changed outside, and bad networks refused."""

import multiprocessing
import pickle
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import proxynas as pn
from proxynas import spaces
from proxynas.api import evaluator as module
from proxynas.core.errors import DeviceError, NetworkError, ProxyFileError, SpecError
from proxynas.datasets import Dataset, Split
from proxynas.proxyset import ProxySet
from proxynas.specs import Recipe, SearchSpec

ARCH = "D1-W32-relu-batchnorm-avgpooling"


@pytest.fixture(scope="module")
def proxy() -> ProxySet:
    return pn.read_proxy("digits-gm-ipc1")


@pytest.fixture
def evaluator(proxy: ProxySet, digits: Dataset) -> pn.Evaluator:
    return pn.Evaluator(proxy, digits, recipe=Recipe(updates=10))


def build(arch: str = ARCH) -> nn.Module:
    return spaces.load("convnet-grid").build(arch, (1, 8, 8), 10)


def linear(inputs: int = 64, outputs: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


@pytest.mark.parametrize("seeds", [1, 3])
def test_it_gives_the_numbers_of_a_search(
    seeds: int, small_spec: SearchSpec, proxy: ProxySet, digits: Dataset, tmp_path: Path
) -> None:
    """Bit for bit; three replicas are fused."""
    spec = replace(
        small_spec, proxy="digits-gm-ipc1", steps=None, settings={}, baselines=(), seed=3
    )
    spec = replace(spec, seeds=seeds, updates=12, val_points=3, val_size=200, recipe={"lr": 0.05})
    result = pn.run_search(spec, tmp_path / "run", workers=1)
    evaluator = pn.Evaluator(
        proxy, digits, spec.candidate_recipe(), seeds, spec.val_size, spec.val_points
    )
    space = spaces.load(spec.space)
    rows = pd.read_csv(result.report.parent / "scores.csv")
    means = rows[rows["source"] == "proxy"].groupby("arch").mean(numeric_only=True)
    assert len(means) == 6
    for arch, expected in means.iterrows():
        make = partial(space.build, str(arch), digits.shape, digits.num_classes)
        actual = evaluator.evaluate(make, name=str(arch), seed=3)
        for name in module.INDICATORS:
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-15, err_msg=name)
        for name in ("parameters", "flops") if seeds > 1 else module.INDICATORS:
            assert actual[name] == expected[name]


def state() -> list[Any]:
    numpy = np.random.get_state()  # noqa: NPY002
    return [
        random.getstate(),
        [numpy[0], numpy[1].tolist(), *numpy[2:]],
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.is_grad_enabled(),
        (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item(),  # 0 where denormals are flushed
    ]


class Draws(nn.Module):
    """Draws from every global generator, while it is made and while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = random.random() + np.random.random()  # noqa: NPY002
        self.linear = linear()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(self.dropout(x)) * (self.scale + 0 * random.random())
        return result


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("how", ["whole", "stopped", "broken"])
def test_nothing_global_is_changed(flushed: bool, how: str, evaluator: pn.Evaluator) -> None:
    def stop(update: int, value: float) -> None:
        raise KeyboardInterrupt

    torch.set_num_threads(2)
    torch.set_flush_denormal(flushed)
    try:
        before = state()
        with torch.no_grad():
            if how == "whole":
                evaluator.evaluate(Draws)
            elif how == "stopped":
                with pytest.raises(KeyboardInterrupt):
                    evaluator.evaluate(Draws, report=stop)
            else:
                with pytest.raises(NetworkError):
                    evaluator.evaluate(lambda: linear(outputs=3))
        assert state() == before
    finally:
        torch.set_flush_denormal(False)


def test_what_is_given_is_not_changed(evaluator: pn.Evaluator) -> None:
    net = build().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = evaluator.evaluate(net)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert first.indicators == evaluator.evaluate(net).indicators  # and nothing is remembered
    assert first.indicators != evaluator.evaluate(net, seed=1).indicators or first["sotl"] > 0


@pytest.mark.parametrize("name", module.TRAINED)
@pytest.mark.parametrize("seeds", [1, 3])
def test_report_hears_of_the_indicator_on_the_way(
    name: str, seeds: int, proxy: ProxySet, digits: Dataset
) -> None:
    evaluator = pn.Evaluator(proxy, digits, recipe=Recipe(updates=10), seeds=seeds)
    told: list[tuple[int, float]] = []
    evaluation = evaluator.evaluate(
        build, indicator=name, report=lambda update, value: told.append((update, value))
    )
    assert [update for update, _ in told] == [2, 4, 6, 8, 10]
    silent = evaluator.evaluate(build)
    assert evaluation.indicators == silent.indicators
    if seeds == 1:
        assert told[-1][1] == evaluation[name]
    if name == "sotl":
        assert [value for _, value in told] == sorted(value for _, value in told)
    if name == "val_auc" and seeds == 1:
        accuracies: list[float] = []
        evaluator.evaluate(build, report=lambda _, value: accuracies.append(value))
        assert [value for _, value in told] == pytest.approx(
            [np.mean(accuracies[: n + 1]) for n in range(5)]
        )


def test_costs_are_known_at_the_end(evaluator: pn.Evaluator) -> None:
    told: list[tuple[int, float]] = []
    found = evaluator.evaluate(
        build, indicator="parameters", report=lambda update, value: told.append((update, value))
    )
    assert told == [(evaluator.trained_by.updates, found["parameters"])]


def test_what_report_raises_ends_fused_replicas(
    proxy: ProxySet, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them in the middle, and the next evaluation is as if nothing had been."""
    evaluator = pn.Evaluator(proxy, digits, recipe=Recipe(updates=10), seeds=3)
    expected = evaluator.evaluate(build)
    told = []

    def stop(update: int, value: float) -> None:
        told.append(update)
        if update == 4:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        evaluator.evaluate(build, report=stop)
    assert told == [2, 4]
    assert evaluator.evaluate(build).indicators == expected.indicators


def test_a_pickle_is_small_and_evaluates_alike(proxy: ProxySet, digits: Dataset) -> None:
    """A view would have taken the whole tensor along."""
    many = digits.train.x.repeat(50, 1, 1, 1)
    large = replace(
        digits,
        train=Split(many, digits.train.y.repeat(50)),
        test=Split(many, digits.train.y.repeat(50)),
    )
    evaluator = pn.Evaluator(proxy, large, recipe=Recipe(updates=5))
    size = len(pickle.dumps(evaluator))
    images = digits.val.x.nbytes + digits.train.x[:256].nbytes + proxy.x.nbytes
    assert size < images + 20_000 < many.nbytes / 50
    again = pickle.loads(pickle.dumps(evaluator))
    net = build()
    assert again.evaluate(net).indicators == evaluator.evaluate(net).indicators
    assert len(again.data.test) == 0


def in_child(evaluator: pn.Evaluator, make: Callable[[], nn.Module]) -> dict[str, float]:
    return dict(evaluator.evaluate(make, name=ARCH))


def test_another_process_gives_the_same(evaluator: pn.Evaluator, digits: Dataset) -> None:
    """A space, and with it a function that builds its networks, travels as the reference of its
    factory: torchvision's too, which needs to be imported in a way of its own."""
    makes = [
        partial(spaces.load("convnet-grid").build, ARCH, digits.shape, 10),
        partial(spaces.load("torchvision").build, "mnasnet0_5", digits.shape, 10),
    ]
    small = replace(evaluator, recipe=Recipe(updates=2), val_points=1, val_size=20, calibrate=20)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.starmap(in_child, [(small, make) for make in makes])
    np.testing.assert_equal(there, [in_child(small, make) for make in makes])


def test_threads_take_turns(evaluator: pn.Evaluator) -> None:
    archs = ["D1-W32-relu-none-avgpooling", ARCH, "D2-W32-relu-instancenorm-avgpooling"]
    alone = {arch: evaluator.evaluate(partial(build, arch)).indicators for arch in archs}
    together: dict[str, Any] = {}

    def work(arch: str) -> None:
        together[arch] = evaluator.evaluate(partial(build, arch)).indicators

    before = state()
    threads = [threading.Thread(target=work, args=(arch,)) for arch in archs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert state() == before


def test_a_space_can_be_pickled(small_space: Path, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes, *, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * 64, width), nn.ReLU(),"
        " nn.Linear(width, classes))\n"
        "def kind(arch):\n"
        "    return arch\n"
    )
    file = tmp_path / "mine.toml"
    file.write_text(
        'name="mine"\nfactory="nets.py:make"\nkind="nets.py:kind"\narch="W{width}"\n'
        "[axes]\nwidth=[2,3]\n"
    )
    for name in ("nasbench201", "torchvision", "chain", str(small_space), str(file)):
        space = spaces.load(name)
        again = pickle.loads(pickle.dumps(space))
        assert again == space
        assert again.fingerprint == space.fingerprint
    assert again.cost("W3", (1, 8, 8), 10)[0] == 64 * 3 + 3 + 3 * 10 + 10
    assert again.kind("W3") == "W3"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(linear, 100), r"does not take inputs of shape \(B, 1, 8, 8\): mat1 and mat2"),
        (partial(linear, 64, 7), r"logits of shape \(2, 10\) .*, but gave \(2, 7\); make its last"),
        (nn.Identity, r"but gave \(2, 1, 8, 8\)"),
        (lambda: linear().requires_grad_(False), "no weights to train"),
        (lambda: 7, r"must return a torch\.nn\.Module, but returned int"),
        (ARCH, rf"expected a network, or a function that makes one, but got '{ARCH}'; an arch"),
    ],
)
def test_a_network_that_does_not_fit(make: Any, message: str, evaluator: pn.Evaluator) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        evaluator.evaluate(make)
    assert "\n" not in str(caught.value)


def test_bad_input(
    evaluator: pn.Evaluator, proxy: ProxySet, digits: Dataset, small_space: Path
) -> None:
    with pytest.raises(NetworkError, match="a network has one initialisation; give a function"):
        replace(evaluator, seeds=2).evaluate(build())
    with pytest.raises(SpecError, match=r"must be one of val_accuracy, .*, but got 'accuracy'"):
        evaluator.evaluate(build, indicator="accuracy")
    with pytest.raises(DeviceError, match="device must be"):
        evaluator.evaluate(build, device="tpu")
    with pytest.raises(SpecError, match=r"an evaluator: seeds: .* greater than or equal to 1"):
        pn.Evaluator(proxy, digits, seeds=0)
    with pytest.raises(SpecError, match="val_points must be at most the 3 updates, but got 5"):
        pn.Evaluator(proxy, digits, recipe=Recipe(updates=3))
    with pytest.raises(ProxyFileError, match="was made for image shape"):
        pn.Evaluator(proxy, pn.load_data("moons"))


def test_a_training_that_fails(proxy: ProxySet, digits: Dataset) -> None:
    evaluator = pn.Evaluator(proxy, digits, recipe=Recipe(updates=50, lr=1e20), val_points=1)
    evaluation = evaluator.evaluate(build)
    assert evaluation.failed is not None
    assert "stopped being finite" in evaluation.failed
    assert all(np.isnan(evaluation[name]) for name in module.TRAINED)
    assert evaluation["parameters"] > 0


def test_one_validation_has_no_curve(evaluator: pn.Evaluator) -> None:
    evaluation = replace(evaluator, val_points=1).evaluate(build)
    assert np.isnan(evaluation["val_auc"])
    assert evaluation["val_accuracy"] == evaluator.evaluate(build)["val_accuracy"]
    assert evaluation.seconds > 0
    assert evaluation.core_seconds > 0
