"""GM, gradient matching: Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021), Algorithm 1.

Every step draws a fresh student. Its gradient on synthetic images of a class is made to point where its gradient on
real images of that class points (eq. 9), the synthetic images moving; then the student itself takes some steps on the
synthetic images, and again, ``outer`` times. The student is not trained after the last match.

The distance (eq. 10) is one minus the cosine, for every output unit's row of every weight, summed. Parameters with one
dimension (biases, scale and shift of norms) count nothing.

Where implementations differ: the authors' code, run on a student with batch norm, lets one forward pass of 16 real
images a class move the running statistics a tenth of the way and freezes them there; the paper replaces them by those
of the real images, and so does this file. Each class's gradients are the published ones; those of the synthetic images
are taken for all classes in one ``vmap`` call where that is faster (:func:`batching_pays`), which only changes
rounding.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .. import seeds, settings, spaces, train
from .method import Method, State, Task, class_labels, draw, pack, real_images, unpack

Parameters = dict[str, Tensor]

SCHEDULE = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""(outer, inner) by images per class, as published; sizes between take the next smaller entry."""


@checked(frozen=True, config=settings.CONFIG)
class GM:
    """Settings of gradient matching; the defaults are the published ones."""

    init: Literal["noise", "real"] = "noise"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    real_batch: Annotated[int, Field(ge=1)] = 256  # images a class
    outer: Annotated[int, Field(ge=1)] | None = None  # None: by ipc, see SCHEDULE
    inner: Annotated[int, Field(ge=0)] | None = None  # epochs of the student between two matches
    student: str | None = None  # an architecture, see spaces.resolve; None: see default_student
    student_lr: Annotated[float, Field(gt=0)] = 0.01
    student_batch: Annotated[int, Field(ge=1)] = 256
    distance: Literal["rowwise-cosine", "cosine", "euclidean"] = "rowwise-cosine"
    batch_classes: bool | None = None  # None: where it is faster


def init(task: Task) -> State:
    """Noise N(0, 1) or real images, (C, ipc, …)."""
    dataset, generator = task.dataset, seeds.generator(task.seed, "gm", "init")
    if task.settings.init == "real":
        return {"x": real_images(dataset, task.ipc, generator)}
    x = torch.randn(dataset.num_classes, task.ipc, *dataset.shape, generator=generator)
    return {"x": x.to(dataset.train.x.device)}


def step(task: Task, state: State, k: int) -> tuple[State, float]:
    """One student's life: ``outer`` matches with ``inner`` epochs of training in between; the mean distance."""
    outer, inner = schedule(task.settings, task.ipc)
    x = state["x"].clone().requires_grad_()  # (C, ipc, …)
    optimizer = torch.optim.SGD([x], lr=task.settings.lr, momentum=task.settings.momentum)
    unpack(optimizer, state, "optimizer")
    net = _student(task, k)
    total = 0.0
    for match in range(outer):
        _freeze_batch_norm(task, net, k, match)
        optimizer.zero_grad()
        total += _match(task, net, x, seeds.generator(task.seed, "gm", "real", k, match))
        optimizer.step()
        if match < outer - 1:
            _train_student(task, net, x.detach(), inner, seeds.derive(task.seed, "gm", "student", k, match))
    return {"x": x.detach(), **pack(optimizer, "optimizer")}, total / outer


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    x = state["x"].flatten(0, 1)
    return x, class_labels(task.dataset.num_classes, task.ipc, x.device)


def schedule(gm: GM, ipc: int) -> tuple[int, int]:
    """Matches a student, and epochs between two of them."""
    outer, inner = SCHEDULE[max(size for size in SCHEDULE if size <= ipc)]
    return gm.outer or outer, inner if gm.inner is None else gm.inner


def default_student(shape: tuple[int, ...], width: int | None = None) -> str:
    """The published student, three blocks of 128 filters, and for images under 16×16 two blocks of 32.

    On 8×8 images three blocks do not condense: instance norm of 2×2 maps makes the distance so rough that it rises at
    the published rate, while with two blocks it falls (``experiments/README.md``). Width matters little to the student
    (Zhao 2021, Figure 12: 90.6 to 91.5 % with 32 filters). For rows of a table it is the published MLP.
    """
    if len(shape) == 1:
        return "evaluation-nets:mlp"
    small = min(shape[1:]) < 16
    depth = max(1, min(2 if small else 3, int(math.log2(min(shape[1:]))) - 1))
    return f"D{depth}-W{width or (32 if small else 128)}-relu-instancenorm-avgpooling"


