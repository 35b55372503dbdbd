"""The contract that every distillation method passes, for the author of another one to run.

    import pytest
    from proxynas import testing
    from mypackage.mine import METHOD

    @pytest.mark.parametrize("check", testing.CONTRACT, ids=lambda check: check.__name__)
    def test_contract(check):
        check(testing.Case(METHOD, {"lr": 0.5}))

Every check raises an ``AssertionError`` that says what was expected. It needs no pytest. The data
are :func:`toy`, small enough for seconds; give a :class:`Case` a dataset of its own for another
shape or device.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from . import spaces, training
from .core import seeds, settings
from .datasets import Dataset, Preprocessing, Split
from .distill import students
from .distill.method import Method, State, Task


def toy(
    *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
) -> Dataset:
    """Three classes of 8×8 images, a smooth pattern each and noise of the same strength.

    There are 40 images per class in each of the training, validation and test splits.
    """
    generator = seeds.generator(seed, "toy")
    coarse = torch.randn(3, 1, 3, 3, generator=generator, dtype=torch.float32)
    patterns = torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")  # (3, 1, 8, 8)
    y = torch.arange(3).repeat(40)

    def split() -> Split:
        noise = torch.randn(len(y), 1, 8, 8, generator=generator, dtype=torch.float32)
        return Split((patterns[y] + 0.5 * noise).to(device, dtype), y.to(device))

    preprocessing = Preprocessing((0.0,), (1.0,))
    return Dataset("toy", split(), split(), split(), preprocessing, ("a", "b", "c"), "toy")


@dataclass(frozen=True)
class Case:
    """A method with settings that suit :func:`toy`.

    ``steps`` is how many steps the quick checks take, ``enough`` how many suffice to improve.
    """

    method: Method[Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    ipc: int = 2
    steps: int = 3
    enough: int = 30
    dataset: Dataset = field(default_factory=toy)

    def task(self, dataset: Dataset | None = None, seed: int = 0) -> Task[Any]:
        """The task, its settings checked as the distillation loop checks them."""
        where = f"settings of {self.method.name}"
        config = settings.make(self.method.settings, dict(self.settings), where=where)
        task = Task(dataset or self.dataset, self.ipc, config, seed)
        self.method.check(task)
        return task

    @property
    def length(self) -> int:
        """Steps of the quick checks; none for a coreset."""
        return min(self.steps, self.method.steps)

    def run(
        self, task: Task[Any], steps: int, state: State | None = None, first: int = 0
    ) -> tuple[State, list[float]]:
        """The state after steps ``first`` to ``steps``, and their losses."""
        state = self.method.init(task) if state is None else state
        losses = []
        for k in range(first, steps):
            state, loss = self.method.step(task, state, k)
            losses.append(loss)
        return state, losses


def same_seed_same_result(case: Case) -> None:
    """Two runs with one seed agree to the bit; another seed gives another set."""
    one, two, other = (case.run(case.task(seed=seed), case.length)[0] for seed in (0, 0, 1))
    _equal(one, two, "two runs with the same seed")
    first = case.method.finish(case.task(seed=0), one)
    second = case.method.finish(case.task(seed=0), two)
    third = case.method.finish(case.task(seed=1), other)
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert same, "finish gave two different sets"
    assert not torch.equal(first[0], third[0]), (
        "another seed must give other images, but gave the same"
    )


def resumes_bit_for_bit(case: Case) -> None:
    """Resumed from a checkpoint file after any step, a run ends like an uninterrupted one."""
    task = case.task()
    whole, losses = case.run(task, case.length)
    for k in range(case.length):
        state, early = case.run(task, k)
        stored = load(save({name: value.cpu().contiguous() for name, value in state.items()}))
        state = {
            name: value.to(whole[name].device) if name in whole else value
            for name, value in stored.items()
        }
        resumed, late = case.run(case.task(), case.length, state, k)
        _equal(whole, resumed, f"a run resumed after {k} steps and an uninterrupted one")
        assert early + late == losses, (
            f"losses differ when resumed after {k} steps: {early + late} and {losses}"
        )


def does_not_change_its_arguments(case: Case) -> None:
    """``step`` and ``finish`` change neither state nor data nor PyTorch's random numbers."""
    task = case.task()
    random = torch.get_rng_state()
    train, val = task.dataset.train, task.dataset.val
    data = {"train x": train.x, "train y": train.y, "val x": val.x, "val y": val.y}
    data_before = _copy(data)
    state = case.method.init(task)
    for k in range(case.length):
        before = _copy(state)
        after, _ = case.method.step(task, state, k)
        _equal(
            before, state, "the state before and after step, which must not change its argument,"
        )
        state = after
    before = _copy(state)
    case.method.finish(task, state)
    case.method.extras(task, state)
    _equal(before, state, "the state before and after finish, which must not change its argument,")
    _equal(data_before, data, "the data before and after, which a method must not change,")
    assert torch.equal(random, torch.get_rng_state()), (
        "the global random generator was used; see proxynas.seeds"
    )


