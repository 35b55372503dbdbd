"""IFT: hypergradients by the implicit function theorem.

Lorraine, Vicol & Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation"
(2019); Medvedev & D'yakonov 2021, Fig. 3 and 4. Every step trains a student on the synthetic set,
all of it one batch, until its gradient is small, and moves the set against the gradient of the
student's loss on a batch of real data. That gradient is −∂L_T/∂θ · H⁻¹ · ∂²L_S/∂θ∂λ (eq. 5) with
the inverse Hessian as α·Σ (I − αH)^j up to j = N (eq. 7). Nothing is back-propagated through
training, so memory does not depend on how long it takes.

A student lives for ``restart`` steps: 1 is Fig. 3 (line 3 draws θ in every step); 0 is Lorraine's
algorithm, where one student is trained on for ever. Between steps it lies in the state.

The series converges where every curvature of the student's loss, an eigenvalue of H, is positive
and under 2/α. Where its last term is ``GROWTH`` times the first, or the student's loss on real data
(a running mean) has risen from its least by as much as chance costs, ln C, a ``DivergedError`` says
what to change.

Where implementations differ: Fig. 4 has a trailing factor α, which the authors' code drops.
:func:`hypergradient` has it; the update leaves it out as they do, so that ``lr`` and ``clip`` have
the published scale whatever α is. The direct gradient ∂L_T/∂λ, which that code drops too, is zero
here. It draws a GTN-rnd's noise anew for every step of the student and for the hypergradient, and
so does this; it runs the generator on averaged batch statistics while the student trains, and this
does not.
"""

import math
from dataclasses import dataclass
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
    alpha: Annotated[float, Field(gt=0)] | None = (
        None  # None: 0.01 for pixels, 0.001 for a generator
    )
    restart: Annotated[int, Field(ge=0)] = 1  # a fresh student every so many steps; 0: one for ever
    student: str | None = (
        None  # an architecture, see spaces.resolve; None: students.default_student
    )
    student_lr: Annotated[float, Field(gt=0)] = 0.02
    student_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    real_batch: Annotated[int, Field(ge=1)] = 256


@dataclass(frozen=True)
class Hypergradient:
    """The student's loss on real data, the gradient in the images (B, …), and how the series went.

    ``growth`` is the norm of the series' last term over that of its first: under 1 where it
    converges.
    """

    loss: float
    x: Tensor
    growth: float


