"""Shared by the tests: digits once a session, and a tiny spec that runs end to end in seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from proxynas import datasets
from proxynas.datasets import Dataset
from proxynas.specs import SearchSpec


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return datasets.load("digits")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small work is fastest on one thread, and the same on any machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers are double unless a test says otherwise."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test makes stays in the user's cache, or comes from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROXYNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


SMALL_SPACE = """
name = "small"
description = "eight small ConvNets"
factory = "proxynas.nets.convnet:make"
arch = "D{depth}-W{width}-{norm}"
[axes]
depth = [1, 2]
width = [4, 8]
norm = ["none", "instancenorm"]
[fixed]
pooling = "avgpooling"
"""


@pytest.fixture
def small_space(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_SPACE)
    return path


@pytest.fixture
def small_spec(small_space: Path) -> SearchSpec:
    return SearchSpec(
        space=str(small_space),
        steps=3,
        settings={"student": "D1-W32-relu-none-avgpooling", "real_batch": 10},
        candidates=6,
        seeds=2,
        updates=5,
        label=0,
        verify=0,
    )
