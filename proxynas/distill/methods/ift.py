"""IFT: hypergradients by the implicit function theorem.

Lorraine, Vicol & Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation"
(2019); Medvedev & D'yakonov 2021, Fig. 3 and 4. Synthetic images X with labels y, a student θ with
momentum v, its loss L_S on X, y and L_T on a batch of real data:

    v   ←  μ v + ∂L_S/∂θ                          up to ζ times     (Fig. 3, lines 4 and 5)
    θ   ←  θ − η v
    p   =  α Σⱼ (I − αH)ʲ ∂L_T/∂θ,   j = 0 … N    ≈ H⁻¹ ∂L_T/∂θ,  H = ∂²L_S/∂θ²      (eq. 7)
    g   =  −∂/∂X (∂L_S/∂θ · p)                    the hypergradient               (eq. 5, Fig. 4)
    X   ←  X − SGD(g / α)                                                     (Fig. 3, line 8)

Every step trains a student on the synthetic set, all of it one batch, until its gradient is small,
and moves the set against the gradient of the student's loss on real data. Nothing is
back-propagated through training, so memory does not depend on how long it takes. A generator's
parameters take the place of X, and Adam that of SGD.

A student lives for ``restart`` steps: 1 is Fig. 3 (line 3 draws θ in every step); 0 is Lorraine's
algorithm, where one student is trained throughout. Between steps it lies in the state.

The series converges where every curvature of the student's loss, an eigenvalue of H, is positive
and under 2/α. Where its last term is ``GROWTH`` times the first, or the student's loss on real data
(a running mean) has risen from its least by as much as chance costs, ln C, a ``DivergedError`` says
what to change.

Where implementations differ: Fig. 4 has a trailing factor α, which the authors' code drops.
:func:`hypergradient` has it; the update leaves it out as they do, so that ``lr`` and ``clip`` have
the published scale whatever α is. The direct gradient ∂L_T/∂X, which that code drops too, is zero
here. It draws a GTN-rnd's noise again for every step of the student and for the hypergradient, and
so does this; it runs the generator on averaged batch statistics while the student trains, and this
does not.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor
from torch.func import grad, vjp

from ...core import seeds, settings
from ...core.errors import DivergedError
from ...datasets import augment
from .. import students, synthetic
from ..method import Extras, Method, State, Task, class_labels
from ..students import Loss, Parameters
from ..synthetic import Rule

PIXELS = Rule("sgd", lr=10.0, momentum=0.0, clip=10.0)
GTN = Rule("adam", lr=0.01, momentum=0.9, clip=4.0)
ALPHA = {"pixels": 1e-2, "gtn-lrn": 1e-3, "gtn-rnd": 1e-3}
SMALL = 1e-4
"""The student stops when its squared gradient norm is under this share of what it started with."""
GROWTH = 10.0
"""Last term of the Neumann series over its first from which it counts as divergent."""


@checked(frozen=True, config=settings.CONFIG)
class IFT(synthetic.Learned):
    """Settings of IFT; the defaults are the published ones (Medvedev 2021)."""

    inner: Annotated[int, Field(ge=1)] = 10  # ζ, steps of the student at most
    terms: Annotated[int, Field(ge=0)] = 10  # N of the Neumann series, beside the first
    alpha: Annotated[float, Field(gt=0)] | None = None  # None: as published, see ALPHA
    restart: Annotated[int, Field(ge=0)] = 1  # steps that a student lives; 0: all
    student: str | None = None  # see spaces.resolve; None: students.default_student
    student_lr: Annotated[float, Field(gt=0)] = 0.02
    student_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    real_batch: Annotated[int, Field(ge=1)] = 256


@dataclass(frozen=True)
class Series:
    """The Neumann series of H⁻¹: α Σⱼ (I − αH)ʲ from j = 0 to ``terms``."""

    alpha: float
    terms: int


@dataclass(frozen=True)
class Hypergradient:
    """The student's loss on real data, the gradient in the images (B, …), and how the series went.

    ``growth`` is the norm of the series' last term over that of its first: under 1 where it
    converges.
    """

    loss: float
    x: Tensor
    growth: float


def check(task: Task[IFT]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`.
        SpaceError: an unknown student.
    """
    synthetic.check(task, PIXELS, GTN)
    students.check(task, [_arch(task)])


