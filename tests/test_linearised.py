"""The inner problem of RCIG against independent answers, in float64 on small networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from proxynas.core import seeds
from proxynas.distill import implicit, linearised
from proxynas.distill.implicit import Loop, Outer
from proxynas.distill.linearised import LAST, Centred, Linearised
from proxynas.nets import published

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
    some,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_the_linearised_output_is_the_first_order_taylor_expansion() -> None:
    net, inner = network(), problem(Linearised, False)
    start = {name: p.detach() for name, p in net.named_parameters()}
    u = like(inner.initial(), 5)
    change = {
        name: u[LAST if name == "classifier.weight" else name]
        for name in start
        if name != "classifier.bias"
    }
    change["classifier.bias"] = torch.zeros(CLASSES)
    (x, y), (inputs, _) = data()
    actual = inner.predict(u, inner.last_layer(u, x, y), inputs)
    errors = []
    for size in (1e-2, 1e-3):  # f(θ₀ + εu) = f(θ₀) + ε f_lin(u) + O(ε²)
        moved, still = (
            functional_call(net, p, (inputs,)) for p in (plus(start, change, size), start)
        )
        errors.append((moved - still - size * actual).norm().item())
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.05)
    ahead, back = (
        functional_call(net, plus(start, change, size), (inputs,)) for size in (1e-5, -1e-5)
    )
    close(actual, (ahead - back) / 2e-5, 1e-8)


def test_centred_training_is_the_change_of_the_output_and_linearised_its_first_order() -> None:
    net, centred, first = network(), problem(Centred, True), problem(Linearised, True)
    start = {name: p.detach() for name, p in net.named_parameters()}
    u, x = like(centred.initial(), 5), data()[0][0]
    moved = functional_call(net, {**start, **plus({name: start[name] for name in u}, u)}, (x,))
    features, offset = centred.dynamics.forward(u, x)
    torch.testing.assert_close(
        offset, (moved - functional_call(net, start, (x,))).detach(), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(features, first.dynamics.forward(u, x)[0])
    small = {name: 1e-6 * value for name, value in u.items()}
    close(centred.dynamics.forward(small, x)[1], first.dynamics.forward(small, x)[1], 1e-5)


def test_the_last_layer_against_least_squares() -> None:
    """Eq. 3 and 4: numpy's solver on the rows of the features and, below, √λ times the identity."""
    inner = problem(Linearised, True)
    u, (x, y) = like(inner.initial(), 5), data()[0]
    features, offset = inner.dynamics.forward(u, x)
    rows = np.vstack([features.numpy(), math.sqrt(L2 * N) * np.eye(features.shape[1])])
    wanted = np.vstack([(y - offset).numpy(), np.zeros((features.shape[1], CLASSES))])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]  # (H, K)
    torch.testing.assert_close(
        inner.last_layer(u, x, y), torch.from_numpy(solution.T), rtol=1e-10, atol=0
    )


def test_float32_is_solved_in_float64() -> None:
    features, y = some(40, 60, seed=1) @ some(60, 60, seed=2) + 100, some(40, CLASSES, seed=3)
    exact = linearised.ridge(features.float().double(), y.float().double(), 1e-4)
    actual = linearised.ridge(features.float(), y.float(), 1e-4)
    assert actual.dtype == torch.float32
    close(actual.double(), exact, 1e-6)


