"""MTT, matching training trajectories.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR 2022; arXiv
2203.11932), Algorithm 1.

Experts' parameters θ*_0, θ*_1, … after every epoch on the real data; synthetic images X of classes
y, a learning rate α that is learned too; A: an augmentation; ℓ: cross-entropy:

    θ̂_0   =  θ*_t                                       t at random below T⁺      (lines 3 to 6)
    θ̂_n+1 =  θ̂_n − α ∂/∂θ ℓ(θ̂_n; A(Xₙ), yₙ)             n = 0 … N − 1             (lines 7 to 11)
    L     =  ‖θ̂_N − θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖²                              (eq. 2, line 12)
    v     ←  μ v + ∂L/∂(X, α)
    X, α  ←  (X, α) − SGD(v)                            a rate for each           (line 13)

Every step takes up an expert's training somewhere, trains a student from there for N steps on the
synthetic set, and moves the set so that the student ends nearer to where the expert was M epochs
later. All N steps are differentiated through by plain autograd, whose graph holds all of them.

Where the paper and its code differ, and what is done here: images start from real ones (the paper;
the code's default is noise). Experts are plain SGD without momentum or decay, as in the code. The
published settings differ from data to data; the defaults are those of the code's own example, N =
20, M = 3, T⁺ = 20, rates 1000 and 1e-5, with ten experts instead of 100, each of the T⁺ + M - 1
epochs that are used instead of 50. The published augmentation, of experts and synthetic images, is
``color+crop+cutout+flip+scale+rotate``; the default is none, as it is of every method. Each step of
a student augments all images by one draw. Generators (``synthetic``) are ours alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from ...core import seeds, settings
from ...core.errors import DivergedError
from ...datasets import augment
from ...specs import Recipe
from ...training import batches
from .. import students, synthetic
from ..experts import Training
from ..method import Extras, Method, Shared, State, Task, class_labels
from ..students import Loss, Parameters, as_leaves
from ..synthetic import Rule
from ..trajectories import Trajectories

PIXELS = Rule("sgd", lr=1000.0, momentum=0.5)
GTN = Rule("adam", lr=0.01, momentum=0.9, clip=10.0)

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


@checked(frozen=True, config=settings.CONFIG)
class MTT(synthetic.Learned):
    """Settings of MTT; see above for which are the published ones."""

    init: Literal["noise", "real"] = "real"
    inner: Count = 20  # N, steps of a student
    span: Count = 3  # M, epochs of an expert that they are to make up for
    start: Count = 20  # T⁺, epochs from which an expert is not taken up
    batch: Count | None = None  # synthetic images a step of a student; None: all
    student: str | None = None  # also the experts'; None: students.default_student
    student_lr: Rate = 0.01  # what α starts from
    rate_lr: Rate = 1e-5  # learning rate of α
    experts: Count = 10
    expert_lr: Rate = 0.01
    expert_batch: Count = 256
    expert_seed: int = 0  # distillations of any seed share the experts


@dataclass(frozen=True)
class Hypergradient:
    """L, and its gradients in the images (B, …) and in α."""

    loss: float
    x: Tensor
    rate: Tensor


def check(task: Task[MTT]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`.
        SpaceError: an unknown student.
    """
    synthetic.check(task, PIXELS, GTN)
    students.check(task, [_arch(task)])


def experts(task: Task[MTT]) -> Trajectories:
    """The experts that the task's settings ask for."""
    mtt = task.settings
    training = Training(
        _arch(task),
        epochs=mtt.start + mtt.span - 1,
        batch_size=mtt.expert_batch,
        lr=mtt.expert_lr,
        momentum=0.0,
        weight_decay=0.0,
        augment=mtt.augment,
        seed=mtt.expert_seed,
        schedule="constant",
    )
    return Trajectories(task.dataset, training, mtt.experts)


def prepare(task: Task[MTT], on_done: Callable[[int, int], None]) -> Shared:
    """Train the experts that are not there yet; what all of them cost when they were trained."""
    return experts(task).shared(on_done)


def init(task: Task[MTT]) -> State:
    """Real images (C, ipc, …), noise N(0, 1) or a generator; and α."""
    rate = torch.tensor(task.settings.student_lr).to(task.dataset.train.x)
    return {**synthetic.start(task, "mtt"), "synthetic.rate": rate}


