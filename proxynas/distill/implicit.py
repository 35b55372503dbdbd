"""Implicit gradients of an inner problem (Loo 2023, eq. 1, 6, 7); the rates of its two loops.

    u*       = argmin_u L_i(u, ψ)                           synthetic set ψ = (x, y)
    g        = ∂L_o/∂u,   H = ∂²L_i/∂u²,   both at u*
    v        = argmin_v ½ vᵀHv − gᵀv  =  H⁻¹g               (7), up to a factor and a constant
    dL_o/dψ  = ∂L_o/∂ψ − ∂/∂ψ (∂L_i/∂u · v)                 (1): direct and implicit gradient
    L_o      = cross-entropy(f(X_T)/τ, y_T)  or  ½ ‖f(X_T) − Y_T‖²                          (6)

L_i is an :class:`~proxynas.distill.linearised.Inner` problem. The paper's eq. 1 has a plus in the
fourth line, but the implicit function theorem gives ∂u*/∂ψ = −H⁻¹ ∂²L_i/∂u∂ψ.

Both u* and v come from a few steps of Adam. Nothing is kept of a step but u or v, so memory does
not depend on how many there are.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from .linearised import Inner, Student, dot
from .students import Parameters, as_leaves

OuterLoss = Literal["platt", "mse"]
Pair = tuple[Tensor, Tensor]
"""Images (n, …) and labels, (n, K) of a synthetic set, (n,) of real data; or their gradients."""
Triple = tuple[Tensor, Tensor, Tensor]
"""Gradients in x, y and log τ."""
Draw = Callable[[], Tensor | None]
"""Draws the images (k,) that the next gradient goes through; ``None``: all."""

GROWTH, MARGIN = 1.2, 0.7
"""Factor between two rates that are tried, and of the highest at which the loss decreases."""
TRIALS = 60
SMALL_JACOBIAN, LARGE_JACOBIAN = 4_000_000, 64_000_000
"""Entries of a Jacobian that is worth having in any case, and of the largest that may be.