def init(task: Task[IFT]) -> State:
    """A new synthetic set; the student comes with the first step."""
    return synthetic.start(task, "ift")


def step(task: Task[IFT], state: State, k: int) -> tuple[State, float]:
    """Train the student, then move the set against the implicit gradient of its loss on real data.

    Raises:
        DivergedError: the student, the Neumann series or the synthetic set diverges.
    """
    ift = task.settings
    series = Series(ift.alpha or ALPHA[ift.synthetic], ift.terms)
    parameters = synthetic.parameters_of(state)
    y = class_labels(task.dataset.num_classes, task.ipc, task.dataset.train.x.device)  # (B,)
    of_their_own = ("ift", "noise", k, ift.inner)  # noise that no student was trained on
    images = partial(synthetic.drawn, task, of_their_own)
    with torch.no_grad():
        student, loss = _trained_student(task, state, parameters, y, k)
        x = images(parameters)  # (C, ipc, …)
    theta = student.parameters
    gradient = hypergradient(loss, theta, x.flatten(0, 1), y, _real(task, k), series)  # line 7
    record = _check(task, state, gradient, series, k)
    gradients = synthetic.pull_back(images, parameters, gradient.x.view_as(x) / series.alpha)
    learned = synthetic.update(state, gradients, ift.rule(PIXELS, GTN))  # line 8
    return {**learned, **_student_state(student, ift), **record}, gradient.loss


