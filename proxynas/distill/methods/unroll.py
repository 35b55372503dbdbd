"""Unroll: back-propagation through the student's training.

Wang et al., "Dataset Distillation" (2018); Medvedev & D'yakonov 2020 (tables) and 2021 (Fig. 1 and
2). Synthetic batches X₁ … X_S with labels y (S is ``ic``), learning rates η = softplus(ρ), a
student θ with momentum v, a batch T of real data; ℓ: cross-entropy:

    v   ←  μ v + ∂/∂θ ℓ(θ; Xₙ, y)                 n = 1 … N, batches in turn     (2021, Fig. 1)
    θ   ←  θ − ηₙ v                                                              (2021, eq. 3)
    L   =  ℓ(θ_N; T), a mean over students and architectures     (2021, eq. 4; 2020, eq. 2)
    X   ←  X − SGD(∂L/∂X)                         ∂L/∂X backwards through all N steps (Fig. 2)
    ρ   ←  ρ − SGD(∂L/∂η · sigmoid(ρ))            where ``learn_rates`` (2018; 2020)

Every step draws fresh students, trains them for N steps on the synthetic set and moves the set
against the gradient of the trained students' loss on real data. The set lies in ``ic`` batches of
ipc / ic images per class, which the students see in a fixed order, over and over. A generator's
parameters take the place of X, and Adam that of SGD.

Memory. Steps are recomputed from stored parameters (Fig. 2), ``segment`` of them at a time: the
graph of one segment and one copy of the student and its momentum per segment are all that is held.
One segment of N steps, the default, is plain back-propagation and the fastest; any other costs one
more forward pass. ``segment=1`` holds the least where activations outweigh the student's
parameters, about √N where they do not. Results are equal to rounding. A generator's graph is built
for one batch at a time, once the gradient in its images is known.

Training is differentiated by plain autograd over functional steps. ``higher``, the usual library
for that, is no longer maintained; tests check these gradients against it.

Where implementations differ: the authors' 2021 code starts pixels from noise uniform on [0, 1),
ours from N(0, 1). Its ic batches are each ipc images per class; here ipc counts all of them, so
that its ``ic=10, ipc=10`` (784 K parameters, Table I) is ``ic=10, ipc=100``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor
from torch.nn import functional as F

from ... import training
from ...core import seeds, settings
from ...core.errors import SpecError
from ...datasets import augment
from ...training.curriculum import Curriculum
from .. import students, synthetic
from ..method import Extras, Method, State, Task, class_labels
from ..students import Loss, Parameters, as_leaves
from ..synthetic import Rule

PIXELS = Rule("sgd", lr=10.0, momentum=0.5, clip=10.0)
GTN = Rule("adam", lr=0.01, momentum=0.9, clip=10.0)

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


@checked(frozen=True, config=settings.CONFIG)
class Unroll(synthetic.Learned):
    """Settings of unroll; the defaults are the published ones (Medvedev 2021)."""

    inner: Count = 10  # N, steps of a student
    ic: Count = 1  # ordered batches that the set is split into
    students: tuple[str, ...] = ()  # see spaces.resolve; none: students.default_student
    replicas: Count = 1  # students of each architecture
    student_lr: Rate = 0.02
    student_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    learn_rates: bool = False  # student_lr is then what the N rates start from
    rate_lr: Rate = 0.01  # learning rate of ρ
    real_batch: Count = 256
    segment: Count | None = None  # steps recomputed at a time; None: all N


@dataclass(frozen=True)
class InnerTraining:
    """A student's training: N steps of SGD, step n on batch n mod S.

    ``x`` (S, B, …) are the batches, ``y`` (B,) the labels of each, ``rates`` (N,) the learning
    rates.
    """

    x: Tensor
    y: Tensor
    rates: Tensor
    momentum: float


Point = tuple[Parameters, Parameters]
"""A student's parameters and their momentum, somewhere in its training."""


@dataclass(frozen=True)
class Hypergradient:
    """Trained students' loss on real data, its gradients in batches (S, B, …) and rates (N,)."""

    loss: float
    x: Tensor
    rates: Tensor


