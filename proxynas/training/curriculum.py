"""The steps that a proxy set was distilled for: the images and the learning rate of each.

Wang et al. 2018 and Medvedev & D'yakonov 2021 (§IV) attach synthetic images to batches that are
seen in a fixed order; Wang 2018 and Medvedev & D'yakonov 2020 (eq. 2) learn a learning rate for
every step as well. Training for longer than the distilled steps starts again from the first;
:class:`Extension` has 2020's three other strategies (§5.3).

Where the paper and its authors' code (github.com/dm-medvedev/dataset-distillation,
``experiment_strategies.py``) differ: the second strategy multiplies the rates by 0.98 per round in
the paper, by 0.9 in the code; ours is the paper's. Of the third the paper does not say whether the
rates fall; in the code they do, by 0.98 per round, and so they do here. The paper describes the
first in one sentence: see :meth:`Curriculum.warmed`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SpecError
from ..specs import Extension


@dataclass(frozen=True)
class Curriculum:
    """N steps: their images ``order``, int64 (N, B), and learning rates ``rates``, float (N,).

    Without ``rates`` the recipe's learning rate and schedule hold. With them those are not used;
    the recipe's momentum and weight decay always are.

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
            raise SpecError(
                f"the order must be of indices from 0 to {n - 1}, but goes from {low} to {high}"
            )

    def extended(
        self, rounds: int, *, decay: float = 0.98, tail: int | None = None
    ) -> "Curriculum":
        """This curriculum and then its last ``tail`` steps (all by default) ``rounds`` times more.

        Learning rates are multiplied by ``decay`` in each further round. Medvedev & D'yakonov 2020,
        §5.3: ``tail=None`` is the second strategy, which repeats all epochs, and with the steps of
        one epoch as ``tail`` it is the third, which repeats the last.

        Raises:
            SpecError: ``rounds`` is negative, or there are not ``tail`` steps.
        """
        n = len(self.order)
        size = n if tail is None else tail
        if rounds < 0 or not 1 <= size <= n:
            raise SpecError(
                f"rounds must be 0 or more and tail from 1 to {n}, but got {rounds} and {tail}"
            )
        order = torch.cat([self.order, self.order[n - size :].repeat(rounds, 1)])
        if self.rates is None:
            return Curriculum(order)
        last = self.rates[n - size :]
        decayed = [last * decay**r for r in range(1, rounds + 1)]
        return Curriculum(order, torch.cat([self.rates, *decayed]))

    def warmed(
        self,
        epochs: int,
        *,
        rate: float = 0.3,
        rising: int | None = None,
        rise: float = 1.1,
        fall: float = 0.95,
    ) -> "Curriculum":
        """``epochs`` epochs with rates that rise from ``rate`` and then fall, not the learned ones.

        Medvedev & D'yakonov 2020, §5.3, the first strategy: it "increases step sizes in 1.1 times
        at the beginning of each new epoch and then similarly decreases them in 0.95 times". Neither
        where the rates begin nor how long they rise is said, and Fig. 8d, which shows it, has no
        legible axis. As in the authors' code, they begin at 0.3 and rise for the first fifth of the
        epochs (10 of 50; ``rising=None``), the first of them included, which so has 1.1 · 0.3; then
        they fall to the end. (There every change comes one step late, which looks like a slip.)
        Their networks have one output and ours one per class, whose difference moves twice as far
        at the same rate.

        Raises:
            SpecError: ``epochs`` is under 1, or there are not ``rising`` of them.
        """
        up = max(1, epochs // 5) if rising is None else rising
        if epochs < 1 or not 0 <= up <= epochs:
            expected = "epochs must be 1 or more and rising from 0 to epochs"
            raise SpecError(f"{expected}, but got {epochs} and {rising}")
        size = self.epoch
        factors = [rise ** min(e + 1, up) * fall ** max(0, e + 1 - up) for e in range(epochs)]
        rates = rate * torch.tensor(factors, dtype=torch.float64).repeat_interleave(size)
        like = torch.float32 if self.rates is None else self.rates.dtype
        return Curriculum(self.order[:size].repeat(epochs, 1), rates.to(self.order.device, like))

    @property
    def epoch(self) -> int:
        """The steps of one epoch: the fewest after which the batches repeat in the same order."""
        n = len(self.order)
        divisors = (p for p in range(1, n + 1) if n % p == 0)
        return next(p for p in divisors if torch.equal(self.order[p:], self.order[:-p]))

    def batches(self) -> Iterator[Tensor]:
        """Index batches (B,) without end: the steps in order, again and again."""
        while True:
            yield from self.order.cpu()

    def rate(self, update: int, otherwise: float) -> float:
        """The learning rate of update ``update`` (from 0); ``otherwise`` where none are learned."""
        return otherwise if self.rates is None else self.rates[update % len(self.rates)].item()


def extended(curriculum: Curriculum, extension: Extension) -> Curriculum:
    """The steps for training past the distilled ones (Medvedev & D'yakonov 2020, §5.3)."""
    epochs = len(curriculum.order) // curriculum.epoch
    times = extension.times
    if extension.strategy == 1:
        return curriculum.warmed(epochs * times, rate=extension.rate)
    if extension.strategy == 2:
        return curriculum.extended(times - 1, decay=extension.decay)
    return curriculum.extended(epochs * (times - 1), decay=extension.decay, tail=curriculum.epoch)
