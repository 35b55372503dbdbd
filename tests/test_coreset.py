"""Coresets against brute force, loops written out, and their own promises."""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxynas import datasets, training
from proxynas.core import seeds, settings
from proxynas.core.errors import DivergedError
from proxynas.datasets import Dataset, Split
from proxynas.distill import METHODS
from proxynas.distill.loop import distill
from proxynas.distill.method import Task, class_labels, real_images
from proxynas.distill.methods import coreset
from proxynas.nets import convnet, mlp
from proxynas.specs import DistillSpec

CHEAP = {
    "random": {},
    "herding": {"width": 8, "updates": 5},
    "kcenter": {"width": 8, "updates": 5},
    "forgetting": {"width": 8, "epochs": 2},
    "best-random": {"width": 8, "updates": 5, "draws": 3},
    "entropy": {"width": 8, "updates": 5},
    "el2n": {"width": 8, "updates": 5, "networks": 2},
}


def part(digits: Dataset) -> Dataset:
    """Two hundred of the digits: enough for any promise, quick to train on."""
    return replace(digits, train=Split(digits.train.x[:200], digits.train.y[:200]))


@pytest.fixture(scope="module")
def small(digits: Dataset) -> Dataset:
    return part(digits)


def task_of(name: str, dataset: Dataset, ipc: int = 2, seed: int = 0) -> Task:
    return Task(dataset, ipc, settings.make(METHODS[name].settings, CHEAP[name]), seed)


def rows_of(chosen: Tensor, dataset: Dataset) -> list[int]:
    """Which training images the chosen ones (n, …) are."""
    equal = (chosen.flatten(1)[:, None] == dataset.train.x.flatten(1)[None]).all(2)
    return [int(row.nonzero()[0]) for row in equal]


def test_all_are_registered() -> None:
    assert set(CHEAP) == {method.name for method in coreset.METHODS} <= set(METHODS)
    assert all(METHODS[name].steps == 0 for name in CHEAP)
    assert [f.name for f in fields(METHODS["random"].settings)] == []


@pytest.mark.parametrize("name", CHEAP)
def test_chosen_are_real_images_of_their_class_each_once(name: str, small: Dataset) -> None:
    proxy = distill(DistillSpec(method=name, ipc=3, settings=CHEAP[name]), small)
    rows = rows_of(proxy.x, small)
    assert len(set(rows)) == 30
    assert (
        small.train.y[rows].tolist()
        == proxy.y.tolist()
        == class_labels(10, 3, torch.device("cpu")).tolist()
    )


@pytest.mark.parametrize("name", CHEAP)
def test_the_seed_decides_and_the_test_split_does_not(name: str, small: Dataset) -> None:
    """With labels and pixels of the test split spoilt the same images are chosen."""
    garbage = Split(torch.full_like(small.test.x, torch.nan), torch.full_like(small.test.y, 10**6))
    first, again, blind, other = (
        distill(DistillSpec(method=name, ipc=3, settings=CHEAP[name], seed=seed), dataset).x
        for seed, dataset in ((0, small), (0, small), (0, replace(small, test=garbage)), (1, small))
    )
    assert torch.equal(first, again)
    assert torch.equal(first, blind)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", CHEAP)
def test_tables(name: str) -> None:
    moons = datasets.load("moons")
    proxy = distill(DistillSpec(method=name, ipc=5, settings=CHEAP[name]), moons)
    assert proxy.x.shape == (10, 2)
    rows = rows_of(proxy.x, moons)
    assert moons.train.y[rows].tolist() == [0] * 5 + [1] * 5


def features(n: int, seed: int, d: int = 3) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_herding_by_hand() -> None:
    """On a line, with the mean 2: first the point nearest to 2, then what keeps their mean nearest
    to 2.
    """
    points = torch.tensor([[0.0], [1.9], [2.3], [3.8]], dtype=torch.float64)  # mean 2
    assert coreset.herd(points, 4).tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize("seed", range(5))
