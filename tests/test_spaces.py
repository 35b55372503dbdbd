import hashlib
import itertools
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from proxynas import spaces
from proxynas.core.errors import SpaceError, SpecError
from proxynas.spaces import notation


def test_the_grid_is_zhaos() -> None:
    space = spaces.load("convnet-grid")
    archs = list(space)
    assert len(space) == len(archs) == len(set(archs)) == 720
    assert space.describe("D3-W128-relu-instancenorm-avgpooling") == {
        "depth": 3,
        "width": 128,
        "norm": "instancenorm",
        "activation": "relu",
        "pooling": "avgpooling",
    }
    assert all(arch in space for arch in archs)
    assert "D5-W128-relu-instancenorm-avgpooling" not in space


def test_parameters_of_the_published_student() -> None:
    """Zhao 2021's ConvNet on CIFAR-10: 3 convolutions, 3 norms, 1 linear layer, counted by hand."""
    parameters, flops = spaces.load("convnet-grid").cost(
        "D3-W128-relu-instancenorm-avgpooling", (3, 32, 32), 10
    )
    assert parameters == (27 * 128 + 128) + 2 * (9 * 128 * 128 + 128) + 3 * 256 + (
        128 * 16 * 10 + 10
    )
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
    "empty axis": (
        'name="x"\nfactory="a:b"\narch="D{d}"\n[axes]\nd=[]\n',
        SpecError,
        "at least one value",
    ),
    "value twice": (
        'name="x"\nfactory="a:b"\narch="D{d}"\n[axes]\nd=[1,1]\n',
        SpecError,
        "no value twice",
    ),
    "two networks written alike": (
        'name="x"\nfactory="a:b"\narch="D{d}{e}"\n[axes]\nd=[1,11]\ne=[1,11]\n',
        SpecError,
        "two of them are 'D111'; put a separator",
    ),
    "a format": (
        'name="x"\nfactory="a:b"\narch="D{d:.2f}"\n[axes]\nd=[1]\n',
        SpecError,
        "every axis once",
    ),
    "a brace": (
        'name="x"\nfactory="a:b"\narch="D{d"\n[axes]\nd=[1]\n',
        SpecError,
        "arch must be a text with {axis}",
    ),
    "no name for an argument": (
        'name="x"\nfactory="a:b"\narch="{d-e}"\n[axes]\n"d-e"=[1]\n',
        SpecError,
        "'d-e' cannot be its name",
    ),
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
    text, kind, message = BAD[case]
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(kind, match=message):
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
    assert (
        small.cost(arch, (3, 32, 32), 10)[0]
        < spaces.load("nasbench201").cost(arch, (3, 32, 32), 10)[0] / 10
    )
    with pytest.raises(SpaceError, match="no fixed setting 'width'; it has channels, cells"):
        spaces.load("nasbench201", {"width": 4})
    with pytest.raises(
        SpaceError, match="channels of the space 'nasbench201' must be of type int, but got '4'"
    ):
        spaces.load("nasbench201", {"channels": "4"})


