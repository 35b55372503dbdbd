"""Zero-cost indicators: what one batch says of a network before any training. Higher is better, for
all of them.

Each takes a freshly initialised network and leaves it as it was: the work is done on a copy. The
copy is in training mode, so batch norm normalises by the batch itself, as a running average that
has seen nothing would not; synflow does without. In training mode dropout draws from PyTorch's
global generator (see :func:`proxynas.core.seeds.seeded`).

"Weights" are the parameters of two or more dimensions outside normalisation layers: those of
convolutions and linear layers, without their biases. A score that cannot be had is NaN, and
:func:`vote` and :func:`mean_rank` put it last.
"""

import copy
import difflib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..core import seeds
from ..core.errors import SpecError
from ..datasets import Dataset
from ..spaces import Networks

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)
_NORMALISERS = {
    *(F.batch_norm, F.instance_norm, F.group_norm, F.layer_norm, F.rms_norm),
    *(torch.batch_norm, torch.instance_norm, torch.group_norm, torch.layer_norm, torch.rms_norm),
}
_aten = torch.ops.aten
_RECTIFIERS = {
    *(_aten.relu.default, _aten.relu_.default, _aten.leaky_relu.default, _aten.leaky_relu_.default),
    _aten._prelu_kernel.default,
}
_SAVED = {
    "ReluBackward0": "_saved_result",
    "LeakyReluBackward0": "_saved_self",
    "LeakyReluBackward1": "_saved_result",  # in place
    "PreluKernelBackward0": "_saved_self",
}
"""What autograd keeps of a rectifier: its output or its input, whose signs are the same."""
Units = Literal["reached", "all"]
"""Which rectifiers :func:`naswot` counts."""
JACOB_COV_K = 1e-5
"""The constant that keeps jacob_cov finite (Mellor et al. 2020, §3)."""


def synflow(net: nn.Module, x: Tensor) -> float:
    """Synaptic flow: Σ |w · ∂R/∂w| over the weights, with R the sum of the outputs for an image of
    ones.

    Tanaka et al. 2020 ("Pruning neural networks without any data", eq. 1–2), summed over the
    network as in Abdelfattah et al. 2021, §3.2. All parameters are replaced by their absolute
    values, in float64, where the sum over all paths of a deep network is still finite. Every
    normalisation is left out: it would bring every layer's flow back to one size, and take away
    from the flow what is common to it.

    Abdelfattah's code builds NAS-Bench-201 anew for this, without batch norm in stem, cells and
    top; its two reduction blocks keep theirs, and the convolutions of its cells have biases, which
    those of the benchmark do not have.

    Args:
        net: the network.
        x: images (B, C, H, W) or rows (B, D); only the shape of one of them matters.
    """
    copied = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for p in copied.parameters():
            p.abs_()
    with _WithoutNormalisation():
        total = copied(torch.ones(1, *x.shape[1:], dtype=torch.float64, device=x.device)).sum()
    weights = list(_weights(copied))
    return _total(
        (w * g).abs().sum() for w, g in zip(weights, _gradients(total, weights), strict=True)
    )


def naswot(net: nn.Module, x: Tensor, units: Units = "all") -> float:
    """Log-determinant of the kernel that counts, for two images, the rectifiers in the same state.

    Mellor et al. 2021 ("Neural architecture search without training", eq. 2 and §3):
    K[i, j] = units − Hamming distance of the binary codes of images i and j. Units are those of
    ReLU, leaky ReLU and PReLU, called as modules or as functions.

    The paper does not say what to do with rectifiers that the logits do not depend on. The
    authors' code counts those that a backward pass from the logits comes by, ``"reached"``. (In
    their cells ``none`` multiplies by zero, which a backward pass goes through, so that there it
    comes by all of them; in ours such an edge is missing.) On 1,000 cells both rank equally well
    (``experiments/naswot.py``).

    Args:
        net: the network.
        x: at least two images (B, …).
        units: ``"all"`` that a forward pass calls, or ``"reached"``.

    Returns:
        log |det K|; −inf if two images have the same code; NaN for a network without such units.
    """
    _at_least_two(x)
    codes = _reached_codes(net, x) if units == "reached" else _all_codes(net, x)
    if codes.units == 0:
        return math.nan
    return float(torch.linalg.slogdet(codes.units - codes.distance).logabsdet)


