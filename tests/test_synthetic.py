import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proxynas import proxyset, spaces, training
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, SpecError
from proxynas.datasets import Dataset
from proxynas.distill import students, synthetic
from proxynas.distill.loop import distill, plan
from proxynas.distill.methods import gm
from proxynas.nets.generator import NOISE, Generator, generate
from proxynas.proxyset import ProxySet
from proxynas.specs import DistillSpec, Extension
from proxynas.training.curriculum import Curriculum, extended

STUDENT = "D1-W32-sigmoid-none-avgpooling"
SMALL = {"student": STUDENT, "real_batch": 8, "k": 8}


def fresh(k: int = 8, shape: tuple[int, ...] = (1, 8, 8), classes: int = 3) -> dict[str, Tensor]:
    with seeds.seeded(0):
        return {
            name: p.detach().double() for name, p in Generator(shape, classes, k).named_parameters()
        }


@pytest.mark.parametrize(
    ("k", "published"), [(64, 1.640e6), (32, 449.7e3 - 500 * 64), (128, 6.533e6 - 500 * 64)]
)
def test_the_generator_has_the_published_size(k: int, published: float) -> None:
    """Medvedev 2021, Tables I and III: parameters on MNIST, GTN-lrn's counted without its input of
    ipc · 10 · 64.
    """
    actual = sum(p.numel() for p in Generator((1, 28, 28), 10, k).parameters())
    assert actual == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (4, 5, 7)])
def test_any_image_size_and_channel_count(shape: tuple[int, ...]) -> None:
    network = fresh(shape=shape)
    x = generate(network, shape, torch.rand(3, 2, NOISE, dtype=torch.float64))
    assert x.shape == (3, 2, *shape)
    assert x.abs().max() <= 1
    assert x.dtype == torch.float64


def test_pulling_back_is_the_gradient_through_the_generator() -> None:
    """Against finite differences in float64, in every parameter and in the learned input."""
    generator_set = synthetic.LearnedGenerator((1, 8, 8), 3, 8)
    parameters = {
        name: value.double()
        for name, value in generator_set.init(2, torch.Generator().manual_seed(0)).items()
    }
    gradient = torch.randn(
        3, 2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )

    def images(parameters: Mapping[str, Tensor]) -> Tensor:
        return generator_set.images(dict(parameters), 2, torch.Generator())

    actual = synthetic.pull_back(images, parameters, gradient)
    assert set(actual) == set(parameters)
    for name, value in parameters.items():
        direction = torch.randn(
            value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        )
        plus, minus = (
            images({**parameters, name: value + sign * 1e-6 * direction}) for sign in (1, -1)
        )
        slope = ((plus - minus) / 2e-6 * gradient).sum().item()
        assert (actual[name] * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["gtn-lrn", "gtn-rnd"])
def test_a_gm_step_through_a_generator_is_the_algorithm(kind: str, digits: Dataset) -> None:
    """One match by autograd alone: mean over layers and classes, clip to 10, Adam 0.01."""
    config = {
        **SMALL,
        "synthetic": kind,
        "outer": 1,
        "real_batch": 200,
    }  # all real images: nothing is drawn
    task, _ = plan(DistillSpec(ipc=2, settings=config), digits)
    state = gm.init(task)
    moved, step_loss = gm.step(task, state, 0)
    net = students.student(task, STUDENT, "gm", "student", 0)
    weights = [p for p in net.parameters() if p.ndim >= 2]
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in synthetic.parameters_of(state).items()
    }
    x = synthetic.make(task).images(leaves, 2, seeds.generator(0, "gm", "noise", 0, 0))
    layers = torch.zeros(len(weights))
    for c in range(10):
        real = digits.train.x[digits.train.y == c]
        target = torch.autograd.grad(
            training.loss_of(net(real), torch.full((len(real),), c), "cross-entropy"), weights
        )
        loss = training.loss_of(net(x[c]), torch.full((2,), c), "cross-entropy")
        mine = torch.autograd.grad(loss, weights, create_graph=True)
        rows = [
            (1 - torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6)).sum()
            for a, b in zip(mine, target, strict=True)
        ]
        layers = layers + torch.stack(rows)
    distance = layers.mean()
    assert step_loss == pytest.approx(distance.item() / 10, rel=1e-4)
    (distance / 10).backward()
    torch.nn.utils.clip_grad_norm_(leaves.values(), 10.0)
    gradient = torch.cat(
        [value.grad.flatten() for value in leaves.values() if value.grad is not None]
    )
    mean = torch.cat([moved[f"optimizer.{i}.exp_avg"].flatten() for i in range(len(leaves))])
    assert (
        (mean / 0.1 - gradient).norm() / gradient.norm()
    ).item() < 1e-4  # Adam's first mean is 0.1 g
    for i, name in enumerate(leaves):
        g, start = moved[f"optimizer.{i}.exp_avg"] / 0.1, state[f"synthetic.{name}"]
        torch.testing.assert_close(
            moved[f"synthetic.{name}"], start - 0.01 * g / (g.abs() + 1e-8), rtol=1e-4, atol=1e-5
        )


