"""APM, adversarial prediction matching.

Chen et al., "Dataset Distillation via Adversarial Prediction Matching" (2023), Algorithm 1.

Images u₁ … u_B of classes y₁ … y_B, an expert f_T, checkpoints f₁ … f_K of a student; d is the mean
of |difference| over classes, H the cross-entropy:

    f_S  ←  E epochs of SGD on Σᵢ d(f_S(uᵢ), f_T(uᵢ)), with f₁ … f_K on the way    (lines 5 to 9)
    L    =  1/B Σᵢ [ −Σₖ log d(f_T(uᵢ), fₖ(uᵢ)) + α H(yᵢ, f_T(uᵢ)) ]             (eq. 4, line 10)
    v    ←  μ v + ∂L/∂u
    u    ←  u − γ v                                                             (line 11)
    labels  f_T*(u), T* the expert that validates best                          (line 12)

In every round a fresh student is trained on a batch of synthetic images to predict what an expert,
a network trained on the real data, predicts on them. Then the images move to where the expert and K
checkpoints of the student disagree most, as far as the expert still takes them for their class.
That is a plain gradient of a sum over images and checkpoints; no training is differentiated
through.

The update is the same in segments (§3.3): each image's gradient depends on no other image, and is a
sum over checkpoints, so that only the graph of one network on ``segment`` images is held. The
student is trained on ``student_batch`` images at a time, which bounds the memory of that part. Sets
distilled apart, with seeds of their own, may be merged (§4.3, :func:`proxynas.proxyset.merge`). For
images to stay independent, batch norms of experts and checkpoints use their running averages while
the images are updated.

What the paper leaves open, and what is done here: the sum of eq. 4 is over the round's batch, so it
is divided by B, as in line 6; its cross-entropy counts once an image, not once a checkpoint; the
distance of two logits is the mean over classes; images that are not in the batch stay where they
are, their momentum too; the labels are those of the expert that validates best. The batch is the
whole set while that has no more than ``batch`` images, the 500 of §4.3.

Where implementations differ: the authors' code drops the logarithm of eq. 4 (here ``log=false``),
and keeps an expert and the checkpoints of its student for three rounds (``reuse=3``; ``--mid_gap
2`` of their commands), each with a batch of its own. On MNIST both forms do equally well in equal
time (``experiments/mnist-apm-forms.toml``), and the paper's is the default. It takes experts by
test accuracy; here they are taken by validation (:mod:`proxynas.distill.experts`). Its 100 experts
are 10 here, which §4.4 finds nearly as good. On CIFAR both whiten, in their code by ``zca =
"kornia:0.1"`` (:mod:`proxynas.datasets.zca`), and augment by
``color+crop+cutout+flip+scale+rotate`` while experts and students train; the default is no
augmentation, because not all data bear it.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from torch.nn import functional as F

from ... import training
from ...core import seeds, settings
from ...core.errors import DivergedError, SpecError
from ...specs import Strategy
from .. import students
from ..experts import Pool, Training
from ..method import Extras, Method, Shared, State, Task, class_labels, real_images

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]

DECAY = 0.3
"""Of the images' learning rate, from half of the rounds on."""
SMALLEST = 1e-12
"""Distance under which the logarithm is cut."""


@checked(frozen=True, config=settings.CONFIG)
class APM:
    """Settings of APM: the published ones, but for the number of experts and the augmentation."""

    batch: Positive = 500  # B, synthetic images a round
    epochs: Positive = 250  # E, of a student
    checkpoints: Positive = 5  # K
    lr: Rate = 1.0  # γ, of the images
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    alpha: Annotated[float, Field(ge=0)] = 0.1  # of the expert's cross-entropy
    log: bool = True  # of the distance; false: as in the authors' code
    reuse: Positive = 1  # rounds with one expert and one student; 3 in the authors' code
    segment: Positive | None = None  # images updated at a time; None: all of the round's
    student: str | None = None  # see spaces.resolve; None: students.default_student
    student_lr: Rate = 0.02  # η
    student_batch: Positive = 256
    experts: Positive = 10
    expert: str | None = None  # architecture of the experts; None: the student's
    expert_epochs: Positive = 100
    expert_lr: Rate = 0.05
    expert_batch: Positive = 256
    expert_seed: int = 0  # the pool's; distillations of any seed share it
    augment: Strategy = ""  # of what experts and students are trained on


