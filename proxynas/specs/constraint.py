"""Constraints on what a candidate costs, such as ``parameters<1e6``, applied while candidates are
drawn."""

import difflib
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from ..core.errors import SpecError

COSTS = ("parameters", "flops")
"""What can be limited, in the order in which a cost has them."""

Cost = tuple[int, int]
"""Trainable parameters, and floating-point operations of one image's forward pass."""

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}

PATTERN = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True)
class Constraint:
    """One limit on one cost."""

    name: str
    operator: str
    limit: float

    def violation(self, cost: Cost) -> float:
        """0 where it holds; else how far off the cost is, in e-foldings (a factor of e costs 1),
        above 0."""
        value = cost[COSTS.index(self.name)]
        if OPERATORS[self.operator](value, self.limit):
            return 0.0
        return max(abs(math.log((value + 1) / (self.limit + 1))), 1e-9)

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.limit:g}"


def parse(text: str) -> Constraint:
    """``parameters<1e6``: a cost, one of < <= > >=, and a number.

    Raises:
        SpecError: anything else.
    """
    match = PATTERN.fullmatch(text)
    if match is None:
        raise SpecError(
            f"a constraint is written as in parameters<1e6, with {', '.join(OPERATORS)}, "
            f"but got {text!r}"
        )
    name, sign, number = match.groups()
    if name not in COSTS:
        close = difflib.get_close_matches(name, COSTS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(COSTS)}"
        raise SpecError(f"{text!r} constrains {name!r}, which is not a cost; {hint}")
    return Constraint(name, sign, float(number))


def _checked(text: str) -> str:
    parse(text)
    return text


ConstraintText = Annotated[str, AfterValidator(_checked)]
"""A setting that :func:`parse` reads."""
