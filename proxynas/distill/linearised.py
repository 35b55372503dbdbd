"""The inner problem of RCIG (Loo 2023, §3): linearised students whose last layer is solved for.

    f(x)  = h(x) θ_Fᵀ + o(x)                   features h (B, H), last layer θ_F (K, H)    (2)
    o(x)  = ∂f(x; θ₀)/∂θ_B · θ_B               offset (B, K): what the body does so far    (4)
    θ_F*  = [h(X)ᵀ (k + λI)⁻¹ (Y − o(X))]ᵀ     k = h(X) h(X)ᵀ                           (3, 4)
    L_i   = ½ ‖f(X) − Y‖² + ½ λ (‖θ_B‖² + ‖θ_F‖²),   summed over the set X, Y              (5)

A network is split at its last linear layer into a body, which makes the features, and the layer
itself. How features and offset depend on the body's parameters are its *dynamics*:

- :class:`Linearised` (eq. 2, centred): θ_B is the *change* of the body, features are those of the
  unchanged body, and the offset is what the change does to the unchanged network's output, to first
  order (forward-mode differentiation);
- :class:`Centred`: the same without the Taylor expansion, the offset is the change of the output
  itself (RIG);
- :class:`Standard`: θ_B are the body's parameters, features are theirs, and the offset is zero
  (VIG).

:class:`Inner` is L_i. With ``reparameterise`` its last layer is θ_F*, the best one for that body;
without, it is learned along with the body. The last layer has no bias, as in the paper's equations:
a network's own is dropped.

Above some number of images only a random subset is differentiated (§3.6,
:func:`differentiate_subset`): the forward pass is whole, and gradients are scaled by |S| over the
subset's size, which makes them unbiased. That is exact for anything linear in the backward pass,
and all gradients here are taken so: reverse mode, over tangents where needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.errors import SpecError
from .students import Parameters, as_leaves

LAST = "last-layer"
"""The last layer's name among the parameters of an inner problem that is not reparameterised."""

Two = tuple[Tensor, Tensor]
"""Features (B, H) and offset (B, K)."""
Four = tuple[Tensor, Tensor, Tensor, Tensor]
"""Features and offset, and the derivatives of both along a direction."""


@dataclass(frozen=True)
class Student:
    """A network without its last layer.

    ``body`` gives features (B, H) of parameters and images; ``last`` is the last layer (K, H).
    ``mixes``: it has batch norm, so the features of an image depend on the others.
    """

    body: Callable[[Parameters, Tensor], Tensor]
    parameters: Parameters
    last: Tensor
    mixes: bool = False


def cut(net: nn.Module, classes: int) -> Student:
    """Split ``net``, which is changed, at its last linear layer, whose bias is dropped.

    Batch norms use the statistics of the batch; their running averages are left alone.

    Raises:
        SpecError: its last linear layer, which has to make its output, is missing or has not one
            output per class.
    """
    linear = [name for name, layer in net.named_modules() if name and isinstance(layer, nn.Linear)]
    layer = net.get_submodule(linear[-1]) if linear else None
    if not isinstance(layer, nn.Linear) or layer.out_features != classes:
        expected = f"the student must end in a linear layer with {classes} outputs"
        raise SpecError(f"{expected}, but {type(net).__name__} does not")
    net.set_submodule(linear[-1], nn.Identity())
    buffers = dict(net.named_buffers())

    def body(parameters: Parameters, x: Tensor) -> Tensor:
        copies = {name: value.clone() for name, value in buffers.items()}
        features: Tensor = functional_call(net, (parameters, copies), (x,))
        return features

    mixes = any(isinstance(module, _BatchNorm) for module in net.modules())
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    return Student(body, parameters, layer.weight.detach(), mixes)


class Dynamics(Protocol):
    """How features and offset depend on the body's parameters ``u``."""

    def initial(self) -> tuple[Parameters, Tensor]:
        """The body's parameters and the last layer that training starts from."""

    def forward(self, u: Parameters, x: Tensor) -> Two:
        """Features (B, H) and offset (B, K) of images (B, …)."""

    def forward_jvp(self, u: Parameters, v: Parameters, x: Tensor) -> Four:
        """Features and offset, and the derivatives of both along ``v``."""


@dataclass(frozen=True)
class Linearised:
    """Eq. 2, centred: linear in ``u``, the change of the body."""

    student: Student

    def initial(self) -> tuple[Parameters, Tensor]:
        """No change, and no last layer: the centred network gives zero."""
        return _zeros(self.student.parameters), torch.zeros_like(self.student.last)

    def forward(self, u: Parameters, x: Tensor) -> Two:
        """Features of the unchanged body, and θ_B · ∂f/∂θ_B of eq. 4."""
        features, d_features = _body_jvp(self.student, self.student.parameters, u, x)
        return features, d_features @ self.student.last.T

    def forward_jvp(self, u: Parameters, v: Parameters, x: Tensor) -> Four:
        """The offset is linear, and the features are constant."""
        features, offset = self.forward(u, x)
        _, d_offset = self.forward(v, x)
        return features, offset, torch.zeros_like(features), d_offset


