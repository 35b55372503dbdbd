"""MTT: its hypergradient, its experts' trajectories, what its sets carry."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from proxynas import datasets, testing, training
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, SpecError
from proxynas.datasets import Dataset
from proxynas.distill import students
from proxynas.distill.experts import Training
from proxynas.distill.loop import distill, plan
from proxynas.distill.method import Task
from proxynas.distill.methods import mtt
from proxynas.distill.methods.mtt import InnerStep
from proxynas.distill.students import Parameters
from proxynas.distill.trajectories import Trajectories
from proxynas.specs import DistillSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher

SMOOTH = "D2-W32-sigmoid-groupnorm-avgpooling"
RELU = "D1-W32-relu-instancenorm-avgpooling"
QUICK = {"student": RELU, "inner": 3, "span": 2, "start": 2, "experts": 1, "lr": 10.0}


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toy() -> Dataset:
    return testing.toy(dtype=torch.float64)


def task_of(dataset: Dataset, ipc: int = 2, **settings: object) -> Task[mtt.MTT]:
    given = {"student": SMOOTH, "inner": 4, **settings}
    task, _ = plan(DistillSpec(method="mtt", ipc=ipc, settings=given), dataset)
    return task


def ends_of(parameters: Parameters) -> tuple[Parameters, Parameters]:
    """The start, and some other weights for the target."""
    generator = torch.Generator().manual_seed(5)
    target = {
        name: p + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in parameters.items()
    }
    return parameters, target


def images_of(task: Task[mtt.MTT]) -> tuple[Tensor, Sequence[InnerStep]]:
    x = torch.randn(6, *task.dataset.shape, dtype=torch.float64)
    return x, mtt._steps(task, torch.arange(3).repeat_interleave(2), 0)


@pytest.mark.parametrize("settings", [{}, {"batch": 4, "augment": "scale+rotate"}])
def test_the_hypergradient_is_that_of_higher(settings: dict[str, object], toy: Dataset) -> None:
    task = task_of(toy, **settings)
    net = students.student(task, SMOOTH, "test").double()
    parameters, loss = students.student_loss([net])
    ends = ends_of(parameters)
    x, steps = images_of(task)
    rate = torch.tensor(0.3, dtype=torch.float64)
    found = mtt.hypergradient(loss, ends, x, steps, rate)

    x, rate = x.requires_grad_(), rate.requires_grad_()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, optimizer, override={"lr": [rate]}) as (student, updates):
        for one in steps:
            updates.step(F.cross_entropy(student(one.transform(x[one.rows])), one.y))
        names = [name for name, _ in net.named_parameters()]
        reached = dict(zip(names, student.parameters(), strict=True))
        far = sum((ends[0][name] - ends[1][name]).pow(2).sum() for name in names)
        near = sum((reached[name] - ends[1][name]).pow(2).sum() for name in names)
        expected = near / far  # type: ignore[operator]
        in_x, in_rate = torch.autograd.grad(expected, [x, rate])
    assert found.loss == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(found.x, in_x, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(found.rate, in_rate, rtol=1e-8, atol=1e-14)


def test_the_gradient_in_the_images_against_finite_differences(toy: Dataset) -> None:
    task = task_of(toy)
    parameters, loss = students.student_loss([students.student(task, SMOOTH, "test").double()])
    ends = ends_of(parameters)
    x, steps = images_of(task)
    rate = torch.tensor(0.3, dtype=torch.float64)
    direction, h = torch.randn_like(x), 1e-5
    high, low = (
        mtt.hypergradient(loss, ends, x + sign * h * direction, steps, rate).loss
        for sign in (1, -1)
    )
    slope = (mtt.hypergradient(loss, ends, x, steps, rate).x * direction).sum().item()
    assert slope == pytest.approx((high - low) / (2 * h), rel=1e-5)


def test_a_student_that_stands_still_is_as_far_as_the_expert_went(toy: Dataset) -> None:
    """L is 1 for α = 0; one step makes it (‖θ − αg − θ*‖ / ‖θ − θ*‖)²."""
    task = task_of(toy, inner=1)
    parameters, loss = students.student_loss([students.student(task, SMOOTH, "test").double()])
    ends = ends_of(parameters)
    x, steps = images_of(task)
    zero = mtt.hypergradient(loss, ends, x, steps, torch.zeros((), dtype=torch.float64))
    assert zero.loss == pytest.approx(1)
    leaves = students.as_leaves(parameters)
    value = loss(leaves, x[steps[0].rows], steps[0].y)
    gradient = torch.autograd.grad(value, list(leaves.values()))
    flat = torch.cat([g.flatten() for g in gradient])
    way = torch.cat([(ends[0][name] - ends[1][name]).flatten() for name in leaves])
    assert zero.rate.item() == pytest.approx((-2 * flat @ way / way.square().sum()).item())
    one = mtt.hypergradient(loss, ends, x, steps, torch.tensor(0.2, dtype=torch.float64))
    expected = (way - 0.2 * flat).square().sum() / way.square().sum()
    assert one.loss == pytest.approx(expected.item())


def test_a_trajectory_has_the_weights_of_a_plain_training_after_every_epoch(toy: Dataset) -> None:
    """120 images in batches of 30: four updates an epoch."""
    how = Training(RELU, epochs=3, batch_size=30, lr=0.05, momentum=0.0, schedule="constant")
    pool = Trajectories(toy, how, 2)
    for epoch in range(4):
        net = pool._new(1)
        if epoch:
            recipe = replace(how.recipe(120), updates=4 * epoch)
            seed = seeds.derive(how.seed, "expert", "order", 1)
            training.fit([net], toy.train.x, toy.train.y, recipe, seed=seed, fused=False)
        kept = pool.parameters(1, epoch)
        assert kept.keys() == dict(net.named_parameters()).keys()
        for name, value in net.named_parameters():
            assert torch.equal(kept[name], value), (epoch, name)
    assert pool.complete()[1].update == 12


def test_distillations_share_their_experts_and_carry_the_learned_rate(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = distill(DistillSpec(method="mtt", steps=2, settings=QUICK), digits)
    monkeypatch.setattr(training, "fit", lambda *a, **kw: pytest.fail("trained again"))
    second = distill(DistillSpec(method="mtt", steps=2, seed=1, settings=QUICK), digits)
    assert first.provenance["shared"] == second.provenance["shared"]
    assert first.provenance["shared"]["about"]["count"] == 1
    assert first.provenance["core_seconds"] > first.provenance["shared"]["core_seconds"]
    assert first.recipe.lr != 0.01
    assert first.recipe.lr == pytest.approx(0.01, rel=0.1)


def test_a_learning_rate_that_is_not_positive_any_more(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mtt.Hypergradient(0.5, torch.zeros(10, *digits.shape), torch.tensor(1e9))
    monkeypatch.setattr(mtt, "hypergradient", lambda *_: found)
    with pytest.raises(DivergedError, match=r"not positive any more at step 0; lower rate_lr"):
        distill(DistillSpec(method="mtt", steps=9, settings=QUICK), digits)


def test_a_generator_does_not_start_from_real_images(digits: Dataset) -> None:
    with pytest.raises(SpecError, match="add init=noise"):
        task_of(digits, synthetic="gtn-lrn")


def test_tables() -> None:
    moons = datasets.load("moons")
    quick = {"inner": 2, "span": 1, "start": 1, "experts": 1, "lr": 1.0}
    proxy = distill(DistillSpec(method="mtt", ipc=3, steps=2, settings=quick), moons)
    assert proxy.x.shape == (6, 2)