def keeps_dtype_device_and_shape(case: Case) -> None:
    """Dtype and device are the data's, images lie class by class, ipc of each, and labels fit."""
    for dtype in (torch.float32, torch.float64):
        with _default(dtype):
            train = Split(case.dataset.train.x.to(dtype), case.dataset.train.y)
            val = Split(case.dataset.val.x.to(dtype), case.dataset.val.y)
            task = case.task(replace(case.dataset, train=train, val=val))
            state, _ = case.run(task, min(1, case.length))
            x, y = case.method.finish(task, state)
        _check_images(x, task)
        _check_labels(y, task)
        curriculum = case.method.extras(task, state).curriculum
        if curriculum is not None:
            curriculum.check(len(x))


def _check_images(x: Tensor, task: Task[Any]) -> None:
    data = task.dataset.train.x
    shape = (task.dataset.num_classes * task.ipc, *data.shape[1:])
    assert tuple(x.shape) == shape, f"images must be {shape}, but are {tuple(x.shape)}"
    assert x.dtype == data.dtype, (
        f"images of {data.dtype} data must be {data.dtype}, but are {x.dtype}"
    )
    assert x.device == data.device, f"images must be on {data.device}, but are on {x.device}"
    assert not x.requires_grad, "images must be detached"


def _check_labels(y: Tensor, task: Task[Any]) -> None:
    classes = task.dataset.num_classes
    dtype = task.dataset.train.x.dtype
    if y.ndim == 1:
        by_class = [c for c in range(classes) for _ in range(task.ipc)]
        assert y.tolist() == by_class, "images must lie class by class"
    else:
        shape = (classes * task.ipc, classes)
        assert y.shape == shape, f"soft labels must be {shape}, but are {tuple(y.shape)}"
    fitting = torch.int64 if y.ndim == 1 else dtype
    assert y.dtype == fitting, f"labels of {dtype} data must be {fitting}, but are {y.dtype}"


def stays_finite(case: Case) -> None:
    """Losses and images are finite numbers, and the loss is a plain ``float``."""
    task = case.task()
    state, losses = case.run(task, case.length)
    assert all(type(loss) is float for loss in losses), (
        f"step must return a float, but returned {losses}"
    )
    assert all(math.isfinite(loss) for loss in losses), f"losses must be finite, but are {losses}"
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    assert not bad, f"these parts of the state are not finite: {', '.join(bad)}"
    assert case.method.finish(task, state)[0].isfinite().all(), "images must be finite"


def improves(case: Case) -> None:
    """Networks trained on the set validate better than on the set it started from.

    Those trained on a coreset validate better than chance. The measure is the mean loss of three
    networks.
    """
    task = case.task()
    start, _ = case.run(task, 0)
    end, _ = case.run(task, min(case.enough, case.method.steps))
    after = _validation_loss(case, task, end)
    if case.method.steps == 0:
        before = math.log(task.dataset.num_classes)
        baseline = "chance"
    else:
        before = _validation_loss(case, task, start)
        baseline = "the set it started from"
    losses = f"a validation loss of {after:.3f}, {baseline} {before:.3f}"
    assert after < before, f"{case.method.name} did not improve: {losses}"


CONTRACT: tuple[Callable[[Case], None], ...] = (
    same_seed_same_result,
    resumes_bit_for_bit,
    does_not_change_its_arguments,
    keeps_dtype_device_and_shape,
    stays_finite,
    improves,
)
"""All checks."""


def _validation_loss(case: Case, task: Task[Any], state: State) -> float:
    """Mean over three networks, trained for the set's own steps, or for 30 updates."""
    dataset = task.dataset
    x, y = case.method.finish(task, state)
    extras = case.method.extras(task, state)
    recipe: dict[str, Any] = {
        "updates": 30 if extras.curriculum is None else len(extras.curriculum.order),
        "lr": 0.02,
        "momentum": 0.5,
        "weight_decay": 0.0,
        "loss": _loss(y),
        **extras.recipe,
    }
    checked_recipe = settings.make(training.Recipe, recipe)
    space = spaces.load("convnet-grid")
    arch = students.default_student(dataset.shape)
    losses = []
    for r in range(3):
        with seeds.seeded(seeds.derive(r, "contract")):
            net = space.build(arch, dataset.shape, dataset.num_classes).to(x)
        training.fit([net], x, y, checked_recipe, seed=r, curriculum=extras.curriculum)
        losses.append(training.evaluate(net, dataset.val.x, dataset.val.y)[1])
    return sum(losses) / len(losses)


def _loss(y: Tensor) -> training.Loss:
    return "mse" if y.ndim == 2 else "cross-entropy"


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def _equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor], what: str) -> None:
    assert set(one) == set(two), f"{what} have different entries: {sorted(set(one) ^ set(two))}"
    bad = [
        name
        for name, value in one.items()
        if value.dtype != two[name].dtype or not torch.equal(value, two[name])
    ]
    assert not bad, f"{what} differ in {', '.join(sorted(bad))}"


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
