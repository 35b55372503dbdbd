"""APM: Chen et al., "Dataset Distillation via Adversarial Prediction Matching" (2023), Algorithm 1.

In every round a fresh student is trained on a batch of synthetic images to predict what an expert, a network trained on
the real data, predicts on them (L1 between logits). Then the images move to where the expert and K checkpoints of the
student disagree most, as far as the expert still takes them for their class (eq. 4). That is a plain gradient of a
sum over images and checkpoints; no training is differentiated through. The set's labels are an expert's logits.

The update is the same in segments (§3.3): each image's gradient depends on no other image, and is a sum over
checkpoints, so that only the graph of one network on ``segment`` images is held. The student is trained on
``student_batch`` images at a time, which bounds the memory of that part. Sets distilled apart, with seeds of their own,
may be merged (§4.3, :func:`proxynas.proxyset.merge`). For images to stay independent, batch norms of experts and
checkpoints use their running averages while the images are updated.

What the paper leaves open, and what is done here: the sum of eq. 4 is over the round's batch, so it is divided by B, as
in line 6; its cross-entropy counts once an image, not once a checkpoint; the distance of two logits is the mean over
classes; images that are not in the batch stay where they are, their momentum too; the labels are those of the expert
that validates best. The batch is the whole set while that has no more than ``batch`` images, the 500 of §4.3.

Where implementations differ: the authors' code drops the logarithm of eq. 4 (here ``log=false``) and uses an expert and
the checkpoints of its student for three rounds (``reuse=3``); the defaults are the paper's. It takes experts by test
accuracy; here they are taken by validation (:mod:`proxynas.distill.experts`). Its 100 experts are 10 here, which §4.4
finds nearly as good. On CIFAR both whiten (ZCA) and augment by ``color+crop+cutout+flip+scale+rotate`` while experts
and students train; the default is no augmentation, because not all data bear it.
"""

import copy
import math
from collections.abc import Callable, Sequence
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
    """Settings of adversarial prediction matching; published, but for the number of experts and the augmentation."""

    batch: Positive = 500  # B, synthetic images a round
    epochs: Positive = 250  # E, of a student
    checkpoints: Positive = 5  # K
    lr: Rate = 1.0  # γ, of the images
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    alpha: Annotated[float, Field(ge=0)] = 0.1  # of the expert's cross-entropy
    log: bool = True  # of the distance; false: as in the authors' code
    reuse: Positive = 1  # rounds with one expert and one student; 3 in the authors' code
    segment: Positive | None = None  # images updated at a time; None: all of the round's
    student: str | None = None  # an architecture, see spaces.resolve; None: students.default_student
    student_lr: Rate = 0.02  # η
    student_batch: Positive = 256
    experts: Positive = 10
    expert: str | None = None  # architecture of the experts; None: the student's
    expert_epochs: Positive = 100
    expert_lr: Rate = 0.05
    expert_batch: Positive = 256
    expert_seed: int = 0  # the pool's; distillations of any seed share it
    augment: Strategy = ""  # of what experts and students are trained on


def check(task: Task) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: more checkpoints than epochs, augmentation for tables.
        SpaceError: an unknown student or expert.
    """
    own: APM = task.settings
    if own.checkpoints > own.epochs:
        raise SpecError(f"checkpoints must be at most epochs, which is {own.epochs}, but got {own.checkpoints}")
    if own.augment and len(task.dataset.shape) != 3:
        raise SpecError(f"augment = {own.augment!r} is for images, but the data are tables; leave it out")
    students.check(task, [_student(task), own.expert or _student(task)])


def pool(task: Task) -> Pool:
    """The experts that the task's settings ask for."""
    own: APM = task.settings
    training = Training(
        own.expert or _student(task),
        epochs=own.expert_epochs,
        batch_size=own.expert_batch,
        lr=own.expert_lr,
        augment=own.augment,
        seed=own.expert_seed,
    )
    return Pool(task.dataset, training, own.experts)


def prepare(task: Task, on_done: Callable[[int, int], None]) -> Shared:
    """Train the experts that are not there yet; what all of them cost when they were trained."""
    found = pool(task)
    told = found.complete(on_done)
    return Shared(
        "experts",
        found.key,
        sum(expert.seconds for expert in told),
        sum(expert.core_seconds for expert in told),
        max(expert.peak_mib for expert in told),
        {
            "count": len(told),
            "val_accuracy": [round(expert.val_accuracy, 4) for expert in told],
            "labels": found.best(),
            "made_on": sorted({expert.made_on for expert in told}),
        },
    )


def init(task: Task) -> State:
    """Line 1: real images (C·ipc, …), drawn at random; and their momentum."""
    x = real_images(task.dataset, task.ipc, seeds.generator(task.seed, "apm", "init")).flatten(0, 1)
    return {"x": x, "velocity": torch.zeros_like(x)}


