"""Students: networks that are trained on a synthetic set while it is distilled, as functions of
their parameters."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from .. import spaces
from ..core import seeds
from ..datasets import Dataset
from . import tracing
from .method import Task

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""Loss of a student with the given parameters on images (B, …) with labels (B,); a scalar."""

Forward = Callable[[Parameters, Tensor], Tensor]
"""Logits (R, B, K) of stacked students with the given parameters on images (B, …)."""


def default_student(shape: tuple[int, ...], width: int | None = None) -> str:
    """The published student, three blocks of 128 filters, and for images under 16×16 two blocks of
    32.

    On 8×8 images three blocks do not condense: instance norm of 2×2 maps makes GM's distance so
    rough that it rises at the published rate, while with two blocks it falls
    (``experiments/README.md``). Width matters little to the student (Zhao 2021, Figure 12: 90.6 to
    91.5 % with 32 filters). For rows of a table it is the published MLP.
    """
    if len(shape) == 1:
        return "evaluation-nets:mlp"
    small = min(shape[1:]) < 16
    depth = max(1, min(2 if small else 3, int(math.log2(min(shape[1:]))) - 1))
    return f"D{depth}-W{width or (32 if small else 128)}-relu-instancenorm-avgpooling"


def check(task: Task, archs: Sequence[str]) -> None:
    """Refuse students that no space has, or that cannot be built for these data.

    Raises:
        SpaceError: unknown space or architecture, or one for other shapes.
    """
    for arch in archs:
        space, name = spaces.resolve(arch)
        space.build(name, task.dataset.shape, task.dataset.num_classes)


def student(task: Task, arch: str, *stream: object) -> nn.Module:
    """A student in training mode, initialised from the stream ``stream`` of the task's seed.

    ``arch`` is written as :func:`proxynas.spaces.resolve` reads it.
    """
    space, name = spaces.resolve(arch)
    with seeds.seeded(seeds.derive(task.seed, *stream)):
        net = space.build(name, task.dataset.shape, task.dataset.num_classes)
    return net.to(task.dataset.train.x.device).train()


def student_loss(
    nets: Sequence[nn.Module], forward: Forward | None = None
) -> tuple[Parameters, Loss]:
    """Parameters of students and their loss as a function: of one student, or, stacked, the sum
    over equal ones.

    ``forward`` is what gives the logits of stacked students, :func:`recorded` or (``None``) the
    first's under ``vmap``. Batch norms use the statistics of the batch; their running averages are
    left alone.
    """

    def one(parameters: Parameters, buffers: Parameters, x: Tensor) -> Tensor:
        own = {name: value.clone() for name, value in buffers.items()}
        logits: Tensor = functional_call(nets[0], (parameters, own), (x,))
        return logits

    if len(nets) == 1:
        buffers = dict(nets[0].named_buffers())
        parameters = {name: p.detach() for name, p in nets[0].named_parameters()}
        return parameters, lambda p, x, y: F.cross_entropy(one(p, buffers, x), y)
    stacked, buffers = stack_module_state(list(nets))

    def logits(p: Parameters, x: Tensor) -> Tensor:
        return vmap(one, (0, 0, None))(p, buffers, x) if forward is None else forward(p, x)

    def total(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits(p, x).flatten(0, 1), y.repeat(len(nets))) * len(nets)

    return {name: p.detach() for name, p in stacked.items()}, total


def recorded(task: Task, arch: str, replicas: int, rows: int) -> Forward | None:
    """What gives the logits (R, B, K) of stacked students from their parameters and ``rows``
    images, as a record of its operations, or ``None`` where it cannot be recorded: batch norms
    change their buffers in place."""
    like = task.dataset.train.x
    return _recorded(
        arch, task.dataset.shape, task.dataset.num_classes, replicas, rows, like.dtype, like.device
    )


@lru_cache(maxsize=32)
def _recorded(
    arch: str,
    shape: tuple[int, ...],
    classes: int,
    replicas: int,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Forward | None:
    space, name = spaces.resolve(arch)
    with torch.random.fork_rng(devices=()):
        net = space.build(name, shape, classes).to(device, dtype).train()
    if dict(net.named_buffers()):
        return None
    names, parameters = zip(*net.named_parameters(), strict=True)

    def stacked(x: Tensor, *values: Tensor) -> Tensor:
        def one(*own: Tensor) -> Tensor:
            logits: Tensor = functional_call(net, dict(zip(names, own, strict=True)), (x,))
            return logits

        return vmap(one)(*values)

    example = [p.detach().expand(replicas, *p.shape).contiguous() for p in parameters]
    run = tracing.record(stacked, [torch.zeros(rows, *shape, dtype=dtype, device=device), *example])

    def forward(p: Parameters, x: Tensor) -> Tensor:
        return (run if len(x) == rows else stacked)(x, *(p[name] for name in names))

    return forward


def real_batch(dataset: Dataset, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` training images (n, …) and labels (n,) at random without replacement; all when there
    are fewer."""
    pick = torch.randperm(len(dataset.train), generator=generator)[:n].to(dataset.train.x.device)
    return dataset.train.x[pick], dataset.train.y[pick]
