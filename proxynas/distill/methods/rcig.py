"""RCIG: Loo, Hasani, Lechner & Rus, "Dataset Distillation with Convexified Implicit Gradients" (ICML 2023).

Every step (Algorithm 1) takes a student from a pool (:mod:`~proxynas.distill.studentpool`), trains its linearised body
on the synthetic set with the last layer solved for (:mod:`~proxynas.distill.linearised`), and moves images, labels and
the temperature of the outer loss against the implicit gradient of its loss on real data
(:mod:`~proxynas.distill.implicit`). Images and labels are learned; what is kept is their exponential average.

Its relatives are settings, not copies (Table 1): ``linearise = false`` is RIG, ``reparameterise = false`` CIG, both
VIG, and ``n_inner = 0``, ``n_hinv = 0``, ``outer = "mse"`` is FRePo (Zhou 2022) without its augmentation.

What the paper leaves open, and where its authors' code or this file does otherwise:

- The inner loss is *half the sum* of squares and λ/2 of the squared norm: the objective that eq. 3 minimises. λ is
  ``l2`` times the rows that are trained on, mirrored copies counted (their code: not counted).
- Without ``reparameterise`` the outer loss is squared error: the Platt loss comes with equation 6. Theirs subtracts a
  margin between the labels of an image, of which they say that it quite likely makes no difference; this has none.
- Linearised training is centred, so λ pulls the body to where it started, not to zero; the last layer it pulls to zero.
- RIG, of which the paper says no more than that it is not linearised, is centred, too, as in the authors' code: the
  offset of eq. 4 is the change of the network's output, and the last layer acts on features of the unchanged body. VIG
  is plain training of an ordinary network, all of whose parameters λ pulls to zero.
- The implicit gradient has a minus that eq. 1 lacks. Its norm is clipped to the direct one's, that of images and that
  of labels each by itself, as in the authors' code; not so without ``reparameterise``, where there is no direct one.
- Rates of the two loops are found before the first step: from 1e-5 and 5e-5, × 1.2 while the losses fall (÷ 1.2 until
  they do, where they do not at once), × 0.7; their code ends a little higher. A loop that ends above where it started
  loses 10 % at once, as in the paper. Every 50 steps the inner rate grows by 5 % if its loss fell all the way in 70 %
  of them, as in their code, which loses 10 % only there, and nothing of the other rate.
- Labels start as one-hot rows less 1/C. A drawn student is trained one step a time, as in Algorithm 1, at the authors'
  rate of 5e-5 (their code: 1 to 15 steps).
- Above 1000 images gradients go through a random 1000 of them, a new draw for each (:func:`linearised.through`), and
  the student taken is trained on a random 1000 as well.
- Colour images are distilled together with their mirror images while there are at most 1000 (Appendix C).
- The students' last layer has no bias, and there is no augmentation.
"""

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...core import seeds, settings
from ...core.errors import DivergedError, SpecError
from .. import implicit, linearised, studentpool, students
from ..implicit import Hypergradient, Pair
from ..method import Extras, Method, State, Task, class_labels, real_images

MANY = 1000
"""Images above which gradients go through a part of them, and colour images are not mirrored."""
WATCH, MOSTLY = 50, 0.7
"""Steps between two looks at the inner rate, and in what part of them its loss has to fall."""
CHUNK = 128
"""Real images that a CPU takes at a time."""
SMALL, LARGE = 4_000_000, 32_000_000
"""Entries of a Jacobian that is worth having in any case, and of the largest that may be; read off ``make bench`` on
two cores of an AMD EPYC (Zen 5)."""
START = (1e-5, 5e-5)
"""What the search for both rates starts from."""

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