@dataclass(frozen=True)
class Tabulated(Linearised):
    """The same with the Jacobian of the outputs for one batch at hand: a step is two products.

    ``x`` (n, …) are the images, ``features`` (n, H) theirs, ``jacobian`` (n·K, P) the derivative of
    their outputs in the body's P parameters. Other images, and these as leaves to be differentiated
    in, go the usual way.
    """

    x: Tensor
    features: Tensor
    jacobian: Tensor

    def forward(self, u: Parameters, x: Tensor) -> Two:
        """Features of the unchanged body, and θ_B · ∂f/∂θ_B of eq. 4."""
        if x is not self.x:
            return super().forward(u, x)
        change = torch.cat([u[name].flatten() for name in self.student.parameters])
        return self.features, (self.jacobian @ change).view(len(x), -1)


def tabulate(student: Student, x: Tensor) -> Tabulated:
    """:class:`Linearised` with the Jacobian for ``x`` (n, …); the student must not mix images."""

    def output(parameters: Parameters, image: Tensor) -> Two:
        features = student.body(parameters, image[None])[0]
        return student.last @ features, features

    with torch.no_grad():
        jacobian_of = vmap(jacrev(output, has_aux=True), (None, 0))
        jacobian, features = jacobian_of(student.parameters, x)
        joined = torch.cat([part.flatten(2) for part in jacobian.values()], 2)  # (n, K, P)
    return Tabulated(student, x, features, joined.flatten(0, 1))


@dataclass(frozen=True)
class Centred:
    """What :class:`Linearised` is the first order of: the offset is f(θ + u) − f(θ).

    The last layer acts on the unchanged body's features there and here, as in the authors' code for
    RIG.
    """

    student: Student

    def initial(self) -> tuple[Parameters, Tensor]:
        """No change, and no last layer."""
        return _zeros(self.student.parameters), torch.zeros_like(self.student.last)

    def forward(self, u: Parameters, x: Tensor) -> Two:
        """Features of the unchanged body, and how the change moves the output."""
        features = self.student.body(self.student.parameters, x)
        changed = self.student.body(self._changed(u), x)
        return features, (changed - features) @ self.student.last.T

    def forward_jvp(self, u: Parameters, v: Parameters, x: Tensor) -> Four:
        """The features are constant."""
        features = self.student.body(self.student.parameters, x)
        changed, d_changed = _body_jvp(self.student, self._changed(u), v, x)
        offset = (changed - features) @ self.student.last.T
        return features, offset, torch.zeros_like(features), d_changed @ self.student.last.T

    def _changed(self, u: Parameters) -> Parameters:
        return {name: value + u[name] for name, value in self.student.parameters.items()}


@dataclass(frozen=True)
class Standard:
    """An ordinary network: ``u`` are the body's parameters."""

    student: Student

    def initial(self) -> tuple[Parameters, Tensor]:
        """The network as it is."""
        return self.student.parameters, self.student.last

    def forward(self, u: Parameters, x: Tensor) -> Two:
        """Features, and no offset."""
        features = self.student.body(u, x)
        return features, features.new_zeros(len(x), len(self.student.last))

    def forward_jvp(self, u: Parameters, v: Parameters, x: Tensor) -> Four:
        """Features move along ``v``."""
        features, d_features = _body_jvp(self.student, u, v, x)
        offset = features.new_zeros(len(x), len(self.student.last))
        return features, offset, d_features, offset


