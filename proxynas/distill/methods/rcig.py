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
  the same over |S|·C, which Adam hardly notices, its rate being searched for. λ is ``l2`` times the
  rows that are trained on; F counts mirrored copies, C does not.
- ``l2``. P: 5e-4, 5e-3 and 5e-2 for students of depth 3, 4 and 5 (images up to 32², 64² and 128²).
  C: 5e-4 at depth 4. F as P, which warns that too low a λ makes H⁻¹v unstable.
- Softplus (β = 60). P and C: students of depth 3 only, ReLU at depth 4 and 5. F: up to depth 3.
- Steps of a drawn student, ``student_steps``. P and F: 1. C: a random number from 1 to 15.
- Adam of the inner loop. P: Adam. C: counts on from the steps of the student's own training,
  with averages of zero, so that its first steps are down to half as long. F: starts at zero.
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
- Rates of the two loops come from a search before the first step: from 1e-5 and 5e-5, × 1.2 while
  the losses decrease (F: ÷ 1.2 until they do, where they do not at once), × 0.7. C ends 1.44 times
  higher, as it multiplies the first rate that fails. P: a loop that ends above its start loses
  10 %. C: the inner rate alone, if it did in 29 % of 50 steps; or it grows by 5 %, if its loss
  decreased all the way in 70 % of them. F: both lose 10 % at once, the inner one grows as in C.
- Images through which gradients go. F: above 1000 a random 1000, drawn again for each
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

from ...core import seeds, settings
from ...core.errors import DivergedError, SpecError
from .. import implicit, linearised, studentpool, students
from ..implicit import Hypergradient, Loop, Outer, Pair
from ..method import Extras, Method, State, Task, class_labels, real_images
from ..views import View

LARGE_SET = 1000
"""Images above which gradients go through a subset, and colour images are not mirrored."""
RATE_INTERVAL, DECREASING_SHARE = 50, 0.7
"""Steps between two looks at the inner rate, and the share whose loss decreases for it to grow."""
REAL_CHUNK = 128
"""Real images that a CPU takes at a time."""
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
    inner_lr: Rate | None = None  # None: searched for, and adjusted
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
    student: str | None = (
        None  # an architecture, see spaces.resolve; None: students.doubling_student
    )
    student_steps: Count = 1  # of the student drawn
    student_lr: Rate = 5e-5
    subset: Count | None = None  # images that gradients go through; None: all, up to 1000
    tabulate: bool | None = None  # the set's Jacobian, once a step; None: where that is faster
    flip: bool | None = None  # mirrored copies; None: of up to 1000 colour images


