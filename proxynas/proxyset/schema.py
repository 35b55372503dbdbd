"""What a proxy-set file must hold: every field of its description and every tensor is checked here,
once, and nowhere else."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, Strict, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from ..core import settings
from ..specs import Recipe
from ..specs.whitening import WhiteningSetting

Finite = Annotated[float, Field(allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=0)]
GENERATOR = "generator."


class StoredPreprocessing(TypedDict, total=False):
    """``zca`` is there where images are whitened."""

    mean: list[Finite]
    std: list[Deviation]
    zca: WhiteningSetting


class Provenance(TypedDict, total=False):
    """What is read of a set's provenance; there may be more, and all of it may be missing."""

    method: str
    data: str
    fingerprint: str
    stands_for: str
    ipc: Count
    steps: Count
    seconds: Cost
    core_seconds: Cost
    peak_mib: Cost
    losses: list[Finite]
    merged: "list[Provenance]"


class StoredGenerator(TypedDict):
    """The generator's kind, size k, and images per class in one forward pass."""

    kind: Literal["gtn-lrn", "gtn-rnd"]
    k: Count
    batch: Annotated[int, Strict(), Field(ge=1)]


class About(TypedDict):
    """The description in a proxy-set file."""

    format: Literal["proxynas-proxy-1"]
    preprocessing: StoredPreprocessing
    class_names: Annotated[list[str], Field(min_length=1)]
    recipe: dict[str, Any]
    provenance: Provenance


ABOUT = TypeAdapter(About)
GENERATED = TypeAdapter(StoredGenerator)


def check(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Recipe:
    """Refuse a description or tensors that are not those of a proxy set; its recipe.

    Raises:
        ValueError: the first thing that is wrong.
        SpecError: so is the recipe.
    """
    try:
        checked = ABOUT.validate_python(dict(about))
        if "generator" in about:
            GENERATED.validate_python(about["generator"])
    except ValidationError as error:
        raise ValueError(settings.one_line(error)) from None
    _check_images(tensors, checked)
    _check_labels(tensors, len(checked["class_names"]))
    _check_steps(tensors, len(tensors["x"]))
    _check_whitening(tensors, checked["preprocessing"])
    _check_generator(about, tensors)
    return settings.make(Recipe, checked["recipe"], where="recipe")


def _check_images(tensors: Mapping[str, Tensor], about: About) -> None:
    _require({"x", "y"} <= set(tensors), "it must have tensors x and y")
    x = _finite(tensors, "x", torch.float32)
    _require(x.ndim in (2, 4) and x.numel() > 0, f"x must be images or rows, but is {_of(x)}")
    entries = about["preprocessing"]
    for key in ("mean", "std"):
        length = len(entries.get(key, ()))  # type: ignore[arg-type]
        _require(length == x.shape[1], f"{key} must have {x.shape[1]} numbers, but it has {length}")


def _check_labels(tensors: Mapping[str, Tensor], classes: int) -> None:
    y, n = tensors["y"], len(tensors["x"])
    if y.ndim == 2:
        y = _finite(tensors, "y", torch.float32)
        _require(y.shape == (n, classes), f"y must be ({n}, {classes}), but is {_of(y)}")
        return
    _require(y.dtype == torch.int64, f"hard labels y must be int64, but are {_of(y)}")
    _require(y.shape == (n,), f"y must be ({n},), but is {_of(y)}")
    low, high = int(y.min()), int(y.max())
    _require(
        low >= 0 and high < classes,
        f"labels must be from 0 to {classes - 1}, but go from {low} to {high}",
    )


def _check_steps(tensors: Mapping[str, Tensor], n: int) -> None:
    _require("order" in tensors or "rates" not in tensors, "there are rates without an order")
    if "order" not in tensors:
        return
    order = tensors["order"]
    _require(
        order.dtype == torch.int64 and order.ndim == 2 and order.numel() > 0,
        f"order must be int64 (steps, images), but is {_of(order)}",
    )
    low, high = int(order.min()), int(order.max())
    _require(
        low >= 0 and high < n, f"order must be from 0 to {n - 1}, but goes from {low} to {high}"
    )
    if "rates" in tensors:
        rates = _finite(tensors, "rates")
        _require(rates.shape == order.shape[:1], f"rates must be one a step, but is {_of(rates)}")
        _require(rates.min().item() >= 0, f"rates must not be negative, but {rates.min():g} is")


def _check_whitening(tensors: Mapping[str, Tensor], entries: StoredPreprocessing) -> None:
    if "zca" not in entries:
        return
    values = math.prod(tensors["x"].shape[1:])
    for name, shape in (("zca.mean", (values,)), ("zca.matrix", (values, values))):
        _require(name in tensors, f"it must have a tensor {name}")
        tensor = _finite(tensors, name, torch.float32)
        _require(tuple(tensor.shape) == shape, f"{name} must be {shape}, but is {_of(tensor)}")


def _check_generator(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    if "generator" not in about:
        return
    name, k = f"{GENERATOR}fc1.bias", about["generator"]["k"]
    _require(
        name in tensors and tuple(tensors[name].shape) == (k,), f"{name} must have {k} numbers"
    )
    for part in tensors:
        if part.startswith(GENERATOR):
            _finite(tensors, part)


def _finite(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers with a point, all of them finite."""
    tensor = tensors[name]
    right = tensor.dtype == dtype if dtype is not None else tensor.is_floating_point()
    _require(right, f"{name} must be {dtype or 'floating'}, but is {_of(tensor)}")
    _require(bool(torch.isfinite(tensor).all()), f"{name} has values that are not finite")
    return tensor


def _of(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
