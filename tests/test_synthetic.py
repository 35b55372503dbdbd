import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proxynas import proxyset, training
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, SpecError
from proxynas.datasets import Dataset
from proxynas.distill import students, synthetic
from proxynas.distill.loop import distill, plan
from proxynas.distill.methods import gm
from proxynas.nets.generator import NOISE, Generator, generate
from proxynas.proxyset import ProxySet
from proxynas.specs import DistillSpec
from proxynas.training.curriculum import Curriculum

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