def jacob_cov(net: nn.Module, x: Tensor) -> float:
    """How little the images' input gradients correlate: −Σ (log(λ + k) + 1/(λ + k)) over the
    eigenvalues λ.

    The first version of Mellor et al. (arXiv 2006.04647v1, 2020, §3), called ``jacob_cov`` by
    Abdelfattah et al. 2021: λ of the correlation matrix of the rows of J (B, inputs), the gradient
    of the sum of the logits by each image, and k = 1e-5.

    Args:
        net: the network.
        x: at least two images (B, …).

    Returns:
        The score; NaN if an image's gradient does not vary over its pixels, as in a network that
        ignores its input.
    """
    _at_least_two(x)
    x = x.detach().clone().requires_grad_()
    total = copy.deepcopy(net).train()(x).sum()
    if not total.requires_grad:
        return math.nan
    rows = _gradients(total, [x])[0].flatten(1).double()  # (B, inputs)
    correlation = torch.corrcoef(rows)
    if not torch.isfinite(correlation).all():
        return math.nan
    shifted = torch.linalg.eigvalsh(correlation).clamp(min=0) + JACOB_COV_K  # (B,)
    return float(-(shifted.log() + 1 / shifted).sum())


def snip(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Connection sensitivity: Σ |w · ∂L/∂w| over the weights, with L the mean cross-entropy of the
    batch.

    Lee et al. 2019 ("SNIP", eq. 5, not normalised), summed over the network as in Abdelfattah et
    al. 2021, §3.2.

    Args:
        net: the network.
        x: images (B, …).
        y: labels, int64 (B,) or a distribution (B, classes).
    """
    weights, gradients = _loss_gradients(net, x, y)
    return _total((w * g).abs().sum() for w, g in zip(weights, gradients, strict=True))


def grad_norm(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The Euclidean norm of ∂L/∂w of each weight tensor, summed; L is the mean cross-entropy of the
    batch.

    Abdelfattah et al. 2021, §3.1, layer by layer as in their code.

    Args:
        net: the network.
        x: images (B, …).
        y: labels, int64 (B,) or a distribution (B, classes).
    """
    return _total(g.norm() for g in _loss_gradients(net, x, y)[1])


INDICATORS: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "synflow": lambda net, x, y: synflow(net, x),
    "naswot": lambda net, x, y: naswot(net, x),
    "jacob_cov": lambda net, x, y: jacob_cov(net, x),
    "snip": snip,
    "grad_norm": grad_norm,
}
"""Every indicator as a function of a network, images (B, …) and labels (B,)."""


def zero_cost(
    space: Networks,
    arch: str,
    dataset: Dataset,
    names: Sequence[str],
    seed: int,
    batch: int = 64,
) -> dict[str, float]:
    """One row of scores: for each of ``names`` its score, and under ``<name>_seconds`` the core
    seconds it took.

    The network is freshly initialised and all indicators see the same one. The images are ``batch``
    random ones of the training split, the same for every architecture. Everything depends on
    ``seed`` and ``arch`` alone.

    Raises:
        SpecError: an unknown name, or a batch under 2.
        SpaceError: ``arch`` is not in the space.
    """
    for name in names:
        if name not in INDICATORS:
            close = difflib.get_close_matches(name, INDICATORS, n=1)
            known = f"choose from {', '.join(INDICATORS)}"
            hint = f"did you mean {close[0]!r}?" if close else known
            raise SpecError(f"unknown zero-cost indicator {name!r}; {hint}")
    if batch < 2:
        raise SpecError(
            f"a zero-cost indicator needs a batch of at least 2 images, but got {batch}"
        )
    x, y = dataset.train.x, dataset.train.y
    generator = seeds.generator(seed, "zero-cost", "batch")
    chosen = torch.randperm(len(x), generator=generator)[:batch].to(x.device)
    row: dict[str, float] = {}
    with seeds.seeded(seeds.derive(seed, "zero-cost", arch)):
        net = space.build(arch, dataset.shape, dataset.num_classes).to(x.device)
        for name in names:
            started = _clock(x)
            row[name] = INDICATORS[name](net, x[chosen], y[chosen])
            row[f"{name}_seconds"] = _clock(x) - started
    return row