def check(task: Task[APM]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: more checkpoints than epochs, augmentation for tables.
        SpaceError: an unknown student or expert.
    """
    apm = task.settings
    if apm.checkpoints > apm.epochs:
        limit = f"at most epochs, which is {apm.epochs}"
        raise SpecError(f"checkpoints must be {limit}, but got {apm.checkpoints}")
    if apm.augment and not task.dataset.is_images:
        reason = "is for images, but the data are tables"
        raise SpecError(f"augment = {apm.augment!r} {reason}; leave it out")
    archs = [_student_arch(task), apm.expert or _student_arch(task)]
    students.check(task, archs, dropout=True)


def pool(task: Task[APM]) -> Pool:
    """The experts that the task's settings ask for."""
    apm = task.settings
    expert_training = Training(
        apm.expert or _student_arch(task),
        epochs=apm.expert_epochs,
        batch_size=apm.expert_batch,
        lr=apm.expert_lr,
        augment=apm.augment,
        seed=apm.expert_seed,
    )
    return Pool(task.dataset, expert_training, apm.experts)


def prepare(task: Task[APM], on_done: Callable[[int, int], None]) -> Shared:
    """Train the experts that are not there yet; what all of them cost when they were trained."""
    experts_pool = pool(task)
    shared = experts_pool.shared(on_done)
    return replace(shared, about={**shared.about, "labels": experts_pool.best()})


def init(task: Task[APM]) -> State:
    """Line 1: real images (C·ipc, …), drawn at random; and their momentum."""
    generator = seeds.generator(task.seed, "apm", "init")
    x = real_images(task.dataset, task.ipc, generator).flatten(0, 1)
    return {"x": x, "velocity": torch.zeros_like(x)}


def step(task: Task[APM], state: State, k: int) -> tuple[State, float]:
    """Lines 3 to 11: one round; its loss is eq. 4."""
    apm = task.settings
    first = k - k % apm.reuse  # the round whose expert and student this one has
    x = state["x"].clone()  # (C·ipc, …)
    velocity = state["velocity"].clone()
    y = class_labels(task.dataset.num_classes, task.ipc, x.device)
    rows = _batch(task, len(x), k).to(x.device)  # line 4: (B,)
    expert = _expert(task, first)  # line 3
    if k == first:
        checkpoints = _train_student(task, expert, x[rows], first)
    else:
        checkpoints = [_restored(task, state, place) for place in range(apm.checkpoints)]
    loss, gradient = image_gradient(
        expert, checkpoints, x[rows], y[rows], alpha=apm.alpha, log=apm.log, segment=apm.segment
    )  # line 10
    if math.isfinite(loss) and not gradient.isfinite().all():
        problem = f"the gradient of the images is not finite at step {k}"
        raise DivergedError(f"{problem}; lower lr, now {apm.lr:g}")
    velocity[rows] = apm.momentum * velocity[rows] + gradient
    x[rows] -= rate(task, k) * velocity[rows]  # line 11
    used_again = k + 1 < first + apm.reuse
    return {"x": x, "velocity": velocity, **(_kept(checkpoints) if used_again else {})}, loss


def finish(task: Task[APM], state: State) -> tuple[Tensor, Tensor]:
    """Line 12: images (C·ipc, …), class by class, and the best expert's logits (C·ipc, C)."""
    experts_pool = pool(task)
    best = experts_pool.network(experts_pool.best())
    return state["x"].clone(), logits(best, state["x"], task.settings.segment)


def extras(task: Task[APM], state: State) -> Extras:
    """The set is for training as its students were: L1 on logits, and their rate."""
    return Extras(recipe={"loss": "l1", "lr": task.settings.student_lr})


def rate(task: Task[APM], k: int) -> float:
    """γ of round ``k``: times 0.3 from half of the rounds on.

    Where only seconds are given, the rounds are the published number.
    """
    return task.settings.lr * (DECAY if 2 * k >= (task.steps or METHOD.steps) else 1.0)


def logits(net: nn.Module, x: Tensor, segment: int | None = None) -> Tensor:
    """A network's logits (n, C) of images (n, …), ``segment`` at a time, without a graph."""
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(x, segment or len(x))])


