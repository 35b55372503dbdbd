"""Synthetic sets, which distillation optimises: a flat dict of tensors, and the images it gives.

``pixels`` are the images themselves (Wang et al. 2018; "DD" in Medvedev & D'yakonov 2021). A
generative teaching network (Such et al. 2019; "GTN") makes images out of noise and labels: with
``gtn-lrn`` the noise is fixed and learned along with the network, with ``gtn-rnd`` it is drawn
again whenever images are made. The network is :mod:`proxynas.nets.generator`, which says where
implementations differ.

A method differentiates in the images and calls :func:`pull_back`; it works the same on every
synthetic set.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from ..core import seeds, settings
from ..core.errors import DivergedError, SpecError
from ..nets.generator import NOISE, Distilled, Generator, generate, noise
from ..specs import Strategy
from .method import State, Task, class_labels, pack, real_images, unpack
from .students import Parameters, as_leaves

Kind = Literal["pixels", "gtn-lrn", "gtn-rnd"]


class SyntheticSet(Protocol):
    """What a synthetic set can do; its parameters stay outside of it."""

    def init(self, ipc: int, generator: torch.Generator) -> Parameters:
        """Parameters to start from, for ``ipc`` images per class."""

    def images(self, parameters: Parameters, ipc: int, generator: torch.Generator) -> Tensor:
        """Images (C, ipc, …), differentiable in ``parameters``; any noise is ``generator``'s."""

    def part(self, parameters: Parameters, start: int, stop: int) -> Parameters:
        """The parameters of images ``start`` to ``stop`` of every class."""


@dataclass(frozen=True)
class Pixels:
    """DD: the images themselves, normalised; of any shape. One parameter, ``x`` (C, ipc, …)."""

    shape: tuple[int, ...]
    classes: int

    def init(self, ipc: int, generator: torch.Generator) -> Parameters:
        """Noise N(0, 1)."""
        return {"x": torch.randn(self.classes, ipc, *self.shape, generator=generator)}

    def images(self, parameters: Parameters, ipc: int, generator: torch.Generator) -> Tensor:
        """The parameter itself, (C, ipc, …)."""
        return parameters["x"]

    def part(self, parameters: Parameters, start: int, stop: int) -> Parameters:
        """Images ``start`` to ``stop`` of every class."""
        return {"x": parameters["x"][:, start:stop]}


@dataclass(frozen=True)
class LearnedGenerator:
    """GTN-lrn: a generator and its learned input ``z`` (C, ipc, 64), for images of any size."""

    shape: tuple[int, ...]
    classes: int
    k: int = 64

    def init(self, ipc: int, generator: torch.Generator) -> Parameters:
        """The generator freshly initialised, its input uniform on [0, 1)."""
        z = torch.rand(self.classes, ipc, NOISE, generator=generator)
        return {"z": z, **_fresh(self.shape, self.classes, self.k, generator)}

    def images(self, parameters: Parameters, ipc: int, generator: torch.Generator) -> Tensor:
        """The images (C, ipc, …) of the learned input."""
        return generate(_network(parameters), self.shape, parameters["z"])

    def part(self, parameters: Parameters, start: int, stop: int) -> Parameters:
        """The generator with the input of images ``start`` to ``stop`` of every class."""
        return {**parameters, "z": parameters["z"][:, start:stop]}


@dataclass(frozen=True)
class RandomGenerator:
    """GTN-rnd: a generator with fresh noise for every batch, for images of any size."""

    shape: tuple[int, ...]
    classes: int
    k: int = 64

    def init(self, ipc: int, generator: torch.Generator) -> Parameters:
        """The generator freshly initialised."""
        return _fresh(self.shape, self.classes, self.k, generator)

    def images(self, parameters: Parameters, ipc: int, generator: torch.Generator) -> Tensor:
        """Images (C, ipc, …) of noise uniform on [0, 1) from ``generator``."""
        return generate(parameters, self.shape, noise(parameters, self.classes, ipc, generator))

    def part(self, parameters: Parameters, start: int, stop: int) -> Parameters:
        """The generator: it makes any number of images."""
        return parameters


def _fresh(shape: tuple[int, ...], classes: int, k: int, generator: torch.Generator) -> Parameters:
    with seeds.seeded(int(torch.randint(2**62, (), generator=generator))):
        network = Generator(shape, classes, k)
    return {name: value.detach() for name, value in network.named_parameters()}


def _network(parameters: Parameters) -> Parameters:
    return {name: value for name, value in parameters.items() if name != "z"}


@dataclass(frozen=True)
class Rule:
    """How a synthetic set is updated: the gradient's norm clipped to ``clip``, then SGD or Adam.

    ``momentum`` is SGD's momentum or Adam's β1; Adam's β2 is 0.999.
    """

    optimizer: Literal["sgd", "adam"]
    lr: float
    momentum: float
    clip: float = math.inf


@checked(frozen=True, config=settings.CONFIG)
class Learned:
    """Settings of every method that learns a synthetic set.

    ``None`` stands for the published value for that kind of set.
    """

    synthetic: Kind = "pixels"
    k: Annotated[int, Field(ge=4)] = 64  # size of the generator
    init: Literal["noise", "real"] = "noise"  # of pixels
    optimizer: Literal["sgd", "adam"] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] | None = None  # of the gradient's norm
    augment: Strategy = ""  # of real images while distilling; GM's is siamese

    def rule(self, pixels: Rule, gtn: Rule) -> Rule:
        """The update, from these settings and a method's published ones.

        Raises:
            SpecError: another optimiser than the published one, and no learning rate for it.
        """
        published = pixels if self.synthetic == "pixels" else gtn
        optimizer = self.optimizer or published.optimizer
        momentum = published.momentum
        if optimizer != published.optimizer:
            if self.lr is None:
                default = f"the default, {published.lr:g}, is {published.optimizer}'s"
                raise SpecError(f"optimizer = {optimizer!r} needs lr too: {default}")
            momentum = 0.9 if optimizer == "adam" else 0.0
        return Rule(
            optimizer,
            published.lr if self.lr is None else self.lr,
            momentum if self.momentum is None else self.momentum,
            published.clip if self.clip is None else self.clip,
        )


