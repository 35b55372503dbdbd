"""A pool of students of different ages (Zhou 2022, FRePo; Loo 2023, Algorithm 1).

    i ~ U{1 … m}                                        each step works with one student
    θ_i ← θ_i − Adam(∂/∂θ_i ½ mean ‖f(X; θ_i) − Y‖²)    and then trains it, some steps, on the set
    θ_i ← a fresh student,  once trained for K steps

The student is trained as an ordinary network (standard dynamics). One that was never trained
follows from the seed, so the state holds only those that were: their parameters
``student.<i>.<name>``, what Adam remembers of them, and ``pool.age`` (steps of training) and
``pool.birth`` (how often it was replaced) of all.
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


def fresh_pool(size: int) -> State:
    """A pool of ``size`` students that nobody has trained."""
    counts = torch.zeros(size, dtype=torch.int64)
    return {"pool.age": counts, "pool.birth": counts.clone()}


def draw_member(task: Task[object], arch: str, state: State, k: int) -> Member:
    """The student of step ``k``, drawn at random from the pool."""
    generator = seeds.generator(task.seed, "rcig", "pool", k)
    index = torch.randint(len(state["pool.age"]), (), generator=generator)
    return member(task, arch, state, int(index))


def member(task: Task[object], arch: str, state: State, index: int) -> Member:
    """Student number ``index`` as it is now."""
    birth = state["pool.birth"][index].item()
    net = students.student(task, arch, "rcig", "student", index, birth)
    student = cut(net, task.dataset.num_classes)
    if state["pool.age"][index] == 0:
        return Member(index, student)
    parameters = {name: state[f"student.{index}.{name}"] for name in student.parameters}
    last = state[f"student.{index}.{LAST}"]
    return Member(index, replace(student, parameters=parameters, last=last))


def train_member(
    state: State,
    drawn: Member,
    training_set: tuple[Tensor, Tensor],
    *,
    steps: int,
    lr: float,
    life: int,
) -> State:
    """The pool's part of ``state`` once the student drawn has had ``steps`` steps of Adam.

    The loss is half the squared error on the training set's images (n, …) and labels (n, K), a mean
    over images. A student that reaches ``life`` steps is replaced by a fresh one.
    """
    x, y = training_set
    index = drawn.index
    others = _without_member(state, index)
    age = state["pool.age"].clone()
    birth = state["pool.birth"].clone()
    age[index] += steps
    if age[index] >= life:
        age[index] = 0
        birth[index] += 1
        return {**others, "pool.age": age, "pool.birth": birth}
    student = drawn.student
    parameters = {**student.parameters, LAST: student.last}
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=lr)
    unpack(optimizer, state, f"adam.{index}")
    for _ in range(steps):
        features = student.body({name: leaves[name] for name in student.parameters}, x)
        loss = 0.5 * (features @ leaves[LAST].T - y).square().sum(1).mean()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        for leaf, gradient in zip(leaves.values(), gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
    trained = {f"student.{index}.{name}": leaf.detach() for name, leaf in leaves.items()}
    memory = pack(optimizer, f"adam.{index}")
    return {**others, **trained, **memory, "pool.age": age, "pool.birth": birth}


def _without_member(state: State, index: int) -> State:
    """The pool's part of ``state`` without what belongs to student ``index``."""
    pool = ("pool.", "student.", "adam.")
    dropped = (f"student.{index}.", f"adam.{index}.")
    kept = (name for name in state if name.startswith(pool) and not name.startswith(dropped))
    return {name: state[name] for name in kept}
