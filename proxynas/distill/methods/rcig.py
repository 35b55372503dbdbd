"""RCIG: Loo, Hasani, Lechner & Rus, "Dataset Distillation with Convexified Implicit Gradients"
(ICML 2023), Algorithm 1.

    θ_F*(θ_B) = argmin_{θ_F} L_i(θ_B, θ_F)                     in closed form (3, 4)
    L_i(θ_B)  = ½ ‖f_lin(X_S) − y_S‖² + ½ λ (‖θ_B‖² + ‖θ_F*‖²)    θ_B: n_inner steps (5)
    L_o       = cross-entropy(f_lin(X_T; θ_B, θ_F*)/τ, y_T)                          (6)
    v         = H⁻¹ ∂L_o/∂θ_B,   H = ∂²L_i/∂θ_B²                    n_hinv steps (7)
    ψ         ← ψ − AdaBelief(∂L_o/∂ψ − ∂/∂ψ(∂L_i/∂θ_B · v)),   ψ = (X_S, y_S, τ)

Every step takes a student θ from a pool (:mod:`~proxynas.distill.studentpool`), trains its
linearised body θ_B on the synthetic set S with the last layer θ_F solved for
(:mod:`~proxynas.distill.linearised`), moves images, labels and temperature ψ against the gradient
of the loss on a batch T of real data (:mod:`~proxynas.distill.implicit`), and trains the student on
the set as an ordinary network. What is kept is the exponential average of images and labels.

Its relatives are settings, not copies (Table 1): ``linearise = false`` is RIG,
``reparameterise = false`` CIG, both VIG. ``n_inner = 0``, ``n_hinv = 0``, ``outer = "mse"`` leaves
the gradient of kernel ridge regression on the student's features, the objective of FRePo (Zhou
2022), but not his algorithm: optimisers, pool, regularisation and networks stay those of RCIG.

What the paper (P), its authors' code (C, github.com/yolky/RCIG) and this file (F) do where they
differ, or where P leaves it open:

- Inner loss. F: *half the sum* of squares and λ/2 of the squared norm, which eq. 3 minimises. C:
  the same over |S|·C, which Adam at a rate found by itself hardly notices. λ is ``l2`` times the
  rows that are trained on; F counts mirrored copies, C does not.
- ``l2``. P: 5e-4, 5e-3 and 5e-2 for students of depth 3, 4 and 5 (images up to 32², 64² and 128²).
  C: 5e-4 at depth 4. F as P, which warns that too low a λ makes H⁻¹v unstable.
- Softplus (β = 60). P and C: students of depth 3 only, ReLU at depth 4 and 5. F: up to depth 3.
- Steps of a drawn student, ``student_steps``. P and F: 1. C: a random number from 1 to 15.
- Adam of the inner loop. P: Adam. C: goes on counting from the steps of the student's own training,
  with averages of zero, so that its first steps are down to half as long. F: starts anew.
- Parameters of the inner problem. P and F: θ_B alone. C: also a bias of the last layer, and in H, g
  and v a *change* of the last layer's weights (the kernel tangent), which all but stays zero while
  the body is trained. The inner loss is not stationary in that change, where its gradient is
  −λ θ_F*, so the implicit function theorem does not cover the term, and F leaves it out.
- Eq. 1 lacks the minus of the implicit gradient. C and F have it, and clip its norm to that of the
  direct one, images and labels each by themselves; not so without ``reparameterise``, where there
  is no direct one.
- Outer loss. P, C and F: squared error without ``reparameterise``, Platt's with it. C subtracts a
  small margin between an image's labels, of which it says that it quite likely makes no difference;
  F has none.
- Linearised training is centred: λ pulls the body to where it started. RIG, of which P says no more
  than that it is not linearised, is centred in C and F too: the offset of eq. 4 is the change of
  the network's output, and the last layer acts on features of the unchanged body. VIG is plain
  training of an ordinary network, all of whose parameters λ pulls to zero.
- Pool of CIG. C trains a student's *change*, from which the next inner loop starts. F trains it as
  an ordinary network, as for the others, and every inner loop starts from no change.
- Rates of the two loops are found before the first step: from 1e-5 and 5e-5, × 1.2 while the losses
  decrease (F: ÷ 1.2 until they do, where they do not at once), × 0.7. C ends 1.44 times higher, as
  it multiplies the first rate that fails. P: a loop that ends above its start loses 10 %. C: the
  inner rate alone, if it did in 29 % of 50 steps; or it grows by 5 %, if its loss decreased all the
  way in 70 % of them. F: both lose 10 % at once, and the inner one grows as in C.
- Images through which gradients go. F: above 1000 a random 1000, drawn anew for each
  (:func:`linearised.differentiate_subset`), and students are trained on a random 1000 as well; P
  and C have sizes of their own for every dataset.
- Colour images are distilled with their mirror images while there are at most 1000 (Appendix C).
- Labels start as one-hot rows less 1/C; there is no augmentation.
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

LARGE_SET = 1000
"""Images above which gradients go through a subset, and colour images are not mirrored."""
RATE_INTERVAL, DECREASING_SHARE = 50, 0.7
"""Steps between two looks at the inner rate, and the share whose loss decreases for it to grow."""
REAL_CHUNK = 128
"""Real images that a CPU takes at a time."""
SMALL_JACOBIAN, LARGE_JACOBIAN = 4_000_000, 32_000_000
"""Entries of a Jacobian that is worth having in any case, and of the largest that may be.

