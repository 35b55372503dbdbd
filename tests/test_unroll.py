import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from proxynas import datasets, training
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, SpaceError, SpecError
from proxynas.datasets import Dataset
from proxynas.distill import students, tracing
from proxynas.distill.loop import distill, plan
from proxynas.distill.methods import unroll
from proxynas.distill.methods.unroll import InnerTraining
from proxynas.nets import convnet
from proxynas.specs import DistillSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher

SMALL = {"students": ["D1-W32-sigmoid-none-avgpooling"], "real_batch": 20, "inner": 4}
MOMENTUM = 0.5


def tiny(seed: int = 0) -> nn.Module:
    """A smooth student with every kind of parameter, in float64."""
    with seeds.seeded(seed):
        return convnet.make(
            (1, 8, 8),
            3,
            depth=2,
            width=4,
            norm="groupnorm",
            activation="sigmoid",
            pooling="avgpooling",
        ).double()


def problem(batches: int, steps: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Synthetic batches (S, B, …), their labels (B,), learning rates (N,) and a real batch."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches, 6, 1, 8, 8, dtype=torch.float64, generator=generator)
    rates = 0.05 + 0.1 * torch.rand(steps, dtype=torch.float64, generator=generator)
    real = torch.randn(9, 1, 8, 8, dtype=torch.float64, generator=generator), torch.arange(9) % 3
    return x, torch.arange(6) % 3, rates, real


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("segment", [None, 1, 2])
@pytest.mark.parametrize("batches", [1, 3])
def test_against_higher(batches: int, segment: int | None) -> None:
    """The gradients in images and learning rates are those of an independent implementation, to
    1e-5.
    """
    net, (x, y, rates, real) = tiny(), problem(batches, 6)
    start, loss = students.student_loss([net])
    actual = unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real, segment)
    x, rates = x.clone().requires_grad_(), rates.clone().requires_grad_()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=MOMENTUM)
    with higher.innerloop_ctx(net, optimizer, override={"lr": [rates[0]]}) as (
        copy,
        differentiable,
    ):
        for n in range(6):
            inner = F.cross_entropy(copy(x[n % batches]), y)
            differentiable.step(inner, override={"lr": [rates[n]]})
        outer = F.cross_entropy(copy(real[0]), real[1])
        dx, drates = torch.autograd.grad(outer, [x, rates])
    assert actual.loss == pytest.approx(outer.item(), rel=1e-9)
    assert relative(actual.x, dx) < 1e-5
    assert relative(actual.rates, drates) < 1e-5


def test_against_finite_differences() -> None:
    (x, y, rates, real) = problem(2, 4)
    start, loss = students.student_loss([tiny()])

    def value(x: Tensor, rates: Tensor) -> float:
        return unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real).loss

    actual = unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real)
    generator, h = torch.Generator().manual_seed(4), 1e-5
    for _ in range(5):
        along, across = (
            torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in (x, rates)
        )
        slope = (value(x + h * along, rates) - value(x - h * along, rates)) / (2 * h)
        assert (actual.x * along).sum().item() == pytest.approx(slope, rel=1e-5)
        slope = (value(x, rates + h * across) - value(x, rates - h * across)) / (2 * h)
        assert (actual.rates * across).sum().item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("segment", [1, 2, 3, 5, 7, 100])
def test_segments_only_change_rounding(segment: int) -> None:
    x, y, rates, real = problem(1, 7)
    start, loss = students.student_loss([tiny()])
    whole = unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real)
    parts = unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real, segment)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert relative(parts.x, whole.x) < 1e-10
    assert relative(parts.rates, whole.rates) < 1e-10


