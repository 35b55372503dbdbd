"""Implicit gradients and the rates of their loops against independent answers, in float64."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from proxynas.distill import implicit, linearised
from proxynas.distill.implicit import Loop, Outer
from proxynas.distill.linearised import Centred, Inner, Linearised
from proxynas.distill.students import Parameters

from .inner import (
    CLASSES,
    KINDS,
    L2,
    NAMES,
    N,
    close,
    data,
    flat,
    like,
    network,
    plus,
    problem,
    shaped,
    some,
)

pytestmark = pytest.mark.usefixtures("float64")


def hessian(inner: Inner, u: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Reverse mode twice, which no product here is."""
    leaves = linearised.as_leaves(u)
    actual = torch.autograd.grad(inner.loss(leaves, x, y), list(leaves.values()), create_graph=True)
    g = torch.cat([part.flatten() for part in actual])
    rows = torch.autograd.grad(g, list(leaves.values()), torch.eye(len(g)), is_grads_batched=True)
    return torch.cat([part.flatten(1) for part in rows], 1)


def converged(inner: Inner, x: Tensor, y: Tensor, start: Parameters) -> Parameters:
    """A minimum by Newton's method, far beyond what the test asks for: downhill first, where the
    loss is not convex.
    """
    u = start
    for _ in range(100):
        loss, g = inner.gradient(u, x, y)
        values, vectors = torch.linalg.eigh(hessian(inner, u, x, y))
        if flat(g).norm() < 1e-11:
            break
        move, size = shaped(vectors @ (vectors.T @ flat(g) / values.abs()), u), 1.0
        while size > 1e-6 and inner.loss(plus(u, move, -size), x, y) > loss + 1e-12:
            size /= 2
        u = plus(u, move, -size)
    assert flat(g).norm() < 1e-9
    assert values.min() > 0
    return u


@pytest.mark.parametrize("kind", ["platt", "mse"])
@pytest.mark.parametrize(("dynamics", "reparameterise"), KINDS, ids=NAMES)
def test_the_hypergradient_against_solving_the_inner_problem_again(
    dynamics: type, reparameterise: bool, kind: implicit.OuterLoss
) -> None:
    inner, ((x, y), real), tau, h = (
        problem(dynamics, reparameterise),
        data(),
        torch.tensor(0.3),
        1e-5,
    )
    best = converged(inner, x, y, inner.initial())
    _, g, direct = implicit.outer_gradients(inner, best, (x, y), Outer(real, tau, kind))
    v = shaped(torch.linalg.solve(hessian(inner, best, x, y), flat(g)), best)
    turned = implicit.implicit_gradient(inner, best, v, (x, y))

    def outer(size: float, dx: Tensor, dy: Tensor, dtau: float) -> float:
        moved = x + size * dx, y + size * dy
        u = converged(inner, *moved, best)
        outputs = inner.predict(u, inner.last_layer(u, *moved), real[0])
        return implicit.outer_loss(outputs, real[1], tau + size * dtau, kind).item()

    for dx, dy, dtau in (
        (some(*x.shape, seed=7), 0 * y, 0.0),
        (0 * x, some(*y.shape, seed=8), 0.0),
        (0 * x, 0 * y, 1.0),
    ):
        wanted = (outer(h, dx, dy, dtau) - outer(-h, dx, dy, dtau)) / (2 * h)
        actual = (
            ((direct[0] + turned[0]) * dx).sum()
            + ((direct[1] + turned[1]) * dy).sum()
            + direct[2] * dtau
        )
        assert actual.item() == pytest.approx(wanted, rel=1e-5, abs=1e-9)
    if not reparameterise:
        assert not direct[0].any()  # the outer loss does not see the set
        assert not direct[1].any()