def step(task: Task[MTT], state: State, k: int) -> tuple[State, float]:
    """Take up an expert's training, and follow it on the synthetic set; L."""
    mtt = task.settings
    parameters = _set(state)
    images = partial(synthetic.drawn, task, ("mtt", "noise", k))
    with torch.no_grad():
        x = images(parameters)  # (C, ipc, …)
    generator = seeds.generator(task.seed, "mtt", "expert", k)
    expert = int(torch.randint(mtt.experts, (), generator=generator))
    t = int(torch.randint(mtt.start, (), generator=generator))
    pool = experts(task)
    ends = pool.parameters(expert, t), pool.parameters(expert, t + mtt.span)
    _, loss = students.student_loss([students.student(task, _arch(task), "mtt", "student", k)])
    y = class_labels(len(x), task.ipc, x.device)
    found = hypergradient(loss, ends, x.flatten(0, 1), _steps(task, y, k), state["synthetic.rate"])
    if not math.isfinite(found.loss):
        return state, found.loss  # the loop says that it diverged
    gradients = synthetic.pull_back(images, parameters, found.x.view_as(x))
    moved = synthetic.update(
        state, {**gradients, "rate": found.rate}, mtt.rule(PIXELS, GTN), {"rate": mtt.rate_lr}
    )
    if moved["synthetic.rate"] <= 0:
        problem = f"the learned learning rate is not positive any more at step {k}"
        raise DivergedError(f"{problem}; lower rate_lr, now {mtt.rate_lr:g}")
    return moved, found.loss


def finish(task: Task[MTT], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    return synthetic.finish(task, _set(state), 1, "mtt")


def extras(task: Task[MTT], state: State) -> Extras:
    """The generator, where there is one; networks are trained on the set at the rate α."""
    generator = synthetic.generator_of(task, _set(state))
    return Extras(generator=generator, recipe={"lr": state["synthetic.rate"].item()})


@dataclass(frozen=True)
class InnerStep:
    """A step of a student: on images ``rows`` (b,) with labels ``y`` (b,), transformed."""

    rows: Tensor
    y: Tensor
    transform: augment.Transform


def hypergradient(
    loss: Loss,
    ends: tuple[Parameters, Parameters],
    x: Tensor,
    steps: Sequence[InnerStep],
    rate: Tensor,
) -> Hypergradient:
    """Eq. 2 and its gradients: a student goes ``steps`` on images (B, …) from the first of the
    expert's ``ends``, and should come to the second."""
    before, after = ends
    x, rate = x.detach().requires_grad_(), rate.detach().requires_grad_()
    theta = as_leaves(before)
    for one in steps:
        value = loss(theta, one.transform(x[one.rows]), one.y)
        gradients = torch.autograd.grad(
            value, list(theta.values()), create_graph=True, materialize_grads=True
        )
        theta = {
            name: torch.addcmul(p, rate, g, value=-1)
            for (name, p), g in zip(theta.items(), gradients, strict=True)
        }
    distance = _squared(theta, after) / _squared(before, after)
    in_x, in_rate = torch.autograd.grad(distance, [x, rate])
    return Hypergradient(distance.item(), in_x, in_rate)


def _squared(one: Parameters, other: Parameters) -> Tensor:
    return torch.stack([(one[name] - value).square().sum() for name, value in other.items()]).sum()


def _steps(task: Task[MTT], y: Tensor, k: int) -> list[InnerStep]:
    """The N steps of step ``k``'s student, for images of classes ``y`` (B,)."""
    mtt = task.settings
    generator = seeds.generator(task.seed, "mtt", "batch", k)
    order = batches(len(y), Recipe(batch_size=mtt.batch or len(y)), generator)
    steps = []
    for n in range(mtt.inner):
        rows = next(order).to(y.device)
        rng = seeds.generator(task.seed, "mtt", "augment", k, n)
        transform = augment.draw(mtt.augment, task.dataset.shape, rng)
        steps.append(InnerStep(rows, y[rows], transform))
    return steps


def _set(state: State) -> Parameters:
    """The synthetic set's parameters without α."""
    parameters = synthetic.parameters_of(state)
    return {name: value for name, value in parameters.items() if name != "rate"}


def _arch(task: Task[MTT]) -> str:
    return task.settings.student or students.default_student(task.dataset.shape)


METHOD = Method(
    "mtt",
    "matching training trajectories (Cazenavette 2022)",
    MTT,
    5000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
    prepare=prepare,
)