Read off ``make bench`` on two cores of an AMD EPYC (Zen 5).
"""
START_RATES = (1e-5, 5e-5)
"""What the search for both rates starts from."""

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


@checked(frozen=True, config=settings.CONFIG)
class RCIG:
    """Settings of RCIG; the defaults are the published ones, but for ``subset``, smaller."""

    linearise: bool = True
    reparameterise: bool = True
    outer: implicit.OuterLoss | None = None  # None: platt; without reparameterise mse (§3.1, 3.3)
    n_inner: Annotated[int, Field(ge=0)] = 20
    n_hinv: Annotated[int, Field(ge=0)] = 20
    inner_lr: Rate | None = None  # None: found by itself, and adjusted
    hinv_lr: Rate | None = None
    l2: Rate | None = None  # λ per image; None: 5e-4, for images of 64×64 5e-3, of 128×128 5e-2
    lr: Rate = 3e-3  # of images and labels
    tau_lr: Rate = 0.03  # of log τ
    learn_labels: bool = True
    init: Literal["real", "noise"] = "real"
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99  # of the set that is kept
    real_batch: Count = 1024
    pool: Count = 30
    life: Count = 100  # steps after which a student is replaced
    student: str | None = None  # an architecture, see spaces.resolve; None: see default_student
    student_steps: Count = 1  # of the student drawn
    student_lr: Rate = 5e-5
    subset: Count | None = None  # images that gradients go through; None: all, up to 1000
    tabulate: bool | None = None  # the set's Jacobian, once a step; None: where that is faster
    flip: bool | None = None  # mirrored copies; None: of up to 1000 colour images


def check(task: Task) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: mirrored rows; a student without a linear last layer, or with batch norm where
            there is a subset.
        SpaceError: an unknown student.
    """
    config: RCIG = task.settings
    if config.flip and not task.dataset.is_images:
        raise SpecError("flip = true mirrors images, but the data are tables; leave it out")
    students.check(task, [_arch(task)])
    net = students.student(task, _arch(task), "rcig", "check")
    student = linearised.cut(net, task.dataset.num_classes)
    if student.mixes and _subset_size(task) is not None:
        raise SpecError(
            "batch norm mixes the images of a batch, so gradients cannot go through a subset of "
            f"them; take a student without it, or subset = {_training_size(task)} or more"
        )
    if config.tabulate and not _can_tabulate(task, student):
        raise SpecError(
            "tabulate = true is for linearised students without batch norm whose gradients go "
            "through all images; leave it out"
        )