@checked(frozen=True, config=settings.CONFIG)
class RCIG:
    """Settings of RCIG; the defaults are the published ones, but for the subset, which is smaller."""

    linearise: bool = True
    reparameterise: bool = True
    outer: implicit.Outer | None = None  # None: platt, and mse without reparameterise (§3.1 and 3.3)
    n_inner: Annotated[int, Field(ge=0)] = 20
    n_hinv: Annotated[int, Field(ge=0)] = 20
    inner_lr: Rate | None = None  # None: found by itself, and watched
    hinv_lr: Rate | None = None
    l2: Rate | None = None  # λ an image; None: 5e-4, for images of 64×64 5e-3, of 128×128 5e-2
    lr: Rate = 3e-3  # of images and labels
    tau_lr: Rate = 0.03  # of the temperature's logarithm
    learn_labels: bool = True
    init: Literal["real", "noise"] = "real"
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99  # of the set that is kept
    real_batch: Count = 1024
    pool: Count = 30
    life: Count = 100  # steps after which a student is replaced
    student: str | None = None  # an architecture, see spaces.resolve; None: see default_student
    student_steps: Count = 1
    student_lr: Rate = 5e-5
    subset: Count | None = None  # images that gradients go through; None: all, and 1000 where there are more
    tabulate: bool | None = None  # the Jacobian of the set's outputs, once a step; None: where that is faster
    flip: bool | None = None  # mirrored copies; None: of up to 1000 colour images


def check(task: Task) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: mirrored rows; a student without a linear last layer, or with batch norm where there is a subset.
        SpaceError: an unknown student.
    """
    own: RCIG = task.settings
    if own.flip and len(task.dataset.shape) != 3:
        raise SpecError("flip = true mirrors images, but the data are tables; leave it out")
    students.check(task, [_arch(task)])
    net = students.student(task, _arch(task), "rcig", "check")
    student = linearised.cut(net, task.dataset.num_classes)
    if student.mixes and _part(task) is not None:
        raise SpecError(
            f"batch norm mixes the images of a batch, so gradients cannot go through a part of them; take a student "
            f"without it, or subset = {_rows(task)} or more"
        )
    if own.tabulate and not _may_tabulate(task, student):
        raise SpecError(
            "tabulate = true is for linearised students without batch norm whose gradients go through all images; "
            "leave it out"
        )


def init(task: Task) -> State:
    """Real images or noise, centred labels, τ = 1, a pool of fresh students, and both rates."""
    own: RCIG = task.settings
    dataset, generator = task.dataset, seeds.generator(task.seed, "rcig", "init")
    x = real_images(dataset, task.ipc, generator).flatten(0, 1)
    x = x if own.init == "real" else torch.randn(x.shape, generator=generator).to(x)
    y = implicit.centred(class_labels(dataset.num_classes, task.ipc, x.device), dataset.num_classes).to(x)
    state = {f"{name}.value": value for name, value in {"x": x, "y": y, "tau": x.new_zeros(())}.items()}
    for name in ("x", "y", "tau"):
        zero = torch.zeros_like(state[f"{name}.value"])
        state |= {f"{name}.m": zero, f"{name}.s": zero.clone(), f"{name}.t": torch.zeros((), dtype=torch.int64)}
    state |= {"average.x": torch.zeros_like(x), "average.y": torch.zeros_like(y)}
    state |= studentpool.start(own.pool)
    return {**state, "rates": _tuned(task, state), "fell": torch.zeros((), dtype=torch.int64)}


def step(task: Task, state: State, k: int) -> tuple[State, float]:
    """One turn of Algorithm 1; the outer loss.

    Raises:
        DivergedError: a gradient is not finite.
    """
    own: RCIG = task.settings
    taken = studentpool.take(task, _arch(task), state, k)
    synthetic = _trained_on(task, state)
    found = implicit.hypergradient(
        inner_problem(task, taken.student),
        synthetic,
        state["tau.value"],
        students.real_batch(task.dataset, own.real_batch, seeds.generator(task.seed, "rcig", "real", k)),
        _outer(own),
        steps=(own.n_inner, own.n_hinv),
        rates=(state["rates"][0].item(), state["rates"][1].item()),
        draw=partial(_draw, task, seeds.generator(task.seed, "rcig", "subset", k)),
        chunk=None if taken.student.mixes or state["x.value"].device.type != "cpu" else CHUNK,
        tabulate=_tabulates(task, taken.student, synthetic),
    )
    if not math.isfinite(found.loss):
        return state, found.loss  # the loop says that it diverged
    moved = _moved(task, state, found)
    pool = _pool(task, {**state, **moved}, taken, k)
    return {**moved, **pool, **_watched(task, state, found, k)}, found.loss


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and soft labels (C·ipc, C), both averaged over the steps."""
    own: RCIG = task.settings
    steps = state["x.t"].item()
    if steps == 0:
        return state["x.value"].clone(), state["y.value"].clone()
    weight = 1 - own.average**steps
    return state["average.x"] / weight, state["average.y"] / weight


