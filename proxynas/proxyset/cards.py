"""Cards of the proxy sets that ship: how each was made, how well networks do on it, how it ranks.

A card is a TOML file beside the set (``distilled_sets/NAME.toml``).
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..core import resources, settings

Percent = Annotated[float, Field(ge=0, le=100)]
Accuracies = dict[str, tuple[Percent, Percent]]
"""Test accuracy in % by architecture: mean and standard deviation over networks (and sets, of
random images)."""


@checked(frozen=True, config=settings.CONFIG)
class Card:
    """What is known of a shipped set.

    data: the published data that it may be used with, by the name in ``proxynas list``. A copy of
        these data, such as the one that it was distilled from, has another fingerprint.
    made: the command that made it, and what is to be known of it.
    hardware: what it was made and evaluated on.
    licence: of the data.
    evaluated: the command that measured ``accuracy``, and ``random``, of random images, as many.
    ranks: how it ranks candidates, or that it was not measured.
    """

    data: str
    made: str
    hardware: str
    licence: str
    evaluated: str
    accuracy: Annotated[Accuracies, Field(min_length=1)]
    random: Accuracies
    ranks: str


def card(name: str) -> Card | None:
    """The card of a shipped set; ``None`` where there is none of that name.

    Raises:
        SpecError: the card is damaged.
    """
    path = resources.folder("distilled_sets") / f"{name}.toml"
    if Path(name).name != name or not os.path.isfile(path):  # unlike Path.is_file it never raises
        return None
    return settings.make(Card, settings.read_toml(path), where=str(path))