GOLDEN = {
    # (space, seed, n, distinct): how many, and the hash of their names, as sampled before spaces
    # were lazy
    ("convnet-grid", 0, 60, False): (60, "96c0e94a721e5b76"),
    ("convnet-grid", 7, 10**9, False): (720, "9be5e2a58edbf351"),
    ("doubling-convnet", 7, 5, False): (5, "a5a3ebf9983dc0e9"),
    ("evaluation-nets", 0, 60, False): (7, "3a839c74ec1f10fd"),
    ("mlp-grid", 7, 60, True): (44, "a489ec58060b3a7a"),
    ("nasbench201", 0, 60, False): (60, "9f7da2820d282977"),
    ("nasbench201", 7, 60, True): (60, "967fc4b422d4392f"),
    ("nasbench201", 0, 10**9, True): (6466, "16581adba726ea36"),
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_samples_are_what_they_always_were(case: tuple[str, int, int, bool]) -> None:
    name, seed, n, distinct = case
    archs = spaces.load(name).sample(n, np.random.default_rng(seed), distinct)
    assert (len(archs), hashlib.sha256("\n".join(archs).encode()).hexdigest()[:16]) == GOLDEN[case]


def a_grid(axes: int, kind: object = None) -> spaces.SearchSpace:
    """Ten values an axis, and nothing to build."""
    values = {f"a{i}": tuple(range(10)) for i in range(axes)}
    arch = "-".join(f"{{a{i}}}" for i in range(axes))
    return spaces.SearchSpace("grid", "", torch.nn.Identity, arch, values, {}, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", [12, 18, 30])
def test_a_space_of_any_size_is_sampled_without_listing_it(axes: int) -> None:
    space, started = a_grid(axes), time.perf_counter()
    assert space.size == 10**axes
    first, second = (space.sample(500, np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert len(set(first)) == 500
    assert all(arch in space for arch in first)
    digits = np.array([list(space.describe(arch).values()) for arch in first])
    assert abs(digits.mean() - 4.5) < 5 * np.sqrt(99 / 12 / digits.size)  # uniform on 0, …, 9
    assert next(iter(space)) == space.at(0) == "-".join("0" * axes)
    assert space.at(space.size - 1) == "-".join("9" * axes)
    assert time.perf_counter() - started < 30
    with pytest.raises(SpecError, match="too many to list; ask for 10,000,000 at most"):
        space.sample(10**9, np.random.default_rng(0))
    with pytest.raises(IndexError):
        space.at(space.size)


def test_size_goes_on_where_len_ends() -> None:
    assert len(a_grid(18)) == 10**18 < sys.maxsize
    assert a_grid(19)
    with pytest.raises(OverflowError, match="10,000,000,000,000,000,000 networks, and len ends"):
        len(a_grid(19))


def test_kinds_of_a_space_that_cannot_be_listed() -> None:
    space = a_grid(12, kind=lambda arch: arch[0])
    archs = space.sample(10, np.random.default_rng(0), distinct=True)
    assert {arch[0] for arch in archs} == set("0123456789")
    with pytest.raises(
        SpecError, match="only 10 are not isomorphic to another, but 11 are asked for"
    ):
        space.sample(11, np.random.default_rng(0), distinct=True)


@pytest.mark.parametrize(
    "name", ["convnet-grid", "nasbench201", "mlp-grid", "chain", "torchvision"]
)
def test_architectures_are_read_and_written(name: str) -> None:
    space = spaces.load(name)
    for arch in space.sample(50, np.random.default_rng(0)):
        assert space.write(space.describe(arch)) == arch
    values = space.describe(space.at(0))
    axis, *_ = values
    with pytest.raises(
        SpaceError, match=f"the axis {axis} of '{name}' has the values .*, but got 'none of them'"
    ):
        space.write({**values, axis: "none of them"})
    with pytest.raises(SpaceError, match="the axes of"):
        space.write({})


def test_templates_that_write_two_networks_alike_are_found() -> None:
    """Against listing all of them."""
    draw, alike = random.Random(0), 0
    for _ in range(3000):
        texts = [
            [draw.choice(["a", "b", "-", "ab", "a-", "-b", "aba", ""]) for _ in range(3)]
            for _ in range(3)
        ]
        axes = {f"x{i}": sorted(set(values)) for i, values in enumerate(texts)}
        template = "".join(
            draw.choice(["", "-", "a", "b-"]) + f"{{{axis}}}" for axis in axes
        ) + draw.choice(["", "a"])
        written = [
            template.format(**dict(zip(axes, v, strict=True)))
            for v in itertools.product(*axes.values())
        ]
        twice = notation.written_alike(template, axes)
        assert (twice is not None) == (len(set(written)) < len(written)), (template, axes)
        assert twice is None or written.count(twice) > 1, (template, axes)
        alike += twice is not None
    assert 300 < alike < 2700


def test_the_published_networks_of_torchvision() -> None:
    space = spaces.load("torchvision")
    for arch in ("mobilenet_v3_small", "shufflenet_v2_x0_5"):
        for shape in ((1, 8, 8), (3, 40, 40), (3, 32, 32)):
            net = space.build(arch, shape, 7)
            assert net(torch.randn(3, *shape)).shape == (3, 7)
    assert space.cost("resnet18", (3, 32, 32), 1000)[0] == 11_689_512  # as torchvision documents it
    same = spaces.load("torchvision").build("mnasnet0_5", (3, 32, 32), 10)
    assert type(same).__name__ == "MNASNet"  # images that fit are handed on as they are
    with pytest.raises(SpaceError, match="take images of 3 channels or grey ones, but got 2"):
        space.build("resnet18", (2, 32, 32), 10)
    with pytest.raises(SpaceError, match="the data have shape"):
        space.build("resnet18", (5,), 10)


def test_networks_of_timm_by_name(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "timm.toml"
    path.write_text(
        'name="timm"\nfactory="timm:create_model"\narch="{model_name}-{drop_rate}"\n[axes]\n'
        'model_name=["resnet10t"]\ndrop_rate=[0.0,0.2]\n[arguments]\nnum_classes="classes"\nin_chans="channels"\n'
    )
    net = spaces.load(str(path)).build("resnet10t-0.2", (1, 28, 28), 7)
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 7)


def test_images_are_fitted_to_the_network() -> None:
    """A grey image of one value is three maps of it, in the size that the network sees."""
    net = spaces.load("torchvision").build("shufflenet_v2_x0_5", (1, 8, 8), 10).eval()
    x = torch.full((2, 1, 8, 8), 0.3)
    torch.testing.assert_close(net(x), net.net(torch.full((2, 3, 32, 32), 0.3)))  # type: ignore[operator]


def test_a_factory_with_keywords_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def create(hidden, n_out, in_chans, side):\n"
        "    first = nn.Linear(in_chans * side * side, hidden)\n"
        "    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, n_out))\n"
    )
    text = (
        'name="mine"\nfactory="nets.py:create"\narch="H{hidden}"\n[axes]\nhidden=[2,3]\n[arguments]\n'
        'n_out="classes"\nin_chans="channels"\nside="height"\n'
    )
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert spaces.load(str(path)).cost("H2", (3, 5, 5), 4)[0] == 75 * 2 + 2 + 2 * 4 + 4
    plain = spaces.load(str(path)).fingerprint
    path.write_text(text + "[input]\nsize=6\n")
    assert spaces.load(str(path)).cost("H2", (3, 5, 5), 4)[0] == 108 * 2 + 2 + 2 * 4 + 4
    assert spaces.load(str(path)).fingerprint != plain
    path.write_text(text + "[fixed]\nside=3\n")
    with pytest.raises(
        SpecError, match="'side' is in \\[arguments\\], so it cannot be an axis or fixed as well"
    ):
        spaces.load(str(path))
    path.write_text(text.replace('"height"', '"depth"'))
    with pytest.raises(SpecError, match=r"arguments\.side"):
        spaces.load(str(path))
    path.write_text(text)
    with pytest.raises(SpaceError, match="takes the channels of images"):
        spaces.load(str(path)).build("H2", (5,), 4)


def test_chains_of_every_operation() -> None:
    space = spaces.load("chain")
    assert space.size == 10**12
    assert len(space.axes) == 12
    values = space.describe(space.at(0))
    for operation in space.axes["op1"]:
        for shape in ((1, 8, 8), (3, 32, 32), (1, 1, 3)):
            arch = space.write({**values, "op1": operation, "op4": operation, "w4": 48})
            net = space.build(arch, shape, 7)
            assert net(torch.randn(2, *shape)).shape == (2, 7), arch
    parameters, _ = space.cost("conv3x4-maxx6-sep3x8-res3x8-conv1x4-grp3x6", (1, 8, 8), 10)
    convolutions = 9 * 4 + 4 * 6 + (9 * 6 + 6 * 8) + 2 * 9 * 8 * 8 + 8 * 4 + 9 * 4 * 6 // 2
    norms = 2 * (4 + 6 + 6 + 8 + 8 + 8 + 4 + 6)
    assert parameters == convolutions + norms + 6 * 10 + 10


OWN = (
    "from __future__ import annotations\n"
    "from dataclasses import dataclass\n"
    "from torch import nn\n"
    "@dataclass\n"
    "class Width:\n"
    "    value: int\n"
    "def make(shape, classes, *, w):\n"
    "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(Width(w).value))\n"
    "other = make\n"
)


def test_the_code_of_ones_own_networks_is_in_the_fingerprint(tmp_path: Path) -> None:
    path, code = tmp_path / "own.toml", tmp_path / "nets.py"
    text = 'name="own"\nfactory="nets.py:make"\narch="W{w}"\n[axes]\nw=[2,3]\n'
    path.write_text(text)
    code.write_text(OWN)
    first = spaces.load(str(path)).fingerprint
    assert spaces.load(str(path)).fingerprint == first
    code.write_text(OWN + "# another program\n")
    second = spaces.load(str(path)).fingerprint
    path.write_text(text.replace("make", "other"))
    third = spaces.load(str(path)).fingerprint
    assert len({first, second, third}) == 3


def test_a_file_beside_the_one_with_the_factory_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text("Block = None\n")
    (tmp_path / "nets.py").write_text("from blocks import Block\ndef make(): ...\n")
    path = tmp_path / "own.toml"
    path.write_text('name="own"\nfactory="nets.py:make"\narch="W{w}"\n[axes]\nw=[2,3]\n')
    with pytest.raises(SpaceError, match=r"No module named 'blocks'.*no files beside it"):
        spaces.load(str(path))