def test_herding_keeps_the_mean(seed: int) -> None:
    """Each choice is the best of those left, all together have the mean, and a few have it better
    than random ones.
    """
    points = features(40, seed)
    chosen, mean = coreset.herd(points, 40).tolist(), points.mean(0)
    for size in range(1, 41):
        config = float((points[chosen[:size]].mean(0) - mean).norm())
        rest = set(range(40)) - set(chosen[: size - 1])
        best = min(float((points[[*chosen[: size - 1], i]].mean(0) - mean).norm()) for i in rest)
        assert config == pytest.approx(best, abs=1e-12)
    assert sorted(chosen) == list(range(40))
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        (points[torch.randperm(40, generator=generator)[:5]].mean(0) - mean).norm()
        for _ in range(100)
    ]
    assert (points[chosen[:5]].mean(0) - mean).norm() < sorted(drawn)[5]


def radius(points: Tensor, centers: list[int]) -> float:
    """How far the point is that is farthest from its nearest centre."""
    return max(min(float((p - points[c]).norm()) for c in centers) for p in points)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_k_center_against_brute_force(n: int, seed: int) -> None:
    """Its radius is at most twice that of the best choice (Gonzalez 1985), and a plain loop chooses
    the same.
    """
    points = features(12, seed, d=2)
    chosen = coreset.farthest_first(points, n).tolist()
    assert radius(points, chosen) <= 2 * min(
        radius(points, list(c)) for c in combinations(range(12), n)
    )
    expected = [min(range(12), key=lambda i: float((points[i] - points.mean(0)).norm()))]
    while len(expected) < n:
        expected.append(
            max(
                range(12),
                key=lambda i: min(float((points[i] - points[c]).norm()) for c in expected),
            )
        )
    assert chosen == expected


def test_k_center_chooses_equal_points_once_each() -> None:
    assert coreset.farthest_first(torch.zeros(4, 2), 4).sort().values.tolist() == [0, 1, 2, 3]
    assert coreset.farthest_first(
        torch.tensor([[0.0], [0.0], [9.0]]), 3
    ).sort().values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch_size", [7, 20])
def test_forgetting_against_a_loop(batch_size: int) -> None:
    """Toneva 2019, Algorithm 1, written out with plain SGD; noise as data, so that much is
    forgotten.
    """
    x, y = features(20, 0).float(), torch.arange(20) % 2
    recipe = training.Recipe(
        updates=60, batch_size=batch_size, lr=0.3, momentum=0.0, weight_decay=0.0
    )
    torch.manual_seed(0)
    net = mlp.make((3,), 2, depth=2, width=4)
    by_hand = mlp.make((3,), 2, depth=2, width=4)
    by_hand.load_state_dict(net.state_dict())
    counts = coreset.forgetting_events(net, x, y, recipe, seed=5)
    accuracy_before, expected, ever = [0] * 20, [0] * 20, [False] * 20
    order = training.batches(20, recipe, seeds.generator(5, "order", 0))
    for _ in range(60):
        batch = next(order)
        logits = by_hand(x[batch])
        for i, row in zip(batch.tolist(), logits, strict=True):
            accuracy = int(row.argmax() == y[i])
            expected[i] += accuracy_before[i] > accuracy
            accuracy_before[i], ever[i] = accuracy, ever[i] or accuracy == 1
        gradients = torch.autograd.grad(
            F.cross_entropy(logits, y[batch]), list(by_hand.parameters())
        )
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), gradients, strict=True):
                p -= 0.3 * g
    assert counts.tolist() == [n if known else 61 for n, known in zip(expected, ever, strict=True)]
    assert sum(n for n, known in zip(expected, ever, strict=True) if known) > 0
    for p, config in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, config)
    assert not net._forward_hooks


def test_what_is_never_right_is_forgotten_most() -> None:
    """A point with the label of the other side."""
    x = torch.cat([torch.full((10, 1), -1.0), torch.full((11, 1), 1.0)])
    y = torch.tensor([0] * 10 + [1] * 10 + [0])
    recipe = training.Recipe(updates=50, batch_size=21, lr=0.5)
    net = nn.Sequential(nn.Linear(1, 2))
    nn.init.zeros_(net[0].bias)
    net[0].weight.data = torch.tensor([[-1.0], [1.0]])
    counts = coreset.forgetting_events(net, x, y, recipe, seed=0)
    assert counts.tolist() == [0] * 20 + [51]


