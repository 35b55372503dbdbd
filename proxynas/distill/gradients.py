"""Gradients of a student's loss on real and on synthetic images: what gradient matching compares.

Those of synthetic images are differentiated once more, those of real images are not. There are far
more real images, so what a step costs depends on their gradients most.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from ..nets.flops import forward_flops, largest_activation
from .students import Parameters


def gradient_of(net: nn.Module) -> Callable[[Parameters, Tensor, Tensor], Parameters]:
    """The function (parameters, images, labels) whose value is the gradient of the mean loss; it
    can be differentiated again."""

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, parameters, (x,)), y)

    return grad(loss)


def class_gradients(net: nn.Module, parameters: Parameters, x: Sequence[Tensor]) -> Parameters:
    """Gradients (C, …) by parameter name: of each class's mean loss on images ``x[c]`` (n, …).

    All classes in one call, through which a second derivative can be taken.
    """
    y = [torch.full((len(batch),), c, device=batch.device) for c, batch in enumerate(x)]
    of_class = vmap(gradient_of(net), (None, 0, 0))
    return of_class(parameters, torch.stack(list(x)), torch.stack(y))


def real_gradients(
    net: nn.Module, parameters: Parameters, x: Tensor, y: Tensor, piece: int | None = None
) -> Parameters:
    """Gradient by parameter name of the mean loss on images ``x`` (n, …) with labels ``y`` (n,).

    A first derivative alone, without a graph for another one. On a CPU it is summed over pieces of
    ``piece`` images, by default as many as keep the largest activation within ``CACHED`` values.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    summed = {name: torch.zeros_like(value) for name, value in leaves.items()}
    piece = piece or cached_piece(net, x)
    with torch.enable_grad():
        for images, labels in zip(torch.split(x, piece), torch.split(y, piece), strict=True):
            logits = functional_call(net, leaves, (images,))
            loss = F.cross_entropy(logits, labels, reduction="sum") / len(x)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            for total, gradient in zip(summed.values(), gradients, strict=True):
                total += gradient
    return summed


def cached_piece(net: nn.Module, x: Tensor) -> int:
    """How many of the images ``x`` (n, …) to work on at a time, for the processor's cache; on a GPU
    all."""
    return len(x) if x.device.type != "cpu" else max(1, CACHED // largest_activation(net, x))


CACHED = 2**20
"""Values of the largest activation that a piece of real images may have; from ``make bench``."""


def batching_pays(net: nn.Module, x: Tensor) -> bool:
    """Whether one batched call beats a class at a time, for synthetic images ``x`` (C, ipc, …).

    Always on a GPU; on a CPU while a class's work is small (measured with ``make bench``).
    """
    return x.device.type != "cpu" or x.shape[1] * forward_flops(net, x[0, :1]) <= BATCHING_LIMIT


BATCHING_LIMIT = 70_000_000
"""Operations of a class's forward pass; from ``make bench``, two cores of an AMD EPYC (Zen 5)."""
