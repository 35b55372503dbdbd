"""By which indicator a search picks its best network, and what it trains candidates with."""

from dataclasses import replace

import pytest

from proxynas import spaces
from proxynas.core.errors import SpecError
from proxynas.pipeline import selection
from proxynas.specs import SearchSpec


def test_what_picks_the_best_network(small_spec: SearchSpec) -> None:
    small = spaces.load(small_spec.space)
    (_, studied), reason = selection.choose_indicator(small_spec, spaces.load("convnet-grid"))
    assert studied == "sotl+val_loss+vote"
    assert "for ConvNets" in reason
    assert "not been studied" in selection.choose_indicator(small_spec, small)[1]
    own = replace(small, headline=spaces.Headline("snip+vote", "sotl", "I say so"))
    assert selection.choose_indicator(small_spec, own) == (("zero-cost", "snip+vote"), "I say so")
    wrong = replace(small, headline=spaces.Headline("snip+vote", "sotle", "I say so"))
    with pytest.raises(SpecError, match=r"search space .*, without_zero_cost: .*sotle"):
        selection.choose_indicator(small_spec, wrong)
    assert selection.choose_indicator(replace(small_spec, baselines=()), own) == (
        ("proxy", "sotl"),
        "I say so",
    )
    assert selection.choose_indicator(replace(small_spec, indicator="val_loss"), own)[0] == (
        "proxy",
        "val_loss",
    )


def test_recipe_of_candidates(small_spec: SearchSpec) -> None:
    assert replace(small_spec, recipe={"batch_size": 3}).candidate_recipe().batch_size == 3
