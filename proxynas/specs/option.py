"""What makes a field of a spec a flag, and the types of number that specs use."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Option:
    """Help and place of a flag.

    The default is added to ``help`` by itself. ``flag`` is given where it is not the field's name
    with dashes. A field that is a dict takes ``KEY=VALUE``, one that is a tuple may be repeated.
    """

    help: str
    panel: str
    flag: str = ""
    metavar: str = ""
