"""The networks that papers train on a set, by name: the six of Zhao 2021 (§3.1) and a ViT."""

from collections.abc import Callable

from torch import nn

from ..core.errors import SpaceError
from . import alexnet, convnet, lenet, mlp, resnet, vgg, vit

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "convnet": convnet.make,
    "lenet": lenet.make,
    "alexnet": alexnet.make,
    "vgg11": vgg.make,
    "resnet18": resnet.make,
    "mlp": mlp.make,
}
"""The six of Zhao 2021; for tables there is only ``mlp``."""

MORE: dict[str, Callable[..., nn.Module]] = {"vit": vit.make}
"""APM's Table 2 has a vision transformer as well."""


def make(shape: tuple[int, ...], classes: int, *, net: str) -> nn.Module:
    """The network called ``net`` for images (C, H, W), or ``mlp`` for rows (D,).

    Raises:
        SpaceError: there is none of that name, or it cannot have inputs of that shape.
    """
    known = NETWORKS | MORE
    if net not in known:
        raise SpaceError(f"net must be one of {', '.join(known)}, but got {net!r}")
    return known[net](shape, classes)
