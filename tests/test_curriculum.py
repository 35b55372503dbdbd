"""Curricula: what each step sees and at which rate, within the distilled steps and past them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from proxynas import spaces, training
from proxynas.core import seeds
from proxynas.core.errors import SpecError
from proxynas.datasets import Dataset
from proxynas.specs import Extension
from proxynas.training.curriculum import Curriculum, extended


def test_a_curriculum_decides_what_is_seen_and_how_fast(digits: Dataset) -> None:
    """Losses with it, fused and not, are those of a plain loop; past its end it starts again."""
    order, rates = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([0.2, 0.05])
    recipe = training.Recipe(updates=5, lr=123.0, schedule="step", momentum=0.0, weight_decay=0.0)
    nets, other = ([_net(r) for r in range(3)] for _ in "ab")
    x, y = digits.train.x[:6].double(), digits.train.y[:6]
    one = training.fit(nets, x, y, recipe, curriculum=Curriculum(order, rates), fused=False)
    two = training.fit(
        [_net(r) for r in range(3)], x, y, recipe, curriculum=Curriculum(order, rates), fused=True
    )
    torch.testing.assert_close(one.losses, two.losses, rtol=1e-9, atol=1e-12)
    for n in range(5):
        rows = order[n % 2]
        loss = training.loss_of(other[0](x[rows]), y[rows], "cross-entropy")
        assert one.losses[0, n].item() == pytest.approx(loss.item(), rel=1e-9)
        for p, g in zip(
            other[0].parameters(),
            torch.autograd.grad(loss, list(other[0].parameters())),
            strict=True,
        ):
            p.data -= rates[n % 2].item() * g


def test_without_rates_the_recipe_decides(digits: Dataset) -> None:
    recipe, order = (
        training.Recipe(updates=4, batch_size=2, lr=0.1, schedule="cosine"),
        torch.arange(6)[None],
    )
    x, y = digits.train.x[:6], digits.train.y[:6]
    with_order = training.fit([_net(0).float()], x, y, recipe, curriculum=Curriculum(order))
    whole = training.fit([_net(0).float()], x, y, replace(recipe, batch_size=6))
    torch.testing.assert_close(with_order.losses, whole.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("order", "rates", "message"),
    [
        (torch.zeros(3), None, "must be indices"),
        (torch.zeros(0, 2, dtype=torch.int64), None, "must be indices"),
        (
            torch.zeros(3, 2, dtype=torch.int64),
            torch.ones(2),
            "3 steps needs as many learning rates",
        ),
    ],
)
def test_bad_curricula(order: Tensor, rates: Tensor | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Curriculum(order, rates)


def test_strategies_past_the_distilled_steps() -> None:
    curriculum = Curriculum(torch.tensor([[0], [1], [2]]), torch.tensor([0.1, 0.2, 0.3]))
    whole = curriculum.extended(2, decay=0.5)
    assert whole.order[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert whole.rates is not None
    torch.testing.assert_close(
        whole.rates, torch.tensor([0.1, 0.2, 0.3, 0.05, 0.1, 0.15, 0.025, 0.05, 0.075])
    )
    last = curriculum.extended(2, decay=0.5, tail=1)
    assert last.order[:, 0].tolist() == [0, 1, 2, 2, 2]
    assert last.rates is not None
    torch.testing.assert_close(last.rates, torch.tensor([0.1, 0.2, 0.3, 0.15, 0.075]))
    assert Curriculum(curriculum.order).extended(1).rates is None
    with pytest.raises(SpecError, match="tail from 1 to 3, but got 1 and 4"):
        curriculum.extended(1, tail=4)


def test_the_first_strategy_has_rates_of_its_own() -> None:
    """Ten epochs, each 1.1 times as fast as the one before, then 0.95 times; the learned rates are
    not used.
    """
    order = torch.tensor([[0], [1]]).repeat(5, 1)  # five epochs of two steps
    curriculum = Curriculum(order, torch.linspace(1, 2, 10))
    assert curriculum.epoch == 2
    actual = extended(curriculum, Extension(1))
    assert torch.equal(actual.order, order.repeat(10, 1))
    assert actual.rates is not None
    each = [0.3 * 1.1**e for e in range(1, 11)] + [0.3 * 1.1**10 * 0.95**e for e in range(1, 41)]
    torch.testing.assert_close(
        actual.rates, torch.tensor([rate for rate in each for _ in range(2)])
    )
    short = curriculum.warmed(3, rate=1.0, rising=1, rise=2.0, fall=0.5).rates
    assert short is not None
    assert short.tolist() == [2, 2, 1, 1, 0.5, 0.5]
    assert Curriculum(order).warmed(1).rates is not None
    with pytest.raises(SpecError, match="rising from 0 to epochs, but got 3 and 4"):
        curriculum.warmed(3, rising=4)


def test_the_other_strategies_repeat_learned_rates() -> None:
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4])
    curriculum = Curriculum(torch.tensor([[0], [1], [0], [1]]), rates)
    second = extended(curriculum, Extension(2, times=3, decay=0.5))
    assert second.order[:, 0].tolist() == [0, 1] * 6
    assert second.rates is not None
    torch.testing.assert_close(second.rates, torch.cat([rates, rates / 2, rates / 4]))
    third = extended(curriculum, Extension(3, times=2, decay=0.5))
    assert third.order[:, 0].tolist() == [0, 1] * 4
    assert third.rates is not None
    torch.testing.assert_close(third.rates, torch.cat([rates, rates[2:] / 2, rates[2:] / 4]))
    for strategy in (2, 3):
        assert extended(curriculum, Extension(strategy, times=1)).order.shape == (4, 1)  # type: ignore[arg-type]


def test_an_epoch_is_the_shortest_that_repeats() -> None:
    for order, epoch in (([0, 1, 2], 3), ([0, 0, 0], 1), ([0, 1, 0, 1], 2), ([0, 1, 0], 3)):
        assert Curriculum(torch.tensor(order)[:, None]).epoch == epoch


def test_an_order_of_images_that_are_not_there(digits: Dataset) -> None:
    with pytest.raises(SpecError, match="from 0 to 5, but goes from 0 to 9"):
        training.fit(
            [_net(0)],
            digits.train.x[:6],
            digits.train.y[:6],
            training.Recipe(),
            curriculum=Curriculum(torch.arange(10)[None]),
        )


def _net(r: int) -> torch.nn.Module:
    with seeds.seeded(r):
        return (
            spaces.load("convnet-grid")
            .build("D1-W32-sigmoid-none-avgpooling", (1, 8, 8), 10)
            .double()
        )