def step(task: Task, state: State, k: int) -> tuple[State, float]:
    """Lines 3 to 11: one round; its loss is eq. 4."""
    own: APM = task.settings
    first = k - k % own.reuse  # the round that this one's expert, batch and student are of
    x, velocity = state["x"].clone(), state["velocity"].clone()
    n = min(own.batch, len(x))
    rows = torch.randperm(len(x), generator=seeds.generator(task.seed, "apm", "batch", first))[:n].to(
        x.device
    )  # line 4
    expert = _expert(task, first)  # line 3
    if k == first:
        checkpoints = _train_student(task, expert, x[rows], first)
    else:
        checkpoints = [_restored(task, state, place) for place in range(own.checkpoints)]
    y = class_labels(task.dataset.num_classes, task.ipc, x.device)[rows]
    loss, gradient = image_gradient(
        expert, checkpoints, x[rows], y, alpha=own.alpha, log=own.log, segment=own.segment
    )  # line 10
    if math.isfinite(loss) and not gradient.isfinite().all():
        raise DivergedError(f"the gradient of the images is not finite at step {k}; lower lr, now {own.lr:g}")
    velocity[rows] = own.momentum * velocity[rows] + gradient
    x[rows] -= rate(task, k) * velocity[rows]  # line 11
    kept = _kept(checkpoints) if k + 1 < first + own.reuse else {}
    return {"x": x, "velocity": velocity, **kept}, loss


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Line 12: images (C·ipc, …), class by class, and the logits (C·ipc, C) of the expert that validates best."""
    found = pool(task)
    return state["x"].clone(), logits(found.network(found.best()), state["x"], task.settings.segment)


def extras(task: Task, state: State) -> Extras:
    """The set was made for training as its students were: L1 on logits, and their rate."""
    return Extras(recipe={"loss": "l1", "lr": task.settings.student_lr})


def rate(task: Task, k: int) -> float:
    """γ of round ``k``: times 0.3 from half of the rounds on, the published number's where only seconds are given."""
    lr: float = task.settings.lr
    return lr * (DECAY if 2 * k >= (task.steps or METHOD.steps) else 1.0)


def logits(net: nn.Module, x: Tensor, segment: int | None = None) -> Tensor:
    """What a network says of images (n, …), ``segment`` at a time, as (n, C) without a graph."""
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(x, segment or len(x))])


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
    """Eq. 4 of images ``x`` (n, …) of classes ``y`` (n,), and its gradient in the images: ``segment`` of them and one
    network at a time.

    The distance has a gradient in the expert's logits too. It is summed over the checkpoints, and goes through the
    expert once. The networks are in evaluation mode.
    """
    n, pieces = len(x), torch.split(torch.arange(len(x), device=x.device), segment or len(x))
    said = logits(expert, x, segment)  # (n, C)
    dx, dsaid, total = torch.zeros_like(x), torch.zeros_like(said), 0.0
    for checkpoint in checkpoints:
        for rows in pieces:
            u, v = x[rows].requires_grad_(), said[rows].requires_grad_()
            d = (v - checkpoint(u)).abs().mean(1)  # (b,)
            loss = -(d.clamp_min(SMALLEST).log() if log else d).sum() / n
            du, dv = torch.autograd.grad(loss, (u, v))
            dx[rows], dsaid[rows], total = dx[rows] + du, dsaid[rows] + dv, total + loss.item()
    for rows in pieces:
        u = x[rows].requires_grad_()
        v = expert(u)
        loss = alpha * F.cross_entropy(v, y[rows], reduction="sum") / n
        dx[rows] += torch.autograd.grad(loss + (v * dsaid[rows]).sum(), u)[0]
        total += loss.item()
    return total, dx


def _student(task: Task) -> str:
    found: str | None = task.settings.student
    return found or students.default_student(task.dataset.shape)


def _expert(task: Task, first: int) -> nn.Module:
    """Line 3: any expert of the pool."""
    own: APM = task.settings
    pick = torch.randint(own.experts, (), generator=seeds.generator(task.seed, "apm", "expert", first))
    return pool(task).network(int(pick))


def _train_student(task: Task, expert: nn.Module, x: Tensor, first: int) -> list[nn.Module]:
    """Lines 5 to 9: K checkpoints of a fresh student, trained on images (B, …) and what the expert says of them."""
    own: APM = task.settings
    net = students.student(task, _student(task), "apm", "student", first).to(x)
    passes = math.ceil(len(x) / own.student_batch)
    recipe = training.Recipe(
        own.epochs * passes, own.student_batch, lr=own.student_lr, schedule="step", loss="l1", augment=own.augment
    )
    every, kept = own.epochs // own.checkpoints, []
    trained = training.fit(
        [net],
        x,
        logits(expert, x, own.segment),
        recipe,
        seed=seeds.derive(task.seed, "apm", "order", first),
        fused=False,
        watch=lambda place, watched: kept.append(copy.deepcopy(watched).eval().requires_grad_(False)),
        watch_at=[every * passes * (place + 1) for place in range(own.checkpoints)],  # line 8, K of them
    )
    if trained.failed[0] is not None:
        said = trained.failed[0]
        raise DivergedError(f"the student of step {first}: {said}; lower student_lr, now {own.student_lr:g}")
    return kept


def _kept(checkpoints: list[nn.Module]) -> State:
    """Checkpoints as tensors, for the next rounds of the same student."""
    return {
        f"checkpoint.{place}.{name}": value.detach().clone()
        for place, net in enumerate(checkpoints)
        for name, value in net.state_dict().items()
    }


def _restored(task: Task, state: State, place: int) -> nn.Module:
    """Checkpoint number ``place`` out of a state."""
    prefix = f"checkpoint.{place}."
    net = students.student(task, _student(task), "apm", "student").to(state["x"])
    net.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
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
