import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from proxynas import training
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, RunFolderError, SpecError
from proxynas.core.progress import Progress
from proxynas.datasets import Dataset
from proxynas.distill import gradients, students
from proxynas.distill.loop import distill, plan
from proxynas.distill.methods import gm
from proxynas.nets import convnet, flops
from proxynas.specs import DistillSpec

SMALL = {"student": "D1-W32-sigmoid-none-avgpooling", "real_batch": 8}


def tiny(classes: int = 3) -> nn.Module:
    """A smooth student with every kind of parameter, in float64."""
    torch.manual_seed(0)
    return convnet.make(
        (1, 8, 8),
        classes,
        depth=2,
        width=4,
        norm="groupnorm",
        activation="sigmoid",
        pooling="avgpooling",
    ).double()


def classes_of(n: int, size: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 1, 8, 8, dtype=torch.float64, generator=generator) for _ in range(n)]


def parameters_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in net.named_parameters()}


@pytest.mark.parametrize("piece", [None, 2, 5, 9])
def test_class_gradients_are_autograds(piece: int | None) -> None:
    """Synthetic ones of all classes in one call, and real ones whole or in pieces."""
    net, x = tiny(), classes_of(3, 5, 1)
    synthetic = gradients.class_gradients(net, parameters_of(net), x)
    for c, batch in enumerate(x):
        y = torch.full((5,), c)
        net.zero_grad()
        F.cross_entropy(net(batch), y).backward()
        real = gradients.real_gradients(net, parameters_of(net), batch, y, piece)
        for name, p in net.named_parameters():
            torch.testing.assert_close(synthetic[name][c], p.grad, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(real[name], p.grad, rtol=1e-9, atol=1e-12)


def test_a_piece_keeps_the_largest_activation_within_the_cache() -> None:
    net = convnet.make((1, 32, 32), 10, depth=3, width=32)
    assert flops.largest_activation(net, torch.zeros(7, 1, 32, 32)) == 32 * 32 * 32
    assert gradients.cached_piece(net, torch.zeros(256, 1, 32, 32)) == gradients.CACHED // 2**15


@pytest.mark.parametrize("kind", ["rowwise-cosine", "cosine", "euclidean"])
def test_the_gradient_of_the_distance_against_finite_differences(kind: str) -> None:
    net = tiny()
    parameters = parameters_of(net)
    real = gradients.class_gradients(net, parameters, classes_of(3, 6, 2))
    real = {name: value.detach() for name, value in real.items()}
    x = torch.stack(classes_of(3, 2, 3)).requires_grad_()

    def value(x: torch.Tensor) -> torch.Tensor:
        return gm.distance(gradients.class_gradients(net, parameters, list(x)), real, kind)

    value(x).backward()
    assert x.grad is not None
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        h = 1e-5
        slope = (value(x.detach() + h * direction) - value(x.detach() - h * direction)) / (2 * h)
        assert (x.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_the_distance_by_hand() -> None:
    """One class, one 2×2 weight: a parallel row counts 0, an opposite one 2, a bias nothing (eq.
    10); elsewhere all.
    """
    a = {"weight": torch.tensor([[[1.0, 2.0], [1.0, 0.0]]]), "bias": torch.tensor([[5.0, 5.0]])}
    b = {"weight": torch.tensor([[[2.0, 4.0], [-3.0, 0.0]]]), "bias": torch.tensor([[-5.0, 1.0]])}
    assert gm.distance(a, b, "rowwise-cosine").item() == pytest.approx(2.0, abs=1e-5)
    two = (
        {**a, "more": a["weight"]},
        {**b, "more": b["weight"]},
    )  # the mean over layers leaves the bias out
    assert gm.distance(*two, "rowwise-cosine").item() == pytest.approx(4.0, abs=1e-5)
    assert gm.distance(*two, "rowwise-cosine", "mean").item() == pytest.approx(2.0, abs=1e-5)
    assert gm.distance(a, b, "euclidean").item() == pytest.approx(1 + 4 + 16 + 100 + 16)
    cosine = (1 * 2 + 2 * 4 - 3 - 5 * 5 + 5) / math.sqrt(6 + 50) / math.sqrt(29 + 26)
    assert gm.distance(a, b, "cosine").item() == pytest.approx(1 - cosine, abs=1e-5)


@pytest.mark.parametrize("kind", ["rowwise-cosine", "cosine", "euclidean"])
@pytest.mark.parametrize(
    "config", [{"batch_classes": True}, {"batch_classes": False}, {"per_class": False}]
)
def test_the_gradient_of_an_augmented_match_against_finite_differences(
    kind: str, config: dict[str, object], digits: Dataset
) -> None:
    digits = replace(digits, train=replace(digits.train, x=digits.train.x.double()))
    task, _ = plan(
        DistillSpec(settings={**SMALL, **config, "distance": kind, "augment": "rotate+scale"}),
        digits,
    )
    torch.set_default_dtype(torch.float64)
    try:
        net = students.student(task, SMALL["student"], "gm")
        x = gm.init(task)["synthetic.x"].requires_grad_()
        gm._match(task, net, x, 0, 0)
        share = 1 if task.settings.per_class is False else 10  # told is that of a class
        direction, h = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), 1e-6
        plus, minus = (
            gm._match(task, net, (x.detach() + s * h * direction).requires_grad_(), 0, 0)
            for s in (1, -1)
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert x.grad is not None
    slope = share * (plus - minus) / (2 * h)
    assert (x.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5)


def test_matching_a_class_to_itself_is_at_the_minimum() -> None:
    net, x = tiny(), classes_of(3, 4, 5)
    actual = gradients.class_gradients(net, parameters_of(net), x)
    assert gm.distance(actual, actual, "rowwise-cosine").item() == pytest.approx(0, abs=1e-9)


def test_batched_and_one_by_one_steps_agree(digits: Dataset) -> None:
    digits = replace(digits, train=replace(digits.train, x=digits.train.x.double()))
    results = []
    torch.set_default_dtype(torch.float64)
    try:
        for batched in (True, False):
            task, _ = plan(
                DistillSpec(
                    ipc=2, settings={**SMALL, "batch_classes": batched, "outer": 2, "inner": 1}
                ),
                digits,
            )
            state = gm.init(task)
            for k in range(2):
                state, loss = gm.step(task, state, k)
            results.append((state["synthetic.x"], loss))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-8, atol=1e-10)
    assert results[0][1] == pytest.approx(results[1][1])


def test_one_step_is_the_published_algorithm(digits: Dataset) -> None:
    """Written again with autograd alone, a class at a time: SGD 0.1, momentum 0.5, the sum over
    classes.
    """
    task, _ = plan(
        DistillSpec(settings={**SMALL, "real_batch": 200}), digits
    )  # all the real images: nothing is drawn
    start = gm.init(task)
    state, _ = gm.step(task, start, 0)
    net, x = (
        students.student(task, task.settings.student, "gm", "student", 0),
        start["synthetic.x"].clone().requires_grad_(),
    )
    weights = [p for p in net.parameters() if p.ndim >= 2]
    total = torch.zeros(())
    for c in range(10):
        real = digits.train.x[digits.train.y == c]
        target = torch.autograd.grad(
            F.cross_entropy(net(real), torch.full((len(real),), c)), weights
        )
        mine = torch.autograd.grad(
            F.cross_entropy(net(x[c]), torch.tensor([c])), weights, create_graph=True
        )
        for a, b in zip(mine, target, strict=True):
            total = (
                total + (1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6)).sum()
            )
    total.backward()
    assert x.grad is not None
    torch.testing.assert_close(
        state["synthetic.x"], start["synthetic.x"] - 0.1 * x.grad, rtol=1e-4, atol=1e-5
    )