@pytest.mark.parametrize(("dynamics", "reparameterise"), KINDS, ids=NAMES)
def test_real_images_in_chunks(dynamics: type, reparameterise: bool) -> None:
    inner, (synthetic, real), tau = problem(dynamics, reparameterise), data(), torch.tensor(0.3)
    u = plus(inner.initial(), like(inner.initial(), 5), 0.3)
    whole, parts = (
        implicit.outer_gradients(inner, u, synthetic, Outer(real, tau, "platt", chunk))
        for chunk in (None, 4)
    )
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    close(flat(parts[1]), flat(whole[1]), 1e-12)
    for a, b in zip(parts[2], whole[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_both_loops_end_at_the_exact_hypergradient() -> None:
    inner, ((x, y), real), tau = problem(Linearised, True), data(), torch.tensor(0.0)
    inner = replace(inner, l2=0.2)
    best = converged(inner, x, y, inner.initial())
    outer = Outer(real, tau, "platt")
    _, g, direct = implicit.outer_gradients(inner, best, (x, y), outer)
    v = shaped(torch.linalg.solve(hessian(inner, best, x, y), flat(g)), best)
    wanted = implicit.implicit_gradient(inner, best, v, (x, y))
    actual = implicit.hypergradient(inner, (x, y), outer, (Loop(300, 0.01), Loop(300, 0.002)))
    assert len(actual.inner_losses) == len(actual.inverse_losses) == 300
    assert implicit.decreases(actual.inverse_losses[:20])
    close(actual.direct[0], direct[0], 1e-2)
    close(actual.implicit[0], wanted[0], 2e-2)
    close(actual.implicit[1], wanted[1], 2e-2)


def test_without_steps_it_is_kernel_ridge_regression() -> None:
    """n_inner = n_Hinv = 0 and squares: the objective of FRePo (Zhou 2022), written anew."""
    net, ((x, y), (inputs, labels)) = network(), data()
    inner = problem(Linearised, True)
    outer = Outer((inputs, labels), torch.tensor(0.0), "mse")
    actual = implicit.hypergradient(inner, (x, y), outer, (Loop(0, 1.0), Loop(0, 1.0)))
    x, y = x.requires_grad_(), y.requires_grad_()
    seen, asked = (net.features(images).flatten(1) for images in (x, inputs))
    weights = torch.linalg.inv(seen @ seen.T + L2 * N * torch.eye(N)) @ y
    target = torch.eye(CLASSES)[labels] - 1 / CLASSES
    loss = ((asked @ seen.T @ weights - target) ** 2).sum() / (2 * len(inputs))
    loss.backward()
    assert x.grad is not None
    assert y.grad is not None
    assert actual.loss == pytest.approx(loss.item(), rel=1e-12)
    close(actual.direct[0], x.grad, 1e-10)
    close(actual.direct[1], y.grad, 1e-10)
    assert not actual.implicit[0].any()
    assert not actual.implicit[1].any()


@pytest.mark.parametrize(("dynamics", "reparameterise"), KINDS, ids=NAMES)
def test_gradients_through_a_part_are_unbiased(dynamics: type, reparameterise: bool) -> None:
    """Their mean over all 15 pairs of the six images is the whole gradient, to rounding."""
    inner, ((x, y), real), tau = problem(dynamics, reparameterise), data(), torch.tensor(0.3)
    u, v = plus(inner.initial(), like(inner.initial(), 5), 0.3), like(inner.initial(), 9)

    def every(keep: Tensor | None) -> list[Tensor]:
        _, g, direct = implicit.outer_gradients(inner, u, (x, y), Outer(real, tau, "platt"), keep)
        loss, config = inner.gradient(u, x, y, keep)
        product = inner.hessian_product(u, v, x, y, keep)
        turned = implicit.implicit_gradient(inner, u, v, (x, y), keep)
        return [loss, flat(g), *direct, flat(config), flat(product), *turned]

    parts = [every(torch.tensor(keep)) for keep in combinations(range(N), 2)]
    for wanted, *actual in zip(every(None), *parts, strict=True):
        torch.testing.assert_close(torch.stack(actual).mean(0), wanted, rtol=1e-9, atol=1e-12)
    assert (parts[0][-2] != 0).flatten(1).any(1).sum() == 2  # only the part's own images


def test_nothing_of_a_loop_is_kept_to_differentiate() -> None:
    inner, (synthetic, _) = problem(Centred, True), data()
    u, _ = implicit.solve_inner(inner, synthetic, Loop(3, 0.01))
    v, _ = implicit.solve_inverse(inner, u, like(u, 5), synthetic, Loop(3, 0.01))
    assert not any(value.requires_grad for value in (*u.values(), *v.values()))


def test_a_change_of_the_solved_last_layer_is_not_stationary() -> None:
    """Why H⁻¹v is of the body alone: in a change W of the last layer's weights, whose norm λ weighs
    too, the gradient of the inner loss at W = 0 is −λ θ_F*, at the best body as well."""
    inner, (x, y) = problem(Linearised, True), data()[0]
    best = converged(inner, x, y, inner.initial())
    features, offset = inner.dynamics.forward(best, x)
    change = torch.zeros_like(inner.dynamics.initial()[1]).requires_grad_()
    moved = offset + features @ change.T
    last = linearised.ridge(features, y - moved, L2 * N)
    error = features @ last.T + moved - y
    loss = 0.5 * error.square().sum() + 0.5 * L2 * N * (last.square().sum() + change.square().sum())
    (slope,) = torch.autograd.grad(loss, change)
    torch.testing.assert_close(slope, -L2 * N * inner.last_layer(best, x, y))


def test_adabelief_is_its_papers_formula() -> None:
    gradients, rate = some(7, 5, seed=1), 0.1
    zero = torch.zeros(5)
    state = {"value": zero, "m": zero, "s": zero, "t": torch.tensor(0)}
    value = zero
    for t in range(1, 8):
        state = implicit.adabelief(state, gradients[t - 1], rate)
        m = [
            sum(0.1 * 0.9 ** (j - i) * gradients[i] for i in range(j + 1)) for j in range(t)
        ]  # m_j, unrolled
        s = sum(
            0.999 ** (t - 1 - i) * (0.001 * (gradients[i] - m[i]) ** 2 + 1e-16) for i in range(t)
        )
        value = value - rate * (m[-1] / (1 - 0.9**t)) / (torch.sqrt(s / (1 - 0.999**t)) + 1e-16)
        torch.testing.assert_close(state["value"], value, rtol=1e-12, atol=0)


def test_adam_is_pytorchs() -> None:
    target, parameter = some(5, seed=1), torch.zeros(5, requires_grad=True)

    def gradient(u: Parameters) -> tuple[Tensor, Parameters]:
        return ((u["w"] - target) ** 4).sum(), {"w": 4 * (u["w"] - target) ** 3}

    actual, losses = implicit.adam({"w": torch.zeros(5)}, gradient, 6, 0.1)
    optimizer, wanted = torch.optim.Adam([parameter], lr=0.1), []
    for _ in range(6):
        loss, g = gradient({"w": parameter.detach()})
        parameter.grad = g["w"]
        wanted.append(loss.item())
        optimizer.step()
    torch.testing.assert_close(actual["w"], parameter.detach(), rtol=1e-12, atol=0)
    assert losses == pytest.approx(wanted)


def test_a_rate_grows_while_the_loss_falls() -> None:
    tried = []

    def run(rate: float) -> list[float]:
        tried.append(rate)
        return [3.0, 2.0, 1.0] if rate < 0.1 else [3.0, 2.0, 2.5]

    actual = implicit.find_rate(run, 1e-3)
    assert 0.7 * 0.1 / 1.2 < actual < 0.7 * 0.1
    assert max(tried) < 0.12
    assert len(tried) < 40
    from_above = implicit.find_rate(run, 10.0)
    assert 0.7 * 0.1 / 1.2 < from_above < 0.7 * 0.1
    assert (
        0 < implicit.find_rate(lambda rate: [1.0, math.nan], 1e-3) < 1e-7
    )  # nowhere: as low as it goes


def test_what_falls() -> None:
    assert implicit.decreases([3.0, 2.0, 2.0, 1.0])
    assert implicit.decreases([])
    assert not implicit.decreases([3.0, 2.0, 2.1])
    assert not implicit.decreases([3.0, math.inf])
    assert not implicit.decreases([3.0, math.nan, 1.0])


def test_platt_and_squares() -> None:
    outputs, y, tau = some(4, CLASSES), torch.tensor([0, 1, 2, 0]), torch.tensor(0.7)
    wanted = F.cross_entropy(outputs / math.exp(0.7), y)
    assert implicit.outer_loss(outputs, y, tau, "platt").item() == pytest.approx(wanted.item())
    target = torch.eye(CLASSES)[y] - 1 / CLASSES
    assert implicit.outer_loss(outputs, y, tau, "mse").item() == pytest.approx(
        ((outputs - target) ** 2).sum().item() / 8
    )
