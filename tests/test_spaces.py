from pathlib import Path

import numpy as np
import pytest
import torch

from proxynas import spaces
from proxynas.core.errors import SpaceError, SpecError


def test_the_grid_is_zhaos() -> None:
    space = spaces.load("convnet-grid")
    archs = list(space)
    assert len(space) == len(archs) == len(set(archs)) == 720
    assert space.describe("D3-W128-relu-instancenorm-avgpooling") == {
        "depth": 3, "width": 128, "norm": "instancenorm", "activation": "relu", "pooling": "avgpooling",
    }  # fmt: skip
    assert all(arch in space for arch in archs)
    assert "D5-W128-relu-instancenorm-avgpooling" not in space


def test_parameters_of_the_published_student() -> None:
    """Zhao 2021's ConvNet on CIFAR-10: 3 convolutions, 3 norms, 1 linear layer, counted by hand."""
    parameters, flops = spaces.load("convnet-grid").cost("D3-W128-relu-instancenorm-avgpooling", (3, 32, 32), 10)
    assert parameters == (27 * 128 + 128) + 2 * (9 * 128 * 128 + 128) + 3 * 256 + (128 * 16 * 10 + 10)
    multiply_adds = 27 * 128 * 1024 + 9 * 128 * 128 * (256 + 64) + 128 * 16 * 10
    assert flops == 2 * multiply_adds


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
def test_every_kind_of_network_runs(shape: tuple[int, int, int]) -> None:
    space = spaces.load("convnet-grid")
    for arch in [arch for arch in space if "-W32-" in arch]:
        net = space.build(arch, shape, 7)
        assert net(torch.randn(2, *shape)).shape == (2, 7), arch
        assert net.eval()(torch.randn(1, *shape)).shape == (1, 7), arch


def test_instance_norm_of_1x1_maps_leaves_chance() -> None:
    net = spaces.load("convnet-grid").build("D4-W32-relu-instancenorm-maxpooling", (1, 8, 8), 10)
    out = net(torch.randn(5, 1, 8, 8))
    torch.testing.assert_close(out, out[:1].expand(5, 10))


def test_sample_is_without_replacement_and_by_seed() -> None:
    space = spaces.load("convnet-grid")
    first, second = (space.sample(50, np.random.default_rng(1)) for _ in range(2))
    assert first == second
    assert len(set(first)) == 50
    assert sorted(space.sample(9999, np.random.default_rng(1))) == sorted(space)
    with pytest.raises(SpecError, match="at least 1, but got 0"):
        space.sample(0, np.random.default_rng(1))


def test_a_users_own_space_with_a_factory_beside_it(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes, *, hidden, bias):\n"
        "    size = shape[0] * shape[1] * shape[2]\n"
        "    first = nn.Linear(size, hidden, bias=bias)\n"
        "    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, classes))\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text(
        'name="mine"\nfactory="nets.py:make"\narch="H{hidden}-{bias}"\n[axes]\nhidden=[2,3]\nbias=[true,false]\n'
    )
    space = spaces.load(str(path))
    assert list(space) == ["H2-True", "H2-False", "H3-True", "H3-False"]
    assert space.cost("H3-False", (1, 8, 8), 10)[0] == 64 * 3 + 3 * 10 + 10


BAD = {
    "no axes": ('name="x"\nfactory="a:b"\narch="D{d}"\n', SpecError, "axes"),
    "axis missing in arch": (
        'name="x"\nfactory="a:b"\narch="D"\n[axes]\nd=[1]\n',
        SpecError,
        "arch must name every axis once",
    ),
    "empty axis": ('name="x"\nfactory="a:b"\narch="D{d}"\n[axes]\nd=[]\n', SpecError, "at least one value"),
    "value twice": ('name="x"\nfactory="a:b"\narch="D{d}"\n[axes]\nd=[1,1]\n', SpecError, "no value twice"),
    "no such module": (
        'name="x"\nfactory="nowhere:make"\narch="D{d}"\n[axes]\nd=[1]\n',
        SpaceError,
        "cannot import",
    ),
    "no such function": (
        'name="x"\nfactory="math:make"\narch="D{d}"\n[axes]\nd=[1]\n',
        SpaceError,
        "cannot import",
    ),
    "no such file": (
        'name="x"\nfactory="no.py:make"\narch="D{d}"\n[axes]\nd=[1]\n',
        SpaceError,
        "cannot import",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_space_files(case: str, tmp_path: Path) -> None:
    text, kind, said = BAD[case]
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(kind, match=said):
        spaces.load(str(path))


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(SpaceError, match="did you mean 'convnet-grid'"):
        spaces.load("convnet_grid")
    with pytest.raises(SpaceError, match="did you mean 'D3-W128-relu-instancenorm-avgpooling'"):
        spaces.load("convnet-grid").describe("D3-W129-relu-instancenorm-avgpooling")


def test_a_factory_that_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('name="x"\nfactory="builtins:dict"\narch="D{d}"\n[axes]\nd=[1]\n')
    with pytest.raises(SpaceError, match="the factory of 'x' failed on 'D1'"):
        spaces.load(str(path)).build("D1", (1, 8, 8), 10)


def test_fixed_settings_are_replaced_by_ones_of_their_kind() -> None:
    arch = next(iter(spaces.load("nasbench201")))
    small = spaces.load("nasbench201", {"channels": 4, "cells": 1})
    assert small.cost(arch, (3, 32, 32), 10)[0] < spaces.load("nasbench201").cost(arch, (3, 32, 32), 10)[0] / 10
    with pytest.raises(SpaceError, match="no fixed setting 'width'; it has channels, cells"):
        spaces.load("nasbench201", {"width": 4})
    with pytest.raises(SpaceError, match="channels of the space 'nasbench201' must be of type int, but got '4'"):
        spaces.load("nasbench201", {"channels": "4"})
