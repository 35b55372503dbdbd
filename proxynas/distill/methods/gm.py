"""GM, gradient matching.

Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021), Algorithm 1;
generators as in Medvedev & D'yakonov 2021 (§VI, Fig. 5), augmentation as in Zhao & Bilen 2021
(DSA).

Real images T_c and synthetic ones S_c of class c; a student θ; ℓ: cross-entropy; row i of layer l:

    g_c(X)  =  ∇_θ ℓ(θ; X, c),  for X = T_c and X = S_c                         (line 7)
    D       =  Σ_c Σ_l Σ_i [ 1 − cos(g_c(T_c)[l, i], g_c(S_c)[l, i]) ]          (eq. 9 and 10)
    v       ←  μ v + ∂D/∂S
    S       ←  S − η v                                                          (line 8)
    θ       ←  inner epochs of SGD on ℓ(θ; S), and again, outer times           (line 9)

Every step draws a fresh student. Its gradient on synthetic images of a class is made to point where
its gradient on real images of that class points (eq. 9), the synthetic images moving; then the
student itself takes some steps on the synthetic images, and again, ``outer`` times. The student is
not trained after the last match.

The distance (eq. 10) is one minus the cosine, for every output unit's row of every weight, summed
over classes and layers; with a generator the mean is taken instead, over layers as in Medvedev 2021
(§VI) and over classes as in their code. Parameters with one dimension (biases, scale and shift of
norms) count nothing, also in that mean; the other two distances are of the whole gradient as one
vector (Zhao 2021, Appendix B). ``per_class = false`` matches one batch of all classes (Medvedev
2021, Table II).

Where implementations differ: the authors' code, run on a student with batch norm, lets one forward
pass of 16 real images per class move the running statistics a tenth of the way and freezes them
there; the paper replaces them by those of the real images, and so does this file. Each class's
gradients are the published ones; those of the synthetic images are taken for all classes in one
``vmap`` call where that is faster, those of the real images in pieces whose activations fit
into the processor's cache (:mod:`.gradients`); both only change rounding. Medvedev's
code makes a generator's images for one class at a time where it matches per class, ours always all
classes as one batch. Its mean over layers counts the parameters with one dimension too, as zero. It
trains the student by SGD 0.02 with momentum 0.5; here that is as in Zhao 2021. It clips the norm of
the pixels' gradient to 1000, Zhao 2021 and ours not at all. It augments the real images alone
(``siamese = false``).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ... import training
from ...core import seeds, settings
from ...core.errors import SpecError
from ...datasets import augment
from .. import students, synthetic
from ..gradients import batching_pays, class_gradients, gradient_of, real_gradients
from ..method import Extras, Method, State, Task, class_labels, draw
from ..students import Parameters
from ..synthetic import Rule

PIXELS = Rule("sgd", lr=0.1, momentum=0.5)
GTN = Rule("adam", lr=0.01, momentum=0.9, clip=10.0)

SCHEDULE = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""(outer, inner) by images per class, as published; sizes between take the next smaller entry."""
GTN_SCHEDULE = (10, 10)
"""(outer, inner) of a generator (Medvedev 2021, Table II)."""


@checked(frozen=True, config=settings.CONFIG)
class GM(synthetic.Learned):
    """Settings of gradient matching; the defaults are the published ones."""

    real_batch: Annotated[int, Field(ge=1)] = 256  # images per class; in all if not per_class
    outer: Annotated[int, Field(ge=1)] | None = None  # None: by ipc, see SCHEDULE
    inner: Annotated[int, Field(ge=0)] | None = None  # epochs of the student between two matches
    student: str | None = None  # see spaces.resolve; None: students.default_student
    student_lr: Annotated[float, Field(gt=0)] = 0.01
    student_batch: Annotated[int, Field(ge=1)] = 256
    distance: Literal["rowwise-cosine", "cosine", "euclidean"] = "rowwise-cosine"
    layers: Literal["sum", "mean"] | None = None  # and classes; None: sum, mean for generators
    per_class: bool = True
    siamese: bool = True  # augment synthetic images as the real ones, also to train the student
    batch_classes: bool | None = None  # None: where it is faster