def extras(task: Task, state: State) -> Extras:
    """The loss that its labels, which are no distributions, are made for."""
    return Extras(recipe={"loss": "mse"})


def default_student(shape: tuple[int, ...]) -> str:
    """The published student: three blocks from 128 filters on, four for 64×64 images, five for 128×128.

    For images under 16×16, and rows of a table, as :func:`students.default_student` says.
    """
    if len(shape) == 1:
        return students.default_student(shape)
    side = min(shape[1:])
    depth, width = (max(1, min(2, int(math.log2(side)) - 1)), 32) if side < 16 else (3, 128)
    return f"doubling-convnet:D{depth + (side >= 64) + (side >= 128)}-W{width}-none-softplus"


def inner_problem(task: Task, student: linearised.Student) -> linearised.Inner:
    """The inner problem of ``student``, by the settings."""
    own: RCIG = task.settings
    side = min(task.dataset.shape[1:], default=0)
    usual = 5e-2 if side >= 128 else 5e-3 if side >= 64 else 5e-4
    plain = linearised.Centred if own.reparameterise else linearised.Standard
    dynamics = linearised.Linearised if own.linearise else plain
    return linearised.Inner(dynamics(student), own.reparameterise, own.l2 or usual)


def _moved(task: Task, state: State, found: Hypergradient) -> State:
    """Images, labels and temperature after a step of AdaBelief, and the averages."""
    own: RCIG = task.settings
    direct, turned = (_pulled_back(task, pair) for pair in (found.direct[:2], found.implicit))
    limits = [
        _norm(a) / max(_norm(b), 1e-30) if own.reparameterise else 1.0 for a, b in zip(direct, turned, strict=True)
    ]
    gradients = [a + min(1.0, limit) * b for a, b, limit in zip(direct, turned, limits, strict=True)]
    if not all(g.isfinite().all() for g in gradients):
        raise DivergedError(f"the gradient of the synthetic set is not finite; lower lr (now {own.lr:g}) or raise l2")
    gradients.append(found.direct[2])
    rates = (own.lr, own.lr if own.learn_labels else 0.0, own.tau_lr)
    moved: State = {}
    for name, g, rate in zip(("x", "y", "tau"), gradients, rates, strict=True):
        after = implicit.adabelief({key: state[f"{name}.{key}"] for key in ("value", "m", "s", "t")}, g, rate)
        moved |= {f"{name}.{key}": value for key, value in after.items()}
    for name in ("x", "y"):
        moved[f"average.{name}"] = torch.lerp(moved[f"{name}.value"], state[f"average.{name}"], own.average)
    return moved


def _pool(task: Task, state: State, taken: studentpool.Member, k: int) -> State:
    """The pool when the student taken was trained on the set as it is now."""
    own: RCIG = task.settings
    x, y = _trained_on(task, state)
    keep = _draw(task, seeds.generator(task.seed, "rcig", "batch", k))
    batch = (x, y) if keep is None else (x[keep], y[keep])
    return studentpool.train(state, taken, *batch, steps=own.student_steps, lr=own.student_lr, life=own.life)


def _tuned(task: Task, state: State) -> Tensor:
    """Both rates (2,), float64: those of the settings, or found on the first student (Appendix C)."""
    own: RCIG = task.settings
    student, synthetic = studentpool.member(task, _arch(task), state, 0).student, _trained_on(task, state)
    inner = inner_problem(task, student)
    if _tabulates(task, student, synthetic):
        inner = inner.tabulated(synthetic[0])
    draw = partial(_draw, task, seeds.generator(task.seed, "rcig", "tune", "subset"))
    rate = own.inner_lr or START[0]
    if own.n_inner > 0 and own.inner_lr is None:
        rate = implicit.tune(lambda rate: implicit.solve(inner, synthetic, own.n_inner + 1, rate, draw)[1], rate)
    turn = own.hinv_lr or START[1]
    if own.n_hinv > 0 and own.hinv_lr is None:
        u, _ = implicit.solve(inner, synthetic, own.n_inner, rate, draw)
        real = students.real_batch(task.dataset, own.real_batch, seeds.generator(task.seed, "rcig", "tune", "real"))
        _, g, _ = implicit.outer_gradients(inner, u, synthetic, state["tau.value"], real, _outer(own), draw())
        turn = implicit.tune(lambda rate: implicit.inverse(inner, u, g, synthetic, own.n_hinv + 1, rate, draw)[1], turn)
    return torch.tensor([rate, turn], dtype=torch.float64)


