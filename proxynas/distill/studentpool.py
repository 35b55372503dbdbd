"""A pool of students of different ages (Zhou 2022, FRePo; Loo 2023, Algorithm 1): each step takes one at random.

Afterwards it is trained on the synthetic set as an ordinary network, a step or a few, and when it has had its life it
is drawn anew. A student that was never trained follows from the seed, so the state holds only those that were: their
parameters ``student.<i>.<name>``, what Adam remembers of them, and the ``pool.age`` and ``pool.birth`` of all.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import seeds
from . import students
from .linearised import LAST, Student, cut
from .method import State, Task, pack, unpack


@dataclass(frozen=True)
class Member:
    """The student that a step works with, and its place in the pool."""

    index: int
    student: Student


def start(size: int) -> State:
    """A pool of ``size`` students that nobody has trained."""
    return {"pool.age": torch.zeros(size, dtype=torch.int64), "pool.birth": torch.zeros(size, dtype=torch.int64)}


def take(task: Task, arch: str, state: State, k: int) -> Member:
    """The student of step ``k``, drawn at random from the pool."""
    generator = seeds.generator(task.seed, "rcig", "pool", k)
    return member(task, arch, state, int(torch.randint(len(state["pool.age"]), (), generator=generator)))


def member(task: Task, arch: str, state: State, index: int) -> Member:
    """Student number ``index`` as it is now."""
    net = students.student(task, arch, "rcig", "student", index, state["pool.birth"][index].item())
    student = cut(net, task.dataset.num_classes)
    if state["pool.age"][index] == 0:
        return Member(index, student)
    own = {name: state[f"student.{index}.{name}"] for name in student.parameters}
    return Member(index, replace(student, parameters=own, last=state[f"student.{index}.{LAST}"]))


def train(state: State, taken: Member, x: Tensor, y: Tensor, *, steps: int, lr: float, life: int) -> State:
    """The pool's part of ``state`` when the student taken has had ``steps`` steps of Adam on half the squared error.

    ``x`` is (n, …) and ``y`` (n, K); a student that reaches ``life`` steps is replaced by a fresh one.
    """
    own = (f"student.{taken.index}.", f"adam.{taken.index}.")
    mine = ("pool.", "student.", "adam.")
    others = {name: value for name, value in state.items() if name.startswith(mine) and not name.startswith(own)}
    age, birth = state["pool.age"].clone(), state["pool.birth"].clone()
    age[taken.index] += steps
    if age[taken.index] >= life:
        age[taken.index] = 0
        birth[taken.index] += 1
        return {**others, "pool.age": age, "pool.birth": birth}
    student = taken.student
    leaves = {
        name: value.clone().requires_grad_() for name, value in {**student.parameters, LAST: student.last}.items()
    }
    optimizer = torch.optim.Adam(leaves.values(), lr=lr)
    unpack(optimizer, state, f"adam.{taken.index}")
    for _ in range(steps):
        features = student.body({name: leaves[name] for name in student.parameters}, x)
        loss = 0.5 * (features @ leaves[LAST].T - y).square().sum(1).mean()
        for leaf, g in zip(leaves.values(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
            leaf.grad = g
        optimizer.step()
    moved = {f"student.{taken.index}.{name}": leaf.detach() for name, leaf in leaves.items()}
    return {**others, **moved, **pack(optimizer, f"adam.{taken.index}"), "pool.age": age, "pool.birth": birth}