class Live(TorchDispatchMode):
    """The most bytes that lay in tensors made inside of the block at once, looked at every 20
    operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refs: dict[int, tuple[StorageWeakRef, int]] = {}
        self.count = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.refs[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.count += 1
        if self.count % 20 == 0:
            self.refs = {key: kept for key, kept in self.refs.items() if not kept[0].expired()}
            self.most = max(self.most, sum(size for _, size in self.refs.values()))
        return out


def test_segments_hold_less_memory() -> None:
    x, y, rates, real = problem(1, 16)
    start, loss = students.student_loss([tiny()])
    most = {}
    for segment in (None, 4, 1):
        with Live() as live:
            unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real, segment)
        most[segment] = live.most
    assert most[4] < 0.5 * most[None]
    assert most[1] < most[4]


def test_stacked_students_are_the_sum_of_single_ones() -> None:
    nets, (x, y, rates, real) = [tiny(seed) for seed in range(3)], problem(1, 3)
    start, loss = students.student_loss(nets)
    together = unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real)
    each = []
    for net in nets:
        start, loss = students.student_loss([net])
        each.append(unroll.hypergradient(loss, start, InnerTraining(x, y, rates, MOMENTUM), real))
    assert together.loss == pytest.approx(sum(one.loss for one in each), rel=1e-10)
    assert relative(together.x, torch.stack([one.x for one in each]).sum(0)) < 1e-10


@pytest.mark.parametrize("arch", ["L1-relu", "L4x10-relu", "L2x5-tanh"])
def test_recorded_students_are_the_stacked_ones(arch: str) -> None:
    """Losses and hypergradients are equal to rounding, for the batch size of the record and for
    others.
    """
    data = datasets.load_for(DistillSpec(data="moons"))
    task, _ = plan(
        DistillSpec(
            data="moons", method="unroll", ipc=8, settings={"students": [f"mlp-grid:{arch}"]}
        ),
        data,
    )
    nets = [students.student(task, f"mlp-grid:{arch}", r) for r in range(3)]
    forward = students.recorded(task, f"mlp-grid:{arch}", 3, 4)
    assert forward is not None
    x, y = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2
    actual = []
    for each in (None, forward):
        start, loss = students.student_loss(nets, each)
        real = data.train.x[:9], data.train.y[:9]
        inner = InnerTraining(x, y, torch.full((6,), 0.3), MOMENTUM)
        actual.append(unroll.hypergradient(loss, start, inner, real))
    assert actual[0].loss == pytest.approx(actual[1].loss, rel=1e-6)
    assert relative(actual[1].x, actual[0].x) < 1e-5
    assert relative(actual[1].rates, actual[0].rates) < 1e-5


def test_a_record_has_only_what_does_something() -> None:
    def twice(x: Tensor) -> Tensor:
        return (x.view(3, 2).expand(3, 2) * 1).reshape(3, 2) @ x.t().relu()

    x = torch.randn(3, 2)
    run = tracing.record(twice, [x])
    assert torch.equal(run(2 * x), twice(2 * x))
    seen: list[Any] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seen():
        run(x)
    assert not {torch.ops.aten.view.default, torch.ops.aten.expand.default} & set(seen)


def test_batch_norms_are_not_recorded(digits: Dataset) -> None:
    arch = "D1-W32-relu-batchnorm-avgpooling"
    task, _ = plan(DistillSpec(method="unroll", settings={**SMALL, "students": [arch]}), digits)
    assert students.recorded(task, arch, 3, 10) is None


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_momentum_of_a_step(momentum: float) -> None:
    """Parameters after the inner steps are those of torch.optim.SGD, with momentum and without."""
    net, (x, y, rates, _) = tiny(), problem(2, 4)
    start, loss = students.student_loss([net])
    velocity = {name: torch.zeros_like(p) for name, p in start.items()}
    inner = InnerTraining(x, y, rates, momentum)
    with torch.no_grad():
        end, _ = unroll._train(loss, (start, velocity), inner, range(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=momentum)
    for n in range(4):
        optimizer.param_groups[0]["lr"] = rates[n].item()
        optimizer.zero_grad()
        F.cross_entropy(net(x[n % 2]), y).backward()
        optimizer.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(end[name], p.detach(), rtol=1e-10, atol=1e-12)


def test_a_step_is_the_mean_over_students_and_architectures(digits: Dataset) -> None:
    """With SGD without momentum or clipping the set moves by −lr times the mean of the students'
    hypergradients.
    """
    digits = replace(digits, train=replace(digits.train, x=digits.train.x.double()))
    archs = ["D1-W32-sigmoid-none-avgpooling", "D1-W32-sigmoid-none-none"]
    config = {**SMALL, "students": archs, "replicas": 2, "lr": 0.3, "momentum": 0.0, "clip": 1e9}
    task, _ = plan(DistillSpec(method="unroll", settings=config), digits)
    torch.set_default_dtype(torch.float64)
    try:
        state = unroll.init(task)
        x = state["synthetic.x"].flatten(0, 1)[None]  # (1, B, …)
        expected, real = torch.zeros_like(x), unroll._real(task, 0)
        for arch in archs:
            for r in range(2):
                net = students.student(task, arch, "unroll", "student", 0, arch, r)
                start, loss = students.student_loss([net])
                inner = InnerTraining(x, torch.arange(10), torch.full((4,), 0.02), 0.5)
                expected += unroll.hypergradient(loss, start, inner, real).x / 4
        moved, _ = unroll.step(task, state, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(
        moved["synthetic.x"].flatten(0, 1), (x - 0.3 * expected)[0], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_student_with_batch_norm(replicas: int, digits: Dataset) -> None:
    """It uses the statistics of the batch, single or stacked, and a step leaves nothing of it
    behind.
    """
    config = {**SMALL, "students": ["D1-W32-relu-batchnorm-avgpooling"], "replicas": replicas}
    one, two = (
        distill(DistillSpec(method="unroll", steps=2, settings=config), digits) for _ in "ab"
    )
    assert torch.equal(one.x, two.x)
    assert one.provenance["losses"][0] > 1


@pytest.mark.parametrize("segment", [1, 3])
@pytest.mark.parametrize("kind", ["pixels", "gtn-lrn", "gtn-rnd"])
def test_segments_in_a_step(kind: str, segment: int, digits: Dataset) -> None:
    sets = []
    for each in (None, segment):
        config = {**SMALL, "synthetic": kind, "k": 8, **({} if each is None else {"segment": each})}
        sets.append(
            distill(DistillSpec(method="unroll", ipc=2, steps=1, settings=config), digits).x
        )
    torch.testing.assert_close(sets[0], sets[1], rtol=1e-3, atol=1e-3)


def test_learned_rates_are_learned_kept_positive_and_used(digits: Dataset) -> None:
    config = {**SMALL, "ic": 2, "learn_rates": True, "rate_lr": 5.0}
    proxy = distill(DistillSpec(method="unroll", ipc=2, steps=3, settings=config), digits)
    assert proxy.curriculum is not None
    rates = proxy.curriculum.rates
    assert rates is not None
    assert rates.shape == (4,)
    assert (rates > 0).all()
    assert not torch.allclose(rates, torch.full((4,), 0.02), rtol=1e-3)
    assert (proxy.recipe.momentum, proxy.recipe.weight_decay) == (0.5, 0.0)
    net = convnet.make(digits.shape, 10, depth=1, width=4, norm="none")
    expected = [p.clone() for p in net.parameters()]
    velocity = [torch.zeros_like(p) for p in expected]
    other = convnet.make(digits.shape, 10, depth=1, width=4, norm="none")
    other.load_state_dict(net.state_dict())
    training.fit(
        [net], proxy.x, proxy.y, replace(proxy.recipe, updates=6), curriculum=proxy.curriculum
    )
    for n in range(6):  # by hand: 4 distilled steps, then round again
        rows = proxy.curriculum.order[n % 4]
        assert proxy.y[rows].tolist() == list(range(10))
        other.zero_grad()
        F.cross_entropy(other(proxy.x[rows]), proxy.y[rows]).backward()
        with torch.no_grad():
            for p, v in zip(other.parameters(), velocity, strict=True):
                v.mul_(0.5).add_(p.grad)
                p.sub_(rates[n % 4] * v)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_order_is_the_one_that_students_saw(digits: Dataset) -> None:
    """Rows of the finished set, in the curriculum's order, are the batches of the inner loop."""
    for kind in ("pixels", "gtn-lrn"):
        task, _ = plan(
            DistillSpec(
                method="unroll", ipc=4, settings={**SMALL, "synthetic": kind, "k": 8, "ic": 2}
            ),
            digits,
        )
        state = unroll.init(task)
        x, _ = unroll.finish(task, state)
        order = unroll.order(task)
        assert order.shape == (4, 20)
        for n in range(4):
            seen = unroll._image_functions(task, 0)[n % 2](unroll._set(state)).flatten(0, 1)
            assert torch.equal(x[order[n]], seen)


