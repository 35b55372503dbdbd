from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from proxynas.core import seeds
from proxynas.core.errors import DivergedError, SpaceError
from proxynas.datasets import Dataset
from proxynas.distill import students
from proxynas.distill.loop import distill, plan
from proxynas.distill.methods import ift
from proxynas.distill.methods.ift import Series
from proxynas.nets import convnet
from proxynas.specs import DistillSpec

SMALL = {"student": "D1-W32-sigmoid-none-avgpooling", "real_batch": 20, "inner": 4, "terms": 3}
L2 = 0.5


def ridge_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of ``x @ w`` and half of L2 · ‖w‖², the sum over rows; x (B, D), y
    (B,).
    """
    w = parameters["w"]
    return 0.5 * (x @ w - y).square().sum() + 0.5 * L2 * w.square().sum()


def ridge() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    """Synthetic rows, their targets, real data, the weights that ridge regression finds, and the
    exact gradient.
    """
    generator = torch.Generator().manual_seed(0)
    x, y, a, b = (
        torch.randn(*size, dtype=torch.float64, generator=generator)
        for size in ((8, 4), (8,), (20, 4), (20,))
    )
    x = x.requires_grad_()
    w = torch.linalg.solve(
        x.T @ x + L2 * torch.eye(4, dtype=x.dtype), x.T @ y
    )  # the student, trained to the end
    ridge_loss({"w": w}, a, b).backward()  # differentiates the closed form
    assert x.grad is not None
    return x.detach(), y, (a, b), w.detach(), x.grad


def test_against_the_closed_form_of_ridge_regression() -> None:
    x, y, real, w, exact = ridge()
    hessian = x.T @ x + L2 * torch.eye(4, dtype=x.dtype)
    alpha = 1 / torch.linalg.eigvalsh(hessian)[-1].item()
    errors = []
    for terms in (0, 1, 3, 10, 30, 100, 300, 1000):
        actual = ift.hypergradient(ridge_loss, {"w": w}, x, y, real, Series(alpha, terms))
        errors.append(((actual.x - exact).norm() / exact.norm()).item())
    assert all(later < earlier for earlier, later in pairwise(errors) if earlier > 1e-12)
    assert errors[-1] < 1e-9


def test_the_truncated_series_is_equation_7() -> None:
    x, y, real, w, _ = ridge()
    alpha, terms = 0.02, 5
    hessian = x.T @ x + L2 * torch.eye(4, dtype=x.dtype)
    inverse = alpha * sum(
        torch.linalg.matrix_power(torch.eye(4, dtype=x.dtype) - alpha * hessian, j)
        for j in range(terms + 1)
    )
    outer = real[0].T @ (real[0] @ w - real[1]) + L2 * w
    mixed = torch.autograd.functional.jacobian(lambda x: x.T @ (x @ w - y), x)  # (D, B, D)
    expected = -torch.einsum("d,dbe->be", inverse @ outer, mixed)
    actual = ift.hypergradient(ridge_loss, {"w": w}, x, y, real, Series(alpha, terms))
    torch.testing.assert_close(actual.x, expected, rtol=1e-10, atol=1e-12)
    start, end = (
        outer.norm(),
        (torch.linalg.matrix_power(torch.eye(4) - alpha * hessian, terms) @ outer).norm(),
    )
    assert actual.growth == pytest.approx((end / start).item(), rel=1e-6)
    assert actual.loss == pytest.approx(ridge_loss({"w": w}, *real).item(), rel=1e-12)


def test_products_of_a_network_against_finite_differences() -> None:
    """One term: −α · p · ∂²L/∂θ∂x with p = (2I − αH) v, by differences in float64."""
    with seeds.seeded(0):
        net = convnet.make(
            (1, 8, 8),
            3,
            depth=1,
            width=4,
            norm="groupnorm",
            activation="sigmoid",
            pooling="avgpooling",
        ).double()
    parameters, loss = students.student_loss([net])
    generator = torch.Generator().manual_seed(1)
    x, a = (torch.randn(n, 1, 8, 8, dtype=torch.float64, generator=generator) for n in (6, 9))
    y, real, alpha, h = torch.arange(6) % 3, (a, torch.arange(9) % 3), 0.1, 1e-5
    actual = ift.hypergradient(loss, parameters, x, y, real, Series(alpha, 1))

    def gradient(p: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return torch.func.grad(loss)(p, x, y)

    def along(p: dict[str, Tensor], v: dict[str, Tensor], size: float) -> dict[str, Tensor]:
        return {name: p[name] + size * v[name] for name in p}

    v = gradient(parameters, *real)
    plus, minus = (gradient(along(parameters, v, sign * h), x, y) for sign in (1, -1))
    p = {name: 2 * v[name] - alpha * (plus[name] - minus[name]) / (2 * h) for name in v}
    direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    plus, minus = (gradient(parameters, x + sign * h * direction, y) for sign in (1, -1))
    slope = -alpha * sum((p[name] * (plus[name] - minus[name]) / (2 * h)).sum() for name in p)
    assert (actual.x * direction).sum().item() == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize("restart", [0, 1, 3])
def test_a_student_lives_for_restart_steps(restart: int, digits: Dataset) -> None:
    task, _ = plan(DistillSpec(method="ift", settings={**SMALL, "restart": restart}), digits)
    state = ift.init(task)
    ages = []
    for k in range(5):
        student, _ = ift._student(task, state, k)
        ages.append(student.start is None)  # fresh
        state, _ = ift.step(task, state, k)
    assert (
        ages
        == {0: [True] + 4 * [False], 1: 5 * [True], 3: [True, False, False, True, False]}[restart]
    )


def test_the_inner_loop_ends_when_the_gradient_is_small(digits: Dataset) -> None:
    task, _ = plan(DistillSpec(method="ift", settings={**SMALL, "student_lr": 0.1}), digits)
    parameters, loss = students.student_loss([students.student(task, SMALL["student"], "x")])
    student = ift.Student(parameters, {name: torch.zeros_like(p) for name, p in parameters.items()})
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10)
    steps = 0
    while steps < 5000:
        student, small = ift._descend(loss, student, x, y, task.settings)
        steps += 1
        if small:
            break
    assert 10 < steps < 5000
    assert student.start is not None
    g = torch.func.grad(loss)(student.parameters, x, y)
    assert ift._norm(g) ** 2 < 2 * ift.SMALL * student.start


def test_a_series_that_diverges_is_said_with_a_better_alpha(digits: Dataset) -> None:
    with pytest.raises(DivergedError, match=r"lower alpha \(now 100\) under ([\d.e+-]+)") as caught:
        distill(
            DistillSpec(method="ift", steps=2, settings={**SMALL, "alpha": 100.0, "terms": 10}),
            digits,
        )
    better = 0.5 * float(str(caught.value).rsplit(" ", 1)[1])
    distill(
        DistillSpec(method="ift", steps=2, settings={**SMALL, "alpha": better, "terms": 10}), digits
    )


def test_a_student_that_diverges_is_said(digits: Dataset) -> None:
    config = {**SMALL, "student": "D2-W32-relu-none-none", "student_lr": 1e20}
    with pytest.raises(DivergedError, match=r"lower student_lr \(now 1e\+20\) or lr \(now 10\)"):
        distill(DistillSpec(method="ift", steps=3, settings=config), digits)


def test_a_set_that_gets_worse_is_said(digits: Dataset) -> None:
    task, _ = plan(DistillSpec(method="ift", settings=SMALL), digits)
    fine = ift.Hypergradient(2.3, torch.zeros(1), 0.5)
    series = Series(0.01, 3)
    state = ift._check(task, {}, fine, series, 0)
    for k in range(1, 5):
        state = ift._check(task, state, fine, series, k)
    bad = replace(
        fine, loss=20.0
    )  # the running mean rises by 1.77 with the first and over ln 10 with the second
    state = ift._check(task, state, bad, series, 5)
    with pytest.raises(
        DivergedError, match=r"rose from 2\.3 to .*lower lr \(now 10\) or clip \(now 10\)"
    ):
        ift._check(task, state, bad, series, 6)


def test_an_unknown_student_is_said_before_anything_runs(digits: Dataset) -> None:
    with pytest.raises(SpaceError, match="is not in the space"):
        plan(DistillSpec(method="ift", settings={"student": "D9"}), digits)


def test_a_noise_of_its_own_for_every_step_of_the_student(digits: Dataset) -> None:
    """GTN-rnd: the same seed makes the same set, another step's noise another image."""
    config = {**SMALL, "synthetic": "gtn-rnd", "k": 8}
    one, two = (
        distill(DistillSpec(method="ift", ipc=2, steps=2, settings=config), digits) for _ in "ab"
    )
    assert torch.equal(one.x, two.x)
    assert one.generator is not None
    assert not torch.equal(one.generate(2).x, one.generate(2, seed=1).x)


def test_memory_of_a_step_does_not_hold_the_training(digits: Dataset) -> None:
    """The hypergradient takes detached parameters: nothing is left to back-propagate through."""
    task, _ = plan(DistillSpec(method="ift", settings=SMALL), digits)
    parameters, loss = students.student_loss([nn.Sequential(nn.Flatten(), nn.Linear(64, 10))])
    student = ift.Student(parameters, {name: torch.zeros_like(p) for name, p in parameters.items()})
    x = torch.randn(10, 1, 8, 8, requires_grad=True)
    with torch.no_grad():
        student, _ = ift._descend(loss, student, x, torch.arange(10), task.settings)
    assert not any(p.requires_grad for p in student.parameters.values())
