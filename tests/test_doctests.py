"""The example in the face of each stage runs, and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import proxynas

STAGES = [module.name for module in pkgutil.iter_modules(proxynas.__path__) if module.ispkg]
TEACHING = (
    *("core", "specs", "datasets", "nets", "spaces", "training", "proxyset", "distill"),
    *("engine", "search", "truth", "compare"),
)
"""Stages whose face must have an example."""


@pytest.mark.parametrize("stage", STAGES)
def test_the_example_of_a_stage(stage: str) -> None:
    module = importlib.import_module(f"proxynas.{stage}")
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert attempted > 0 or stage not in TEACHING
