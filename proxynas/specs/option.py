"""What makes a field of a spec a flag, and the types of number that specs use."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(ge=1, le=10**9)]
NotNegative = Annotated[int, Field(ge=0, le=2**63 - 1)]
PositiveNumber = Annotated[float, Field(gt=0, le=1e30)]
Updates = Annotated[int, Field(ge=1, le=10**7)]
"""Of one training: each has a place among the losses."""
Repeats = Annotated[int, Field(ge=1, le=10_000)]
"""Trainings or distillations of one kind."""
Size = Annotated[int, Field(ge=1, le=10_000)]
"""Pixels along a side."""
Text = Annotated[str, Field(min_length=1)]


DATA = "Data"
SPACE = "Search space"
DISTILLATION = "Distillation"
TRAINING = "Training of candidates"
RANKING = "Ranking and truth"
DECISION = "Labels and verification"
EVALUATION = "Evaluation"
COMPARISON = "Comparison"
IMPORT = "Imported table"
RUN = "Run"

PANELS = (
    *(DATA, SPACE, DISTILLATION, TRAINING, RANKING, DECISION),
    *(EVALUATION, COMPARISON, IMPORT, RUN),
)
"""Headings of ``--help``, in the order in which it shows them."""


@dataclass(frozen=True)
class Option:
    """Help and place of a flag.

    ``help`` is sentences with full stops, and the default is added to it by itself; ``panel`` is
    one of :data:`PANELS`. ``flag`` is given where it is not the field's name with dashes. A field
    that is a dict takes ``KEY=VALUE``, one that is a tuple may be repeated.
    """

    help: str
    panel: str
    flag: str = ""
    metavar: str = ""
