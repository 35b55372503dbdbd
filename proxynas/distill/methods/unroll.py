"""Unroll: back-propagation through the student's training.

Wang et al., "Dataset Distillation" (2018); Medvedev & D'yakonov 2020 (tables) and 2021 (Fig. 1 and
2). Every step draws fresh students, trains them for N steps of SGD with momentum on the synthetic
set and moves the set against the gradient of the trained students' loss on a batch of real data
(eq. 3 and 4 of 2021). The set lies in ``ic`` batches of ipc / ic images a class, which the students
see in a fixed order, over and over. ``learn_rates`` learns a learning rate for each of the N steps
as well (Wang 2018; Medvedev 2020), kept positive by a softplus. Several students, and several
architectures, count equally (eq. 2 of 2020).

Memory. Steps are recomputed from stored parameters (Fig. 2), ``segment`` of them at a time: the
graph of one segment and one copy of the student and its momentum a segment are all that is held.
One segment of N steps, the default, is plain back-propagation and the fastest; any other costs one
more forward pass. ``segment=1`` holds the least where activations outweigh the student's
parameters, about √N where they do not. Results are equal to rounding. A generator's graph is built
for one batch at a time, once the gradient in its images is known.

Training is differentiated by plain autograd over functional steps. ``higher``, the usual library
for that, is no longer maintained; tests check these gradients against it.

Where implementations differ: the authors' 2021 code starts pixels from noise uniform on [0, 1),
ours from N(0, 1). Its ic batches are each ipc images a class; here ipc counts all of them, so that
its ``ic=10, ipc=10`` (784 K parameters, Table I) is ``ic=10, ipc=100``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
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
from ..students import Loss, Parameters
from ..synthetic import Rule

PIXELS = Rule("sgd", lr=10.0, momentum=0.5, clip=10.0)
GTN = Rule("adam", lr=0.01, momentum=0.9, clip=10.0)


@checked(frozen=True, config=settings.CONFIG)
class Unroll(synthetic.Learned):
    """Settings of unroll; the defaults are the published ones (Medvedev 2021)."""

    inner: Annotated[int, Field(ge=1)] = 10  # N, steps of a student
    ic: Annotated[int, Field(ge=1)] = 1  # ordered batches that the set is split into
    students: tuple[
        str, ...
    ] = ()  # architectures, see spaces.resolve; none: students.default_student
    replicas: Annotated[int, Field(ge=1)] = 1  # students of each architecture
    student_lr: Annotated[float, Field(gt=0)] = 0.02
    student_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    learn_rates: bool = False  # student_lr is then what the N rates start from
    rate_lr: Annotated[float, Field(gt=0)] = (
        0.01  # learning rate of the learning rates, before their softplus
    )
    real_batch: Annotated[int, Field(ge=1)] = 256
    segment: Annotated[int, Field(ge=1)] | None = None  # steps recomputed at a time; None: all N


@dataclass(frozen=True)
class Hypergradient:
    """The real loss of trained students, and its gradients in the batches (S, B, …) and the
    learning rates (N,)."""

    loss: float
    x: Tensor
    rates: Tensor


def check(task: Task) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`; batches that are not equal, or an order of those
            that have none.
        SpaceError: an unknown student.
    """
    own, ipc = task.settings, task.ipc
    synthetic.check(task, PIXELS, GTN)
    students.check(task, _archs(task))
    if own.synthetic == "gtn-rnd" and own.ic != 1:
        raise SpecError(
            f"ic must be 1 with synthetic = 'gtn-rnd', whose batches have no order, but got {own.ic}"
        )
    if ipc % own.ic:
        raise SpecError(
            f"ic must divide ipc, the images a class of all batches, which is {ipc}, but got {own.ic}"
        )
    if own.inner % own.ic:
        raise SpecError(
            f"ic must divide inner, the student's steps, which is {own.inner}, but got {own.ic}"
        )


def init(task: Task) -> State:
    """A new synthetic set, and the raw learning rates (N,) where they are learned."""
    own: Unroll = task.settings
    state = synthetic.start(task, "unroll")
    if own.learn_rates:
        raw = (
            torch.full((own.inner,), own.student_lr, dtype=torch.float64).expm1().log()
        )  # softplus⁻¹
        state["synthetic.rates"] = raw.to(task.dataset.train.x)
    return state