def check(task: Task[GM]) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: see :func:`synthetic.check`; a mean over layers of a distance that knows none.
        SpaceError: an unknown student.
    """
    gm = task.settings
    synthetic.check(task, PIXELS, GTN)
    if gm.layers is not None and gm.distance != "rowwise-cosine":
        wrong = f"but the distance is {gm.distance!r}"
        raise SpecError(f"layers is for distance = 'rowwise-cosine', {wrong}; leave it out")
    students.check(task, [gm.student or students.default_student(task.dataset.shape)])


def init(task: Task[GM]) -> State:
    """Noise N(0, 1), real images (C, ipc, …) or a generator."""
    return synthetic.start(task, "gm")


def step(task: Task[GM], state: State, k: int) -> tuple[State, float]:
    """One student: ``outer`` matches, ``inner`` epochs of training between two; the mean distance.

    The distance is a mean over classes; where ``per_class`` is false, that of the whole gradient.
    """
    gm = task.settings
    outer, inner = schedule(gm, task.ipc)
    arch = gm.student or students.default_student(task.dataset.shape)
    net = students.student(task, arch, "gm", "student", k)
    total = 0.0
    for match in range(outer):
        _freeze_batch_norm(task, net, k, match)
        images = partial(synthetic.drawn, task, ("gm", "noise", k, match))
        parameters = synthetic.parameters_of(state)
        with torch.no_grad():
            x = images(parameters).clone().requires_grad_()  # (C, ipc, …)
        matched = _match(task, net, x, k, match)
        if x.grad is None or not math.isfinite(matched):
            return state, matched  # the loop says that it diverged
        total += matched
        gradients = synthetic.pull_back(images, parameters, x.grad)
        state = synthetic.update(state, gradients, gm.rule(PIXELS, GTN))
        if match < outer - 1:
            _train_student(task, net, synthetic.parameters_of(state), inner, k, match)
    return state, total / outer


def finish(task: Task[GM], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    return synthetic.finish(task, synthetic.parameters_of(state), 1, "gm")


def extras(task: Task[GM], state: State) -> Extras:
    """The generator, where there is one."""
    return Extras(generator=synthetic.generator_of(task, synthetic.parameters_of(state)))


def schedule(gm: GM, ipc: int) -> tuple[int, int]:
    """Matches per student, and epochs between two of them."""
    of_pixels = SCHEDULE[max(size for size in SCHEDULE if size <= ipc)]
    outer, inner = of_pixels if gm.synthetic == "pixels" else GTN_SCHEDULE
    return gm.outer or outer, inner if gm.inner is None else gm.inner


def distance(
    synthetic_grads: Parameters,
    real_grads: Parameters,
    kind: str,
    layers: str = "sum",
) -> Tensor:
    """The distance between gradients (C, …), summed over the C classes; a scalar.

    ``layers`` is ``sum`` or ``mean``, for the row-wise distance: over weights, those with one
    dimension left out.
    """
    if kind == "rowwise-cosine":  # eq. 10
        weights = [name for name in synthetic_grads if real_grads[name].ndim >= 3]
        of_layer = []
        for name in weights:
            rows = synthetic_grads[name].flatten(2)  # (C, rows, …)
            real_rows = real_grads[name].flatten(2)
            of_layer.append((1 - F.cosine_similarity(rows, real_rows, -1, 1e-6)).sum())
        distances = torch.stack(of_layer)
        return distances.mean() if layers == "mean" else distances.sum()
    whole = torch.cat([synthetic_grads[name].flatten(1) for name in synthetic_grads], 1)  # (C, P)
    real_whole = torch.cat([real_grads[name].flatten(1) for name in synthetic_grads], 1)
    if kind == "cosine":
        return (1 - F.cosine_similarity(whole, real_whole, -1, 1e-6)).sum()
    return (whole - real_whole).square().sum()


def _match(task: Task[GM], net: nn.Module, x: Tensor, k: int, match: int) -> float:
    """Leave the distance's gradient in ``x.grad``; the distance (eq. 9), a mean over classes."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    if task.settings.per_class:
        return _match_classes(task, net, parameters, x, k, match) / len(x)
    return _match_whole(task, net, parameters, x, k, match)


def _match_classes(
    task: Task[GM],
    net: nn.Module,
    parameters: Parameters,
    x: Tensor,
    k: int,
    match: int,
) -> float:
    gm = task.settings
    layers = _layers(gm)
    transforms = [_transforms(task, k, match, c) for c in range(len(x))]
    real = _real_gradients(task, net, parameters, [of_real for of_real, _ in transforms], k, match)
    batched = batching_pays(net, x.detach()) if gm.batch_classes is None else gm.batch_classes
    share = len(x) if layers == "mean" else 1
    if batched:
        images = [of_synthetic(part) for (_, of_synthetic), part in zip(transforms, x, strict=True)]
        gradients = class_gradients(net, parameters, images)
        summed = distance(gradients, real, gm.distance, layers)
        (summed / share).backward()  # type: ignore[no-untyped-call]
        return summed.item()
    gradient = gradient_of(net)
    total = 0.0
    for c, (_, of_synthetic) in enumerate(transforms):  # as published: one class's graph at a time
        labels = torch.full((x.shape[1],), c, device=x.device)
        gradients = gradient(parameters, of_synthetic(x[c]), labels)
        of_class = {name: value[None] for name, value in gradients.items()}
        real_of_class = {name: grads[c : c + 1] for name, grads in real.items()}
        one = distance(of_class, real_of_class, gm.distance, layers)
        (one / share).backward()  # type: ignore[no-untyped-call]
        total += one.item()
    return total


