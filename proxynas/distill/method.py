"""What a distillation method is: a frozen dataclass of settings, ``init``, ``step`` and ``finish``.

State is a flat dict of tensors that passes through ``step``; the loop
(:mod:`proxynas.distill.loop`) saves it, so a method resumes bit for bit as long as everything it
remembers is in there. Random choices of step ``k`` draw from ``seeds.generator(seed, …, k)`` and
need no state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..datasets import Dataset
from ..nets.generator import Distilled
from ..training.curriculum import Curriculum

State = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """One distillation: the data, how many images a class, the method's settings and the seed.

    ``steps`` is how many steps are meant; ``None``: as many as the seconds allow.
    """

    dataset: Dataset
    ipc: int
    settings: Any
    seed: int
    steps: int | None = None


@dataclass(frozen=True)
class Shared:
    """What distillations share and what it cost when it was made, which every one of them counts as
    its own.

    ``key`` names it: sets that are merged count it once. ``about`` is further told in the
    provenance.
    """

    what: str
    key: str
    seconds: float  # wall
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


def no_check(task: Task) -> None:
    """Settings of single values are checked when they are made; this is for what those cannot
    see."""


def no_extras(task: Task, state: State) -> Extras:
    """Images and labels are all there is."""
    return Extras()


@dataclass(frozen=True)
class Method:
    """A way to make a proxy set.

    ``init(task) -> state``; ``step(task, state, k) -> (state, loss)`` is step number ``k`` and does
    not change its argument; ``finish(task, state) -> (x, y)`` gives images (C·ipc, …), class by
    class, and labels. A method without steps (a coreset) does all its work in ``init``.
    ``check(task)`` raises a ``SpecError`` before anything is written where settings do not fit each
    other or the data; ``extras(task, state)`` is what the set has beside images. ``prepare(task,
    on_done)`` makes, or finds, what distillations share, tells ``on_done(done, total)`` on the way,
    and says what it cost, which is counted even where it was found.
    """

    name: str
    summary: str
    settings: type
    steps: int
    init: Callable[[Task], State]
    step: Callable[[Task, State, int], tuple[State, float]]
    finish: Callable[[Task, State], tuple[Tensor, Tensor]]
    check: Callable[[Task], None] = no_check
    extras: Callable[[Task, State], Extras] = no_extras
    prepare: Callable[[Task, Callable[[int, int], None]], Shared] | None = None


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
    return torch.stack(
        [
            dataset.train.x[pick]
            for pick in draw(dataset.train.y, dataset.num_classes, ipc, generator)
        ]
    )


def draw(y: Tensor, classes: int, n: int, generator: torch.Generator) -> list[Tensor]:
    """For every class ``n`` indices of its images (all of them when it has fewer), at random
    without replacement."""
    picks = []
    for c in range(classes):
        members = (y == c).nonzero()[:, 0]
        picks.append(
            members[torch.randperm(len(members), generator=generator)[:n].to(members.device)]
        )
    return picks


def class_labels(classes: int, ipc: int, device: torch.device) -> Tensor:
    """Labels of images laid out class by class, int64 (C·ipc,)."""
    return torch.arange(classes, device=device).repeat_interleave(ipc)
