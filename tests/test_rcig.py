"""RCIG as a method, in float64 on small networks."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from proxynas import datasets, proxyset, testing
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, SpecError
from proxynas.datasets import Dataset
from proxynas.distill import implicit, linearised, studentpool, students
from proxynas.distill.implicit import Loop
from proxynas.distill.linearised import LAST
from proxynas.distill.loop import distill, plan
from proxynas.distill.method import State, Task
from proxynas.distill.methods import rcig
from proxynas.nets import doubling
from proxynas.specs import DistillSpec

from .inner import CLASSES, network, some

pytestmark = pytest.mark.usefixtures("float64")

STUDENT = "doubling-convnet:D1-W4-none-softplus"
SMALL: dict[str, Any] = {
    "student": STUDENT,
    "real_batch": 20,
    "n_inner": 2,
    "n_hinv": 2,
    "inner_lr": 1e-3,
    "hinv_lr": 1e-3,
    "pool": 2,
}


def test_the_draws_of_a_part_are_uniform(digits: Dataset) -> None:
    task = planned(digits, ipc=1, subset=3)
    generator = seeds.generator(0, "test")
    drawn = torch.stack(
        [kept for _ in range(2000) if (kept := rcig._draw_subset(task, generator)) is not None]
    )
    assert drawn.shape == (2000, 3)
    share = torch.bincount(drawn.flatten(), minlength=10) / 2000
    assert ((share - 0.3).abs() < 5 * math.sqrt(0.3 * 0.7 / 2000)).all()


def test_rates_are_found_where_both_losses_fall(digits: Dataset) -> None:
    task = planned(double_of(digits), inner_lr=None, hinv_lr=None, n_inner=5, n_hinv=5)
    state = rcig.init(task)
    rates = state["rates"].tolist()
    assert rates[0] > rcig.START_RATES[0]
    assert rates[1] > rcig.START_RATES[1]
    student = studentpool.member(task, STUDENT, state, 0).student
    inner, synthetic = rcig.inner_problem(task, student), rcig._training_set(task, state)

    def decreases(rate: float) -> bool:
        return implicit.decreases(implicit.solve_inner(inner, synthetic, Loop(6, rate))[1])

    assert decreases(rates[0])
    assert not decreases(rates[0] / 0.7 * 1.2)


@pytest.mark.parametrize(
    ("inner", "inverse", "k", "fell", "factors"),
    [
        ([3.0, 2.0], [0.0, -1.0], 0, 0, (1.0, 1.0)),
        ([3.0, 2.0], [0.0, -1.0], 49, 34, (1.05, 1.0)),  # with this step 35 of 50 fell
        ([3.0, 2.0], [0.0, -1.0], 49, 33, (1.0, 1.0)),
        ([3.0, 2.0], [0.0, -1.0], 48, 34, (1.0, 1.0)),  # only every fiftieth step
        ([3.0, 1.0, 2.0], [0.0, -2.0, -1.0], 49, 34, (1.0, 1.0)),  # not all the way
        ([3.0], [0.0], 49, 49, (1.05, 1.0)),  # one step cannot fall
        ([3.0, 4.0], [0.0, 1.0], 49, 49, (0.9, 0.9)),  # both diverged
        ([3.0, math.nan], [0.0, math.inf], 7, 0, (0.9, 0.9)),
        ([], [], 49, 0, (1.0, 1.0)),
    ],
)
def test_the_watch(
    inner: list[float],
    inverse: list[float],
    k: int,
    fell: int,
    factors: tuple[float, float],
    digits: Dataset,
) -> None:
    task = planned(digits, inner_lr=None, hinv_lr=None)
    nothing = torch.zeros(1)
    actual = implicit.Hypergradient(
        1.0, (nothing, nothing, nothing), (nothing, nothing), inner, inverse
    )
    state = {"rates": torch.tensor([1e-3, 1e-2]), "fell": torch.tensor(fell)}
    after = rcig._adjust_rates(task, state, actual, k)
    assert after["rates"].tolist() == pytest.approx([1e-3 * factors[0], 1e-2 * factors[1]])
    assert after["fell"] == (0 if k == 49 else fell + (len(inner) == 2 and inner[1] < inner[0]))
    assert torch.equal(
        rcig._adjust_rates(planned(digits), state, actual, k)["rates"], state["rates"]
    )  # given ones stay


GOLDEN = {
    "rcig": ({}, [1.877812, 2.097434, 1.813478, 1.899697, 2.021106]),
    "cig": ({"reparameterise": False}, [0.34043, 0.447374, 0.344724, 0.374611, 0.398819]),
    "rig": ({"linearise": False}, [1.885192, 2.083701, 1.804352, 1.892963, 1.993915]),
    "vig": (
        {"linearise": False, "reparameterise": False},
        [0.757757, 0.802542, 0.691329, 0.698437, 0.63735],
    ),
    "krr": ({"n_inner": 0, "n_hinv": 0, "outer": "mse"}, [0.505299, 0.626502, 0.494874, 0.380537]),
    "subset": ({"subset": 4}, [1.859918, 2.080446, 1.828914, 1.900883, 1.989695]),
    "mirrored": ({"flip": True, "subset": 5}, [1.955237, 2.229517, 1.884752, 1.865538, 2.039256]),
}
"""Outer losses of the first steps on the digits in float32, as version 0.1.0 had them first."""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses(name: str, digits: Dataset) -> None:
    torch.set_default_dtype(torch.float32)
    changes, wanted = GOLDEN[name]
    usual = {"n_inner": 3, "n_hinv": 3, "life": 3, "student_steps": 1}
    task = planned(digits, **{**usual, "inner_lr": None, "hinv_lr": None, **changes})
    state, losses = rcig.init(task), []
    for k in range(len(wanted)):
        state, loss = rcig.step(task, state, k)
        losses.append(loss)
    assert losses == pytest.approx(wanted, rel=1e-3)


def planned(dataset: Dataset, ipc: int = 1, **config: Any) -> Task:
    return plan(DistillSpec(method="rcig", ipc=ipc, settings={**SMALL, **config}), dataset)[0]


def double_of(dataset: Dataset) -> Dataset:
    return replace(
        dataset,
        train=replace(dataset.train, x=dataset.train.x.double()),
        val=replace(dataset.val, x=dataset.val.x.double()),
    )


def after(task: Task, steps: int) -> State:
    state = rcig.init(task)
    for k in range(steps):
        state, _ = rcig.step(task, state, k)
    return state


def test_a_student_lives_and_is_replaced(digits: Dataset) -> None:
    task = planned(double_of(digits), pool=1, life=3)
    state = rcig.init(task)
    first = studentpool.member(task, STUDENT, state, 0).student
    ages = []
    for k in range(4):
        state, _ = rcig.step(task, state, k)
        ages.append((state["pool.age"].item(), state["pool.birth"].item()))
        held = any(name.startswith(("student.", "adam.")) for name in state)
        assert held == (state["pool.age"].item() > 0)
    assert ages == [(1, 0), (2, 0), (0, 1), (1, 1)]
    assert not torch.equal(state[f"student.0.{LAST}"], first.last)


def test_a_student_is_trained_as_an_ordinary_network(digits: Dataset) -> None:
    task = planned(double_of(digits))
    state = rcig.init(task)
    x, y = rcig._training_set(task, state)
    taken = studentpool.member(task, STUDENT, state, 1)

    def error(member: studentpool.Member) -> float:
        features = member.student.body(member.student.parameters, x)
        return (features @ member.student.last.T - y).square().sum().item()

    pool = studentpool.train_member(state, taken, (x, y), steps=50, lr=1e-2, life=100)
    trained = {**state, **pool}
    assert error(studentpool.member(task, STUDENT, trained, 1)) < 0.1 * error(taken)
    assert error(studentpool.member(task, STUDENT, trained, 0)) == pytest.approx(
        error(studentpool.member(task, STUDENT, state, 0))
    )


def test_the_implicit_gradient_is_clipped_to_the_direct_one(digits: Dataset) -> None:
    """With the first step of AdaBelief, whose m is a tenth of the gradient."""
    direct = (some(10, 1, 8, 8, seed=1), some(10, 10, seed=2), torch.tensor(0.5))
    turned = (some(10, 1, 8, 8, seed=3), some(10, 10, seed=4))
    both = [direct[place].norm() / turned[place].norm() / 100 for place in (0, 1)]
    for settings, limits in (({}, both), ({"reparameterise": False}, [torch.tensor(1.0)] * 2)):
        task = planned(double_of(digits), **settings)
        large = (100 * turned[0], 100 * turned[1])
        moved = rcig._update_set(
            task, rcig.init(task), implicit.Hypergradient(1.0, direct, large, [], [])
        )
        for place, name in enumerate("xy"):
            torch.testing.assert_close(
                moved[f"{name}.m"], 0.1 * (direct[place] + limits[place] * large[place])
            )
    small = (0.01 * turned[0], 0.01 * turned[1])
    task = planned(double_of(digits))
    moved = rcig._update_set(
        task, rcig.init(task), implicit.Hypergradient(1.0, direct, small, [], [])
    )
    torch.testing.assert_close(moved["x.m"], 0.1 * (direct[0] + small[0]))


def test_what_is_kept_is_the_average(digits: Dataset) -> None:
    task = planned(double_of(digits), average=0.8)
    states = [after(task, steps) for steps in range(4)]
    assert torch.equal(rcig.finish(task, states[0])[0], states[0]["x.value"])
    weights = torch.tensor([0.8**2, 0.8, 1.0])
    for name, actual in zip("xy", rcig.finish(task, states[3]), strict=True):
        values = torch.stack([state[f"{name}.value"] for state in states[1:]])
        wanted = torch.tensordot(weights / weights.sum(), values, 1)
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-14)


def test_the_gradient_of_mirrored_images(digits: Dataset) -> None:
    task = planned(double_of(digits), flip=True)
    state = rcig.init(task)
    x, y = rcig._training_set(task, state)
    assert torch.equal(x[10:], state["x.value"].flip(-1))
    assert torch.equal(y[10:], state["y.value"])
    weights = some(*x.shape, seed=1), some(*y.shape, seed=2)
    back = rcig._view(task).pull_back(weights)
    change = some(*state["x.value"].shape, seed=3), some(*state["y.value"].shape, seed=4)
    moved = rcig._training_set(task, {**state, "x.value": change[0], "y.value": change[1]})
    for place in range(2):
        assert (back[place] * change[place]).sum().item() == pytest.approx(
            (weights[place] * moved[place]).sum().item()
        )


def test_labels_and_temperature_are_learned(digits: Dataset) -> None:
    start, end = (after(planned(double_of(digits)), steps) for steps in (0, 2))
    assert torch.equal(start["y.value"], torch.eye(10) - 0.1)
    assert not torch.equal(start["y.value"], end["y.value"])
    assert end["tau.value"].item() != 0
    fixed = after(planned(double_of(digits), learn_labels=False), 2)
    assert torch.equal(start["y.value"], fixed["y.value"])


def test_mirrors_and_parts_by_size(digits: Dataset) -> None:
    colour = replace(digits, train=replace(digits.train, x=digits.train.x.expand(-1, 3, -1, -1)))
    assert [len(rcig._view(planned(data, ipc=5))) for data in (digits, colour)] == [50, 100]
    assert rcig._view(planned(colour, ipc=5)).subset is None
    many = replace(planned(colour), ipc=101)  # 1010 images
    assert (len(rcig._view(many)), rcig._view(many).subset) == (1010, 1000)


def test_default_students() -> None:
    """Softplus up to depth 3, ReLU above, as in the paper (Appendix C)."""
    wanted = {
        (1, 8, 8): "D2-W32-none-softplus",
        (1, 28, 28): "D3-W128-none-softplus",
        (3, 32, 32): "D3-W128-none-softplus",
        (3, 64, 64): "D4-W128-none-relu",
        (3, 128, 128): "D5-W128-none-relu",
    }
    for shape, name in wanted.items():
        assert students.doubling_student(shape) == f"doubling-convnet:{name}"
    assert students.doubling_student((2,)) == "evaluation-nets:mlp"


@pytest.mark.parametrize(("side", "l2"), [(28, 5e-4), (32, 5e-4), (64, 5e-3), (128, 5e-2)])
def test_the_published_regularisation(side: int, l2: float) -> None:
    """The paper's λ per image by depth (Appendix C); the authors' code has 5e-4 at depth 4."""
    task = planned(datasets.load("digits", image_size=side))
    assert rcig.inner_problem(task, linearised.cut(network(), CLASSES)).l2 == l2


def test_the_network() -> None:
    """Widths double, parameters fit whatever the activation, and softplus is nearly ReLU."""
    nets = [
        doubling.make((3, 32, 32), 10, width=8, activation=kind) for kind in ("softplus", "relu")
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    shapes = [tuple(p.shape) for p in nets[0].parameters() if p.ndim > 1]
    assert shapes == [(8, 3, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (10, 32 * 4 * 4)]
    x = some(2, 3, 32, 32)
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=0, atol=0.1)
    with pytest.raises(Exception, match="needs images"):
        doubling.make((2,), 3)


def test_rows_of_a_table() -> None:
    moons = datasets.load("moons")
    torch.set_default_dtype(torch.float32)
    proxy = distill(
        DistillSpec(method="rcig", ipc=2, steps=2, settings={**SMALL, "student": None}), moons
    )
    assert proxy.x.shape == (4, 2)
    with pytest.raises(SpecError, match="flip = true mirrors images"):
        planned(moons, student=None, flip=True)


def test_a_set_on_disk_has_soft_labels_and_their_loss(digits: Dataset, tmp_path: Any) -> None:
    torch.set_default_dtype(torch.float32)
    proxy = distill(DistillSpec(method="rcig", ipc=2, steps=2, settings=SMALL), digits)
    proxy.save(tmp_path / "set.safetensors")
    read = proxyset.read(tmp_path / "set.safetensors")
    assert read.y.shape == (20, 10)
    assert read.recipe.loss == "mse"
    assert read.hard_labels().tolist() == [c for c in range(10) for _ in range(2)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"student": "doubling-convnet:D1-W4-batchnorm-relu", "subset": 3},
            "batch norm mixes .* subset = 10 or more",
        ),
        ({"student": "nasbench"}, "is not in the space"),
        ({"linearise": False, "tabulate": True}, "tabulate = true is for linearised students"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    config: dict[str, Any], message: str, digits: Dataset
) -> None:
    with pytest.raises(Exception, match=message):
        planned(digits, **config)


def test_a_network_without_a_linear_end_is_refused() -> None:
    with pytest.raises(
        SpecError, match="must end in a linear layer with 3 outputs, but Sequential does not"
    ):
        linearised.cut(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), 3)


def test_batch_norm_uses_the_batch_and_keeps_its_averages(digits: Dataset) -> None:
    task = planned(double_of(digits), student="doubling-convnet:D1-W4-batchnorm-softplus")
    state, loss = rcig.step(task, rcig.init(task), 0)
    assert math.isfinite(loss)
    assert not any("running" in name for name in state)
    assert studentpool.member(task, rcig._arch(task), state, 0).student.mixes


def test_a_gradient_that_is_not_finite_is_said(digits: Dataset) -> None:
    task = planned(double_of(digits))
    bad = (torch.full((10, 1, 8, 8), math.nan), torch.zeros(10, 10), torch.tensor(0.0))
    actual = implicit.Hypergradient(
        1.0, bad, (torch.zeros(10, 1, 8, 8), torch.zeros(10, 10)), [], []
    )
    with pytest.raises(DivergedError, match=r"lower lr \(now 0\.003\) or raise l2"):
        rcig._update_set(task, rcig.init(task), actual)


def test_it_learns_what_ridge_regression_needs() -> None:
    """Thirty steps on the toy data bring the outer loss down, for every relative."""
    toy = testing.toy(dtype=torch.float64)
    check: Callable[[dict[str, Any]], list[float]] = lambda config: losses(toy, config)  # noqa: E731
    for config in ({}, {"linearise": False}, {"n_inner": 0, "n_hinv": 0, "outer": "mse"}):
        actual = check({"lr": 0.03, "real_batch": 120, "n_inner": 5, "n_hinv": 5, **config})
        assert np.mean(actual[-5:]) < 0.8 * np.mean(actual[:5])


def losses(dataset: Dataset, config: dict[str, Any]) -> list[float]:
    task = planned(dataset, **config)
    state, actual = rcig.init(task), []
    for k in range(30):
        state, loss = rcig.step(task, state, k)
        actual.append(loss)
    return actual


def test_the_search_for_rates_takes_real_images_in_pieces(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a batch of 1,024 at once took more memory than any step."""
    pieces = []
    gradients = implicit.outer_gradients

    def look(inner: Any, u: Any, synthetic: Any, outer: implicit.Outer, *rest: Any) -> Any:
        pieces.append(outer.chunk)
        return gradients(inner, u, synthetic, outer, *rest)

    monkeypatch.setattr(implicit, "outer_gradients", look)
    rcig.init(planned(double_of(digits), pool=1, hinv_lr=None))
    assert pieces == [rcig.REAL_CHUNK]