@pytest.mark.parametrize(("dynamics", "reparameterise"), KINDS, ids=NAMES)
def test_derivatives_of_the_inner_loss_against_finite_differences(
    dynamics: type, reparameterise: bool
) -> None:
    inner, (x, y), h = problem(dynamics, reparameterise), data()[0], 1e-5
    u, v = plus(inner.initial(), like(inner.initial(), 5), 0.3), like(inner.initial(), 9)
    ahead, back = plus(u, v, h), plus(u, v, -h)
    slope = ((inner.loss(ahead, x, y) - inner.loss(back, x, y)) / (2 * h)).item()
    loss, g = inner.gradient(u, x, y)
    assert loss.item() == pytest.approx(inner.loss(u, x, y).item())
    assert linearised.dot(g, v).item() == pytest.approx(slope, rel=1e-7)
    assert inner.slope(u, v, x, y).item() == pytest.approx(slope, rel=1e-7)
    difference = (flat(inner.gradient(ahead, x, y)[1]) - flat(inner.gradient(back, x, y)[1])) / (
        2 * h
    )
    close(flat(inner.hessian_product(u, v, x, y)), difference, 1e-7)


def test_the_product_without_labels_is_the_pearlmutter_product() -> None:
    inner, (x, y) = problem(Linearised, True), data()[0]
    u, v = like(inner.initial(), 5), like(inner.initial(), 9)
    leaves = linearised.as_leaves(u)
    usual = torch.autograd.grad(inner.slope(leaves, v, x, y), list(leaves.values()))
    close(flat(inner.hessian_product(u, v, x, y)), torch.cat([g.flatten() for g in usual]), 1e-12)


@pytest.mark.parametrize("reparameterise", [True, False])
def test_with_the_jacobian_at_hand_all_is_the_same(reparameterise: bool) -> None:
    inner, ((x, y), real), tau = problem(Linearised, reparameterise), data(), torch.tensor(0.3)
    table, u = inner.tabulated(x), like(inner.initial(), 5)
    assert table.dynamics.jacobian.shape == (
        N * CLASSES,
        sum(value.numel() for value in inner.dynamics.initial()[0].values()),
    )
    assert table.loss(u, x, y).item() == pytest.approx(inner.loss(u, x, y).item(), rel=1e-12)
    close(flat(table.gradient(u, x, y)[1]), flat(inner.gradient(u, x, y)[1]), 1e-12)
    close(flat(table.hessian_product(u, u, x, y)), flat(inner.hessian_product(u, u, x, y)), 1e-12)
    outer, loop = Outer(real, tau, "platt"), Loop(5, 1e-3)
    usual, fast = (
        implicit.hypergradient(inner, (x, y), outer, (loop, loop), tabulate=tabulate)
        for tabulate in (False, True)
    )
    assert fast.loss == pytest.approx(usual.loss, rel=1e-10)
    assert fast.inner_losses == pytest.approx(usual.inner_losses, rel=1e-10)
    for one, two in zip(
        (*fast.direct, *fast.implicit), (*usual.direct, *usual.implicit), strict=True
    ):
        close(one, two, 1e-8)


def test_the_best_last_layer_is_what_plain_training_ends_at() -> None:
    """The reparameterised loss is the plain one's least value over the last layer."""
    best, plain, (x, y) = problem(Linearised, True), problem(Linearised, False), data()[0]
    u = like(best.initial(), 5)
    last = best.last_layer(u, x, y)
    assert plain.loss({**u, LAST: last}, x, y).item() == pytest.approx(
        best.loss(u, x, y).item(), rel=1e-12
    )
    assert plain.gradient({**u, LAST: last}, x, y)[1][LAST].abs().max() < 1e-12


@pytest.mark.parametrize("name", published.NETWORKS)
def test_any_network_that_ends_in_a_linear_layer_can_be_cut(name: str) -> None:
    with seeds.seeded(0):
        net = published.make((3, 32, 32), CLASSES, net=name)
    x, last = (
        some(4, 3, 32, 32),
        [module for module in net.modules() if isinstance(module, nn.Linear)][-1],
    )
    wanted = net(x)
    student = linearised.cut(net, CLASSES)
    assert not student.mixes
    features = student.body(student.parameters, x)
    torch.testing.assert_close(features @ student.last.T + last.bias, wanted)
    _, offset = Linearised(student).forward(like(student.parameters, 1), x)
    assert offset.isfinite().all()