def test_the_whole_distance_is_matched_where_it_is_not_per_class(digits: Dataset) -> None:
    config = {
        **SMALL,
        "per_class": False,
        "outer": 1,
        "real_batch": 10**6,
        "lr": 1.0,
        "momentum": 0.0,
    }
    task, _ = plan(DistillSpec(ipc=2, settings=config), digits)
    state = gm.init(task)
    moved, loss = gm.step(task, state, 0)
    net = students.student(task, STUDENT, "gm", "student", 0)
    weights = [p for p in net.parameters() if p.ndim >= 2]
    x = state["synthetic.x"].clone().requires_grad_()
    y = torch.arange(10).repeat_interleave(2)
    target = torch.autograd.grad(
        training.loss_of(net(digits.train.x), digits.train.y, "cross-entropy"), weights
    )
    mine = torch.autograd.grad(
        training.loss_of(net(x.flatten(0, 1)), y, "cross-entropy"), weights, create_graph=True
    )
    distance = torch.stack(
        [
            (1 - torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6)).sum()
            for a, b in zip(mine, target, strict=True)
        ]
    ).sum()
    distance.backward()
    assert x.grad is not None
    assert loss == pytest.approx(distance.item(), rel=1e-4)
    torch.testing.assert_close(moved["synthetic.x"], x.detach() - x.grad, rtol=1e-3, atol=1e-4)


def test_siamese_augmentation_is_the_same_for_real_and_synthetic(digits: Dataset) -> None:
    """Synthetic images that are the real ones have no distance to them; without ``siamese`` they
    do.
    """
    n = min(digits.class_counts())
    x = torch.stack(
        [digits.train.x[digits.train.y == c][:n] for c in range(10)]
    )  # the whole data: n images a class
    y = torch.arange(10).repeat_interleave(n)
    same = replace(digits, train=replace(digits.train, x=x.flatten(0, 1), y=y))
    for siamese, per_class, expected in (
        (True, True, True),
        (True, False, True),
        (False, True, False),
    ):
        config = {
            "student": STUDENT,
            "real_batch": 10**6,
            "outer": 1,
            "augment": "crop+scale+rotate+cutout",
            "siamese": siamese,
            "per_class": per_class,
        }
        task, _ = plan(DistillSpec(ipc=n, settings=config), same)
        _, loss = gm.step(task, {"synthetic.x": x}, 0)
        assert (loss < 1e-3) == expected, (siamese, per_class, loss)


def test_augmentation_leaves_batching_a_matter_of_rounding(digits: Dataset) -> None:
    sets = []
    for batched in (True, False):
        config = {
            **SMALL,
            "batch_classes": batched,
            "outer": 2,
            "inner": 1,
            "augment": "crop+rotate",
        }
        sets.append(distill(DistillSpec(ipc=2, steps=2, settings=config), digits).x)
    torch.testing.assert_close(sets[0], sets[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": "mean", "distance": "cosine"}, "layers is for distance = 'rowwise-cosine'"),
        ({"synthetic": "gtn"}, "synthetic: input should be 'pixels', 'gtn-lrn' or 'gtn-rnd'"),
        ({"synthetic": "gtn-rnd", "init": "real"}, "init = 'real' is for pixels"),
        (
            {"synthetic": "gtn-rnd", "optimizer": "sgd"},
            "needs lr too: the default, 0.01, is adam's",
        ),
        ({"augment": "spin"}, "there is no 'spin'"),
    ],
)
def test_bad_settings(config: dict[str, object], message: str, digits: Dataset) -> None:
    with pytest.raises(SpecError) as caught:
        plan(DistillSpec(settings=config), digits)
    assert message in str(caught.value)