def test_forgetting_takes_the_most_forgotten(
    small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = torch.arange(len(small.train))
    monkeypatch.setattr(coreset, "forgetting_events", lambda *arguments: counts)
    x = coreset.init_forgetting(task_of("forgetting", small))["x"]
    for c in range(10):
        members = (small.train.y == c).nonzero()[:, 0]
        assert rows_of(x[c], small) == members.flip(0)[:2].tolist()


def test_best_random_is_the_best_of_its_draws(small: Dataset) -> None:
    """All draws again, each judged by the same network on the validation split."""
    task = task_of("best-random", small)
    chosen = coreset.init_best_random(task)["x"]
    accuracies, sets = [], []
    for n in range(task.settings.draws):
        x = real_images(small, 2, seeds.generator(0, "best-random", n))
        with seeds.seeded(seeds.derive(0, "best-random", "net")):
            net = convnet.make((1, 8, 8), 10, depth=3, width=8)
        recipe = training.Recipe(updates=5, batch_size=256, lr=0.01)
        order = seeds.derive(0, "best-random", "order")
        training.fit([net], x.flatten(0, 1), class_labels(10, 2, x.device), recipe, seed=order)
        accuracies.append(training.evaluate(net, small.val.x, small.val.y)[0])
        sets.append(x)
    assert len(set(accuracies)) > 1
    assert torch.equal(chosen, sets[accuracies.index(max(accuracies))])


@pytest.mark.parametrize("init", [coreset.init_herding, coreset.init_kcenter])
def test_features_are_those_of_the_trained_network(
    init: Callable[[Task], dict[str, Tensor]], small: Dataset
) -> None:
    """Before its last layer, in evaluation mode: one row an image."""
    actual = coreset._features(task_of("herding", small), "herding")
    assert actual.shape == (200, 8)  # three poolings take 8×8 to one pixel
    assert actual.isfinite().all()
    assert init(task_of("herding", small))["x"].shape == (10, 2, 1, 8, 8)


def test_rare_entropy_weighs_more_by_hand() -> None:
    """Bins of one image, of three and of two: weights (3 − h + 1) / h; zero is an entropy, too."""
    entropies = torch.tensor([0.5, 0.02, 0.011, 0.03, 1.5, 2.0])
    expected = torch.tensor([3.0, 1 / 3, 1 / 3, 1 / 3, 1.0, 1.0])
    torch.testing.assert_close(coreset.rarity(entropies, 1.0), expected)
    assert coreset.rarity(torch.tensor([0.0, 0.5, 0.6]), 0.5).tolist() == [2.0, 0.5, 0.5]


def test_entropy_draws_by_its_weights(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of zero are never drawn."""
    wanted = torch.zeros(len(small.train), dtype=torch.float64)
    wanted[torch.cat([torch.nonzero(small.train.y == c)[:2, 0] for c in range(10)])] = 1.0
    monkeypatch.setattr(coreset, "rarity", lambda entropies, bin_width: wanted)
    proxy = distill(DistillSpec(method="entropy", ipc=2, settings=CHEAP["entropy"]), small)
    assert sorted(rows_of(proxy.x, small)) == wanted.nonzero()[:, 0].tolist()


def test_el2n_takes_what_all_networks_have_wrong(small: Dataset) -> None:
    """An image with the label of another class is the first of its class."""
    y = small.train.y.clone()
    spoilt = [int(torch.nonzero(y == c)[0, 0]) for c in range(10)]
    y[spoilt] = (y[spoilt] + 5) % 10
    data = replace(small, train=Split(small.train.x, y))
    chosen = {"width": 16, "updates": 150, "networks": 2, "lr": 0.05}
    proxy = distill(DistillSpec(method="el2n", ipc=1, settings=chosen), data)
    assert len(set(rows_of(proxy.x, data)) & set(spoilt)) >= 8


@pytest.mark.parametrize("name", [name for name in CHEAP if name != "random"])
def test_a_network_that_diverges_is_said(name: str, small: Dataset) -> None:
    spec = DistillSpec(method=name, settings={**CHEAP[name], "lr": 1e30})
    with pytest.raises(DivergedError, match=rf"{name}: .* of its network; lower its rate"):
        distill(spec, small)


def test_images_under_8_by_8_have_features_of_their_own(small: Dataset) -> None:
    """Three blocks leave one pixel of 4×4 ones to instance norm, which makes it a constant."""
    tiny = replace(small, train=Split(F.avg_pool2d(small.train.x, 2), small.train.y))
    task = Task(tiny, 1, coreset.Features(width=8, updates=5), 0, None)
    assert coreset._features(task, "herding").std(0).max() > 0.01
