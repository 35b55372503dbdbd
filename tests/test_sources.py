"""The registry of sources: what a setting and a figure may name, it knows."""

from typing import get_args

from proxynas.rank import words
from proxynas.report import colours
from proxynas.search.sources import KINDS, TRAINED
from proxynas.specs import Baseline


def test_every_baseline_is_a_source() -> None:
    assert {*get_args(Baseline), *TRAINED} <= set(KINDS)


def test_what_a_set_must_beat_has_a_name_in_sentences() -> None:
    decisive = {name for name, kind in KINDS.items() if kind.decisive}
    assert decisive == {"random", "early-stopping", "zero-cost", "parameters"}
    assert words.rival(("random", "sotl")) == "a random coreset of the same size"
    assert words.rival(("zero-cost", "vote")) == "the zero-cost vote, before any training"
    assert words.rival(("mine", "val_loss")) == words.phrase(("mine", "val_loss"))


def test_every_drawn_source_has_its_own_colour() -> None:
    drawn = [kind.name for kind in KINDS.values() if kind.colours is not None]
    assert [colours.name(source) for source in drawn] == drawn
    assert len({colours.light(source) for source in drawn}) == len(drawn)
    assert colours.name("mine").startswith("other-")
