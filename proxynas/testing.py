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
    """Three classes of 8×8 images, a smooth pattern each and noise of the same strength; 40 to
    learn from, 40 to validate on and 40 to test on a class.
    """
    generator = seeds.generator(seed, "toy")
    coarse = torch.randn(3, 1, 3, 3, generator=generator, dtype=torch.float32)
    patterns = torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")  # (3, 1, 8, 8)
    y = torch.arange(3).repeat(40)

    def split() -> Split:
        x = patterns[y] + 0.5 * torch.randn(
            len(y), 1, 8, 8, generator=generator, dtype=torch.float32
        )
        return Split(x.to(device, dtype), y.to(device))

    return Dataset(
        "toy", split(), split(), split(), Preprocessing((0.0,), (1.0,)), ("a", "b", "c"), "toy"
    )


@dataclass(frozen=True)
class Case:
    """A method with settings that suit :func:`toy`; ``steps`` for the quick checks, ``enough`` to
    improve."""

    method: Method
    settings: Mapping[str, Any] = field(default_factory=dict)
    ipc: int = 2
    steps: int = 3
    enough: int = 30
    dataset: Dataset = field(default_factory=toy)

    def task(self, dataset: Dataset | None = None, seed: int = 0) -> Task:
        """The task, its settings made and checked as the distillation loop does."""
        own: object = settings.make(
            self.method.settings, dict(self.settings), where=f"settings of {self.method.name}"
        )
        made = Task(dataset or self.dataset, self.ipc, own, seed)
        self.method.check(made)
        return made

    @property
    def length(self) -> int:
        """Steps of the quick checks; none for a coreset."""
        return min(self.steps, self.method.steps)

    def run(
        self, task: Task, steps: int, state: State | None = None, first: int = 0
    ) -> tuple[State, list[float]]:
        """The state after steps ``first`` to ``steps``, and their losses."""
        state, losses = self.method.init(task) if state is None else state, []
        for k in range(first, steps):
            state, loss = self.method.step(task, state, k)
            losses.append(loss)
        return state, losses


def same_seed_same_result(case: Case) -> None:
    """Two runs with one seed agree to the bit; another seed gives another set."""
    one, two, other = (case.run(case.task(seed=seed), case.length)[0] for seed in (0, 0, 1))
    _equal(one, two, "two runs with the same seed")
    sets = [
        case.method.finish(case.task(seed=seed), state)
        for seed, state in ((0, one), (0, two), (1, other))
    ]
    assert all(torch.equal(a, b) for a, b in zip(sets[0], sets[1], strict=True)), (
        "finish gave two different sets"
    )
    assert not torch.equal(sets[0][0], sets[2][0]), (
        "another seed must give other images, but gave the same"
    )


def resumes_bit_for_bit(case: Case) -> None:
    """A state that went through a checkpoint file, after any step, leads to where the uninterrupted
    run ends."""
    task = case.task()
    whole, losses = case.run(task, case.length)
    for k in range(case.length):
        state, early = case.run(task, k)
        state = load(save({name: value.cpu().contiguous() for name, value in state.items()}))
        state = {
            name: value.to(whole[name].device) if name in whole else value
            for name, value in state.items()
        }
        resumed, late = case.run(case.task(), case.length, state, k)
        _equal(whole, resumed, f"a run resumed after {k} steps and an uninterrupted one")
        assert early + late == losses, (
            f"losses differ when resumed after {k} steps: {early + late} and {losses}"
        )


def does_not_change_its_arguments(case: Case) -> None:
    """Neither ``step`` nor ``finish`` changes the state or the data it is given, nor PyTorch's own
    random numbers."""
    task = case.task()
    random = torch.get_rng_state()
    data = {
        f"{name} {part}": getattr(getattr(task.dataset, name), part)
        for name in ("train", "val")
        for part in "xy"
    }
    before = {name: value.clone() for name, value in data.items()}
    state = case.method.init(task)
    for k in range(case.length):
        kept = {name: value.clone() for name, value in state.items()}
        after, _ = case.method.step(task, state, k)
        _equal(kept, state, "the state before and after step, which must not change its argument,")
        state = after
    kept = {name: value.clone() for name, value in state.items()}
    case.method.finish(task, state)
    case.method.extras(task, state)
    _equal(kept, state, "the state before and after finish, which must not change its argument,")
    _equal(before, data, "the data before and after, which a method must not change,")
    assert torch.equal(random, torch.get_rng_state()), (
        "the global random generator was used; see proxynas.seeds"
    )


