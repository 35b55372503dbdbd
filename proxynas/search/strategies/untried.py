"""What a strategy may propose: architectures of the space, within the limits, none of them
twice."""

import numpy as np

from ...spaces import SearchSpace
from ...spaces.limits import Limits


class Untried:
    """The architectures of ``space`` within ``limits`` that nobody has taken yet.

    With ``distinct`` an architecture that is isomorphic to a taken one counts as taken.
    """

    def __init__(self, space: SearchSpace, limits: Limits, distinct: bool = False) -> None:
        self.space = space
        self.limits = limits
        self.distinct = distinct
        self._taken: set[str] = set()

    def __call__(self, arch: str) -> bool:
        """Whether ``arch`` may be proposed."""
        return self.is_new(arch) and self.limits(arch)

    def __str__(self) -> str:
        return str(self.limits) or "what was not tried before"

    def is_new(self, arch: str) -> bool:
        """Whether neither it nor, with ``distinct``, one isomorphic to it was taken."""
        return self._key(arch) not in self._taken

    def take(self, arch: str) -> None:
        """From now on it is not new."""
        self._taken.add(self._key(arch))

    def draw(self, n: int, rng: np.random.Generator) -> list[str]:
        """Take ``n`` at random, uniformly; fewer, or none, where there are no more.

        Raises:
            SpecError: the limits admit almost nothing, see :meth:`SearchSpace.take`.
        """
        archs = self.space.take(n, rng, self.distinct, self) if n else []
        for arch in archs:
            self.take(arch)
        return archs

    def _key(self, arch: str) -> str:
        return self.space.kind(arch) if self.distinct and self.space.kind is not None else arch
