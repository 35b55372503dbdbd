"""Constraints on what networks cost, and sampling within them."""

from pathlib import Path

import numpy as np
import pytest

from proxynas import spaces
from proxynas.core.errors import SpecError
from proxynas.spaces.limits import Limits
from proxynas.spaces.space import TRIES
from proxynas.specs import constraint

from .test_spaces import a_grid


@pytest.mark.parametrize(
    ("text", "cost", "holds"),
    [
        ("parameters<1e6", (999_999, 0), True),
        ("parameters<1e6", (1_000_000, 0), False),
        ("parameters <= 1_000_000", (1_000_000, 0), True),
        (" flops>2.5e3 ", (0, 2500), False),
        ("flops>=2500", (0, 2500), True),
    ],
)
def test_constraints(text: str, cost: tuple[int, int], holds: bool) -> None:
    limit = constraint.parse(text)
    assert (limit.violation(cost) == 0) == holds
    assert constraint.parse(str(limit)) == limit


def test_violations_grow_with_the_distance() -> None:
    limit = constraint.parse("parameters<1000")
    assert 0 < limit.violation((1000, 0)) < limit.violation((2000, 0)) < limit.violation((10**6, 0))
    assert limit.violation((1001 * 3 - 1, 0)) == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameter<1e6", "did you mean 'parameters'"),
        ("latency<3", "known: parameters, flops"),
        ("parameters=1e6", "written as in parameters<1e6"),
        ("parameters<1e6 ", None),
        ("1e6>parameters", "written as in"),
        ("parameters<-5", "written as in"),
        ("parameters<inf", "written as in"),
        ("parameters<1M", "written as in"),
        ("parameters<<1", "written as in"),
        ("", "written as in"),
    ],
)
def test_constraints_are_read_strictly(text: str, message: str | None) -> None:
    if message is None:
        constraint.parse(text)
        return
    with pytest.raises(SpecError, match=message):
        constraint.parse(text)


def limits(space: spaces.SearchSpace, *texts: str) -> Limits:
    return Limits(
        [constraint.parse(t) for t in texts], lambda arch: space.cost(arch, (1, 8, 8), 10)
    )


def test_only_what_is_within_the_limits_is_drawn(small_space: Path) -> None:
    space = spaces.load(str(small_space))
    within = limits(space, "parameters<800", "flops>=3000")
    expected = [arch for arch in space if space.cost(arch, (1, 8, 8), 10)[0] < 800]
    assert 2 < len(expected) < len(space)
    assert sorted(space.sample(99, np.random.default_rng(0), admit=within)) == sorted(
        filter(within, expected)
    )
    assert len(space.sample(2, np.random.default_rng(0), admit=within)) == 2
    with pytest.raises(
        SpecError, match="of the 8 networks of 'small' none is within parameters<10; loosen that"
    ):
        space.sample(5, np.random.default_rng(0), admit=limits(space, "parameters<10"))


def test_limits_that_admit_almost_nothing_end_the_drawing() -> None:
    space = a_grid(12)
    nothing = Limits([constraint.parse("flops<1")], lambda arch: (0, 7))
    with pytest.raises(
        SpecError, match=f"of {TRIES:,} networks drawn from 'grid' only 0 are within flops<1"
    ):
        space.sample(3, np.random.default_rng(0), admit=nothing)