def vote(columns: pd.DataFrame | Mapping[str, pd.Series]) -> pd.Series:
    """Majority vote of several indicators: by how many candidates each one wins more than it loses,
    pair by pair.

    Abdelfattah et al. 2021, §4.2: of two candidates the better is the one that most indicators rank
    higher. Counting the pairs makes an order of it even where three candidates beat each other in a
    circle. The scale of a column does not matter; NaN loses to everything.

    Args:
        columns: one column an indicator, higher is better, one row a candidate.

    Returns:
        For each row wins − losses, float64, between ±(rows − 1).
    """
    ranks = _ranks(columns)
    values = ranks.to_numpy(dtype=np.float32)  # (n, k)
    result = np.empty(len(values))
    step = max(1, 10_000_000 // max(1, len(values)))
    for start in range(0, len(values), step):
        block = values[start : start + step]  # (m, k)
        pairs = zip(block.T, values.T, strict=True)
        balance = sum(np.sign(a[:, None] - b) for a, b in pairs)  # (m, n)
        result[start : start + step] = np.sign(balance).sum(1)
    return pd.Series(result, index=ranks.index, name="vote")


def mean_rank(columns: pd.DataFrame | Mapping[str, pd.Series]) -> pd.Series:
    """Mean of the ranks that several indicators give, between 1 and the number of rows; the other
    way to combine them.

    Args:
        columns: one column an indicator, higher is better, one row a candidate; NaN is last.

    Returns:
        For each row its mean rank, float64, higher is better.
    """
    return _ranks(columns).mean(axis=1).rename("mean_rank")


class _WithoutNormalisation(TorchFunctionMode):
    """Lets every normalisation, module or function, give its input back."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _NORMALISERS:
            return args[0]
        return func(*args, **(kwargs or {}))


class _Codes:
    """Adds up the Hamming distances between the images' codes, float64 (B, B)."""

    def __init__(self, images: int) -> None:
        self.images, self.units = images, 0
        self.distance: Tensor = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take rectifiers' inputs or outputs (B, …); what has another first axis is left out."""
        if values.ndim > 0 and len(values) == self.images:
            code = (values > 0).flatten(1).float()  # (B, units)
            common, on = code @ code.T, code.sum(1)
            distance = (on[:, None] + on - 2 * common).double()
            self.distance = self.distance.to(code.device) + distance
            self.units += code.shape[1]


class _Rectifiers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its base is not annotated
    """Shows every rectifier that is called to ``codes``."""

    def __init__(self, codes: _Codes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.codes = codes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _RECTIFIERS:
            self.codes.add(args[0])
        return func(*args, **(kwargs or {}))


def _all_codes(net: nn.Module, x: Tensor) -> _Codes:
    codes = _Codes(len(x))
    with torch.no_grad(), _Rectifiers(codes):
        copy.deepcopy(net).train()(x)
    return codes


def _reached_codes(net: nn.Module, x: Tensor) -> _Codes:
    """Codes of the rectifiers in the graph that autograd would go through from the logits."""
    codes = _Codes(len(x))
    copied = copy.deepcopy(net).train()
    with torch.enable_grad():
        logits = copied(x.detach().clone().requires_grad_())
    for node in _graph(logits):
        saved = _SAVED.get(node.name())
        if saved is not None:
            codes.add(getattr(node, saved).detach())
    return codes


def _graph(value: Tensor) -> Iterator[Node]:
    """Every operation that autograd recorded on the way to ``value``, once."""
    waiting = [] if value.grad_fn is None else [value.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for earlier, _ in node.next_functions:
            if earlier is not None and earlier not in seen:
                seen.add(earlier)
                waiting.append(earlier)


def _loss_gradients(net: nn.Module, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    copied = copy.deepcopy(net).train()
    weights = list(_weights(copied))
    return weights, _gradients(F.cross_entropy(copied(x), y), weights)


def _gradients(total: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a scalar, zero for what it does not depend on."""
    return list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))


def _weights(net: nn.Module) -> Iterator[Tensor]:
    norms = {
        id(p) for m in net.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)
    }
    for p in net.parameters():
        if p.requires_grad and p.ndim >= 2 and id(p) not in norms:
            yield p


def _total(terms: Iterator[Tensor]) -> float:
    zero = torch.zeros((), dtype=torch.float64)
    return sum((term.detach().double() for term in terms), zero).item()


def _ranks(columns: pd.DataFrame | Mapping[str, pd.Series]) -> pd.DataFrame:
    return pd.DataFrame(columns).rank(na_option="top")


def _at_least_two(x: Tensor) -> None:
    if len(x) < 2:
        raise SpecError(
            f"the images must be at least 2, to be compared with each other, but got {len(x)}"
        )


def _clock(x: Tensor) -> float:
    return time.process_time() if x.device.type == "cpu" else time.perf_counter()