Read off ``make bench`` on two cores of an AMD EPYC (Zen 5), the last on those of an Intel Xeon.
"""
ROUNDING = 1e-6
"""By how much of its largest value a loss may rise and still count as decreasing."""


@dataclass(frozen=True)
class Outer:
    """The outer problem: the loss ``kind`` on ``real`` data, at temperature τ.

    Real images are taken ``chunk`` at a time; ``None``: all at once.
    """

    real: Pair
    log_tau: Tensor
    kind: OuterLoss
    chunk: int | None = None


@dataclass(frozen=True)
class Loop:
    """``steps`` steps of Adam at the learning rate ``rate``."""

    steps: int
    rate: float


@dataclass(frozen=True)
class Hypergradient:
    """Outer loss, its direct and its implicit gradient, and the losses of both loops."""

    loss: float
    direct: Triple
    implicit: Pair
    inner_losses: list[float]
    inverse_losses: list[float]


def no_draw() -> Tensor | None:
    """Gradients go through all images."""
    return None


def hypergradient(
    inner: Inner,
    synthetic: Pair,
    outer: Outer,
    loops: tuple[Loop, Loop],
    draw: Draw = no_draw,
    tabulate: bool = False,
) -> Hypergradient:
    """The gradient in the synthetic set of the loss on real data of a student trained on it.

    ``loops`` are those of the inner problem and of the inverse Hessian. With ``tabulate`` they work
    on a Jacobian (:meth:`Inner.tabulated`).
    """
    inner_loop, inverse_loop = loops
    looped = inner.tabulated(synthetic[0]) if tabulate else inner
    u, inner_losses = solve_inner(looped, synthetic, inner_loop, draw)
    loss, g, direct = outer_gradients(inner, u, synthetic, outer, draw())
    if inverse_loop.steps == 0:
        zeros = torch.zeros_like(synthetic[0]), torch.zeros_like(synthetic[1])
        return Hypergradient(loss, direct, zeros, inner_losses, [])
    v, inverse_losses = solve_inverse(looped, u, g, synthetic, inverse_loop, draw)
    implicit = implicit_gradient(inner, u, v, synthetic, draw())
    return Hypergradient(loss, direct, implicit, inner_losses, inverse_losses)


def solve_inner(
    inner: Inner,
    synthetic: Pair,
    loop: Loop,
    draw: Draw = no_draw,
) -> tuple[Parameters, list[float]]:
    """u after a loop of Adam on the inner loss, and its value before each step."""

    def gradient(u: Parameters) -> tuple[Tensor, Parameters]:
        return inner.gradient(u, *synthetic, draw())

    return adam(inner.initial(), gradient, loop.steps, loop.rate)


def solve_inverse(
    inner: Inner,
    u: Parameters,
    g: Parameters,
    synthetic: Pair,
    loop: Loop,
    draw: Draw = no_draw,
) -> tuple[Parameters, list[float]]:
    """v ≈ H⁻¹g after a loop of Adam on eq. 7, and ½ vᵀHv − gᵀv before each step."""

    def gradient(v: Parameters) -> tuple[Tensor, Parameters]:
        product = inner.hessian_product(u, v, *synthetic, draw())
        loss = 0.5 * dot(v, product) - dot(g, v)
        return loss, {name: product[name] - g[name] for name in g}

    zeros = {name: torch.zeros_like(value) for name, value in u.items()}
    return adam(zeros, gradient, loop.steps, loop.rate)


def outer_gradients(
    inner: Inner,
    u: Parameters,
    synthetic: Pair,
    outer: Outer,
    subset: Tensor | None = None,
) -> tuple[float, Parameters, Triple]:
    """The outer loss (eq. 6), g = ∂L_o/∂u, and the direct gradient in x, y and log τ.

    Gradients of real images are taken a chunk at a time, in τ, u and the last layer; the last
    layer's is then pulled back to the synthetic images. Without ``reparameterise`` the last layer
    does not depend on the set, and the direct gradient in the set is zero.
    """
    leaves = as_leaves(u)
    x, y, tau = (value.detach().requires_grad_() for value in (*synthetic, outer.log_tau))
    last = inner.last_layer(leaves, x, y, subset)
    last_leaf = last.detach().requires_grad_()
    wanted = [last_leaf, tau, *leaves.values()]
    gradients = [torch.zeros_like(value) for value in wanted]
    size = len(outer.real[0])
    chunks = (torch.split(part, outer.chunk or size) for part in outer.real)
    total = 0.0
    for inputs, labels in zip(*chunks, strict=True):
        outputs = inner.predict(leaves, last_leaf, inputs)
        loss = outer_loss(outputs, labels, tau, outer.kind) * (len(inputs) / size)
        of_chunk = torch.autograd.grad(loss, wanted, materialize_grads=True)
        gradients = [a + b for a, b in zip(gradients, of_chunk, strict=True)]
        total += loss.item()
    in_last, in_tau, *in_u = gradients
    through_last = torch.autograd.grad(
        last,
        [x, y, *leaves.values()],
        in_last,
        materialize_grads=True,
    )
    in_x, in_y, *in_u_through_last = through_last
    g = {name: a + b for name, a, b in zip(leaves, in_u, in_u_through_last, strict=True)}
    return total, g, (in_x, in_y, in_tau)


def implicit_gradient(
    inner: Inner,
    u: Parameters,
    v: Parameters,
    synthetic: Pair,
    subset: Tensor | None = None,
) -> Pair:
    """−∂/∂ψ (∂L_i/∂u · v) in x and y."""
    x, y = (value.detach().requires_grad_() for value in synthetic)
    slope = inner.slope(u, v, x, y, subset)
    in_x, in_y = torch.autograd.grad(-slope, [x, y])
    return in_x, in_y


def outer_loss(outputs: Tensor, y: Tensor, log_tau: Tensor, kind: OuterLoss) -> Tensor:
    """Mean loss of outputs (B, K) on labels (B,): cross-entropy at temperature τ, or ½ ‖·‖²."""
    if kind == "platt":
        return F.cross_entropy(outputs / log_tau.exp(), y)
    target = centred(y, outputs.shape[1]).to(outputs)
    return 0.5 * (outputs - target).square().sum(1).mean()


def centred(y: Tensor, classes: int) -> Tensor:
    """Labels (n,) as one-hot rows less their mean, float (n, K)."""
    return F.one_hot(y, classes).to(torch.get_default_dtype()) - 1 / classes


def adam(
    start: Parameters,
    gradient: Callable[[Parameters], tuple[Tensor, Parameters]],
    steps: int,
    rate: float,
) -> tuple[Parameters, list[float]]:
    """``steps`` steps of Adam (Kingma 2015, Algorithm 1) and the loss before each."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    u = start
    m = {name: torch.zeros_like(value) for name, value in start.items()}
    s = m
    losses = []
    for t in range(1, steps + 1):
        loss, g = gradient(u)
        losses.append(loss)
        m = {name: beta1 * m[name] + (1 - beta1) * g[name] for name in g}
        s = {name: beta2 * s[name] + (1 - beta2) * g[name].square() for name in g}
        for_m = 1 - beta1**t
        for_s = 1 - beta2**t
        step = {name: (m[name] / for_m) / ((s[name] / for_s).sqrt() + epsilon) for name in g}
        u = {name: u[name] - rate * step[name] for name in g}
    return u, torch.stack(losses).double().tolist() if losses else []


