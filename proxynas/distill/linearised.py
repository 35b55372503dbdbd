"""Students whose training is linearised, and whose last layer is solved for: the inner problem of RCIG (Loo 2023, §3).

A network is cut at its last linear layer into a body θ_B, which makes features h (B, H), and the layer itself, θ_F
(K, H). What the inner problem knows of a batch are its *nodes*, features and an offset (B, K), so that the prediction
is ``h @ θ_F.T + offset``:

- :class:`Linearised` (eq. 2, centred): θ_B is the *change* of the body, features are those of the unchanged body, and
  the offset is what the change does to the unchanged network's output, θ_B · ∂f/∂θ_B (forward-mode differentiation);
- :class:`Centred`: the same without the Taylor expansion, the offset is the change of the output itself (RIG);
- :class:`Standard`: θ_B are the body's parameters, features are theirs, and the offset is nothing (VIG).

:class:`Inner` is half the squared error over the synthetic set, summed, and λ/2 of the squared norm of all parameters.
With ``reparameterise`` its last layer is the best one for that body (eq. 3 to 5); without, it is learned along with it.
The last layer has no bias, here as in the paper's equations: a network's own is cut away.

Above some number of images only a random part of the nodes is differentiated (§3.6, :func:`through`): the forward pass
is whole, and gradients are scaled by |S| over the size of the part, which makes them unbiased. That is exact for
anything linear in the backward pass, and all gradients here are taken so: reverse mode, over tangents where needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.errors import SpecError
from .students import Parameters

LAST = "last-layer"
"""The name of the last layer among the parameters of an inner problem that is not reparameterised."""


@dataclass(frozen=True)
class Student:
    """A network without its last layer: ``body`` gives features (B, H) of parameters and images, ``last`` is (K, H).

    ``mixes``: it has batch norm, so the features of an image depend on the others.
    """

    body: Callable[[Parameters, Tensor], Tensor]
    parameters: Parameters
    last: Tensor
    mixes: bool = False


def cut(net: nn.Module, classes: int) -> Student:
    """Cut ``net``, which is changed, at its last linear layer, whose bias is dropped.

    Batch norms use the statistics of the batch; their running averages are left alone.

    Raises:
        SpecError: its last linear layer, which has to make its output, is missing or has not one output a class.
    """
    layers = [(name, module) for name, module in net.named_modules() if name and isinstance(module, nn.Linear)]
    if not layers or layers[-1][1].out_features != classes:
        raise SpecError(
            f"the student must end in a linear layer with {classes} outputs, but {type(net).__name__} does not"
        )
    name, layer = layers[-1]
    net.set_submodule(name, nn.Identity())
    buffers = dict(net.named_buffers())

    def body(parameters: Parameters, x: Tensor) -> Tensor:
        own = {name: value.clone() for name, value in buffers.items()}
        features: Tensor = functional_call(net, (parameters, own), (x,))
        return features

    mixes = any(isinstance(module, _BatchNorm) for module in net.modules())
    return Student(body, {name: p.detach() for name, p in net.named_parameters()}, layer.weight.detach(), mixes)


class Dynamics(Protocol):
    """How predictions depend on the body's parameters ``u``."""

    def start(self) -> tuple[Parameters, Tensor]:
        """The body's parameters and the last layer that training starts from."""

    def nodes(self, u: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, H) and offset (B, K) of images (B, …)."""

    def moving(self, u: Parameters, v: Parameters, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features and offset, and their derivatives along ``v``."""