def check(task: Task[RCIG]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: mirrored rows; a student without a linear last layer, or with batch norm where
            there is a subset.
        SpaceError: an unknown student.
    """
    rcig = task.settings
    if rcig.flip and not task.dataset.is_images:
        raise SpecError("flip = true mirrors images, but the data are tables; leave it out")
    students.check(task, [_arch(task)])
    net = students.student(task, _arch(task), "rcig", "check")
    student = linearised.cut(net, task.dataset.num_classes)
    view = _view(task)
    if student.mixes and view.subset is not None:
        raise SpecError(
            "batch norm mixes the images of a batch, so gradients cannot go through a subset of "
            f"them; take a student without it, or subset = {len(view)} or more"
        )
    if rcig.tabulate and not _can_tabulate(task, student):
        raise SpecError(
            "tabulate = true is for linearised students without batch norm whose gradients go "
            "through all images; leave it out"
        )


def init(task: Task[RCIG]) -> State:
    """Real images or noise, centred labels, τ = 1, a pool of fresh students, and both rates."""
    rcig = task.settings
    dataset = task.dataset
    generator = seeds.generator(task.seed, "rcig", "init")
    x = real_images(dataset, task.ipc, generator).flatten(0, 1)
    if rcig.init == "noise":
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
    state |= studentpool.fresh_pool(rcig.pool)
    return {**state, "rates": _find_rates(task, state), "fell": torch.zeros((), dtype=torch.int64)}


def step(task: Task[RCIG], state: State, k: int) -> tuple[State, float]:
    """One turn of Algorithm 1; the outer loss.

    Raises:
        DivergedError: a gradient is not finite.
    """
    rcig = task.settings
    drawn = studentpool.draw_member(task, _arch(task), state, k)
    synthetic = _training_set(task, state)
    real_generator = seeds.generator(task.seed, "rcig", "real", k)
    real = students.real_batch(task.dataset, rcig.real_batch, real_generator)
    inner_rate, inverse_rate = state["rates"].tolist()
    gradient = implicit.hypergradient(
        inner_problem(task, drawn.student),
        synthetic,
        _outer(task, state, drawn.student, real),
        (Loop(rcig.n_inner, inner_rate), Loop(rcig.n_hinv, inverse_rate)),
        partial(_draw_subset, task, seeds.generator(task.seed, "rcig", "subset", k)),
        _tabulates(task, drawn.student, synthetic),
    )
    if not math.isfinite(gradient.loss):
        return state, gradient.loss  # the loop says that it diverged
    learned = _update_set(task, state, gradient)
    pool = _train_student(task, {**state, **learned}, drawn, k)
    rates = _adjust_rates(task, state, gradient, k)
    return {**learned, **pool, **rates}, gradient.loss


def finish(task: Task[RCIG], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and soft labels (C·ipc, C), both averaged over the steps."""
    rcig = task.settings
    steps = state["x.t"].item()
    if steps == 0:
        return state["x.value"].clone(), state["y.value"].clone()
    weight = 1 - rcig.average**steps
    return state["average.x"] / weight, state["average.y"] / weight


def extras(task: Task[RCIG], state: State) -> Extras:
    """The loss for its labels, which are no distributions."""
    return Extras(recipe={"loss": "mse"})


def inner_problem(task: Task[RCIG], student: linearised.Student) -> linearised.Inner:
    """The inner problem of ``student``, by the settings."""
    rcig = task.settings
    side = min(task.dataset.shape[1:], default=0)
    published = 5e-2 if side >= 128 else 5e-3 if side >= 64 else 5e-4
    unlinearised = linearised.Centred if rcig.reparameterise else linearised.Standard
    dynamics = linearised.Linearised if rcig.linearise else unlinearised
    return linearised.Inner(dynamics(student), rcig.reparameterise, rcig.l2 or published)


def _update_set(task: Task[RCIG], state: State, gradient: Hypergradient) -> State:
    """ψ ← ψ − AdaBelief(direct + clipped implicit gradient), and the averages of x and y."""
    rcig = task.settings
    view = _view(task)
    direct_x, direct_y = view.pull_back(gradient.direct[:2])
    implicit_x, implicit_y = view.pull_back(gradient.implicit)
    in_x = _clipped_sum(direct_x, implicit_x, clip=rcig.reparameterise)
    in_y = _clipped_sum(direct_y, implicit_y, clip=rcig.reparameterise)
    if not (in_x.isfinite().all() and in_y.isfinite().all()):
        now = f"(now {rcig.lr:g})"
        raise DivergedError(f"the gradient of the set is not finite; lower lr {now} or raise l2")
    label_lr = rcig.lr if rcig.learn_labels else 0.0
    updates = {
        "x": (in_x, rcig.lr),
        "y": (in_y, label_lr),
        "tau": (gradient.direct[2], rcig.tau_lr),
    }
    learned: State = {}
    for name, (g, rate) in updates.items():
        before = {key: state[f"{name}.{key}"] for key in ("value", "m", "s", "t")}
        after = implicit.adabelief(before, g, rate)
        learned |= {f"{name}.{key}": value for key, value in after.items()}
    for name in ("x", "y"):
        value = learned[f"{name}.value"]
        average = state[f"average.{name}"]
        learned[f"average.{name}"] = torch.lerp(value, average, rcig.average)
    return learned


def _clipped_sum(direct: Tensor, implicit_part: Tensor, *, clip: bool) -> Tensor:
    """Direct and implicit gradient, the latter's norm at most the former's."""
    limit = _norm(direct) / max(_norm(implicit_part), 1e-30) if clip else 1.0
    return direct + min(1.0, limit) * implicit_part


def _train_student(task: Task[RCIG], state: State, drawn: studentpool.Member, k: int) -> State:
    """The pool once the student drawn was trained, as an ordinary network, on the updated set."""
    rcig = task.settings
    x, y = _training_set(task, state)
    subset = _draw_subset(task, seeds.generator(task.seed, "rcig", "batch", k))
    if subset is not None:
        x, y = x[subset], y[subset]
    return studentpool.train_member(
        state,
        drawn,
        (x, y),
        steps=rcig.student_steps,
        lr=rcig.student_lr,
        life=rcig.life,
    )


def _find_rates(task: Task[RCIG], state: State) -> Tensor:
    """Rates of both loops (2,), float64: given, or from a search on student 0 (Appendix C)."""
    rcig = task.settings
    synthetic = _training_set(task, state)
    student = studentpool.member(task, _arch(task), state, 0).student
    inner = inner_problem(task, student)
    if _tabulates(task, student, synthetic):
        inner = inner.tabulated(synthetic[0])
    draw = partial(_draw_subset, task, seeds.generator(task.seed, "rcig", "tune", "subset"))

    def inner_losses(rate: float) -> list[float]:
        return implicit.solve_inner(inner, synthetic, Loop(rcig.n_inner + 1, rate), draw)[1]

    inner_rate = rcig.inner_lr or START_RATES[0]
    if rcig.n_inner > 0 and rcig.inner_lr is None:
        inner_rate = implicit.find_rate(inner_losses, inner_rate)
    inverse_rate = rcig.hinv_lr or START_RATES[1]
    if rcig.n_hinv == 0 or rcig.hinv_lr is not None:
        return torch.tensor([inner_rate, inverse_rate], dtype=torch.float64)

    u, _ = implicit.solve_inner(inner, synthetic, Loop(rcig.n_inner, inner_rate), draw)
    generator = seeds.generator(task.seed, "rcig", "tune", "real")
    real = students.real_batch(task.dataset, rcig.real_batch, generator)
    outer = _outer(task, state, student, real)
    _, g, _ = implicit.outer_gradients(inner, u, synthetic, outer, draw())

    def inverse_losses(rate: float) -> list[float]:
        loop = Loop(rcig.n_hinv + 1, rate)
        return implicit.solve_inverse(inner, u, g, synthetic, loop, draw)[1]

    inverse_rate = implicit.find_rate(inverse_losses, inverse_rate)
    return torch.tensor([inner_rate, inverse_rate], dtype=torch.float64)


def _adjust_rates(task: Task[RCIG], state: State, gradient: Hypergradient, k: int) -> State:
    """Rates for the next step: lower where a loop ended above its start, or the inner one higher.

    ``fell`` counts the steps since the last look whose inner loss decreased all the way.
    """
    rcig = task.settings
    inner = gradient.inner_losses
    inverse = gradient.inverse_losses
    inner_factor = 0.9 if _rose(inner) else 1.0
    inverse_factor = 0.9 if _rose(inverse) else 1.0
    fell = state["fell"] + (len(inner) > 1 and implicit.decreases(inner))
    if (k + 1) % RATE_INTERVAL == 0:
        if inner_factor == 1.0 and fell >= DECREASING_SHARE * RATE_INTERVAL:
            inner_factor = 1.05
        fell = torch.zeros_like(fell)
    factors = [
        inner_factor if rcig.inner_lr is None else 1.0,
        inverse_factor if rcig.hinv_lr is None else 1.0,
    ]
    return {"rates": state["rates"] * torch.tensor(factors).to(state["rates"]), "fell": fell}


def _rose(losses: list[float]) -> bool:
    """Whether a loop ended above where it started, or at no number."""
    return bool(losses) and not losses[-1] <= losses[0]


def _tabulates(task: Task[RCIG], student: linearised.Student, synthetic: Pair) -> bool:
    """Whether the loops work on the Jacobian of the set's outputs."""
    rcig = task.settings
    if rcig.tabulate is not None:
        return rcig.tabulate
    steps = rcig.n_inner + rcig.n_hinv
    return _can_tabulate(task, student) and implicit.tabulation_pays(student, *synthetic, steps)


def _can_tabulate(task: Task[RCIG], student: linearised.Student) -> bool:
    rcig = task.settings
    return rcig.linearise and not student.mixes and _view(task).subset is None


def _outer(task: Task[RCIG], state: State, student: linearised.Student, real: Pair) -> Outer:
    """The outer loss on a batch of real data; on a CPU in pieces, where no image needs others."""
    rcig, x = task.settings, real[0]
    kind = rcig.outer or ("platt" if rcig.reparameterise else "mse")
    chunk = REAL_CHUNK if x.device.type == "cpu" and not student.mixes else None
    return Outer(real, state["tau.value"], kind, chunk)


def _training_set(task: Task[RCIG], state: State) -> Pair:
    """Images (n, …), labels (n, C) that students are trained on: the set, mirrored where wanted."""
    return _view(task).of(state["x.value"], state["y.value"])


def _draw_subset(task: Task[RCIG], generator: torch.Generator) -> Tensor | None:
    """Images (k,) drawn without replacement, or ``None`` for all."""
    return _view(task).draw(generator, task.dataset.train.x.device)


def _view(task: Task[RCIG]) -> View:
    """The set as students see it: small colour sets mirrored, large sets a subset at a time."""
    rcig = task.settings
    shape = task.dataset.shape
    size = task.dataset.num_classes * task.ipc
    colour = len(shape) == 3 and shape[0] == 3
    mirrored = (colour and size <= LARGE_SET) if rcig.flip is None else rcig.flip
    whole = View(size, mirrored)
    subset = rcig.subset or (LARGE_SET if size > LARGE_SET else len(whole))
    return View(size, mirrored, subset) if subset < len(whole) else whole


def _arch(task: Task[RCIG]) -> str:
    rcig = task.settings
    return rcig.student or students.doubling_student(task.dataset.shape)


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
