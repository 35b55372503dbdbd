"""All zero-cost indicators together: rows, the vote and the mean rank."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from proxynas import datasets, spaces
from proxynas.core.errors import SpaceError, SpecError
from proxynas.search import zerocost

from .test_zerocost import CELL, cell_network, images, labels, rectified, seeded


@pytest.mark.parametrize("name", zerocost.INDICATORS)
@pytest.mark.parametrize("training", [True, False])
def test_network_is_left_as_it_was(name: str, training: bool) -> None:
    net = seeded(cell_network).train(training)
    x, y = images().float(), labels()
    state, pixels, random = copy.deepcopy(net.state_dict()), x.clone(), torch.get_rng_state()
    first = zerocost.INDICATORS[name](net, x, y)
    assert math.isfinite(first)
    assert zerocost.INDICATORS[name](net, x, y) == first
    after = net.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[k], after[k]) and state[k].dtype == after[k].dtype for k in state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(m.training is training and not m._forward_hooks for m in net.modules())
    assert torch.equal(x, pixels)
    assert not x.requires_grad
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("name", ["naswot", "jacob_cov"])
def test_one_image_is_not_enough(name: str) -> None:
    with pytest.raises(SpecError, match="must be at least 2"):
        zerocost.INDICATORS[name](seeded(rectified), images(1).float(), labels(1))


def test_row_is_the_same_in_any_order_and_any_process() -> None:
    digits, space = datasets.load("digits"), spaces.load("convnet-grid")
    arch, names = "D2-W32-relu-batchnorm-avgpooling", list(zerocost.INDICATORS)
    row = zerocost.zero_cost(space, arch, digits, names, seed=1, batch=16)
    assert list(row) == [key for name in names for key in (name, f"{name}_seconds")]
    assert all(math.isfinite(value) for value in row.values())
    assert all(row[f"{name}_seconds"] >= 0 for name in names)
    again = zerocost.zero_cost(space, arch, digits, names[::-1], seed=1, batch=16)
    assert [again[name] for name in names] == [row[name] for name in names]
    other = zerocost.zero_cost(space, arch, digits, names, seed=2, batch=16)
    assert all(other[name] != row[name] for name in names)


def test_networks_without_rectifiers_get_the_other_scores() -> None:
    digits, space = datasets.load("digits"), spaces.load("convnet-grid")
    row = zerocost.zero_cost(
        space, "D1-W32-sigmoid-layernorm-none", digits, list(zerocost.INDICATORS), 0, batch=10**6
    )
    assert math.isnan(row.pop("naswot"))
    assert all(math.isfinite(value) for value in row.values())


def test_what_a_user_gets_wrong_is_said() -> None:
    digits, space = datasets.load("digits"), spaces.load("convnet-grid")
    with pytest.raises(
        SpecError, match="unknown zero-cost indicator 'synflo'; did you mean 'synflow'"
    ):
        zerocost.zero_cost(space, space.at(0), digits, ["synflo"], 0)
    with pytest.raises(SpecError, match="choose from synflow, naswot"):
        zerocost.zero_cost(space, space.at(0), digits, ["?"], 0)
    with pytest.raises(SpecError, match="batch of at least 2 images, but got 1"):
        zerocost.zero_cost(space, space.at(0), digits, ["snip"], 0, batch=1)
    with pytest.raises(SpaceError, match="is not in the space"):
        zerocost.zero_cost(space, CELL, digits, ["snip"], 0)


def test_vote_is_the_majority_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 5, (20, 3)).astype(float), columns=list("abc"))
    table.iloc[3, 0] = math.nan
    filled = table.fillna(-1).to_numpy()
    expected = [
        sum(
            np.sign(sum(np.sign(mine - theirs)))
            for other, theirs in enumerate(filled)
            if other != index
        )
        for index, mine in enumerate(filled)
    ]
    assert zerocost.vote(table).tolist() == expected
    assert zerocost.vote({name: table[name] for name in table}).tolist() == expected


def test_vote_of_a_circle_is_a_tie_and_of_one_column_its_order() -> None:
    circle = pd.DataFrame({"a": [3, 2, 1], "b": [1, 3, 2], "c": [2, 1, 3]}, index=list("xyz"))
    assert zerocost.vote(circle).to_dict() == {"x": 0, "y": 0, "z": 0}
    assert zerocost.vote(circle[["a"]] * 1e6).to_dict() == {"x": 2, "y": 0, "z": -2}


def test_vote_is_the_same_in_blocks() -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(4000, 3)))
    wins = zerocost.vote(table)
    few = table.iloc[[5, 3999]].to_numpy()
    for place, mine in zip([5, 3999], few, strict=True):
        assert wins[place] == np.sign(np.sign(mine - table.to_numpy()).sum(1)).sum()


def test_mean_rank_ignores_scales_and_puts_nan_last() -> None:
    table = pd.DataFrame({"a": [1.0, 1e9, 5.0], "b": [math.nan, 2.0, -math.inf]}, index=list("xyz"))
    assert zerocost.mean_rank(table).to_dict() == {"x": 1.0, "y": 3.0, "z": 2.0}