@dataclass(frozen=True)
class Linearised:
    """Eq. 2, centred: linear in ``u``, the change of the body."""

    student: Student

    def start(self) -> tuple[Parameters, Tensor]:
        """No change, and no last layer: the centred network gives zero."""
        return _zeros(self.student.parameters), torch.zeros_like(self.student.last)

    def nodes(self, u: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the unchanged body, and θ_B · ∂f/∂θ_B of eq. 4."""
        features, moved = _along(self.student, self.student.parameters, u, x)
        return features, moved @ self.student.last.T

    def moving(self, u: Parameters, v: Parameters, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The offset is linear, and features stand still."""
        (features, offset), (_, moved) = self.nodes(u, x), self.nodes(v, x)
        return features, offset, torch.zeros_like(features), moved


@dataclass(frozen=True)
class Tabulated(Linearised):
    """The same with the Jacobian of the outputs for one batch at hand: then a step there is two products with it.

    ``x`` (n, …) are the images, ``features`` (n, H) theirs, ``jacobian`` (n·K, P) the derivative of their outputs in
    the body's P parameters. Other images, and these as leaves to be differentiated in, go the usual way.
    """

    x: Tensor
    features: Tensor
    jacobian: Tensor

    def nodes(self, u: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the unchanged body, and θ_B · ∂f/∂θ_B of eq. 4."""
        if x is not self.x:
            return super().nodes(u, x)
        change = torch.cat([u[name].flatten() for name in self.student.parameters])
        return self.features, (self.jacobian @ change).view(len(x), -1)


def tabulate(student: Student, x: Tensor) -> Tabulated:
    """:class:`Linearised` with the Jacobian for ``x`` (n, …); the student must not mix images."""

    def output(parameters: Parameters, image: Tensor) -> tuple[Tensor, Tensor]:
        features = student.body(parameters, image[None])[0]
        return student.last @ features, features

    with torch.no_grad():
        jacobian, features = vmap(jacrev(output, has_aux=True), (None, 0))(student.parameters, x)
        whole = torch.cat([part.flatten(2) for part in jacobian.values()], 2)  # (n, K, P)
    return Tabulated(student, x, features, whole.flatten(0, 1))


@dataclass(frozen=True)
class Centred:
    """What :class:`Linearised` is the first order of: ``u`` is the change of the body, f(θ + u) − f(θ) the offset.

    The last layer acts on the unchanged body's features there and here, as in the authors' code for RIG.
    """

    student: Student

    def start(self) -> tuple[Parameters, Tensor]:
        """No change, and no last layer."""
        return _zeros(self.student.parameters), torch.zeros_like(self.student.last)

    def nodes(self, u: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the unchanged body, and how the change moves the output."""
        features = self.student.body(self.student.parameters, x)
        return features, (self.student.body(self._changed(u), x) - features) @ self.student.last.T

    def moving(self, u: Parameters, v: Parameters, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features stand still."""
        features = self.student.body(self.student.parameters, x)
        changed, moved = _along(self.student, self._changed(u), v, x)
        last = self.student.last.T
        return features, (changed - features) @ last, torch.zeros_like(features), moved @ last

    def _changed(self, u: Parameters) -> Parameters:
        return {name: value + u[name] for name, value in self.student.parameters.items()}


@dataclass(frozen=True)
class Standard:
    """An ordinary network: ``u`` are the body's parameters."""

    student: Student

    def start(self) -> tuple[Parameters, Tensor]:
        """The network as it is."""
        return self.student.parameters, self.student.last

    def nodes(self, u: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and no offset."""
        features = self.student.body(u, x)
        return features, features.new_zeros(len(x), len(self.student.last))

    def moving(self, u: Parameters, v: Parameters, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features move along ``v``."""
        features, moved = _along(self.student, u, v, x)
        offset = features.new_zeros(len(x), len(self.student.last))
        return features, offset, moved, offset


@dataclass(frozen=True)
class Inner:
    """The inner objective on a synthetic set x (n, …), y (n, K); ``l2`` is λ over n.

    ``keep`` are the images (k,) that are differentiated, or ``None`` for all.
    """

    dynamics: Dynamics
    reparameterise: bool
    l2: float

    def start(self) -> Parameters:
        """What the inner problem starts from."""
        body, last = self.dynamics.start()
        return body if self.reparameterise else {**body, LAST: last}

    def tabulated(self, x: Tensor) -> "Inner":
        """The same, faster for the images ``x`` (n, …); the dynamics are linearised and the student mixes no images."""
        assert isinstance(self.dynamics, Linearised)
        return replace(self, dynamics=tabulate(self.dynamics.student, x))

    def last(self, u: Parameters, nodes: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        """The last layer (K, H) that goes with the parameters ``u``: the best one on the set, or their own."""
        if not self.reparameterise:
            return u[LAST]
        features, offset = nodes
        return ridge(features, y - offset, self.l2 * len(y))  # eq. 4: what the body does is taken off the labels

    def loss(self, u: Parameters, x: Tensor, y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Eq. 5 with its regularisation; a scalar, differentiable in ``u``, ``x`` and ``y``."""
        features, offset = through(lambda x: self.dynamics.nodes(_body(u), x), x, keep)
        last = self.last(u, (features, offset), y)
        size = dot(u, u) + (last.square().sum() if self.reparameterise else 0.0)
        return 0.5 * (features @ last.T + offset - y).square().sum() + 0.5 * self.l2 * len(y) * size

    def gradient(self, u: Parameters, x: Tensor, y: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Parameters]:
        """The inner loss and its gradient in ``u``."""
        leaves = leaves_of(u)
        loss = self.loss(leaves, x, y, keep)
        return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def slope(self, u: Parameters, v: Parameters, x: Tensor, y: Tensor, keep: Tensor | None = None) -> Tensor:
        """The derivative of the inner loss along ``v``, a scalar, differentiable in ``u``, ``x`` and ``y``.

        The best last layer moves along with ``u``, but that adds nothing: the loss is stationary in it.
        """
        body, along = _body(u), _body(v)
        features, offset, moved, pushed = through(lambda x: self.dynamics.moving(body, along, x), x, keep)
        last = self.last(u, (features, offset), y)
        change = moved @ last.T + pushed  # (n, K): of the predictions
        if not self.reparameterise:
            change = change + features @ v[LAST].T
        return ((features @ last.T + offset - y) * change).sum() + self.l2 * len(y) * dot(u, v)

    def product(self, u: Parameters, v: Parameters, x: Tensor, y: Tensor, keep: Tensor | None = None) -> Parameters:
        """H · v, the Hessian of the inner loss at ``u`` times ``v`` (Pearlmutter 1994).

        The linearised loss is a quadratic in ``u``, whose linear part the labels make: there H · v is the gradient at
        ``v`` with no labels, and one tangent less.
        """
        if isinstance(self.dynamics, Linearised):
            return self.gradient(v, x, torch.zeros_like(y), keep)[1]
        leaves = leaves_of(u)
        slope = self.slope(leaves, v, x, y, keep)
        return dict(zip(leaves, torch.autograd.grad(slope, list(leaves.values())), strict=True))

    def trained(self, u: Parameters, x: Tensor, y: Tensor, keep: Tensor | None = None) -> Tensor:
        """The last layer (K, H) that goes with ``u``, differentiable in ``u``, ``x`` and ``y``."""
        if not self.reparameterise:
            return u[LAST]
        features, offset = through(lambda x: self.dynamics.nodes(u, x), x, keep)
        return self.last(u, (features, offset), y)

    def outputs(self, u: Parameters, last: Tensor, inputs: Tensor) -> Tensor:
        """Outputs (B, K) for ``inputs`` (B, …) of the student with the parameters ``u`` and the last layer ``last``."""
        features, offset = self.dynamics.nodes(_body(u), inputs)
        return features @ last.T + offset


def ridge(features: Tensor, y: Tensor, l2: float) -> Tensor:
    """Eq. 3: the last layer (K, H) of least squares of y (n, K) on features (n, H) with ``l2`` of its squared norm.

    Solved in float64 whatever the data are: single precision is unstable at 500 images and more (Appendix C), and the
    rest of a step costs far more.
    """
    wide = features.double()
    kernel = wide @ wide.T + l2 * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)  # (n, n)
    dual: Tensor = torch.linalg.solve_ex(kernel, y.double())[0]  # (n, K); what is not finite shows in the loss
    return (dual.T @ wide).to(features.dtype)


def through(nodes: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, keep: Tensor | None) -> tuple[Tensor, ...]:
    """§3.6: nodes (n, …) of all images, differentiable through those of ``keep`` (k,) alone, n/k times as strongly."""
    if keep is None:
        return nodes(x)
    with torch.no_grad():
        pieces = [nodes(piece) for piece in torch.split(x, len(keep))]
    found = []
    for place, part in enumerate(nodes(x[keep])):
        whole = torch.cat([piece[place] for piece in pieces])
        fixed = part.detach()
        found.append(whole.index_copy(0, keep, fixed + len(x) / len(keep) * (part - fixed)))
    return tuple(found)


def dot(a: Parameters, b: Parameters) -> Tensor:
    """The inner product of two sets of parameters; a scalar."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def leaves_of(parameters: Parameters) -> Parameters:
    """The same values, to be differentiated in."""
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


def _along(student: Student, at: Parameters, v: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, H) with the parameters ``at``, and their derivative along ``v``."""
    features, moved = jvp(lambda p: student.body(p, x), (at,), (v,))[:2]
    return features, moved


def _body(u: Parameters) -> Parameters:
    return {name: value for name, value in u.items() if name != LAST}


def _zeros(parameters: Parameters) -> Parameters:
    return {name: torch.zeros_like(value) for name, value in parameters.items()}
