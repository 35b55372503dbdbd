"""Students: networks that are trained on a synthetic set while it is distilled, as functions of their parameters."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from .. import seeds, spaces
from ..datasets import Dataset
from .method import Task

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""Loss of a student with the given parameters on images (B, …) with labels (B,); a scalar."""


def default_student(shape: tuple[int, ...], width: int | None = None) -> str:
    """The published student, three blocks of 128 filters, and for images under 16×16 two blocks of 32.

    On 8×8 images three blocks do not condense: instance norm of 2×2 maps makes GM's distance so rough that it rises at
    the published rate, while with two blocks it falls (``experiments/README.md``). Width matters little to the student
    (Zhao 2021, Figure 12: 90.6 to 91.5 % with 32 filters). For rows of a table it is the published MLP.
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


def student_loss(nets: Sequence[nn.Module]) -> tuple[Parameters, Loss]:
    """Parameters of students and their loss as a function: of one student, or, stacked, the sum over equal ones.

    Batch norms use the statistics of the batch; their running averages are left alone.
    """

    def one(parameters: Parameters, buffers: Parameters, x: Tensor, y: Tensor) -> Tensor:
        own = {name: value.clone() for name, value in buffers.items()}
        return F.cross_entropy(functional_call(nets[0], (parameters, own), (x,)), y)

    if len(nets) == 1:
        buffers = dict(nets[0].named_buffers())
        parameters = {name: p.detach() for name, p in nets[0].named_parameters()}
        return parameters, lambda p, x, y: one(p, buffers, x, y)
    stacked, buffers = stack_module_state(list(nets))
    parameters = {name: p.detach() for name, p in stacked.items()}
    return parameters, lambda p, x, y: vmap(one, (0, 0, None, None))(p, buffers, x, y).sum()


def real_batch(dataset: Dataset, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` training images (n, …) and labels (n,) at random without replacement; all when there are fewer."""
    pick = torch.randperm(len(dataset.train), generator=generator)[:n].to(dataset.train.x.device)
    return dataset.train.x[pick], dataset.train.y[pick]