def keeps_dtype_device_and_shape(case: Case) -> None:
    """Images come back in the data's dtype and on its device, ipc a class, class by class, with
    fitting labels."""
    for dtype in (torch.float32, torch.float64):
        with _default(dtype):
            learn, held = (
                Split(part.x.to(dtype), part.y) for part in (case.dataset.train, case.dataset.val)
            )
            dataset = replace(case.dataset, train=learn, val=held)
            task = case.task(dataset)
            state, _ = case.run(task, min(1, case.length))
            x, y = case.method.finish(task, state)
        classes, wanted = (
            dataset.num_classes,
            (dataset.num_classes * case.ipc, *dataset.train.x.shape[1:]),
        )
        assert tuple(x.shape) == wanted, f"images must be {wanted}, but are {tuple(x.shape)}"
        assert x.dtype == dtype, f"images of {dtype} data must be {dtype}, but are {x.dtype}"
        assert x.device == dataset.train.x.device, (
            f"images must be on {dataset.train.x.device}, but are on {x.device}"
        )
        assert not x.requires_grad, "images must be detached"
        if y.ndim == 1:
            assert y.tolist() == [c for c in range(classes) for _ in range(case.ipc)], (
                "images must lie class by class"
            )
        else:
            assert y.shape == (len(x), classes), (
                f"soft labels must be {(len(x), classes)}, but are {tuple(y.shape)}"
            )
        assert y.dtype == (torch.int64 if y.ndim == 1 else dtype), (
            f"labels of {dtype} data are {y.dtype}"
        )
        curriculum = case.method.extras(task, state).curriculum
        if curriculum is not None:
            curriculum.check(len(x))


def stays_finite(case: Case) -> None:
    """Losses and images are finite numbers, and the loss is a plain ``float``."""
    task = case.task()
    state, losses = case.run(task, case.length)
    assert all(type(loss) is float for loss in losses), (
        f"step must return a float, but returned {losses}"
    )
    assert all(math.isfinite(loss) for loss in losses), f"losses must be finite, but are {losses}"
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    assert not bad, f"not finite: {', '.join(bad)}"
    assert case.method.finish(task, state)[0].isfinite().all(), "images must be finite"


def improves(case: Case) -> None:
    """Networks trained on the set get a lower validation loss than on the set it started from, or,
    for a coreset, than chance; as a mean over three networks.
    """
    task = case.task()
    start, _ = case.run(task, 0)
    end, _ = case.run(task, min(case.enough, case.method.steps))
    after = _validation_loss(case, task, end)
    if case.method.steps == 0:
        before, what = math.log(task.dataset.num_classes), "chance"
    else:
        before, what = _validation_loss(case, task, start), "the set it started from"
    assert after < before, (
        f"{case.method.name} did not improve: a validation loss of {after:.3f}, {what} {before:.3f}"
    )


CONTRACT: tuple[Callable[[Case], None], ...] = (
    same_seed_same_result,
    resumes_bit_for_bit,
    does_not_change_its_arguments,
    keeps_dtype_device_and_shape,
    stays_finite,
    improves,
)
"""All checks."""


def _validation_loss(case: Case, task: Task, state: State) -> float:
    """Mean over three networks, trained on the set for as long as it was made for (30 updates
    otherwise)."""
    (x, y), extras = case.method.finish(task, state), case.method.extras(task, state)
    updates = 30 if extras.curriculum is None else len(extras.curriculum.order)
    usual: dict[str, Any] = {
        "updates": updates,
        "lr": 0.02,
        "momentum": 0.5,
        "weight_decay": 0.0,
        "loss": _loss(y),
    }
    recipe = settings.make(training.Recipe, {**usual, **extras.recipe})
    space, total = spaces.load("convnet-grid"), 0.0
    for r in range(3):
        with seeds.seeded(seeds.derive(r, "contract")):
            net = space.build(
                students.default_student(task.dataset.shape),
                task.dataset.shape,
                task.dataset.num_classes,
            )
        training.fit([net.to(x)], x, y, recipe, seed=r, curriculum=extras.curriculum)
        total += training.evaluate(net, task.dataset.val.x, task.dataset.val.y)[1] / 3
    return total


def _loss(y: Tensor) -> training.Loss:
    return "mse" if y.ndim == 2 else "cross-entropy"


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
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