def init(task: Task) -> State:
    """Real images or noise, centred labels, τ = 1, a pool of fresh students, and both rates."""
    config: RCIG = task.settings
    dataset = task.dataset
    generator = seeds.generator(task.seed, "rcig", "init")
    x = real_images(dataset, task.ipc, generator).flatten(0, 1)
    if config.init == "noise":
        x = torch.randn(x.shape, generator=generator).to(x)
    labels = class_labels(dataset.num_classes, task.ipc, x.device)
    y = implicit.centred(labels, dataset.num_classes).to(x)
    state: State = {}
    for name, value in {"x": x, "y": y, "tau": x.new_zeros(())}.items():
        state[f"{name}.value"] = value
        state[f"{name}.m"] = torch.zeros_like(value)
        state[f"{name}.s"] = torch.zeros_like(value)
        state[f"{name}.t"] = torch.zeros((), dtype=torch.int64)
    state["average.x"] = torch.zeros_like(x)
    state["average.y"] = torch.zeros_like(y)
    state |= studentpool.fresh_pool(config.pool)
    return {**state, "rates": _find_rates(task, state), "fell": torch.zeros((), dtype=torch.int64)}


def step(task: Task, state: State, k: int) -> tuple[State, float]:
    """One turn of Algorithm 1; the outer loss.

    Raises:
        DivergedError: a gradient is not finite.
    """
    config: RCIG = task.settings
    drawn = studentpool.draw_member(task, _arch(task), state, k)
    synthetic = _training_set(task, state)
    real_generator = seeds.generator(task.seed, "rcig", "real", k)
    subset_generator = seeds.generator(task.seed, "rcig", "subset", k)
    one_by_one = not drawn.student.mixes and state["x.value"].device.type == "cpu"
    gradient = implicit.hypergradient(
        inner_problem(task, drawn.student),
        synthetic,
        state["tau.value"],
        students.real_batch(task.dataset, config.real_batch, real_generator),
        _outer_loss(config),
        steps=(config.n_inner, config.n_hinv),
        rates=(state["rates"][0].item(), state["rates"][1].item()),
        draw=partial(_draw_subset, task, subset_generator),
        chunk=REAL_CHUNK if one_by_one else None,
        tabulate=_tabulates(task, drawn.student, synthetic),
    )
    if not math.isfinite(gradient.loss):
        return state, gradient.loss  # the loop says that it diverged
    learned = _update_set(task, state, gradient)
    pool = _train_student(task, {**state, **learned}, drawn, k)
    rates = _adjust_rates(task, state, gradient, k)
    return {**learned, **pool, **rates}, gradient.loss