def step(task: Task, state: State, k: int) -> tuple[State, float]:
    """Train fresh students on the set and move it against the gradient of their mean loss on real
    data."""
    own: Unroll = task.settings
    raw, rates = state.get("synthetic.rates"), learned_rates(task, state)
    parameters, functions, real = _set(state), _image_functions(task, k), _real(task, k)
    with torch.no_grad():
        x = torch.stack([images(parameters).flatten(0, 1) for images in functions])  # (S, B, …)
    y = class_labels(task.dataset.num_classes, task.ipc // own.ic, x.device)  # (B,)
    count = len(_archs(task)) * own.replicas
    total, dx, drates = 0.0, torch.zeros_like(x), torch.zeros_like(rates)
    for arch in _archs(task):
        for start, loss in _students(task, arch, x[0], k):
            found = hypergradient(loss, start, x, y, rates, real, own.student_momentum, own.segment)
            total, dx, drates = (
                total + found.loss / count,
                dx + found.x / count,
                drates + found.rates / count,
            )
    gradients = _pull_back(
        functions, parameters, dx.view(len(dx), task.dataset.num_classes, -1, *dx.shape[2:])
    )
    if raw is not None:
        gradients["rates"] = drates * raw.sigmoid()  # d softplus
    return synthetic.update(state, gradients, own.rule(PIXELS, GTN), {"rates": own.rate_lr}), total


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …), class by class, batch by batch within a class, and hard labels."""
    return synthetic.finish(task, _set(state), task.settings.ic, "unroll")


def extras(task: Task, state: State) -> Extras:
    """The generator, where there is one; the curriculum, where batches have an order or rates are
    learned.

    Learned rates go with the student's momentum, and no weight decay, so these become the recipe's.
    """
    own: Unroll = task.settings
    generator = synthetic.generator_of(task, _set(state), own.ic)
    if own.ic == 1 and not own.learn_rates:
        return Extras(generator=generator)
    if not own.learn_rates:
        return Extras(Curriculum(order(task)), generator)
    recipe = {
        "optimizer": "sgd",
        "momentum": own.student_momentum,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    return Extras(Curriculum(order(task), learned_rates(task, state).detach()), generator, recipe)


def order(task: Task) -> Tensor:
    """Which images each of the N steps was meant to see, int64 (N, B): rows of what :func:`finish`
    gives."""
    own: Unroll = task.settings
    rows = torch.arange(task.dataset.num_classes * task.ipc).view(
        task.dataset.num_classes, own.ic, -1
    )
    batches = rows.transpose(0, 1).flatten(1)  # (ic, B), class by class
    return batches[torch.arange(own.inner) % own.ic]


def learned_rates(task: Task, state: State) -> Tensor:
    """The learning rate of each of the N steps, (N,) in the images' dtype."""
    own, like = task.settings, task.dataset.train.x
    if own.learn_rates:
        return F.softplus(state["synthetic.rates"])
    return torch.full((own.inner,), own.student_lr, dtype=like.dtype, device=like.device)


def hypergradient(
    loss: Loss,
    parameters: Parameters,
    x: Tensor,
    y: Tensor,
    rates: Tensor,
    real: tuple[Tensor, Tensor],
    momentum: float,
    segment: int | None = None,
) -> Hypergradient:
    """Gradients of ``loss`` on ``real`` data after N steps of SGD with momentum, which start at
    ``parameters``.

    Step n uses batch n mod S of ``x`` (S, B, …) with labels ``y`` (B,) and learning rate
    ``rates[n]`` (N,). ``segment`` steps are recomputed at a time; None: all of them, which needs no
    recomputation.
    """
    n = len(rates)
    size = n if segment is None else segment
    starts = list(range(0, n, size))
    stored = [
        (parameters, {name: torch.zeros_like(p) for name, p in parameters.items()})
    ]  # θ_0 and its momentum
    with torch.no_grad():
        for start in starts[:-1]:
            stored.append(
                _run(loss, stored[-1], x, y, rates, momentum, range(start, start + size))
            )  # Fig. 1, line 8
    x, rates = x.detach().requires_grad_(), rates.detach().requires_grad_()
    dx, drates, value = torch.zeros_like(x), torch.zeros_like(rates), math.nan
    adjoint: list[Tensor] | None = None
    for start in reversed(starts):  # Fig. 2
        leaves = [
            {name: t.detach().requires_grad_() for name, t in part.items()} for part in stored.pop()
        ]
        end = _run(
            loss, (leaves[0], leaves[1]), x, y, rates, momentum, range(start, min(start + size, n))
        )
        outputs = [*end[0].values(), *end[1].values()]
        if adjoint is None:
            outputs = [loss(end[0], *real)]
            value = outputs[0].item()
        inputs = [*leaves[0].values(), *leaves[1].values(), x, rates]
        *adjoint, dx_here, drates_here = torch.autograd.grad(
            outputs, inputs, adjoint, materialize_grads=True
        )
        dx, drates = dx + dx_here, drates + drates_here
    return Hypergradient(value, dx.detach(), drates.detach())


