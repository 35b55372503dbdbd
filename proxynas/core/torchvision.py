"""The one place that imports torchvision, also where its compiled operators cannot be loaded.

Wheels of torchvision are built for CUDA. Beside a torch without CUDA the compiled operators stay
out, and `import torchvision` dies with "operator torchvision::nms does not exist", because it
registers fake kernels for operators that are not there. Nothing here needs those operators, so the
registration is skipped for each that is missing and `torch.library.register_fake` is put back at
once. Where the operators exist, nothing is skipped.

    from proxynas.core.torchvision import datasets, models, transforms, utils

`transforms` is torchvision.transforms.v2.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.library

__all__ = ["datasets", "models", "torchvision", "transforms", "utils"]


def _missing(operator: object) -> bool:
    """Whether `operator` is one of torchvision's, by name, and not registered."""
    if not isinstance(operator, str) or not operator.startswith("torchvision::"):
        return False
    name = operator.removeprefix("torchvision::").split(".")[0]
    return not hasattr(torch.ops.torchvision, name)


def _leave_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@contextmanager
def _tolerant() -> Iterator[None]:
    """Let `torch.library.register_fake` pass over operators of torchvision that do not exist."""
    register_fake = torch.library.register_fake

    def tolerant(
        operator: Any, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        if _missing(operator):
            return _leave_alone if function is None else function
        # the caller is one frame further away
        options["_stacklevel"] = options.get("_stacklevel", 1) + 1
        return register_fake(operator, function, **options)

    torch.library.register_fake = tolerant
    try:
        yield
    finally:
        torch.library.register_fake = register_fake


def _load() -> tuple[ModuleType, ModuleType]:
    with _tolerant(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        package = importlib.import_module("torchvision")
        return package, importlib.import_module("torchvision.transforms.v2")


torchvision, transforms = _load()
datasets, models, utils = torchvision.datasets, torchvision.models, torchvision.utils
