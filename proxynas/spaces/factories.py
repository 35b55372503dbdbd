"""Functions that make networks: looked up by name, and called the way each of them wants it.

A factory of ours is ``make(shape, classes, **axes)``. Others' are functions of the axes alone, such
as torchvision's ``get_model(name, num_classes=…)`` or timm's ``create_model(model_name,
num_classes=…, in_chans=…)``; a space's file says what they call the things that the data decide:

    factory = "torchvision.models:get_model"
    [arguments]
    num_classes = "classes"    # or "channels", "height", "width", "shape": of what the network sees
    [input]                    # where the network does not take the data's images as they are
    channels = 3               # grey images are repeated to as many; other numbers are refused
    size = 64                  # images are scaled (bilinear, no antialiasing) to 64×64 pixels

A network maps (B, C, H, W) to logits (B, classes), in training as well: GoogLeNet and Inception
need ``aux_logits = false`` and ``init_weights = true`` in [fixed].
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import settings
from ..core.errors import SpaceError
from .guard import guarded

Factory = Callable[..., nn.Module]
Fact = Literal["classes", "channels", "height", "width", "shape"]
"""What the data decide about a network."""


@checked(frozen=True, config=settings.CONFIG)
class Input:
    """The images that the networks of a space take, where those are not the data's; ``None`` leaves
    them alone."""

    channels: Annotated[int, Field(ge=1)] | None = None
    size: Annotated[int, Field(ge=1)] | None = None

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What a network sees of images of ``shape`` (C, H, W).

        Raises:
            SpaceError: they are not images, or have more than one channel and not as many as
                wanted.
        """
        if self.channels is None and self.size is None:
            return shape
        if len(shape) != 3:
            raise SpaceError(f"its networks take images (C, H, W), but the data have shape {shape}")
        channels, height, width = shape
        if self.channels not in (None, channels) and channels != 1:
            raise SpaceError(
                f"its networks take images of {self.channels} channels or grey ones, "
                f"but got {channels}"
            )
        size = (height, width) if self.size is None else (self.size, self.size)
        return (channels if self.channels is None else self.channels, *size)


class Adapted(nn.Module):
    """A network behind what fits the images to it: (B, C, H, W) of the data to logits (B, K)."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self.shape = shape  # (C, H, W) that the network sees

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        channels, *size = self.shape
        if x.shape[1] != channels:
            x = x.expand(-1, channels, -1, -1)
        if list(x.shape[2:]) != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.net(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Foreign:
    """Another kind of factory behind the interface of ours; without ``arguments`` it is called as
    ours are."""

    function: Factory
    arguments: Mapping[str, Fact]
    input: Input

    def __call__(self, shape: tuple[int, ...], classes: int, **axes: Any) -> nn.Module:
        """A network for images of ``shape`` (C, H, W).

        Raises:
            SpaceError: its networks do not take such images.
        """
        seen = self.input.shape(shape)
        net = self.function(*self._given(seen, classes), **self._named(seen, classes), **axes)
        return net if seen == shape or not isinstance(net, nn.Module) else Adapted(net, seen)

    def _given(self, seen: tuple[int, ...], classes: int) -> tuple[Any, ...]:
        return () if self.arguments else (seen, classes)

    def _named(self, seen: tuple[int, ...], classes: int) -> dict[str, Any]:
        facts: dict[Fact, Any] = {"classes": classes, "shape": seen}
        if len(seen) == 3:
            facts |= {"channels": seen[0], "height": seen[1], "width": seen[2]}
        missing = [fact for fact in self.arguments.values() if fact not in facts]
        if missing:
            raise SpaceError(
                f"its factory takes the {missing[0]} of images (C, H, W), "
                f"but the data have shape {seen}"
            )
        return {name: facts[fact] for name, fact in self.arguments.items()}


@dataclass(frozen=True)
class Found:
    """A function that was found by its reference; in another process it is found again."""

    reference: str
    path: Path
    function: Callable[..., Any] = field(compare=False)
    code: str  # a digest of the file that it is in; empty for a function of a package

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the function gives."""
        return self.function(*args, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.reference, self.path)


def find(reference: str, path: Path) -> Found:
    """The function ``package.module:name``, or ``file.py:name`` for a file beside the TOML at
    ``path``.

    Raises:
        SpaceError: it cannot be imported.
    """
    return Found(reference, path.resolve(), _imported(reference, path), _code(reference, path))


def _code(reference: str, path: Path) -> str:
    name = reference.partition(":")[0]
    if not name.endswith(".py"):
        return ""
    return hashlib.sha256((path.parent / name).read_bytes()).hexdigest()


def _imported(reference: str, path: Path) -> Callable[..., Any]:
    module_name, _, attribute = reference.partition(":")
    try:
        with guarded(f"{path}: cannot import {reference!r}"):
            function: Callable[..., Any] = getattr(_module(module_name, path), attribute)
    except SpaceError as error:
        raise SpaceError(
            f"{error}; "
            'write "package.module:function", or "file.py:function" for a file beside the TOML, '
            "which may import what is installed, but no files beside it"
        ) from None
    return function


def _module(name: str, path: Path) -> Any:
    if name.endswith(".py"):
        return _executed(path.parent / name)
    if name.partition(".")[0] in NEED_TORCHVISION:
        importlib.import_module("proxynas.core.torchvision")  # makes it importable everywhere
    return importlib.import_module(name)


def _executed(file: Path) -> Any:
    """The module of a file."""
    file = file.resolve()
    name = f"proxynas_space_{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


NEED_TORCHVISION = ("torchvision", "timm")
"""Packages that import torchvision, which beside a torch without CUDA takes
:mod:`proxynas.core.torchvision`."""
