"""Students, the networks trained on a synthetic set during distillation, as functions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from .. import spaces
from ..core import seeds
from ..core.errors import SpecError
from ..datasets import Dataset
from . import tracing
from .method import Task

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""Loss of a student with the given parameters on images (B, …) with labels (B,); a scalar."""

Forward = Callable[[Parameters, Tensor], Tensor]
"""Logits (R, B, K) of stacked students with the given parameters on images (B, …)."""

DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


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


def doubling_student(shape: tuple[int, ...]) -> str:
    """The published student of FRePo and RCIG: three blocks from 128 filters on, softplus for ReLU.

    Four blocks for 64×64 images, five for 128×128, both with ReLU. For images under 16×16, and rows
    of a table, as :func:`default_student` says.
    """
    if len(shape) == 1:
        return default_student(shape)
    side = min(shape[1:])
    if side < 16:
        depth = max(1, min(2, int(math.log2(side)) - 1))
        return f"doubling-convnet:D{depth}-W32-none-softplus"
    depth = 5 if side >= 128 else 4 if side >= 64 else 3
    activation = "softplus" if depth == 3 else "relu"
    return f"doubling-convnet:D{depth}-W128-none-{activation}"


def check(task: Task[object], archs: Sequence[str], *, dropout: bool = False) -> None:
    """Refuse students that no space has, or that cannot be built for these data; and, without
    ``dropout``, those that have it: a method that differentiates a student's training needs one
    that computes the same whenever it is asked.

    Raises:
        SpaceError: unknown space or architecture, or one for other shapes.
        SpecError: dropout.
    """
    for arch in archs:
        space, name = spaces.resolve(arch)
        space.check(name, task.dataset.shape, task.dataset.num_classes)
        if not dropout and any(map(_drops, student(task, arch, "check").modules())):
            raise SpecError(f"student {arch!r} has dropout; take one without, or apm or dm")


def _drops(module: nn.Module) -> bool:
    return isinstance(module, DROPOUT) and module.p > 0


def student(task: Task[object], arch: str, *stream: object) -> nn.Module:
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
    """Parameters of students, and their loss as a function: the sum over several, stacked.

    ``forward`` gives the logits of stacked students: :func:`recorded`, or (``None``) the first's
    under ``vmap``. Batch norms use the statistics of the batch; their running averages are
    left alone.
    """

    def one(parameters: Parameters, buffers: Parameters, x: Tensor) -> Tensor:
        copies = {name: value.clone() for name, value in buffers.items()}
        logits: Tensor = functional_call(nets[0], (parameters, copies), (x,))
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


@dataclass(frozen=True)
class _Sizes:
    """What a record of stacked students depends on; ``rows`` are the images of a batch."""

    arch: str
    shape: tuple[int, ...]
    classes: int
    replicas: int
    rows: int
    dtype: torch.dtype
    device: torch.device


def recorded(task: Task[object], arch: str, replicas: int, rows: int) -> Forward | None:
    """The logits (R, B, K) of stacked students on ``rows`` images, as a record of operations.

    ``None`` where nothing can be recorded: batch norms change their buffers in place.
    """
    x = task.dataset.train.x
    classes = task.dataset.num_classes
    return _record(_Sizes(arch, task.dataset.shape, classes, replicas, rows, x.dtype, x.device))


@lru_cache(maxsize=32)
def _record(sizes: _Sizes) -> Forward | None:
    space, name = spaces.resolve(sizes.arch)
    with torch.random.fork_rng(devices=()):
        net = space.build(name, sizes.shape, sizes.classes)
    net = net.to(sizes.device, sizes.dtype).train()
    if dict(net.named_buffers()):
        return None
    names, parameters = zip(*net.named_parameters(), strict=True)

    def stacked(x: Tensor, *values: Tensor) -> Tensor:
        def one(*of_student: Tensor) -> Tensor:
            logits: Tensor = functional_call(net, dict(zip(names, of_student, strict=True)), (x,))
            return logits

        return vmap(one)(*values)

    images = torch.zeros(sizes.rows, *sizes.shape, dtype=sizes.dtype, device=sizes.device)
    example = [p.detach().expand(sizes.replicas, *p.shape).contiguous() for p in parameters]
    run = tracing.record(stacked, [images, *example])

    def forward(p: Parameters, x: Tensor) -> Tensor:
        return (run if len(x) == sizes.rows else stacked)(x, *(p[name] for name in names))

    return forward


def as_leaves(parameters: Parameters) -> Parameters:
    """The same values, to be differentiated in."""
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def real_batch(dataset: Dataset, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` training images (n, …) and labels (n,), drawn without replacement; all if fewer."""
    pick = torch.randperm(len(dataset.train), generator=generator)[:n].to(dataset.train.x.device)
    return dataset.train.x[pick], dataset.train.y[pick]
