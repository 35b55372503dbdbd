"""What a candidate may cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..specs.constraint import Constraint, Cost


@dataclass(frozen=True)
class Limits:
    """Several constraints, all of which have to hold, on what ``cost`` says of an architecture."""

    constraints: Sequence[Constraint]
    cost: Callable[[str], Cost]

    def violation(self, arch: str) -> float:
        """The sum of the violations: 0 where all hold."""
        if not self.constraints:
            return 0.0
        cost = self.cost(arch)
        return sum(constraint.violation(cost) for constraint in self.constraints)

    def __call__(self, arch: str) -> bool:
        """Whether all of them hold for an architecture."""
        return self.violation(arch) == 0

    def __str__(self) -> str:
        return " and ".join(map(str, self.constraints))
