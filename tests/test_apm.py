import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxynas import datasets, proxyset, testing, training
from proxynas.core import seeds
from proxynas.core.errors import DivergedError, RunFolderError, SpecError
from proxynas.core.progress import Progress, Watcher
from proxynas.datasets import Dataset
from proxynas.distill import experts, students
from proxynas.distill.loop import distill, plan
from proxynas.distill.method import Task, class_labels
from proxynas.distill.methods import apm
from proxynas.nets import convnet
from proxynas.pipeline import planning, sources
from proxynas.rank import ledger
from proxynas.specs import DistillSpec, SearchSpec

STUDENT = "D1-W32-relu-instancenorm-avgpooling"
SMALL: dict[str, Any] = {
    "student": STUDENT,
    "epochs": 6,
    "checkpoints": 3,
    "experts": 2,
    "expert_epochs": 3,
}
SEGMENTS = [1, 3, 4, 6, 100]


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def double() -> Iterator[Dataset]:
    torch.set_default_dtype(torch.float64)
    yield testing.toy(dtype=torch.float64)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def toy() -> Dataset:
    return testing.toy()


def tiny(seed: int, norm: convnet.Norm = "groupnorm") -> nn.Module:
    """A smooth network in float64, in evaluation mode."""
    with seeds.seeded(seed):
        net = convnet.make(
            (1, 8, 8), 3, depth=2, width=4, norm=norm, activation="sigmoid", pooling="avgpooling"
        )
    return net.double().eval().requires_grad_(False)


def problem() -> tuple[nn.Module, list[nn.Module], Tensor, Tensor]:
    """An expert, three checkpoints, six images and their classes."""
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return tiny(0), [tiny(seed) for seed in (1, 2, 3)], x, torch.arange(6) % 3


def equation_4(
    expert: nn.Module, nets: list[nn.Module], x: Tensor, y: Tensor, alpha: float, log: bool
) -> Tensor:
    """Written again as it stands in the paper, one image after the other."""
    total = torch.zeros((), dtype=x.dtype)
    for image, label in zip(x, y, strict=True):
        expected = expert(image[None])[0]
        for net in nets:
            d = F.l1_loss(expected, net(image[None])[0])
            total = total - (d.log() if log else d)
        total = total - alpha * expected.log_softmax(0)[label]
    return total / len(x)


