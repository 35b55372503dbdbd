"""The examples in the face of each stage, and of the public names, run and print what they say."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import proxynas

STAGES = [module.name for module in pkgutil.iter_modules(proxynas.__path__) if module.ispkg]
TEACHING = (
    *("core", "specs", "datasets", "nets", "spaces", "training", "proxyset", "distill"),
    *("engine", "search", "truth", "compare"),
)
"""Stages whose face must have an example."""


def attempted(module: ModuleType) -> int:
    """How many examples a module has; all of them must hold."""
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    return attempted


@pytest.mark.parametrize("stage", STAGES)
def test_the_example_of_a_stage(stage: str) -> None:
    assert attempted(importlib.import_module(f"proxynas.{stage}")) > 0 or stage not in TEACHING


@pytest.mark.parametrize("name", ["proxynas", "proxynas.api.evaluator", "proxynas.api.steps"])
def test_the_examples_of_the_public_names(name: str) -> None:
    assert attempted(importlib.import_module(name)) > 0


TYPES = {"Evaluation", "ProxynasError", "Recipe", "SearchSpec", "__version__"}
"""Public names that others' examples show."""


@pytest.mark.parametrize("name", sorted({*proxynas.__all__} - TYPES))
def test_every_public_function_has_an_example(name: str) -> None:
    examples = [getattr(proxynas, other).__doc__ for other in {*proxynas.__all__} - TYPES]
    assert any(f"pn.{name}(" in text for text in examples)