def test_a_gradient_that_is_not_finite_is_said() -> None:
    state = {"synthetic.x": torch.zeros(2, 1, 3)}
    with pytest.raises(
        DivergedError, match=r"gradient of the synthetic set is nan; lower .* \(lr, now 0.5\)"
    ):
        synthetic.update(
            state, {"x": torch.full((2, 1, 3), math.nan)}, synthetic.Rule("sgd", 0.5, 0.0)
        )


@pytest.fixture(scope="module")
def generated(digits: Dataset) -> ProxySet:
    return distill(
        DistillSpec(ipc=2, steps=1, settings={**SMALL, "synthetic": "gtn-lrn", "outer": 2}), digits
    )


def test_a_generator_is_saved_and_makes_more_images(
    generated: ProxySet, digits: Dataset, tmp_path: Path
) -> None:
    generated.save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert read.generator is not None
    assert generated.generator is not None
    assert (read.generator.kind, read.generator.batch) == ("gtn-lrn", 2)
    for name, value in generated.generator.network.items():
        assert torch.equal(read.generator.network[name], value)
    proxyset.check(read, digits)
    more = read.generate(7, seed=3)
    assert more.x.shape == (70, 1, 8, 8)
    assert more.y.tolist() == [c for c in range(10) for _ in range(7)]
    assert torch.equal(more.x, generated.generate(7, seed=3).x)
    assert len(more.x.flatten(1).unique(dim=0)) == 70
    assert not torch.equal(more.x, read.generate(7, seed=4).x)
    more.save(tmp_path / "b.safetensors")
    assert torch.equal(proxyset.read(tmp_path / "b.safetensors").x, more.x)


def test_its_own_input_makes_the_very_images_of_the_set(digits: Dataset) -> None:
    task, _ = plan(DistillSpec(ipc=2, settings={**SMALL, "synthetic": "gtn-lrn"}), digits)
    state = gm.init(task)
    x, _ = gm.finish(task, state)
    distilled = gm.extras(task, state).generator
    assert distilled is not None
    again = generate(distilled.network, digits.shape, state["synthetic.z"]).flatten(0, 1)
    assert torch.equal(x, again)


def test_more_images_need_a_generator(digits: Dataset, generated: ProxySet) -> None:
    drawn = distill(DistillSpec(method="random"), digits)
    with pytest.raises(SpecError, match="has no generator; distil one with --set synthetic="):
        drawn.generate(2)
    with pytest.raises(SpecError, match="ipc must be at least 1, but got 0"):
        generated.generate(0)


def test_a_curriculum_is_saved(generated: ProxySet, tmp_path: Path) -> None:
    order, rates = torch.tensor([[0, 1], [2, 3], [1, 2]]), torch.tensor([0.1, 0.2, 0.3])
    for curriculum in (Curriculum(order), Curriculum(order, rates)):
        path = tmp_path / "a.safetensors"
        replace(generated, curriculum=curriculum).save(path)
        read = proxyset.read(path).curriculum
        assert read is not None
        assert torch.equal(read.order, order)
        assert (read.rates is None) == (curriculum.rates is None)
        assert read.rates is None or torch.equal(read.rates, rates)


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


def test_learned_rates_bring_their_momentum_to_a_search(generated: ProxySet) -> None:
    recipe = training.Recipe(updates=7, momentum=0.9)
    assert proxyset.recipe_for(generated, recipe) == recipe
    recipe_of_rates = replace(generated.recipe, momentum=0.5, weight_decay=0.0)
    rated = replace(
        generated,
        curriculum=Curriculum(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2)),
        recipe=recipe_of_rates,
    )
    actual = proxyset.recipe_for(rated, recipe)
    assert (actual.updates, actual.momentum, actual.weight_decay) == (7, 0.5, 0.0)


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


def test_ways_to_go_on_past_the_distilled_steps() -> None:
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