def finish(task: Task[IFT], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    return synthetic.finish(task, synthetic.parameters_of(state), 1, "ift")


def extras(task: Task[IFT], state: State) -> Extras:
    """The generator, where there is one."""
    return Extras(generator=synthetic.generator_of(task, synthetic.parameters_of(state)))


def hypergradient(
    loss: Loss,
    parameters: Parameters,
    x: Tensor,
    y: Tensor,
    real: tuple[Tensor, Tensor],
    series: Series,
) -> Hypergradient:
    """Fig. 4: the gradient in ``x`` (B, …) of the loss on ``real`` data of a student that was
    trained on ``x``, ``y`` (B,).
    """
    alpha = series.alpha
    with torch.no_grad():  # the transforms differentiate all the same, and nothing outlives them
        value = loss(parameters, *real).item()
        v = grad(loss)(parameters, *real)  # line 2
        p = v
        first = _norm(v)
        hessian = vjp(lambda theta: grad(loss)(theta, x, y), parameters)[1]
        for _ in range(series.terms):
            product = hessian(v)[0]
            v = {name: v[name] - alpha * product[name] for name in v}  # line 4
            p = {name: p[name] + v[name] for name in p}  # line 5
        mixed = vjp(lambda images: grad(loss)(parameters, images, y), x)[1]
        growth = _norm(v) / first if first > 0 else 0.0
        return Hypergradient(value, -alpha * mixed(p)[0], growth)  # line 6


@dataclass(frozen=True)
class Student:
    """A student in training: parameters, their momentum, and its first squared gradient norm."""

    parameters: Parameters
    velocity: Parameters
    start: float | None = None


def _trained_student(
    task: Task[IFT], state: State, parameters: Parameters, y: Tensor, k: int
) -> tuple[Student, Loss]:
    """Fig. 3, lines 4 and 5: the student of step ``k`` trained on the set, and its loss."""
    ift = task.settings
    student, loss = _student(task, state, k)
    x = synthetic.drawn(task, ("ift", "noise", k, 0), parameters).flatten(0, 1)  # (B, …)
    for n in range(ift.inner):
        if n > 0 and ift.synthetic == "gtn-rnd":
            x = synthetic.drawn(task, ("ift", "noise", k, n), parameters).flatten(0, 1)
        student, small = _descend(loss, student, x, y, ift)
        if small:
            break
    return student, loss


def _student(task: Task[IFT], state: State, k: int) -> tuple[Student, Loss]:
    """The student of step ``k``, fresh or out of the state, and its loss."""
    restart = task.settings.restart
    fresh = k == 0 or (restart > 0 and k % restart == 0)
    birth = 0 if restart == 0 else k - k % restart
    net = students.student(task, _arch(task), "ift", "student", birth)
    parameters, loss = students.student_loss([net])
    if fresh:
        velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
        return Student(parameters, velocity), loss
    parameters = synthetic.parameters_of(state, "student")
    velocity = synthetic.parameters_of(state, "velocity")
    return Student(parameters, velocity, state["start"].item()), loss


def _arch(task: Task[IFT]) -> str:
    return task.settings.student or students.default_student(task.dataset.shape)


def _real(task: Task[IFT], k: int) -> tuple[Tensor, Tensor]:
    """The real batch of step ``k``, each image augmented by a draw of its own."""
    ift = task.settings
    batch_generator = seeds.generator(task.seed, "ift", "real", k)
    x, y = students.real_batch(task.dataset, ift.real_batch, batch_generator)
    generator = seeds.generator(task.seed, "ift", "augment", k)
    return augment.draw(ift.augment, tuple(x.shape[1:]), generator, len(x))(x), y


def _student_state(student: Student, ift: IFT) -> State:
    """What the next step needs of the student."""
    if ift.restart == 1:
        return {}
    parameters = {f"student.{name}": p for name, p in student.parameters.items()}
    velocity = {f"velocity.{name}": p for name, p in student.velocity.items()}
    return {**parameters, **velocity, "start": torch.tensor(student.start, dtype=torch.float64)}


def _descend(loss: Loss, student: Student, x: Tensor, y: Tensor, ift: IFT) -> tuple[Student, bool]:
    """One step of SGD with momentum on the synthetic images (B, …); whether its gradient is small.

    The gradient is that before the step.
    """
    g = grad(loss)(student.parameters, x, y)
    velocity = {name: ift.student_momentum * student.velocity[name] + g[name] for name in g}
    parameters = {
        name: p - ift.student_lr * velocity[name] for name, p in student.parameters.items()
    }
    square = _norm(g) ** 2
    start = square if student.start is None else student.start
    return Student(parameters, velocity, start), square < SMALL * start


def _check(task: Task[IFT], state: State, gradient: Hypergradient, series: Series, k: int) -> State:
    """Notice divergence; the running mean of the real loss and its least value, for the next step.

    Raises:
        DivergedError: the student, the Neumann series or the synthetic set diverges.
    """
    ift = task.settings
    rule = ift.rule(PIXELS, GTN)
    diverged = f"ift diverged at step {k}"
    if not math.isfinite(gradient.loss):
        advice = f"lower student_lr (now {ift.student_lr:g}) or lr (now {rule.lr:g})"
        raise DivergedError(f"{diverged}: the student's loss is {gradient.loss}; {advice}")
    if not gradient.growth <= GROWTH:
        alpha = series.alpha
        bound = alpha / 10
        if math.isfinite(gradient.growth):
            bound = 2 * alpha / (1 + gradient.growth ** (1 / series.terms))
        problem = f"the last term of the Neumann series is {gradient.growth:.3g} times its first"
        advice = f"lower alpha (now {alpha:g}) under {bound:.2g}"
        raise DivergedError(f"{diverged}: {problem}; {advice}")
    loss = gradient.loss
    mean = 0.9 * state["mean"].item() + 0.1 * loss if "mean" in state else loss
    least = min(mean, state["least"].item()) if "least" in state else mean
    if mean > least + math.log(task.dataset.num_classes):
        problem = f"the student's loss on real data rose from {least:.3g} to {mean:.3g}"
        advice = f"lower lr (now {rule.lr:g}) or clip (now {rule.clip:g})"
        steadier = "or take synthetic = 'gtn-lrn', which is steadier"
        raise DivergedError(f"{diverged}: {problem}; {advice}, {steadier}")
    return {
        "mean": torch.tensor(mean, dtype=torch.float64),
        "least": torch.tensor(least, dtype=torch.float64),
    }


def _norm(parameters: Parameters) -> float:
    return math.sqrt(sum(p.double().square().sum().item() for p in parameters.values()))


METHOD = Method(
    "ift",
    "implicit differentiation (Lorraine 2019, Medvedev 2021)",
    IFT,
    1000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
)