def task_of(dataset: Dataset, ipc: int = 2, steps: int | None = None, **config: Any) -> Task:
    return plan(
        DistillSpec(method="apm", ipc=ipc, steps=steps, settings={**SMALL, **config}), dataset
    )[0]


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("segment", [None, 1, 4])
def test_the_loss_and_its_gradient_are_those_of_equation_4(log: bool, segment: int | None) -> None:
    expert, nets, x, y = problem()
    loss, actual = apm.image_gradient(expert, nets, x, y, alpha=0.3, log=log, segment=segment)
    u = x.clone().requires_grad_()
    wanted = equation_4(expert, nets, u, y, 0.3, log)
    (gradient,) = torch.autograd.grad(wanted, u)
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(actual, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_the_gradient_against_finite_differences(log: bool, alpha: float) -> None:
    expert, nets, x, y = problem()

    def value(x: Tensor) -> float:
        return apm.image_gradient(expert, nets, x, y, alpha=alpha, log=log)[0]

    _, actual = apm.image_gradient(expert, nets, x, y, alpha=alpha, log=log)
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        direction, h = torch.randn(x.shape, dtype=torch.float64, generator=generator), 1e-6
        slope = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
        assert (actual * direction).sum().item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("norm", ["groupnorm", "batchnorm"])
def test_segments_give_the_same_gradient_to_rounding(segment: int, norm: convnet.Norm) -> None:
    _, _, x, y = problem()
    expert, nets = tiny(0, norm), [tiny(1, norm), tiny(2, norm)]
    whole = apm.image_gradient(expert, nets, x, y, alpha=0.1)
    pieces = apm.image_gradient(expert, nets, x, y, alpha=0.1, segment=segment)
    assert pieces[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(pieces[1], whole[1], rtol=1e-10, atol=1e-14)


def test_segments_give_the_same_set_to_rounding(double: Dataset) -> None:
    results = []
    for segment in (None, 1, 4, 6):
        task = task_of(double, student="D1-W32-sigmoid-none-avgpooling", segment=segment)
        state = apm.init(task)
        for k in range(3):
            state, loss = apm.step(task, state, k)
        results.append((*apm.finish(task, state), torch.tensor(loss)))
    assert not torch.equal(results[0][0], apm.init(task)["x"])
    for other in results[1:]:
        for actual, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("log", [True, False])
def test_a_round_is_algorithm_1(double: Dataset, log: bool) -> None:
    """Written again without the training loop: SGD 0.02, momentum 0.9, decay 5e-4, a tenth from
    half of the epochs on; all six images are in the batch.
    """
    task = task_of(double, student="D1-W32-sigmoid-none-avgpooling", log=log, momentum=0.5)
    start = apm.init(task)
    expert = apm._expert(task, 0)
    net = students.student(task, task.settings.student, "apm", "student", 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    nets = []
    for epoch in range(1, 7):
        optimizer.param_groups[0]["lr"] = 0.02 if epoch <= 3 else 0.002
        optimizer.zero_grad()
        (net(start["x"]) - expert(start["x"])).abs().mean().backward()
        optimizer.step()
        if epoch % 2 == 0:
            nets.append(students.student(task, task.settings.student))
            nets[-1].load_state_dict(net.state_dict())
    u = start["x"].clone().requires_grad_()
    loss = equation_4(expert, nets, u, class_labels(3, 2, u.device), 0.1, log)
    loss.backward()
    state, step_loss = apm.step(task, start, 0)
    assert u.grad is not None
    assert step_loss == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(state["x"], (u - u.grad).detach(), rtol=1e-6, atol=1e-8)


def test_images_out_of_the_batch_stay(toy: Dataset) -> None:
    task = task_of(toy, ipc=3, batch=4)
    before = apm.init(task)
    after, _ = apm.step(task, before, 0)
    moved = (after["x"] != before["x"]).flatten(1).any(1)
    assert moved.sum() == 4
    again, _ = apm.step(task, after, 1)
    assert (again["x"] != after["x"]).flatten(1).any(1).tolist() != moved.tolist()


def test_the_learning_rate_falls_at_half_of_the_rounds(toy: Dataset) -> None:
    rates = [apm.rate(task_of(toy, steps=4), k) for k in range(4)]
    assert rates == pytest.approx([1.0, 1.0, 0.3, 0.3])
    unknown = plan(DistillSpec(method="apm", seconds=60, settings=SMALL), toy)[0]
    assert [apm.rate(unknown, k) for k in (1249, 1250)] == pytest.approx([1.0, 0.3])


def test_reuse_trains_a_student_for_three_rounds(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, trained, fit = task_of(toy, reuse=3), [], training.fit
    apm.prepare(task, lambda done, total: None)
    monkeypatch.setattr(
        training, "fit", lambda nets, *a, **kw: trained.append(nets) or fit(nets, *a, **kw)
    )  # type: ignore[func-returns-value]
    state = apm.init(task)
    for k in range(4):
        state, _ = apm.step(task, state, k)
        assert any(name.startswith("checkpoint.2.") for name in state) == (k != 2)
    assert len(trained) == 2


def test_a_reused_student_meets_a_batch_of_its_own_every_round(toy: Dataset) -> None:
    """As in the authors' code, and unlike the student, which saw the first one."""
    task = task_of(toy, ipc=3, batch=4, reuse=3)
    state = apm.init(task)
    moved = []
    for k in range(3):
        after, _ = apm.step(task, state, k)
        moved.append(tuple((after["x"] != state["x"]).flatten(1).any(1).nonzero()[:, 0].tolist()))
        state = after
    assert all(len(rows) == 4 for rows in moved)
    assert len(set(moved)) == 3


def test_the_student_may_have_batches(toy: Dataset) -> None:
    """Seven passes over six images in batches of four are two updates each; the checkpoints are
    after 2, 4 and 6.
    """
    task = task_of(toy, student_batch=4, epochs=7)
    nets = apm._train_student(task, apm._expert(task, 0), apm.init(task)["x"], 0)
    assert len(nets) == 3
    assert not any(net.training or any(p.requires_grad for p in net.parameters()) for net in nets)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"checkpoints": 7}, "checkpoints must be at most epochs, which is 6, but got 7"),
        ({"lr": 0}, "lr: input should be greater than 0"),
        ({"segment": 0}, "segment: input should be greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    config: dict[str, Any], message: str, toy: Dataset
) -> None:
    with pytest.raises(SpecError, match=message):
        task_of(toy, **config)


def test_a_student_that_diverges_is_said(toy: Dataset) -> None:
    task = task_of(toy, student_lr=1e12, epochs=50, checkpoints=2)
    with pytest.raises(DivergedError, match=r"the student of step 0: .* lower student_lr"):
        apm.step(task, apm.init(task), 0)


def test_rows_of_a_table() -> None:
    moons = datasets.load("moons")
    config = {"epochs": 4, "checkpoints": 2, "experts": 1, "expert_epochs": 1}
    proxy = distill(DistillSpec(method="apm", ipc=2, steps=2, settings=config), moons)
    assert proxy.x.shape == (4, 2)
    assert proxy.y.shape == (4, 2)
    with pytest.raises(SpecError, match="augment = 'crop' is for images"):
        plan(DistillSpec(method="apm", settings={"augment": "crop"}), moons)


def test_a_gradient_that_is_not_finite_is_said(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        apm, "image_gradient", lambda *a, **kw: (1.0, torch.full((6, 1, 8, 8), math.nan))
    )
    with pytest.raises(DivergedError, match="lower lr, now 1"):
        distill(DistillSpec(method="apm", ipc=2, steps=1, settings=SMALL), toy)


def test_soft_labels_are_the_logits_of_the_expert_that_validates_best(
    toy: Dataset, tmp_path: Path
) -> None:
    spec = DistillSpec(method="apm", ipc=2, steps=2, settings={**SMALL, "experts": 3})
    proxy = distill(spec, toy)
    experts_pool = apm.pool(plan(spec, toy)[0])
    scores = [training.evaluate(experts_pool.network(i), toy.val.x, toy.val.y) for i in range(3)]
    best = max(range(3), key=lambda i: (scores[i][0], -scores[i][1]))
    assert experts_pool.best() == best == proxy.provenance["shared"]["about"]["labels"]
    assert torch.equal(proxy.y, experts_pool.network(best)(proxy.x))
    assert (proxy.recipe.loss, proxy.recipe.lr) == ("l1", 0.02)
    proxy.save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert torch.equal(read.y, proxy.y)
    assert read.recipe == proxy.recipe
    assert read.provenance == json.loads(json.dumps(proxy.provenance))
    assert proxyset.candidate_recipe(read, training.Recipe()).loss == "l1"


def slow(monkeypatch: pytest.MonkeyPatch, wall: float, core: float) -> None:
    """Experts that are trained from now on say that they cost this much."""
    write = experts._write

    def fake_write(path: Path, expert: experts.Expert, kept: dict[str, Tensor]) -> None:
        write(path, replace(expert, seconds=wall, core_seconds=core), kept)

    monkeypatch.setattr(experts, "_write", fake_write)


def test_what_experts_cost_is_counted_also_where_they_were_found(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DistillSpec(method="apm", ipc=2, steps=1, settings=SMALL)
    with monkeypatch.context() as patch:
        slow(patch, 100.0, 150.0)
        apm.prepare(plan(spec, toy)[0], lambda done, total: None)
    for seed in (0, 1):
        provenance = distill(replace(spec, seed=seed), toy).provenance
        assert 200 < provenance["seconds"] < 210
        assert 300 < provenance["core_seconds"] < 310
        shared = provenance["shared"]
        assert (shared["what"], shared["seconds"], shared["core_seconds"]) == (
            "experts",
            200.0,
            300.0,
        )
        assert (shared["about"]["count"], len(shared["about"]["val_accuracy"])) == (2, 2)
    columns = ("source", "arch", "seed", "seconds")
    paid = ledger(
        pd.DataFrame([("proxy", "a", 0, 1.0)], columns=columns),
        {},
        None,
        distill=provenance,
        device="cpu",
        proxy_bytes=1,
        real_bytes=1,
    )
    assert (paid.distill_s, paid.distill_core_s) == (
        provenance["seconds"],
        provenance["core_seconds"],
    )


def test_a_search_trains_candidates_on_soft_labels(small_spec: SearchSpec, tmp_path: Path) -> None:
    spec, watcher = replace(small_spec, method="apm", ipc=2, steps=1, settings=SMALL), Watched()
    proxy = sources.get_proxy(spec, datasets.load_for(spec), tmp_path, watcher)
    assert watcher.told == [(1, 2), (2, 2)]
    prepared = sources.sources_of(spec, tmp_path, datasets.load_for(spec))
    assert torch.equal(prepared["proxy"].y, proxy.y)
    assert (prepared["proxy"].recipe.loss, prepared["random"].recipe.loss) == (
        "l1",
        "cross-entropy",
    )
    assert len(prepared["proxy"].x) == len(prepared["random"].x) == 20


class Watched(Watcher):
    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def preparing(self, done: int, total: int) -> None:
        self.told.append((done, total))


def test_a_resumed_distillation_pays_for_its_experts_once(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise StoppedError

    spec = DistillSpec(method="apm", ipc=2, steps=4, settings={**SMALL, "reuse": 3})
    with monkeypatch.context() as patch:
        slow(patch, 100.0, 150.0)
        apm.prepare(plan(spec, toy)[0], lambda done, total: None)
        whole = distill(spec, toy)
    checkpoint = tmp_path / "a.checkpoint"
    with pytest.raises(StoppedError):
        distill(spec, toy, checkpoint=checkpoint, on_step=stop)
    with pytest.raises(
        RunFolderError, match="of another distillation"
    ):  # said before any expert is trained
        distill(replace(spec, settings={**SMALL, "experts": 99}), toy, checkpoint=checkpoint)
    proxy = distill(spec, toy, checkpoint=checkpoint)
    assert torch.equal(proxy.x, whole.x)
    assert torch.equal(proxy.y, whole.y)
    assert 200 < proxy.provenance["seconds"] < 210


def test_fewer_seconds_than_the_experts_took_are_refused(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 100.0, 150.0)
    apm.prepare(task_of(toy), lambda done, total: None)
    with pytest.raises(
        SpecError,
        match=r"seconds is 60, but the experts of apm alone took 200\.0; give more seconds",
    ):
        distill(DistillSpec(method="apm", seconds=60, settings=SMALL), toy)


def test_seconds_that_end_while_experts_are_trained_end_the_distillation(
    toy: Dataset, tmp_path: Path
) -> None:
    spec = DistillSpec(method="apm", seconds=1e-6, settings=SMALL)
    with pytest.raises(SpecError, match=r"which 1 of 2 shared by distillations with apm took"):
        distill(spec, toy)
    assert len(list(tmp_path.rglob("experts/*/*.safetensors"))) == 1


def test_a_budget_does_not_train_experts(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--budget does not plan what apm trains beforehand"):
        planning.plan("60s", None, {"method": "apm"}, tmp_path / "out")
