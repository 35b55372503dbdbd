"""What a distillation method is: a frozen dataclass of settings, ``init``, ``step`` and ``finish``.

State is a flat dict of tensors that passes through ``step``; the loop
(:mod:`proxynas.distill.loop`) saves it, so a method resumes bit for bit as long as everything it
remembers is in there. Random choices of step ``k`` draw from ``seeds.generator(seed, …, k)`` and
need no state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..datasets import Dataset
from ..nets.generator import Distilled
from ..training.curriculum import Curriculum

State = dict[str, Tensor]
S = TypeVar("S")
"""A method's settings: its frozen dataclass."""
S_co = TypeVar("S_co", covariant=True)


@dataclass(frozen=True)
class Task(Generic[S_co]):
    """One distillation: the data, the images per class, the method's settings and the seed.

    A method with settings ``Mine`` gets a ``Task[Mine]``. ``steps`` is the planned number of steps;
    ``None``: as many as the seconds allow.
    """

    dataset: Dataset
    ipc: int
    settings: S_co
    seed: int
    steps: int | None = None


@dataclass(frozen=True)
class Shared:
    """What distillations share, such as experts, and its cost, which each of them counts in full.

    ``key`` identifies it: sets that are merged count it once. ``about`` goes into the provenance.
    """

    what: str
    key: str
    seconds: float  # wall-clock
    core_seconds: float
    peak_mib: float
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Extras:
    """What a proxy set has beside images and labels, where a method makes it.

    ``recipe`` has the settings of :class:`proxynas.training.Recipe` that the curriculum's learning
    rates need.
    """

    curriculum: Curriculum | None = None
    generator: Distilled | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


def no_check(task: Task[object]) -> None:
    """Nothing to check beyond single values, which are checked when settings are made."""


def no_extras(task: Task[object], state: State) -> Extras:
    """Images and labels are all there is."""
    return Extras()


@dataclass(frozen=True)
class Method(Generic[S]):
    """A way to make a proxy set, with settings of type ``S``.

    ``init(task) -> state``; ``step(task, state, k) -> (state, loss)`` is step number ``k`` and does
    not change its argument; ``finish(task, state) -> (x, y)`` gives images (C·ipc, …), class by
    class, and labels. A method without steps (a coreset) does all its work in ``init``.
    ``check(task)`` raises a ``SpecError`` before anything is written where settings do not fit each
    other or the data; ``extras(task, state)`` is what the set has beside images. ``prepare(task,
    on_done)`` makes what distillations share, or takes it from the cache, calls ``on_done(done,
    total)`` on the way, and returns its cost, which counts even where it came from the cache.
    """

    name: str
    summary: str
    settings: type[S]
    steps: int
    init: Callable[[Task[S]], State]
    step: Callable[[Task[S], State, int], tuple[State, float]]
    finish: Callable[[Task[S], State], tuple[Tensor, Tensor]]
    check: Callable[[Task[S]], None] = no_check
    extras: Callable[[Task[S], State], Extras] = no_extras
    prepare: Callable[[Task[S], Callable[[int, int], None]], Shared] | None = None


def pack(optimizer: torch.optim.Optimizer, prefix: str) -> State:
    """What an optimiser remembers, as a flat dict of tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{key}": torch.as_tensor(value).detach().clone()
        for index, entries in state.items()
        for key, value in entries.items()
        if value is not None
    }


def unpack(optimizer: torch.optim.Optimizer, state: State, prefix: str) -> None:
    """Give an optimiser back what :func:`pack` took from it."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(f"{prefix}."):
            index, key = name.removeprefix(f"{prefix}.").split(".", 1)
            entries.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def real_images(dataset: Dataset, ipc: int, generator: torch.Generator) -> Tensor:
    """``ipc`` images of each class drawn at random without replacement, (C, ipc, …)."""
    picks = draw(dataset.train.y, dataset.num_classes, ipc, generator)
    return torch.stack([dataset.train.x[pick] for pick in picks])


def draw(y: Tensor, classes: int, n: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of ``n`` images of each class, drawn without replacement; all where it has fewer."""
    picks = []
    for c in range(classes):
        members = (y == c).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)[:n]
        picks.append(members[order.to(members.device)])
    return picks


def class_labels(classes: int, ipc: int, device: torch.device) -> Tensor:
    """Labels of images laid out class by class, int64 (C·ipc,)."""
    return torch.arange(classes, device=device).repeat_interleave(ipc)