def distance(synthetic: Parameters, real: Parameters, kind: str) -> Tensor:
    """The distance between gradients with a leading class axis, (C, …) each, summed over classes; a scalar."""
    pairs = [(synthetic[name], real[name]) for name in synthetic if real[name].ndim >= 3]
    if kind == "rowwise-cosine":  # eq. 10
        return torch.stack(
            [(1 - F.cosine_similarity(a.flatten(2), b.flatten(2), -1, 1e-6)).sum() for a, b in pairs]
        ).sum()
    a, b = (torch.cat([pair[side].flatten(1) for pair in pairs], 1) for side in (0, 1))  # (C, parameters)
    if kind == "cosine":
        return (1 - F.cosine_similarity(a, b, -1, 1e-6)).sum()
    return (a - b).square().sum()


def class_gradients(net: nn.Module, parameters: Parameters, x: list[Tensor], batched: bool) -> Parameters:
    """Gradients of each class's mean loss: images of class c in ``x[c]`` (n, …), results (C, …) by parameter name."""
    gradient = _gradient(net)
    y = [torch.full((len(batch),), c, device=batch.device) for c, batch in enumerate(x)]
    if batched:
        return vmap(gradient, (None, 0, 0))(parameters, torch.stack(x), torch.stack(y))
    each = [gradient(parameters, *pair) for pair in zip(x, y, strict=True)]
    return {name: torch.stack([g[name] for g in each]) for name in parameters}


def batching_pays(net: nn.Module, x: Tensor) -> bool:
    """Whether one batched call beats a class at a time, for synthetic images ``x`` (C, ipc, …): always on a GPU, and on
    a CPU while a class's work is small (measured with ``make bench``).
    """
    return x.device.type != "cpu" or x.shape[1] * train.forward_flops(net, x[0, :1]) <= BATCHING_LIMIT


BATCHING_LIMIT = 70_000_000
"""Operations of one class's forward pass; read off ``make bench`` on two cores of an AMD EPYC (Zen 5)."""


def _match(task: Task, net: nn.Module, x: Tensor, generator: torch.Generator) -> float:
    """Leave the distance's gradient in ``x.grad`` and return the distance a class (eq. 9)."""
    dataset, gm = task.dataset, task.settings
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    picks = draw(dataset.train.y, dataset.num_classes, gm.real_batch, generator)
    with torch.no_grad():  # large batches fill the processor by themselves: one class at a time
        real = class_gradients(net, parameters, [dataset.train.x[pick] for pick in picks], batched=False)
    batched = batching_pays(net, x.detach()) if gm.batch_classes is None else gm.batch_classes
    if batched:
        found = distance(class_gradients(net, parameters, list(x), True), real, gm.distance)
        found.backward()  # type: ignore[no-untyped-call]
        return found.item() / len(x)
    return _match_one_by_one(net, parameters, x, real, gm.distance) / len(x)


def _match_one_by_one(net: nn.Module, parameters: Parameters, x: Tensor, real: Parameters, kind: str) -> float:
    """As published: each class's graph is built and freed before the next one's."""
    gradient, total = _gradient(net), 0.0
    for c in range(len(x)):
        mine = gradient(parameters, x[c], torch.full((x.shape[1],), c, device=x.device))
        found = distance({n: g[None] for n, g in mine.items()}, {n: g[c : c + 1] for n, g in real.items()}, kind)
        found.backward()  # type: ignore[no-untyped-call]
        total += found.item()
    return total


def _gradient(net: nn.Module) -> Callable[[Parameters, Tensor, Tensor], Parameters]:
    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, parameters, (x,)), y)

    return grad(loss)


def _student(task: Task, k: int) -> nn.Module:
    dataset = task.dataset
    space, arch = spaces.resolve(task.settings.student or default_student(dataset.shape))
    with seeds.seeded(seeds.derive(task.seed, "gm", "student", k)):
        net = space.build(arch, dataset.shape, dataset.num_classes)
    return net.to(dataset.train.x.device).train()


def _freeze_batch_norm(task: Task, net: nn.Module, k: int, match: int) -> None:
    """Give batch norms the statistics of 16 real images a class, and let them use those while gradients are matched."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    dataset, generator = task.dataset, seeds.generator(task.seed, "gm", "batchnorm", k, match)
    picks = draw(dataset.train.y, dataset.num_classes, 16, generator)
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        net(dataset.train.x[torch.cat(picks)])
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.eval()


def _train_student(task: Task, net: nn.Module, x: Tensor, epochs: int, seed: int) -> None:
    """Algorithm 1, line 9: plain SGD on the synthetic images."""
    if epochs == 0:
        return
    gm, images = task.settings, x.flatten(0, 1)
    updates = epochs * math.ceil(len(images) / gm.student_batch)
    recipe = train.Recipe(updates, gm.student_batch, lr=gm.student_lr, momentum=0.0, weight_decay=0.0)
    train.fit([net], images, class_labels(len(x), x.shape[1], x.device), recipe, seed=seed, fused=False)


METHOD = Method("gm", "gradient matching on pixels (Zhao 2021)", GM, 1000, init, step, finish)