def check(task: Task) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`.
        SpaceError: an unknown student.
    """
    synthetic.check(task, PIXELS, GTN)
    students.check(task, [_arch(task)])


def init(task: Task) -> State:
    """A new synthetic set; the student comes with the first step."""
    return synthetic.start(task, "ift")


def step(task: Task, state: State, k: int) -> tuple[State, float]:
    """Train the student, then move the set against the implicit gradient of its loss on real data.

    Raises:
        DivergedError: the student, the Neumann series or the synthetic set diverges.
    """
    own: IFT = task.settings
    alpha = own.alpha or ALPHA[own.synthetic]
    made, parameters = synthetic.make(task), synthetic.parameters_of(state)
    y = class_labels(task.dataset.num_classes, task.ipc, task.dataset.train.x.device)  # (B,)

    def images(parameters: Parameters, n: int) -> Tensor:  # (C, ipc, …)
        return made.images(parameters, task.ipc, seeds.generator(task.seed, "ift", "noise", k, n))

    student, loss = _student(task, state, k)
    with torch.no_grad():
        fixed = None if own.synthetic == "gtn-rnd" else images(parameters, 0).flatten(0, 1)
        for n in range(own.inner):  # Fig. 3, lines 4 and 5
            x = images(parameters, n).flatten(0, 1) if fixed is None else fixed
            student, small = _descend(loss, student, x, y, own)
            if small:
                break
        x = images(
            parameters, own.inner
        )  # as many classes and images as ever, with noise of their own
    found = hypergradient(
        loss, student.parameters, x.flatten(0, 1), y, _real(task, k), alpha, own.terms
    )  # line 7
    record = _check(task, state, found, alpha, k)
    gradient = found.x.view_as(x) / alpha
    gradients = synthetic.pull_back(lambda p: images(p, own.inner), parameters, gradient)
    moved = synthetic.update(state, gradients, own.rule(PIXELS, GTN))  # line 8
    return {**moved, **_kept(student, own), **record}, found.loss


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    return synthetic.finish(task, synthetic.parameters_of(state), 1, "ift")


def extras(task: Task, state: State) -> Extras:
    """The generator, where there is one."""
    return Extras(generator=synthetic.generator_of(task, synthetic.parameters_of(state)))


def hypergradient(
    loss: Loss,
    parameters: Parameters,
    x: Tensor,
    y: Tensor,
    real: tuple[Tensor, Tensor],
    alpha: float,
    terms: int,
) -> Hypergradient:
    """Fig. 4: the gradient in ``x`` (B, …) of the loss on ``real`` data of a student trained on
    ``x``, ``y`` (B,)."""
    with (
        torch.no_grad()
    ):  # the transforms below differentiate all the same, and nothing outlives them
        value = loss(parameters, *real).item()
        p = v = grad(loss)(parameters, *real)  # line 2
        first = _norm(v)
        hessian = vjp(lambda theta: grad(loss)(theta, x, y), parameters)[1]
        for _ in range(terms):
            product = hessian(v)[0]
            v = {name: v[name] - alpha * product[name] for name in v}  # line 4
            p = {name: p[name] + v[name] for name in p}  # line 5
        mixed = vjp(lambda x: grad(loss)(parameters, x, y), x)[1]
        return Hypergradient(
            value, -alpha * mixed(p)[0], (_norm(v) / first) if first > 0 else 0.0
        )  # line 6


@dataclass(frozen=True)
class Student:
    """A student in training: its parameters, their momentum, and its squared gradient norm at
    birth."""

    parameters: Parameters
    velocity: Parameters
    start: float | None = None


def _student(task: Task, state: State, k: int) -> tuple[Student, Loss]:
    """The student of step ``k``, fresh or out of the state, and its loss."""
    own: IFT = task.settings
    fresh = k == 0 or (own.restart > 0 and k % own.restart == 0)
    born = 0 if own.restart == 0 else k - k % own.restart
    parameters, loss = students.student_loss(
        [students.student(task, _arch(task), "ift", "student", born)]
    )
    if fresh:
        return Student(
            parameters, {name: torch.zeros_like(p) for name, p in parameters.items()}
        ), loss
    kept, velocity = (
        synthetic.parameters_of(state, "student"),
        synthetic.parameters_of(state, "velocity"),
    )
    return Student(kept, velocity, state["start"].item()), loss


def _arch(task: Task) -> str:
    own: IFT = task.settings
    return own.student or students.default_student(task.dataset.shape)


def _real(task: Task, k: int) -> tuple[Tensor, Tensor]:
    """The real batch of step ``k``, each image augmented in a way of its own."""
    own: IFT = task.settings
    x, y = students.real_batch(
        task.dataset, own.real_batch, seeds.generator(task.seed, "ift", "real", k)
    )
    generator = seeds.generator(task.seed, "ift", "augment", k)
    return augment.draw(own.augment, tuple(x.shape[1:]), generator, len(x))(x), y


def _kept(student: Student, own: IFT) -> State:
    """What the next step needs of the student."""
    if own.restart == 1:
        return {}
    parameters = {f"student.{name}": p for name, p in student.parameters.items()}
    velocity = {f"velocity.{name}": p for name, p in student.velocity.items()}
    return {**parameters, **velocity, "start": torch.tensor(student.start, dtype=torch.float64)}


def _descend(loss: Loss, student: Student, x: Tensor, y: Tensor, own: IFT) -> tuple[Student, bool]:
    """One step of SGD with momentum on the synthetic images (B, …), and whether its gradient had
    become small."""
    g = grad(loss)(student.parameters, x, y)
    velocity = {name: own.student_momentum * student.velocity[name] + g[name] for name in g}
    parameters = {
        name: p - own.student_lr * velocity[name] for name, p in student.parameters.items()
    }
    square = _norm(g) ** 2
    start = square if student.start is None else student.start
    return Student(parameters, velocity, start), square < SMALL * start


def _check(task: Task, state: State, found: Hypergradient, alpha: float, k: int) -> State:
    """Notice divergence; the running mean of the real loss and its least value so far, for the next
    step."""
    own: IFT = task.settings
    rule = own.rule(PIXELS, GTN)
    if not math.isfinite(found.loss):
        raise DivergedError(
            f"ift diverged at step {k}: the student's loss is {found.loss}; lower student_lr "
            f"(now {own.student_lr:g}) or lr (now {rule.lr:g})"
        )
    if not found.growth <= GROWTH:
        bound = (
            2 * alpha / (1 + found.growth ** (1 / own.terms))
            if math.isfinite(found.growth)
            else alpha / 10
        )
        raise DivergedError(
            f"ift diverged at step {k}: the last term of the Neumann series is {found.growth:.3g} times its first; "
            f"lower alpha (now {alpha:g}) under {bound:.2g}"
        )
    mean = 0.9 * state["mean"].item() + 0.1 * found.loss if "mean" in state else found.loss
    least = min(mean, state["least"].item()) if "least" in state else mean
    if mean > least + math.log(task.dataset.num_classes):
        raise DivergedError(
            f"ift diverged at step {k}: the student's loss on real data rose from {least:.3g} to {mean:.3g}; lower lr "
            f"(now {rule.lr:g}) or clip (now {rule.clip:g}), or take synthetic = 'gtn-lrn', which is steadier"
        )
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