def adabelief(state: Mapping[str, Tensor], g: Tensor, rate: float) -> dict[str, Tensor]:
    """The state ``value``, ``m``, ``s``, ``t`` after a step of AdaBelief (Zhuang 2020, Alg. 2).

    Adam with the square of the gradient's surprise, (g − m)², where Adam has that of the gradient;
    β 0.9 and 0.999, ε 1e-16.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-16
    t = state["t"] + 1
    m = beta1 * state["m"] + (1 - beta1) * g
    s = beta2 * state["s"] + (1 - beta2) * (g - m).square() + epsilon
    for_m = 1 - beta1 ** t.item()
    for_s = 1 - beta2 ** t.item()
    step = (m / for_m) / ((s / for_s).sqrt() + epsilon)
    return {"value": state["value"] - rate * step, "m": m, "s": s, "t": t}


def tabulation_pays(student: Student, x: Tensor, y: Tensor, steps: int) -> bool:
    """Whether one Jacobian for images x (n, …), y (n, K) is faster than ``steps`` tangents.

    On a CPU while it is small, or small beside a forward pass, and where there are more steps than
    half of the classes (measured with ``make bench``).
    """
    entries = y.numel() * sum(value.numel() for value in student.parameters.values())
    if x.device.type != "cpu" or entries > LARGE_JACOBIAN or 2 * steps <= y.shape[1]:
        return False
    if entries <= SMALL_JACOBIAN:
        return True
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        student.body(student.parameters, x[:1])
    return 10 * entries <= len(x) * counter.get_total_flops()


def decreases(losses: list[float]) -> bool:
    """Whether a loss falls from each step to the next; a sequence that is not finite does not."""
    if not all(map(math.isfinite, losses)):
        return False
    slack = ROUNDING * max(map(abs, losses), default=0.0)
    return all(later <= earlier + slack for earlier, later in pairwise(losses))


def find_rate(run: Callable[[float], list[float]], start: float) -> float:
    """0.7 of the highest rate, to a factor of 1.2, at which the losses of ``run(rate)`` decrease.

    Appendix C of the paper.
    """
    rate = start
    upward = decreases(run(rate))
    for _ in range(TRIALS):
        following = rate * GROWTH if upward else rate / GROWTH
        if decreases(run(following)) != upward:
            break
        rate = following
    return (rate if upward else rate / GROWTH) * MARGIN