def check(task: Task[Unroll]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`; batches that are not equal, or an order of those
            that have none.
        SpaceError: an unknown student.
    """
    unroll = task.settings
    synthetic.check(task, PIXELS, GTN)
    students.check(task, _archs(task))
    got = f"but got {unroll.ic}"
    if unroll.synthetic == "gtn-rnd" and unroll.ic != 1:
        reason = "with synthetic = 'gtn-rnd', whose batches have no order"
        raise SpecError(f"ic must be 1 {reason}, {got}")
    if task.ipc % unroll.ic:
        raise SpecError(f"ic must divide ipc, the images per class, which is {task.ipc}, {got}")
    if unroll.inner % unroll.ic:
        steps = f"the student's steps, which is {unroll.inner}"
        raise SpecError(f"ic must divide inner, {steps}, {got}")


def init(task: Task[Unroll]) -> State:
    """A new synthetic set, and ρ (N,) where rates are learned."""
    unroll = task.settings
    state = synthetic.start(task, "unroll")
    if unroll.learn_rates:
        rates = torch.full((unroll.inner,), unroll.student_lr, dtype=torch.float64)
        softplus_inverse = rates.expm1().log()
        state["synthetic.rates"] = softplus_inverse.to(task.dataset.train.x)
    return state


def step(task: Task[Unroll], state: State, k: int) -> tuple[State, float]:
    """Train fresh students on the set; move it against the gradient of their mean real loss."""
    unroll = task.settings
    classes = task.dataset.num_classes
    parameters = _set(state)
    functions = _image_functions(task, k)
    with torch.no_grad():
        x = torch.stack([images(parameters).flatten(0, 1) for images in functions])  # (S, B, …)
    y = class_labels(classes, task.ipc // unroll.ic, x.device)  # (B,)
    inner = InnerTraining(x, y, learned_rates(task, state), unroll.student_momentum)
    real = _real(task, k)
    archs = _archs(task)
    count = len(archs) * unroll.replicas
    mean_loss = 0.0
    dx = torch.zeros_like(x)
    drates = torch.zeros_like(inner.rates)
    for arch in archs:
        for start, loss in _students(task, arch, x[0], k):
            gradient = hypergradient(loss, start, inner, real, unroll.segment)
            mean_loss += gradient.loss / count
            dx += gradient.x / count
            drates += gradient.rates / count
    by_class = dx.view(len(dx), classes, -1, *dx.shape[2:])  # (S, C, ipc / ic, …)
    gradients = _pull_back(functions, parameters, by_class)
    if unroll.learn_rates:
        gradients["rates"] = drates * state["synthetic.rates"].sigmoid()  # through the softplus
    rule = unroll.rule(PIXELS, GTN)
    return synthetic.update(state, gradients, rule, {"rates": unroll.rate_lr}), mean_loss


def finish(task: Task[Unroll], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …), class by class, batch by batch within a class, and hard labels."""
    return synthetic.finish(task, _set(state), task.settings.ic, "unroll")


def extras(task: Task[Unroll], state: State) -> Extras:
    """The generator, if any; the curriculum, where batches have an order or rates are learned.

    Learned rates go with the student's momentum, and no weight decay, so these become the recipe's.
    """
    unroll = task.settings
    generator = synthetic.generator_of(task, _set(state), unroll.ic)
    if unroll.ic == 1 and not unroll.learn_rates:
        return Extras(generator=generator)
    if not unroll.learn_rates:
        return Extras(Curriculum(order(task)), generator)
    recipe = {
        "optimizer": "sgd",
        "momentum": unroll.student_momentum,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    rates = learned_rates(task, state).detach().cpu()
    return Extras(Curriculum(order(task), rates), generator, recipe)


def order(task: Task[Unroll]) -> Tensor:
    """The images of each of the N steps, int64 (N, B): rows of what :func:`finish` gives."""
    unroll = task.settings
    classes = task.dataset.num_classes
    rows = torch.arange(classes * task.ipc).view(classes, unroll.ic, -1)
    batches = rows.transpose(0, 1).flatten(1)  # (ic, B), class by class
    return batches[torch.arange(unroll.inner) % unroll.ic]


def learned_rates(task: Task[Unroll], state: State) -> Tensor:
    """The learning rate of each of the N steps, (N,) in the images' dtype."""
    unroll = task.settings
    if unroll.learn_rates:
        return F.softplus(state["synthetic.rates"])
    x = task.dataset.train.x
    return torch.full((unroll.inner,), unroll.student_lr, dtype=x.dtype, device=x.device)


def hypergradient(
    loss: Loss,
    parameters: Parameters,
    inner: InnerTraining,
    real: tuple[Tensor, Tensor],
    segment: int | None = None,
) -> Hypergradient:
    """Gradients of ``loss`` on ``real`` data after the inner training, from ``parameters`` on.

    ``segment`` steps are recomputed at a time; None: all of them, which needs no recomputation.
    """
    n = len(inner.rates)
    size = segment or n
    starts = range(0, n, size)
    points: list[Point] = [(parameters, _zeros(parameters))]  # where each segment starts
    with torch.no_grad():
        for start in starts[:-1]:
            steps = range(start, start + size)
            points.append(_train(loss, points[-1], inner, steps))  # Fig. 1, line 8
    x = inner.x.detach().requires_grad_()
    rates = inner.rates.detach().requires_grad_()
    inner = replace(inner, x=x, rates=rates)
    dx = torch.zeros_like(x)
    drates = torch.zeros_like(rates)
    value = math.nan
    adjoint: list[Tensor] | None = None  # the gradient in parameters and momentum
    for start in reversed(starts):  # Fig. 2
        theta, velocity = (as_leaves(part) for part in points.pop())
        steps = range(start, min(start + size, n))
        end = _train(loss, (theta, velocity), inner, steps)
        outputs = [*end[0].values(), *end[1].values()]
        if adjoint is None:
            outputs = [loss(end[0], *real)]
            value = outputs[0].item()
        inputs = [*theta.values(), *velocity.values(), x, rates]
        gradients = torch.autograd.grad(outputs, inputs, adjoint, materialize_grads=True)
        *adjoint, in_x, in_rates = gradients
        dx += in_x
        drates += in_rates
    return Hypergradient(value, dx, drates)


def _train(loss: Loss, point: Point, inner: InnerTraining, steps: range) -> Point:
    """The student after ``steps``: SGD with momentum, as in ``torch.optim.SGD`` (eq. 3)."""
    parameters, velocity = point
    batches = inner.x.unbind(0)
    rates = inner.rates.unbind(0)
    mu = inner.momentum
    for n in steps:
        g = _gradient(loss, parameters, batches[n % len(batches)], inner.y)
        velocity = {name: mu * velocity[name] + g[name] for name in g} if mu else g
        parameters = {
            name: torch.addcmul(p, rates[n], velocity[name], value=-1)
            for name, p in parameters.items()
        }
    return parameters, velocity


def _gradient(loss: Loss, parameters: Parameters, x: Tensor, y: Tensor) -> Parameters:
    """The gradient in the parameters, itself differentiable where gradients are on.

    Plain autograd, whose second backward pass needs no Python: half the time of ``torch.func.grad``
    on tiny students.
    """
    recording = torch.is_grad_enabled()
    leaves = parameters if recording else as_leaves(parameters)
    with torch.enable_grad():
        value = loss(leaves, x, y)
    gradients = torch.autograd.grad(
        value, list(leaves.values()), create_graph=recording, materialize_grads=True
    )
    return dict(zip(leaves, gradients, strict=True))


def _zeros(parameters: Parameters) -> Parameters:
    return {name: torch.zeros_like(value) for name, value in parameters.items()}


def _set(state: State) -> Parameters:
    """The synthetic set's parameters without the learning rates."""
    parameters = synthetic.parameters_of(state)
    return {name: value for name, value in parameters.items() if name != "rates"}


def _archs(task: Task[Unroll]) -> tuple[str, ...]:
    return task.settings.students or (students.default_student(task.dataset.shape),)


def _real(task: Task[Unroll], k: int) -> tuple[Tensor, Tensor]:
    """The real batch of step ``k``, each image augmented by a draw of its own."""
    unroll = task.settings
    batch_generator = seeds.generator(task.seed, "unroll", "real", k)
    x, y = students.real_batch(task.dataset, unroll.real_batch, batch_generator)
    generator = seeds.generator(task.seed, "unroll", "augment", k)
    return augment.draw(unroll.augment, tuple(x.shape[1:]), generator, len(x))(x), y


def _image_functions(task: Task[Unroll], k: int) -> list[Callable[[Parameters], Tensor]]:
    """The functions that make the batches of step ``k``, (C, ipc / ic, …) each."""
    unroll = task.settings
    synthetic_set = synthetic.make(task)
    size = task.ipc // unroll.ic

    def images(parameters: Parameters, b: int) -> Tensor:
        part = synthetic_set.part(parameters, b * size, (b + 1) * size)
        generator = seeds.generator(task.seed, "unroll", "noise", k, b)
        return synthetic_set.images(part, size, generator)

    batches = unroll.inner if unroll.synthetic == "gtn-rnd" else unroll.ic
    return [partial(images, b=b) for b in range(batches)]


def _pull_back(
    functions: list[Callable[[Parameters], Tensor]], parameters: Parameters, dx: Tensor
) -> Parameters:
    """Gradients in the set's parameters, from those in its batches (S, C, ipc / ic, …).

    The graph of one batch at a time is built.
    """
    total = _zeros(parameters)
    for images, gradient in zip(functions, dx, strict=True):
        for name, value in synthetic.pull_back(images, parameters, gradient).items():
            total[name] += value
    return total


def _students(
    task: Task[Unroll], arch: str, batch: Tensor, k: int
) -> list[tuple[Parameters, Loss]]:
    """Fresh students of one architecture: stacked into one where that is faster."""
    replicas = range(task.settings.replicas)
    nets = [students.student(task, arch, "unroll", "student", k, arch, r) for r in replicas]
    if training.fusion_pays(nets, batch, training.Recipe(batch_size=len(batch))):
        return [students.student_loss(nets, students.recorded(task, arch, len(nets), len(batch)))]
    return [students.student_loss([net]) for net in nets]


METHOD = Method(
    "unroll",
    "back-propagation through training (Wang 2018, Medvedev 2021)",
    Unroll,
    1000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
)