def test_without_an_order_there_is_no_curriculum(digits: Dataset) -> None:
    assert distill(DistillSpec(method="unroll", steps=0, settings=SMALL), digits).curriculum is None
    ordered = distill(
        DistillSpec(method="unroll", ipc=2, steps=0, settings={**SMALL, "ic": 2}), digits
    ).curriculum
    assert ordered is not None
    assert ordered.rates is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ic": 3}, "ic must divide ipc, the images per class, which is 2, but got 3"),
        ({"ic": 2, "inner": 5}, "ic must divide inner, the student's steps, which is 5, but got 2"),
        ({"ic": 2, "synthetic": "gtn-rnd"}, "ic must be 1 with synthetic = 'gtn-rnd'"),
        ({"optimizer": "adam"}, "optimizer = 'adam' needs lr too"),
        ({"synthetic": "gtn-lrn", "init": "real"}, "init = 'real' is for pixels"),
        ({"augment": "crop+spin"}, "there is no 'spin'"),
    ],
)
def test_bad_settings(config: dict[str, object], message: str, digits: Dataset) -> None:
    with pytest.raises(SpecError) as caught:
        plan(DistillSpec(method="unroll", ipc=2, settings=config), digits)
    assert message in str(caught.value)


def test_an_unknown_student_is_said_before_anything_runs(digits: Dataset) -> None:
    with pytest.raises(SpaceError, match="is not in the space"):
        plan(DistillSpec(method="unroll", settings={"students": ["D9"]}), digits)


def test_divergence_is_said(digits: Dataset) -> None:
    config = {**SMALL, "students": ["D1-W32-relu-none-none"], "student_lr": 1e30}
    with pytest.raises(DivergedError, match=r"lower its learning rate|diverged"):
        distill(DistillSpec(method="unroll", steps=3, settings=config), digits)