def _real_gradients(
    task: Task[GM],
    net: nn.Module,
    parameters: Parameters,
    transforms: Sequence[augment.Transform],
    k: int,
    match: int,
) -> Parameters:
    """g_c(T_c) of ``real_batch`` images of each class, (C, …) by parameter name."""
    train_split = task.dataset.train
    generator = seeds.generator(task.seed, "gm", "real", k, match)
    picks = draw(train_split.y, task.dataset.num_classes, task.settings.real_batch, generator)
    of_class = []
    for transform, pick in zip(transforms, picks, strict=True):
        with torch.no_grad():
            images = transform(train_split.x[pick])
        of_class.append(real_gradients(net, parameters, images, train_split.y[pick]))
    return {name: torch.stack([grads[name] for grads in of_class]) for name in parameters}


def _match_whole(
    task: Task[GM],
    net: nn.Module,
    parameters: Parameters,
    x: Tensor,
    k: int,
    match: int,
) -> float:
    """Not per class: one gradient on images of all classes (Medvedev 2021, Table II)."""
    gm = task.settings
    gradient = gradient_of(net)
    of_real, of_synthetic = _transforms(task, k, match, 0)
    generator = seeds.generator(task.seed, "gm", "real", k, match)
    real_x, real_y = students.real_batch(task.dataset, gm.real_batch, generator)
    real = real_gradients(net, parameters, of_real(real_x), real_y)
    labels = class_labels(len(x), x.shape[1], x.device)
    gradients = gradient(parameters, of_synthetic(x.flatten(0, 1)), labels)
    whole = distance(
        {name: value[None] for name, value in gradients.items()},
        {name: value[None] for name, value in real.items()},
        gm.distance,
        _layers(gm),
    )
    whole.backward()  # type: ignore[no-untyped-call]
    return whole.item()


def _layers(gm: GM) -> str:
    return gm.layers or ("sum" if gm.synthetic == "pixels" else "mean")


def _transforms(
    task: Task[GM],
    k: int,
    match: int,
    c: int,
) -> tuple[augment.Transform, augment.Transform]:
    """The augmentation of a class's real images, and of its synthetic ones: one where siamese."""
    generator = seeds.generator(task.seed, "gm", "augment", k, match, c)
    shape = task.dataset.shape
    transform = augment.draw(task.settings.augment, shape, generator)
    return transform, (transform if task.settings.siamese else augment.draw("", shape, generator))


def _freeze_batch_norm(task: Task[GM], net: nn.Module, k: int, match: int) -> None:
    """Set batch norms to the statistics of 16 real images per class, for matching gradients."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    dataset, generator = task.dataset, seeds.generator(task.seed, "gm", "batchnorm", k, match)
    picks = draw(dataset.train.y, dataset.num_classes, 16, generator)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        net(dataset.train.x[torch.cat(picks)])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _train_student(
    task: Task[GM],
    net: nn.Module,
    parameters: Parameters,
    epochs: int,
    k: int,
    match: int,
) -> None:
    """Algorithm 1, line 9: plain SGD on the synthetic images; a GTN-rnd renews them every epoch."""
    gm = task.settings
    seed = seeds.derive(task.seed, "gm", "student", k, match)
    augmentation = gm.augment if gm.siamese else ""
    rounds, epochs_each = (epochs, 1) if gm.synthetic == "gtn-rnd" else (min(1, epochs), epochs)
    for place in range(rounds):
        with torch.no_grad():
            stream = ("gm", "train", k, match, place)
            images = synthetic.drawn(task, stream, parameters).flatten(0, 1)
        updates = epochs_each * math.ceil(len(images) / gm.student_batch)
        recipe = training.Recipe(
            updates,
            gm.student_batch,
            lr=gm.student_lr,
            momentum=0.0,
            weight_decay=0.0,
            augment=augmentation,
        )
        y = class_labels(task.dataset.num_classes, task.ipc, images.device)
        order = seed if rounds == 1 else seeds.derive(seed, place)
        training.fit([net], images, y, recipe, seed=order, fused=False)


METHOD = Method(
    "gm",
    "gradient matching (Zhao 2021, Medvedev 2021)",
    GM,
    1000,
    init,
    step,
    finish,
    check=check,
    extras=extras,
)
