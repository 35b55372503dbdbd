"""The six networks that Zhao 2021 (§3.1) trains on a set, each with its published settings, by name."""

from collections.abc import Callable

from torch import nn

from ..errors import SpaceError
from . import alexnet, convnet, lenet, mlp, resnet, vgg

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "convnet": convnet.make,
    "lenet": lenet.make,
    "alexnet": alexnet.make,
    "vgg11": vgg.make,
    "resnet18": resnet.make,
    "mlp": mlp.make,
}
"""Factories by name; for tables there is only ``mlp``."""


def make(shape: tuple[int, ...], classes: int, *, net: str) -> nn.Module:
    """The network called ``net`` for images (C, H, W), or ``mlp`` for rows (D,).

    Raises:
        SpaceError: there is none of that name, or it cannot have inputs of that shape.
    """
    if net not in NETWORKS:
        raise SpaceError(f"net must be one of {', '.join(NETWORKS)}, but got {net!r}")
    return NETWORKS[net](shape, classes)
