from dataclasses import replace

import pytest
import torch

from proxynas import datasets, spaces, training
from proxynas.core import seeds
from proxynas.core.errors import SpecError
from proxynas.datasets import Dataset, Split, augment
from proxynas.distill import gradients, students
from proxynas.distill.loop import distill, plan
from proxynas.distill.method import Task, draw
from proxynas.distill.methods import dm
from proxynas.nets import convnet
from proxynas.proxyset import ProxySet
from proxynas.specs import DistillSpec, Recipe

SMOOTH = "D2-W32-sigmoid-groupnorm-avgpooling"
BATCH_NORM = "D2-W32-sigmoid-batchnorm-avgpooling"
RELU = "D1-W32-relu-instancenorm-avgpooling"


def task_of(dataset: Dataset, ipc: int = 2, **settings: object) -> Task[dm.DM]:
    task, _ = plan(DistillSpec(method="dm", ipc=ipc, settings=settings), dataset)
    return task


def plain(task: Task[dm.DM]) -> list[augment.Transform]:
    """No augmentation of any class."""
    return [augment.draw("", task.dataset.shape, torch.Generator())] * task.dataset.num_classes


@pytest.fixture
def doubles(digits: Dataset) -> Dataset:
    """Digits in float64."""
    return replace(digits, train=Split(digits.train.x.double(), digits.train.y))


def test_the_distance_and_its_gradient_written_plainly(doubles: Dataset) -> None:
    """L with the network's own features, one class after the other."""
    task = task_of(doubles, student=SMOOTH, real_batch=7)
    net = students.student(task, SMOOTH, "test").double()
    assert isinstance(net, convnet.ConvNet)
    x = torch.randn(10, 2, *doubles.shape, dtype=torch.float64).requires_grad_()
    value = dm._match(task, net, x, plain(task), 3)

    picks = draw(doubles.train.y, 10, 7, seeds.generator(task.seed, "dm", "real", 3))
    again = x.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for c in range(10):
        real = net.features(doubles.train.x[picks[c]]).flatten(1).mean(0)
        total = total + (real - net.features(again[c]).flatten(1).mean(0)).pow(2).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert value == pytest.approx(total.item() / 10, rel=1e-12)
    assert x.grad is not None
    assert again.grad is not None
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("student", [SMOOTH, BATCH_NORM])
def test_the_gradient_of_an_augmented_match_against_finite_differences(
    student: str, doubles: Dataset
) -> None:
    task = task_of(doubles, student=student, real_batch=7, augment="rotate+scale")
    net = students.student(task, student, "test").double()
    x = torch.randn(10, 2, *doubles.shape, dtype=torch.float64).requires_grad_()
    transforms = [
        augment.draw("rotate+scale", doubles.shape, torch.Generator().manual_seed(c))
        for c in range(10)
    ]
    dm._match(task, net, x, transforms, 0)
    assert x.grad is not None
    direction = torch.randn(x.shape, dtype=torch.float64)
    h, ends = 1e-5, []
    for sign in (1, -1):
        moved = (x.detach() + sign * h * direction).requires_grad_()
        ends.append(10 * dm._match(task, net, moved, transforms, 0))
    slope = (ends[0] - ends[1]) / (2 * h)
    assert (x.grad * direction).sum().item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("student", [SMOOTH, BATCH_NORM])
def test_a_set_of_all_real_images_has_no_distance(student: str, doubles: Dataset) -> None:
    y = doubles.train.y
    keep = torch.cat([(y == c).nonzero()[:5, 0] for c in range(10)])
    few = replace(doubles, train=Split(doubles.train.x[keep], y[keep]))
    task = task_of(few, ipc=5, student=student, real_batch=5)
    net = students.student(task, student, "test").double()
    x = few.train.x.unflatten(0, (10, 5)).clone().requires_grad_()
    assert dm._match(task, net, x, plain(task), 0) == pytest.approx(0, abs=1e-20)
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-12


def test_real_images_in_pieces_are_embedded_alike(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = students.student(task_of(digits), RELU, "test")
    x = digits.train.x[:50]
    whole = dm.embeddings(net, x)
    monkeypatch.setattr(gradients, "CACHED", 1)  # one image at a time
    torch.testing.assert_close(dm._embedded(net, x, True), whole, rtol=1e-5, atol=1e-6)
    assert whole.shape == (50, 32 * 4 * 4)


def test_it_trains_networks_better_than_the_images_it_starts_from(digits: Dataset) -> None:
    sets = [
        distill(DistillSpec(method="dm", steps=steps, settings={"student": RELU}), digits)
        for steps in (0, 60)
    ]
    accuracies = [accuracy(proxy, digits) for proxy in sets]
    assert accuracies[1] > accuracies[0] + 0.1


def accuracy(proxy: ProxySet, digits: Dataset) -> float:
    """Mean over three ConvNets."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = spaces.resolve(RELU)[0].build(RELU, digits.shape, 10)
        training.fit([net], proxy.x, proxy.y, Recipe(updates=150), seed=seed)
        found.append(training.evaluate(net, digits.val.x, digits.val.y)[0])
    return sum(found) / 3


def test_what_does_not_fit_is_refused(digits: Dataset) -> None:
    with pytest.raises(SpecError, match="init=noise"):
        task_of(digits, synthetic="gtn-lrn")
    with pytest.raises(SpecError, match="real_batch"):
        task_of(digits, real_batch=0)


def test_tables() -> None:
    moons = datasets.load("moons")
    proxy = distill(DistillSpec(method="dm", ipc=3, steps=2, settings={"lr": 0.1}), moons)
    assert proxy.x.shape == (6, 2)
