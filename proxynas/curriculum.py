"""The steps that a proxy set was distilled for: which images each of them sees, and with what learning rate.

Wang et al. 2018 and Medvedev & D'yakonov 2021 (§IV) attach synthetic images to batches that are seen in a fixed order;
Wang 2018 and Medvedev & D'yakonov 2020 (eq. 2) learn a learning rate for every step as well. Training for longer than
the distilled steps goes round again from the first; :meth:`Curriculum.extended` has 2020's other ways to go on (§5.3).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SpecError


@dataclass(frozen=True)
class Curriculum:
    """N steps: ``order`` int64 (N, B), the images of each, and ``rates`` float (N,), their learning rates.

    Without ``rates`` the recipe's learning rate and schedule hold. With them those are not used; the recipe's momentum
    and weight decay always are.

    Raises:
        SpecError: shapes or types are others.
    """

    order: Tensor
    rates: Tensor | None = None

    def __post_init__(self) -> None:
        if self.order.ndim != 2 or not self.order.numel() or self.order.is_floating_point():
            raise SpecError(
                "the order of a curriculum must be indices (steps, images a step), "
                f"but got {self.order.dtype} {tuple(self.order.shape)}"
            )
        if self.rates is not None and self.rates.shape != self.order.shape[:1]:
            raise SpecError(
                f"a curriculum of {len(self.order)} steps needs as many learning rates, but got "
                f"{tuple(self.rates.shape)}"
            )

    def check(self, n: int) -> None:
        """Refuse an order that asks for other images than ``n`` there are.

        Raises:
            SpecError: an index out of range.
        """
        low, high = int(self.order.min()), int(self.order.max())
        if low < 0 or high >= n:
            raise SpecError(f"the order must be of indices from 0 to {n - 1}, but goes from {low} to {high}")

    def extended(self, rounds: int, *, decay: float = 0.98, tail: int | None = None) -> "Curriculum":
        """This curriculum and then its last ``tail`` steps (all by default) ``rounds`` times more, the learning rates
        multiplied by ``decay`` for each round.

        Medvedev & D'yakonov 2020, §5.3: ``tail=None`` is the second strategy, which repeats all epochs, and with the
        steps of one epoch as ``tail`` it is the third, which repeats the last. The paper does not say whether the third
        has the decay; here both have.

        Raises:
            SpecError: ``rounds`` is negative, or there are not ``tail`` steps.
        """
        n = len(self.order)
        size = n if tail is None else tail
        if rounds < 0 or not 1 <= size <= n:
            raise SpecError(f"rounds must be 0 or more and tail from 1 to {n}, but got {rounds} and {tail}")
        order = torch.cat([self.order, self.order[n - size :].repeat(rounds, 1)])
        if self.rates is None:
            return Curriculum(order)
        last = self.rates[n - size :]
        return Curriculum(order, torch.cat([self.rates, *(last * decay**r for r in range(1, rounds + 1))]))

    def batches(self) -> Iterator[Tensor]:
        """Index batches (B,) without end: the steps in order, round and round."""
        while True:
            yield from self.order.cpu()

    def rate(self, update: int, otherwise: float) -> float:
        """The learning rate of update number ``update`` (from 0), where the recipe's would be ``otherwise``."""
        return otherwise if self.rates is None else self.rates[update % len(self.rates)].item()