# reason: equation 4 has seven parameters
def image_gradient(
    expert: nn.Module,
    checkpoints: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    alpha: float,
    log: bool = True,
    segment: int | None = None,
) -> tuple[float, Tensor]:
    """Eq. 4 of images ``x`` (n, …) of classes ``y`` (n,), and its gradient in the images.

    It takes ``segment`` images and one network at a time; seven parameters, because eq. 4 has them.
    The distance has a gradient in the expert's logits too. It is summed over the checkpoints, and
    goes through the expert once: Σₖ ∂dₖ/∂u + (∂f_T/∂u)ᵀ Σₖ ∂dₖ/∂f_T. The networks are in evaluation
    mode.
    """
    n = len(x)
    segments = torch.split(torch.arange(n, device=x.device), segment or n)
    expert_logits = logits(expert, x, segment)  # (n, C)
    grad_images = torch.zeros_like(x)
    grad_logits = torch.zeros_like(expert_logits)  # in the expert's
    total = 0.0
    for checkpoint in checkpoints:
        for rows in segments:
            images = x[rows].requires_grad_()
            target = expert_logits[rows].requires_grad_()
            distance = (target - checkpoint(images)).abs().mean(1)  # (b,)
            loss = -(distance.clamp_min(SMALLEST).log() if log else distance).sum() / n
            by_images, by_target = torch.autograd.grad(loss, (images, target))
            grad_images[rows] += by_images
            grad_logits[rows] += by_target
            total += loss.item()
    for rows in segments:
        images = x[rows].requires_grad_()
        predicted = expert(images)  # (b, C)
        loss = alpha * F.cross_entropy(predicted, y[rows], reduction="sum") / n
        through_expert = loss + (predicted * grad_logits[rows]).sum()
        grad_images[rows] += torch.autograd.grad(through_expert, images)[0]
        total += loss.item()
    return total, grad_images


def _student_arch(task: Task[APM]) -> str:
    return task.settings.student or students.default_student(task.dataset.shape)


def _batch(task: Task[APM], n: int, k: int) -> Tensor:
    """Line 4: B of the ``n`` images at random; others in each round, also of a reused student."""
    order = torch.randperm(n, generator=seeds.generator(task.seed, "apm", "batch", k))
    return order[: task.settings.batch]


def _expert(task: Task[APM], first: int) -> nn.Module:
    """Line 3: any expert of the pool."""
    generator = seeds.generator(task.seed, "apm", "expert", first)
    pick = torch.randint(task.settings.experts, (), generator=generator)
    return pool(task).network(int(pick))


def _train_student(task: Task[APM], expert: nn.Module, x: Tensor, first: int) -> list[nn.Module]:
    """Lines 5 to 9: K checkpoints of a fresh student, trained on images (B, …) and their logits."""
    apm = task.settings
    net = students.student(task, _student_arch(task), "apm", "student", first).to(x)
    passes = math.ceil(len(x) / apm.student_batch)  # updates an epoch
    recipe = training.Recipe(
        apm.epochs * passes,
        apm.student_batch,
        lr=apm.student_lr,
        schedule="step",
        loss="l1",
        augment=apm.augment,
    )
    every = apm.epochs // apm.checkpoints
    checkpoints: list[nn.Module] = []

    def keep(place: int, watched: nn.Module, losses: Tensor) -> None:
        checkpoints.append(copy.deepcopy(watched).eval().requires_grad_(False))

    trained = training.fit(
        [net],
        x,
        logits(expert, x, apm.segment),
        recipe,
        seed=seeds.derive(task.seed, "apm", "order", first),
        fused=False,
        watch=keep,
        watch_at=[every * passes * (place + 1) for place in range(apm.checkpoints)],  # line 8
    )
    reason = trained.failed[0]
    if reason is not None:
        problem = f"the student of step {first}: {reason}"
        raise DivergedError(f"{problem}; lower student_lr, now {apm.student_lr:g}")
    return checkpoints


def _kept(checkpoints: list[nn.Module]) -> State:
    """Checkpoints as tensors, for the next rounds of the same student."""
    return {
        f"checkpoint.{place}.{name}": value.detach().clone()
        for place, net in enumerate(checkpoints)
        for name, value in net.state_dict().items()
    }


def _restored(task: Task[APM], state: State, place: int) -> nn.Module:
    """Checkpoint number ``place`` out of a state."""
    prefix = f"checkpoint.{place}."
    net = students.student(task, _student_arch(task), "apm", "student").to(state["x"])
    stored = [name for name in state if name.startswith(prefix)]
    net.load_state_dict({name.removeprefix(prefix): state[name] for name in stored})
    return net.eval().requires_grad_(False)


METHOD = Method(
    "apm",
    "adversarial prediction matching (Chen 2023), with soft labels",
    APM,
    2500,
    init,
    step,
    finish,
    check=check,
    extras=extras,
    prepare=prepare,
)