def check(task: Task[Learned], pixels: Rule, gtn: Rule) -> None:
    """Refuse settings that do not fit each other or the data.

    Raises:
        SpecError: a generator or augmentation for tables, real images for a generator, an optimiser
            without its rate.
    """
    learned = task.settings
    learned.rule(pixels, gtn)
    tables = not task.dataset.is_images
    if tables and learned.augment:
        reason = "is for images, but the data are tables"
        raise SpecError(f"augment = {learned.augment!r} {reason}; leave it out")
    if learned.synthetic == "pixels":
        return
    if tables:
        reason = "makes images, but the data are tables"
        raise SpecError(f"synthetic = {learned.synthetic!r} {reason}; expected 'pixels'")
    if learned.init == "real":
        reason = f"is for pixels, but synthetic is {learned.synthetic!r}"
        raise SpecError(f"init = 'real' {reason}; add init=noise")


def make(task: Task[Learned]) -> SyntheticSet:
    """The synthetic set that the task's settings ask for."""
    shape = task.dataset.shape
    classes = task.dataset.num_classes
    match task.settings.synthetic:
        case "pixels":
            return Pixels(shape, classes)
        case "gtn-lrn":
            return LearnedGenerator(shape, classes, task.settings.k)
        case "gtn-rnd":
            return RandomGenerator(shape, classes, task.settings.k)


def start(task: Task[Learned], name: str) -> State:
    """The state of a new synthetic set for the method called ``name``."""
    generator = seeds.generator(task.seed, name, "init")
    if task.settings.init == "real":
        parameters = {"x": real_images(task.dataset, task.ipc, generator)}
    else:
        parameters = make(task).init(task.ipc, generator)
    return {f"synthetic.{key}": value.to(task.dataset.train.x) for key, value in parameters.items()}


def parameters_of(state: State, prefix: str = "synthetic") -> Parameters:
    """The parameters under ``prefix`` in a state, in an order that a checkpoint keeps."""
    start = f"{prefix}."
    names = (name for name in sorted(state) if name.startswith(start))
    return {name.removeprefix(start): state[name] for name in names}


def drawn(task: Task[Learned], stream: tuple[object, ...], parameters: Parameters) -> Tensor:
    """The synthetic images (C, ipc, …), noise of a random generator from ``stream`` of the seed."""
    return make(task).images(parameters, task.ipc, seeds.generator(task.seed, *stream))


def finish(
    task: Task[Learned], parameters: Parameters, batches: int, name: str
) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …), class by class, from ``batches`` equal batches, and hard labels."""
    synthetic_set = make(task)
    size = task.ipc // batches
    parts = []
    with torch.no_grad():
        for b in range(batches):
            part = synthetic_set.part(parameters, b * size, (b + 1) * size)
            generator = seeds.generator(task.seed, name, "set", b)
            parts.append(synthetic_set.images(part, size, generator))
    x = torch.cat(parts, 1).flatten(0, 1)
    return x, class_labels(task.dataset.num_classes, task.ipc, x.device)


def generator_of(task: Task[Learned], parameters: Parameters, batches: int = 1) -> Distilled | None:
    """The distilled generator, of batches of ``ipc / batches`` per class; None for pixels."""
    if task.settings.synthetic == "pixels":
        return None
    network = {name: value.cpu() for name, value in _network(parameters).items()}
    return Distilled(network, task.settings.synthetic, task.ipc // batches)


def pull_back(
    images: Callable[[Parameters], Tensor], parameters: Parameters, gradient: Tensor
) -> Parameters:
    """A loss's gradient in ``parameters``, from its ``gradient`` (C, n, …) in their images."""
    leaves = as_leaves(parameters)
    gradients = torch.autograd.grad(images(leaves), list(leaves.values()), gradient)
    return dict(zip(leaves, gradients, strict=True))


def update(
    state: State, gradients: Parameters, rule: Rule, rates: Mapping[str, float] | None = None
) -> State:
    """The state's synthetic set and optimiser after one step against ``gradients``.

    ``rates`` are learning rates of single parameters; the others have the rule's.

    Raises:
        DivergedError: a gradient is not finite.
    """
    before = parameters_of(state)
    parameters = {name: value.clone().requires_grad_() for name, value in before.items()}
    rates = rates or {}
    groups = [{"params": [p], "lr": rates.get(name, rule.lr)} for name, p in parameters.items()]
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].detach().clone()
    norm = nn.utils.clip_grad_norm_(parameters.values(), rule.clip)
    if not torch.isfinite(norm):
        raise DivergedError(
            f"the gradient of the synthetic set is {norm.item()}; lower its learning rate "
            f"(lr, now {rule.lr:g}) or the student's (student_lr)"
        )
    optimizer: torch.optim.Optimizer
    if rule.optimizer == "adam":
        optimizer = torch.optim.Adam(groups, lr=rule.lr, betas=(rule.momentum, 0.999))
    else:
        optimizer = torch.optim.SGD(groups, lr=rule.lr, momentum=rule.momentum)
    unpack(optimizer, state, "optimizer")
    optimizer.step()
    moved = {f"synthetic.{name}": value.detach() for name, value in parameters.items()}
    return {**moved, **pack(optimizer, "optimizer")}