def test_the_schedule_is_the_published_one() -> None:
    assert [gm.schedule(gm.GM(), ipc) for ipc in (1, 5, 10, 20, 50, 100)] == [
        (1, 1), (1, 1), (10, 50), (20, 25), (50, 10), (50, 10),
    ]  # fmt: skip
    assert gm.schedule(gm.GM(outer=3, inner=0), 10) == (3, 0)


@pytest.mark.parametrize(("side", "depth"), [(8, 2), (16, 3), (28, 3), (32, 3), (64, 3), (4, 1)])
def test_the_default_student_keeps_maps_of_four_or_more(side: int, depth: int) -> None:
    assert (
        students.default_student((1, side, side))
        == f"D{depth}-W{128 if side >= 16 else 32}-relu-instancenorm-avgpooling"
    )


def test_the_default_student_of_tables_is_an_mlp() -> None:
    assert students.default_student((7,)) == "evaluation-nets:mlp"


def test_batch_norm_takes_the_statistics_of_real_images_and_keeps_them(digits: Dataset) -> None:
    settings = {"student": "D1-W32-relu-batchnorm-none", "real_batch": 8, "outer": 2, "inner": 1}
    task, _ = plan(DistillSpec(ipc=2, settings=settings), digits)
    net = students.student(task, task.settings.student, "gm", "student", 0)
    gm._freeze_batch_norm(task, net, 0, 0)
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    assert not norm.training
    mean = norm.running_mean
    assert mean is not None
    picks = gm.draw(digits.train.y, 10, 16, seeds.generator(0, "gm", "batchnorm", 0, 0))
    with torch.no_grad():
        features = net.features[0](digits.train.x[torch.cat(picks)])  # type: ignore[index, union-attr, operator]
    torch.testing.assert_close(mean, features.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    state, loss = gm.step(task, gm.init(task), 0)
    assert math.isfinite(loss)
    assert state["synthetic.x"].isfinite().all()


@pytest.mark.slow
def test_ten_learned_images_train_better_than_ten_random_ones(digits: Dataset) -> None:
    student = "D2-W32-relu-instancenorm-avgpooling"
    learned = distill(DistillSpec(steps=100, settings={"student": student}), digits)
    drawn = distill(DistillSpec(method="random"), digits)
    assert learned.provenance["losses"][-1] < 0.75 * learned.provenance["losses"][0]
    accuracy = []
    for proxy in (learned, drawn):
        with seeds.seeded(1):
            net = convnet.make(digits.shape, 10, depth=2, width=32)
        training.fit([net], proxy.x, proxy.y, training.Recipe(updates=200))
        accuracy.append(training.evaluate(net, digits.val.x, digits.val.y)[0])
    assert accuracy[0] > accuracy[1] + 0.05


@pytest.mark.parametrize("ipc", [1, 2])
def test_resume_is_bit_exact(ipc: int, digits: Dataset, tmp_path: Path) -> None:
    spec = DistillSpec(ipc=ipc, steps=5, settings={**SMALL, "outer": 2, "inner": 1})
    whole = distill(spec, digits)

    class StoppedError(Exception):
        pass

    def stop_after(k: int, progress: Progress) -> None:
        if progress.step == k:
            raise StoppedError

    checkpoint = tmp_path / "checkpoint"
    for k in (1, 3, 4):
        with pytest.raises(StoppedError):
            distill(spec, digits, checkpoint=checkpoint, on_step=lambda p, k=k: stop_after(k, p))  # type: ignore[misc]
    resumed = distill(spec, digits, checkpoint=checkpoint)
    assert torch.equal(whole.x, resumed.x)
    assert resumed.provenance["losses"] == whole.provenance["losses"]
    assert resumed.provenance["steps"] == 5


def test_a_checkpoint_of_another_distillation_is_refused(digits: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    distill(DistillSpec(steps=1, settings=SMALL), digits, checkpoint=checkpoint)
    with pytest.raises(RunFolderError, match="another distillation"):
        distill(DistillSpec(steps=1, settings=SMALL, seed=1), digits, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(RunFolderError, match="not a readable"):
        distill(DistillSpec(steps=1, settings=SMALL), digits, checkpoint=checkpoint)


def test_a_budget_in_seconds_ends_the_loop(digits: Dataset) -> None:
    proxy = distill(DistillSpec(seconds=0.5, settings=SMALL), digits)
    assert proxy.provenance["steps"] >= 1
    assert proxy.provenance["seconds"] >= 0.5
    assert proxy.provenance["peak_mib"] > 0


def test_divergence_is_said(digits: Dataset) -> None:
    with pytest.raises(
        DivergedError,
        match=r"gm diverged at step \d+: its loss is (nan|inf); lower its learning rate",
    ):
        distill(
            DistillSpec(
                steps=5,
                settings={
                    "student": "D1-W32-relu-none-none",
                    "real_batch": 8,
                    "distance": "euclidean",
                    "lr": 1e30,
                },
            ),
            digits,
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"ipc": 101}, "ipc must be at most"),
        ({"method": "gmm"}, "there is no method 'gmm'; known: gm"),
        ({"settings": {"learning_rate": 1}}, "settings of gm: unknown key 'learning_rate'"),
        ({"settings": {"lr": 0}}, "settings of gm: lr: input should be greater than 0, but got 0"),
        (
            {"settings": {"init": "zeros"}},
            "settings of gm: init: input should be 'noise' or 'real'",
        ),
        ({"method": "random", "steps": 5}, "takes no steps"),
    ],
)
def test_bad_settings(bad: dict[str, object], message: str, digits: Dataset) -> None:
    with pytest.raises(SpecError) as caught:
        plan(DistillSpec(**bad), digits)  # type: ignore[arg-type]
    assert message in str(caught.value)