def finish(task: Task, state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and soft labels (C·ipc, C), both averaged over the steps."""
    config: RCIG = task.settings
    steps = state["x.t"].item()
    if steps == 0:
        return state["x.value"].clone(), state["y.value"].clone()
    weight = 1 - config.average**steps
    return state["average.x"] / weight, state["average.y"] / weight


def extras(task: Task, state: State) -> Extras:
    """The loss that its labels, which are no distributions, are made for."""
    return Extras(recipe={"loss": "mse"})


def default_student(shape: tuple[int, ...]) -> str:
    """The published student: three blocks from 128 filters on, softplus for ReLU.

    Four blocks for 64×64 images, five for 128×128, both with ReLU. For images under 16×16, and rows
    of a table, as :func:`students.default_student` says.
    """
    if len(shape) == 1:
        return students.default_student(shape)
    side = min(shape[1:])
    if side < 16:
        depth = max(1, min(2, int(math.log2(side)) - 1))
        return f"doubling-convnet:D{depth}-W32-none-softplus"
    depth = 5 if side >= 128 else 4 if side >= 64 else 3
    activation = "softplus" if depth == 3 else "relu"
    return f"doubling-convnet:D{depth}-W128-none-{activation}"


def inner_problem(task: Task, student: linearised.Student) -> linearised.Inner:
    """The inner problem of ``student``, by the settings."""
    config: RCIG = task.settings
    side = min(task.dataset.shape[1:], default=0)
    published = 5e-2 if side >= 128 else 5e-3 if side >= 64 else 5e-4
    unlinearised = linearised.Centred if config.reparameterise else linearised.Standard
    dynamics = linearised.Linearised if config.linearise else unlinearised
    return linearised.Inner(dynamics(student), config.reparameterise, config.l2 or published)


def tabulation_pays(student: linearised.Student, x: Tensor, y: Tensor, steps: int) -> bool:
    """Whether one Jacobian for images x (n, …), y (n, K) is faster than ``steps`` tangents.

    On a CPU while it is small, or small beside a forward pass, and where there are more steps than
    half of the classes (measured with ``make bench``).
    """
    entries = y.numel() * sum(value.numel() for value in student.parameters.values())
    if x.device.type != "cpu" or entries > LARGE_JACOBIAN or 2 * steps <= y.shape[1]:
        return False
    if entries <= SMALL_JACOBIAN:
        return True
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        student.body(student.parameters, x[:1])
    return 10 * entries <= len(x) * counter.get_total_flops()


def _update_set(task: Task, state: State, gradient: Hypergradient) -> State:
    """ψ ← ψ − AdaBelief(direct + clipped implicit gradient), and the averages of x and y."""
    config: RCIG = task.settings
    in_x, in_y = (
        _clipped_sum(direct, implicit_part, clip=config.reparameterise)
        for direct, implicit_part in zip(
            _gradient_in_set(task, gradient.direct[:2]),
            _gradient_in_set(task, gradient.implicit),
            strict=True,
        )
    )
    if not (in_x.isfinite().all() and in_y.isfinite().all()):
        now = f"(now {config.lr:g})"
        raise DivergedError(f"the gradient of the set is not finite; lower lr {now} or raise l2")
    label_lr = config.lr if config.learn_labels else 0.0
    updates = {
        "x": (in_x, config.lr),
        "y": (in_y, label_lr),
        "tau": (gradient.direct[2], config.tau_lr),
    }
    learned: State = {}
    for name, (g, rate) in updates.items():
        before = {key: state[f"{name}.{key}"] for key in ("value", "m", "s", "t")}
        after = implicit.adabelief(before, g, rate)
        learned |= {f"{name}.{key}": value for key, value in after.items()}
    for name in ("x", "y"):
        value, average = learned[f"{name}.value"], state[f"average.{name}"]
        learned[f"average.{name}"] = torch.lerp(value, average, config.average)
    return learned


def _clipped_sum(direct: Tensor, implicit_part: Tensor, *, clip: bool) -> Tensor:
    """Direct and implicit gradient, the latter's norm at most the former's."""
    limit = _norm(direct) / max(_norm(implicit_part), 1e-30) if clip else 1.0
    return direct + min(1.0, limit) * implicit_part


def _train_student(task: Task, state: State, drawn: studentpool.Member, k: int) -> State:
    """The pool once the student drawn was trained, as an ordinary network, on the updated set."""
    config: RCIG = task.settings
    x, y = _training_set(task, state)
    subset = _draw_subset(task, seeds.generator(task.seed, "rcig", "batch", k))
    if subset is not None:
        x, y = x[subset], y[subset]
    return studentpool.train_member(
        state,
        drawn,
        x,
        y,
        steps=config.student_steps,
        lr=config.student_lr,
        life=config.life,
    )


def _find_rates(task: Task, state: State) -> Tensor:
    """Rates of both loops (2,), float64: the settings', or found on student 0 (Appendix C)."""
    config: RCIG = task.settings
    synthetic = _training_set(task, state)
    student = studentpool.member(task, _arch(task), state, 0).student
    inner = inner_problem(task, student)
    if _tabulates(task, student, synthetic):
        inner = inner.tabulated(synthetic[0])
    draw = partial(_draw_subset, task, seeds.generator(task.seed, "rcig", "tune", "subset"))

    def inner_losses(rate: float) -> list[float]:
        return implicit.solve_inner(inner, synthetic, config.n_inner + 1, rate, draw)[1]

    inner_rate = config.inner_lr or START_RATES[0]
    if config.n_inner > 0 and config.inner_lr is None:
        inner_rate = implicit.find_rate(inner_losses, inner_rate)
    inverse_rate = config.hinv_lr or START_RATES[1]
    if config.n_hinv == 0 or config.hinv_lr is not None:
        return torch.tensor([inner_rate, inverse_rate], dtype=torch.float64)

    u, _ = implicit.solve_inner(inner, synthetic, config.n_inner, inner_rate, draw)
    generator = seeds.generator(task.seed, "rcig", "tune", "real")
    real = students.real_batch(task.dataset, config.real_batch, generator)
    tau, kind = state["tau.value"], _outer_loss(config)
    _, g, _ = implicit.outer_gradients(inner, u, synthetic, tau, real, kind, draw())

    def inverse_losses(rate: float) -> list[float]:
        return implicit.solve_inverse(inner, u, g, synthetic, config.n_hinv + 1, rate, draw)[1]

    inverse_rate = implicit.find_rate(inverse_losses, inverse_rate)
    return torch.tensor([inner_rate, inverse_rate], dtype=torch.float64)


def _adjust_rates(task: Task, state: State, gradient: Hypergradient, k: int) -> State:
    """Rates for the next step: lower where a loop ended above its start, or the inner one higher.

    ``fell`` counts the steps since the last look whose inner loss decreased all the way.
    """
    config: RCIG = task.settings
    inner, inverse = gradient.inner_losses, gradient.inverse_losses
    inner_factor = 0.9 if _rose(inner) else 1.0
    inverse_factor = 0.9 if _rose(inverse) else 1.0
    fell = state["fell"] + (len(inner) > 1 and implicit.decreases(inner))
    if (k + 1) % RATE_INTERVAL == 0:
        if inner_factor == 1.0 and fell >= DECREASING_SHARE * RATE_INTERVAL:
            inner_factor = 1.05
        fell = torch.zeros_like(fell)
    factors = [
        inner_factor if config.inner_lr is None else 1.0,
        inverse_factor if config.hinv_lr is None else 1.0,
    ]
    return {"rates": state["rates"] * torch.tensor(factors).to(state["rates"]), "fell": fell}


def _rose(losses: list[float]) -> bool:
    """Whether a loop ended above where it started, or at no number."""
    return bool(losses) and not losses[-1] <= losses[0]


def _tabulates(task: Task, student: linearised.Student, synthetic: Pair) -> bool:
    """Whether the loops work on the Jacobian of the set's outputs."""
    config: RCIG = task.settings
    if config.tabulate is not None:
        return config.tabulate
    steps = config.n_inner + config.n_hinv
    return _can_tabulate(task, student) and tabulation_pays(student, *synthetic, steps)


def _can_tabulate(task: Task, student: linearised.Student) -> bool:
    config: RCIG = task.settings
    return config.linearise and not student.mixes and _subset_size(task) is None


def _outer_loss(config: RCIG) -> implicit.OuterLoss:
    return config.outer or ("platt" if config.reparameterise else "mse")


def _training_set(task: Task, state: State) -> Pair:
    """Images (n, …), labels (n, C) that students are trained on: the set, mirrored where wanted."""
    x, y = state["x.value"], state["y.value"]
    return (torch.cat([x, x.flip(-1)]), torch.cat([y, y])) if _mirrors(task) else (x, y)


def _gradient_in_set(task: Task, in_training_set: tuple[Tensor, ...]) -> Pair:
    """The gradient in the set, of one in what students are trained on."""
    x, y = in_training_set
    if not _mirrors(task):
        return x, y
    x, mirrored_x = x.chunk(2)
    y, mirrored_y = y.chunk(2)
    return x + mirrored_x.flip(-1), y + mirrored_y


def _mirrors(task: Task) -> bool:
    config: RCIG = task.settings
    if config.flip is not None:
        return config.flip
    shape = task.dataset.shape
    return len(shape) == 3 and shape[0] == 3 and _set_size(task) <= LARGE_SET


def _set_size(task: Task) -> int:
    return task.dataset.num_classes * task.ipc


def _training_size(task: Task) -> int:
    """How many images students are trained on."""
    return _set_size(task) * (2 if _mirrors(task) else 1)


def _subset_size(task: Task) -> int | None:
    """How many of them gradients go through; ``None`` where it is all."""
    config: RCIG = task.settings
    usual = LARGE_SET if _set_size(task) > LARGE_SET else _training_size(task)
    size = config.subset or usual
    return size if size < _training_size(task) else None


def _draw_subset(task: Task, generator: torch.Generator) -> Tensor | None:
    """Images (k,) drawn without replacement, or ``None`` for all."""
    size = _subset_size(task)
    if size is None:
        return None
    order = torch.randperm(_training_size(task), generator=generator)
    return order[:size].to(task.dataset.train.x.device)


def _arch(task: Task) -> str:
    config: RCIG = task.settings
    return config.student or default_student(task.dataset.shape)


def _norm(value: Tensor) -> float:
    return float(value.double().norm())


METHOD = Method(
    "rcig",
    "convexified implicit gradients, learned labels (Loo 2023); VIG, CIG and RIG by settings",
    RCIG,
    10_000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
)
