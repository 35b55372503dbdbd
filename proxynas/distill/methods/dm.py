"""DM, distribution matching.

Zhao & Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023; arXiv 2110.04181),
Algorithm 1.

Real images T_c and synthetic ones S_c of class c; ψ: a freshly initialised network up to its last
layer; A_c: an augmentation, the same for both (DSA):

    L   =  Σ_c ‖ mean ψ(A_c(T_c)) − mean ψ(A_c(S_c)) ‖²           (the learning objective)
    v   ←  μ v + ∂L/∂S
    S   ←  S − η v

Every step draws a fresh network, which is not trained: no gradient is matched and nothing is
differentiated twice, so a step is a forward pass over the real images and one training step's work
on the synthetic ones.

Where implementations differ: as in the authors' code a class at a time passes through the network,
and all classes together where it has batch norms, the real and the synthetic images apart. ψ's
output is what the network's last linear layer takes in, whatever the network. The published
augmentation is ``color+crop+cutout+flip+scale+rotate``; the default here is none, as it is of every
method. Generators (``synthetic``) are ours alone.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core import seeds, settings
from ...core.errors import SpecError
from ...datasets import augment
from .. import students, synthetic
from ..gradients import cached_piece
from ..method import Extras, Method, State, Task, draw
from ..synthetic import Rule

PIXELS = Rule("sgd", lr=1.0, momentum=0.5)
GTN = Rule("adam", lr=0.01, momentum=0.9, clip=10.0)


@checked(frozen=True, config=settings.CONFIG)
class DM(synthetic.Learned):
    """Settings of distribution matching; the defaults are the published ones, but for the
    augmentation."""

    init: Literal["noise", "real"] = "real"
    real_batch: Annotated[int, Field(ge=1)] = 256  # images per class
    student: str | None = None  # what embeds: see spaces.resolve; None: students.default_student


def check(task: Task[DM]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`; a network without a linear layer.
        SpaceError: an unknown student.
    """
    synthetic.check(task, PIXELS, GTN)
    students.check(task, [_arch(task)], dropout=True)
    _last_linear(students.student(task, _arch(task), "dm", "check"), _arch(task))


def init(task: Task[DM]) -> State:
    """Real images (C, ipc, …), noise N(0, 1) or a generator."""
    return synthetic.start(task, "dm")


def step(task: Task[DM], state: State, k: int) -> tuple[State, float]:
    """One network, one match; the distance L, a mean over classes."""
    net = students.student(task, _arch(task), "dm", "student", k).requires_grad_(False)
    images = partial(synthetic.drawn, task, ("dm", "noise", k))
    parameters = synthetic.parameters_of(state)
    with torch.no_grad():
        x = images(parameters).clone().requires_grad_()  # (C, ipc, …)
    transforms = [
        augment.draw(
            task.settings.augment, task.dataset.shape, seeds.generator(task.seed, "dm", k, c)
        )
        for c in range(len(x))
    ]
    matched = _match(task, net, x, transforms, k)
    if x.grad is None or not math.isfinite(matched):
        return state, matched  # the loop says that it diverged
    gradients = synthetic.pull_back(images, parameters, x.grad)
    return synthetic.update(state, gradients, task.settings.rule(PIXELS, GTN)), matched


def finish(task: Task[DM], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    return synthetic.finish(task, synthetic.parameters_of(state), 1, "dm")


def extras(task: Task[DM], state: State) -> Extras:
    """The generator, where there is one."""
    return Extras(generator=synthetic.generator_of(task, synthetic.parameters_of(state)))


def embeddings(net: nn.Module, x: Tensor) -> Tensor:
    """What the network's last linear layer takes in, (B, features), for images (B, …)."""
    seen: list[Tensor] = []
    handle = _last_linear(net).register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    try:
        net(x)
    finally:
        handle.remove()
    return seen[-1].flatten(1)


def _match(
    task: Task[DM], net: nn.Module, x: Tensor, transforms: Sequence[augment.Transform], k: int
) -> float:
    """Leave the distance's gradient in ``x.grad``; the distance L, a mean over classes."""
    train, dm = task.dataset.train, task.settings
    generator = seeds.generator(task.seed, "dm", "real", k)
    picks = draw(train.y, task.dataset.num_classes, dm.real_batch, generator)
    if any(isinstance(module, _BatchNorm) for module in net.modules()):
        groups = [list(range(len(x)))]
    else:
        groups = [[c] for c in range(len(x))]
    total = 0.0
    for group in groups:
        with torch.no_grad():
            real = [transforms[c](train.x[picks[c]]) for c in group]
            of_real = _means(_embedded(net, torch.cat(real), len(groups) > 1), real)
        made = [transforms[c](x[c]) for c in group]
        of_made = _means(embeddings(net, torch.cat(made)), made)
        distance = (of_real - of_made).square().sum()
        distance.backward()  # type: ignore[no-untyped-call]
        total += distance.item()
    return total / len(x)


def _embedded(net: nn.Module, x: Tensor, apart: bool) -> Tensor:
    """Embeddings (B, features); of a network that sees images ``apart`` in pieces that fit into the
    processor's cache."""
    size = cached_piece(net, x) if apart else len(x)
    return torch.cat([embeddings(net, piece) for piece in torch.split(x, size)])


def _means(embedded: Tensor, batches: Sequence[Tensor]) -> Tensor:
    """The mean embedding (classes, features) of each of the batches that were embedded together."""
    parts = torch.split(embedded, [len(batch) for batch in batches])
    return torch.stack([part.mean(0) for part in parts])


def _arch(task: Task[DM]) -> str:
    return task.settings.student or students.default_student(task.dataset.shape)


def _last_linear(net: nn.Module, arch: str = "") -> nn.Linear:
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise SpecError(
            f"dm compares what a network's last linear layer takes in, but {arch} has none; "
            "take another student"
        )
    return layers[-1]


METHOD = Method(
    "dm",
    "distribution matching (Zhao 2023)",
    DM,
    20_000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
)