def _tabulates(task: Task, student: linearised.Student, synthetic: Pair) -> bool:
    """Whether the loops work on the Jacobian of the set's outputs."""
    own: RCIG = task.settings
    if own.tabulate is not None:
        return own.tabulate
    return _may_tabulate(task, student) and tabulation_pays(student, *synthetic, own.n_inner + own.n_hinv)


def _may_tabulate(task: Task, student: linearised.Student) -> bool:
    return task.settings.linearise and not student.mixes and _part(task) is None


def tabulation_pays(student: linearised.Student, x: Tensor, y: Tensor, steps: int) -> bool:
    """Whether one Jacobian for images x (n, …) with labels y (n, K) is faster than ``steps`` derivatives along a line:
    on a CPU while it is small, or small beside a forward pass, and where there are more steps than half of the classes
    (measured with ``make bench``).
    """
    entries = y.numel() * sum(value.numel() for value in student.parameters.values())
    if x.device.type != "cpu" or entries > LARGE or 2 * steps <= y.shape[1]:
        return False
    if entries <= SMALL:
        return True
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        student.body(student.parameters, x[:1])
    return 10 * entries <= len(x) * counter.get_total_flops()


def _watched(task: Task, state: State, found: Hypergradient, k: int) -> State:
    """The rates for the next step: less where a loop ended above its start, the inner one more where it mostly fell.

    ``fell`` counts the steps since the last look whose inner loss fell all the way.
    """
    own: RCIG = task.settings
    factors = [0.9 if losses and not losses[-1] <= losses[0] else 1.0 for losses in (found.inner, found.inverse)]
    fell = state["fell"] + (len(found.inner) > 1 and implicit.falls(found.inner))
    if (k + 1) % WATCH == 0:
        if factors[0] == 1.0 and fell >= MOSTLY * WATCH:
            factors[0] = 1.05
        fell = torch.zeros_like(fell)
    given = (own.inner_lr is not None, own.hinv_lr is not None)
    changes = [1.0 if fixed else factor for fixed, factor in zip(given, factors, strict=True)]
    return {"rates": state["rates"] * torch.tensor(changes).to(state["rates"]), "fell": fell}


def _outer(own: RCIG) -> implicit.Outer:
    return own.outer or ("platt" if own.reparameterise else "mse")


def _trained_on(task: Task, state: State) -> Pair:
    """Images (n, …) and labels (n, C) that students are trained on: the set, and its mirror image where wanted."""
    x, y = state["x.value"], state["y.value"]
    return (torch.cat([x, x.flip(-1)]), torch.cat([y, y])) if _flips(task) else (x, y)


def _pulled_back(task: Task, pair: tuple[Tensor, ...]) -> Pair:
    """The gradient in the set of a gradient in what students are trained on."""
    x, y = pair
    if not _flips(task):
        return x, y
    (x, mirrored), (y, copied) = x.chunk(2), y.chunk(2)
    return x + mirrored.flip(-1), y + copied


def _flips(task: Task) -> bool:
    own: RCIG = task.settings
    usual = len(task.dataset.shape) == 3 and task.dataset.shape[0] == 3 and task.dataset.num_classes * task.ipc <= MANY
    return usual if own.flip is None else own.flip


def _rows(task: Task) -> int:
    """How many images students are trained on."""
    return task.dataset.num_classes * task.ipc * (2 if _flips(task) else 1)


def _part(task: Task) -> int | None:
    """How many of them gradients go through; nothing where it is all."""
    own: RCIG = task.settings
    size = own.subset or (MANY if task.dataset.num_classes * task.ipc > MANY else _rows(task))
    return size if size < _rows(task) else None


def _draw(task: Task, generator: torch.Generator) -> Tensor | None:
    """Images (k,) drawn without replacement, or ``None`` for all."""
    size = _part(task)
    if size is None:
        return None
    return torch.randperm(_rows(task), generator=generator)[:size].to(task.dataset.train.x.device)


def _arch(task: Task) -> str:
    own: RCIG = task.settings
    return own.student or default_student(task.dataset.shape)


def _norm(value: Tensor) -> float:
    return float(value.double().norm())


METHOD = Method(
    "rcig",
    "convexified implicit gradients, learned labels (Loo 2023); FRePo, VIG, CIG, RIG by settings",
    RCIG,
    10_000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
)