def _run(
    loss: Loss,
    state: tuple[Parameters, Parameters],
    x: Tensor,
    y: Tensor,
    rates: Tensor,
    momentum: float,
    steps: range,
) -> tuple[Parameters, Parameters]:
    """Eq. 3 with momentum: v ← μ·v + g, θ ← θ − η·v, as in ``torch.optim.SGD``."""
    parameters, velocity = state
    batches, rate = x.unbind(0), rates.unbind(0)
    for n in steps:
        g = _gradient(loss, parameters, batches[n % len(batches)], y)
        velocity = {name: momentum * velocity[name] + g[name] for name in g} if momentum else g
        parameters = {
            name: torch.addcmul(p, rate[n], velocity[name], value=-1)
            for name, p in parameters.items()
        }
    return parameters, velocity


def _gradient(loss: Loss, parameters: Parameters, x: Tensor, y: Tensor) -> Parameters:
    """The gradient in the parameters, itself differentiable where gradients are on.

    Plain autograd, whose second backward pass needs no Python: half the time of ``torch.func.grad``
    on tiny students.
    """
    recording = torch.is_grad_enabled()
    leaves = (
        parameters
        if recording
        else {name: p.detach().requires_grad_() for name, p in parameters.items()}
    )
    with torch.enable_grad():
        value = loss(leaves, x, y)
    found = torch.autograd.grad(
        value, list(leaves.values()), create_graph=recording, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def _set(state: State) -> Parameters:
    """The synthetic set's parameters without the learning rates."""
    return {
        name: value for name, value in synthetic.parameters_of(state).items() if name != "rates"
    }


def _archs(task: Task) -> tuple[str, ...]:
    found: tuple[str, ...] = task.settings.students
    return found or (students.default_student(task.dataset.shape),)


def _real(task: Task, k: int) -> tuple[Tensor, Tensor]:
    """The real batch of step ``k``, each image augmented in a way of its own."""
    own: Unroll = task.settings
    x, y = students.real_batch(
        task.dataset, own.real_batch, seeds.generator(task.seed, "unroll", "real", k)
    )
    generator = seeds.generator(task.seed, "unroll", "augment", k)
    return augment.draw(own.augment, tuple(x.shape[1:]), generator, len(x))(x), y


def _image_functions(task: Task, k: int) -> list[Callable[[Parameters], Tensor]]:
    """For every batch that students see in step ``k`` the function that makes it, (C, ipc / ic,
    …)."""
    own: Unroll = task.settings
    made, size = synthetic.make(task), task.ipc // own.ic

    def images(parameters: Parameters, b: int) -> Tensor:
        part = made.part(parameters, b * size, (b + 1) * size)
        return made.images(part, size, seeds.generator(task.seed, "unroll", "noise", k, b))

    return [
        partial(images, b=b) for b in range(own.inner if own.synthetic == "gtn-rnd" else own.ic)
    ]


def _pull_back(
    functions: list[Callable[[Parameters], Tensor]], parameters: Parameters, dx: Tensor
) -> Parameters:
    """Gradients in the set's parameters, from those in its batches (S, C, ipc / ic, …): a batch's
    graph at a time."""
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for images, gradient in zip(functions, dx, strict=True):
        for name, value in synthetic.pull_back(images, parameters, gradient).items():
            total[name] += value
    return total


def _students(task: Task, arch: str, batch: Tensor, k: int) -> list[tuple[Parameters, Loss]]:
    """Fresh students of one architecture: stacked into one where that is faster."""
    own: Unroll = task.settings
    nets = [
        students.student(task, arch, "unroll", "student", k, arch, r) for r in range(own.replicas)
    ]
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