@dataclass(frozen=True)
class Inner:
    """The inner objective L_i on a synthetic set x (n, …), y (n, K); ``l2`` is λ over n.

    ``subset`` are the images (k,) that are differentiated, or ``None`` for all.
    """

    dynamics: Dynamics
    reparameterise: bool
    l2: float

    def initial(self) -> Parameters:
        """What the inner problem starts from."""
        body, last = self.dynamics.initial()
        return body if self.reparameterise else {**body, LAST: last}

    def tabulated(self, x: Tensor) -> "Inner":
        """The same, faster for images ``x`` (n, …); for linearised students without batch norm."""
        assert isinstance(self.dynamics, Linearised)
        return replace(self, dynamics=tabulate(self.dynamics.student, x))

    def last_layer(
        self,
        u: Parameters,
        x: Tensor,
        y: Tensor,
        subset: Tensor | None = None,
    ) -> Tensor:
        """The last layer (K, H) that goes with ``u``, differentiable in ``u``, ``x`` and ``y``."""
        if not self.reparameterise:
            return u[LAST]
        features, offset = self._forward(u, x, subset)
        return self._last_layer(u, features, offset, y)

    def loss(self, u: Parameters, x: Tensor, y: Tensor, subset: Tensor | None = None) -> Tensor:
        """Eq. 5 with its regularisation; a scalar, differentiable in ``u``, ``x`` and ``y``."""
        features, offset = self._forward(u, x, subset)
        last = self._last_layer(u, features, offset, y)
        squared_norm = dot(u, u)
        if self.reparameterise:
            squared_norm = squared_norm + last.square().sum()
        squared_error = (features @ last.T + offset - y).square().sum()
        return 0.5 * squared_error + 0.5 * self.l2 * len(y) * squared_norm

    def gradient(
        self,
        u: Parameters,
        x: Tensor,
        y: Tensor,
        subset: Tensor | None = None,
    ) -> tuple[Tensor, Parameters]:
        """The inner loss and its gradient in ``u``."""
        leaves = as_leaves(u)
        loss = self.loss(leaves, x, y, subset)
        return loss.detach(), _gradient(loss, leaves)

    def slope(
        self,
        u: Parameters,
        v: Parameters,
        x: Tensor,
        y: Tensor,
        subset: Tensor | None = None,
    ) -> Tensor:
        """∂L_i/∂u · v, a scalar, differentiable in ``u``, ``x`` and ``y``.

        The best last layer moves with ``u``, but that adds nothing: the loss is stationary in it.
        """
        body = _body(u)
        direction = _body(v)
        features, offset, d_features, d_offset = differentiate_subset(
            lambda images: self.dynamics.forward_jvp(body, direction, images),
            x,
            subset,
        )
        last = self._last_layer(u, features, offset, y)
        d_prediction = d_features @ last.T + d_offset  # (n, K)
        if not self.reparameterise:
            d_prediction = d_prediction + features @ v[LAST].T
        residual = features @ last.T + offset - y
        return (residual * d_prediction).sum() + self.l2 * len(y) * dot(u, v)

    def hessian_product(
        self,
        u: Parameters,
        v: Parameters,
        x: Tensor,
        y: Tensor,
        subset: Tensor | None = None,
    ) -> Parameters:
        """H v, the Hessian of the inner loss at ``u`` times ``v`` (Pearlmutter 1994).

        The linearised loss is a quadratic in ``u``, whose linear part the labels make: there H v is
        the gradient at ``v`` with labels of zero, and one tangent less.
        """
        if isinstance(self.dynamics, Linearised):
            return self.gradient(v, x, torch.zeros_like(y), subset)[1]
        leaves = as_leaves(u)
        return _gradient(self.slope(leaves, v, x, y, subset), leaves)

    def predict(self, u: Parameters, last: Tensor, inputs: Tensor) -> Tensor:
        """Outputs (B, K) for ``inputs`` (B, …), of parameters ``u`` and the last layer ``last``."""
        features, offset = self.dynamics.forward(_body(u), inputs)
        return features @ last.T + offset

    def _forward(self, u: Parameters, x: Tensor, subset: Tensor | None) -> tuple[Tensor, ...]:
        body = _body(u)
        return differentiate_subset(lambda images: self.dynamics.forward(body, images), x, subset)

    def _last_layer(self, u: Parameters, features: Tensor, offset: Tensor, y: Tensor) -> Tensor:
        """θ_F* of eq. 3 and 4, or the learned last layer among ``u``."""
        if not self.reparameterise:
            return u[LAST]
        return ridge(features, y - offset, self.l2 * len(y))


def ridge(features: Tensor, y: Tensor, l2: float) -> Tensor:
    """Eq. 3: the last layer (K, H) of ridge regression of y (n, K) on features (n, H).

    ``l2`` is λ. Solved in float64 whatever the data are: single precision is unstable at 500 images
    and more (Appendix C), and the rest of a step costs far more.
    """
    double = features.double()
    kernel = double @ double.T  # (n, n)
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    dual: Tensor = torch.linalg.solve_ex(kernel + l2 * identity, y.double())[0]  # (n, K)
    return (dual.T @ double).to(features.dtype)  # what is not finite shows in the loss


def differentiate_subset(
    forward: Callable[[Tensor], tuple[Tensor, ...]],
    x: Tensor,
    subset: Tensor | None,
) -> tuple[Tensor, ...]:
    """§3.6: ``forward(x)``, each (n, …), differentiable through images ``subset`` (k,) alone.

    Gradients through them are n/k times as strong. ``None``: through all images.
    """
    if subset is None:
        return forward(x)
    with torch.no_grad():
        pieces = [forward(piece) for piece in torch.split(x, len(subset))]
    scale = len(x) / len(subset)
    outputs = []
    for place, part in enumerate(forward(x[subset])):
        whole = torch.cat([piece[place] for piece in pieces])
        constant = part.detach()
        outputs.append(whole.index_copy(0, subset, constant + scale * (part - constant)))
    return tuple(outputs)


def dot(a: Parameters, b: Parameters) -> Tensor:
    """The inner product of two sets of parameters; a scalar."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def _gradient(value: Tensor, leaves: Parameters) -> Parameters:
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))


def _body_jvp(student: Student, at: Parameters, v: Parameters, x: Tensor) -> Two:
    """Features (B, H) with the parameters ``at``, and their derivative along ``v``."""
    features, derivative = jvp(lambda p: student.body(p, x), (at,), (v,))[:2]
    return features, derivative


def _body(u: Parameters) -> Parameters:
    return {name: value for name, value in u.items() if name != LAST}


def _zeros(parameters: Parameters) -> Parameters:
    return {name: torch.zeros_like(value) for name, value in parameters.items()}
