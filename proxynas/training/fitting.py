"""The one training loop. Everything that trains a network goes through :func:`fit`.

Replicas of one architecture (its seeds) train together where that is faster: their parameters are
stacked and one ``torch.func.vmap`` call does the work of all. ``make bench`` measures where that
pays; :func:`fusion_pays` is the rule read off it. The rule looks only at sizes, so a run gives the
same numbers however often it is interrupted.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import seeds
from ..datasets.feed import Feed
from ..nets.flops import forward_flops
from ..specs import Loss, Recipe
from .curriculum import Curriculum

Watch = Callable[[int, nn.Module, Tensor], None]
"""Called with a replica's place, its network, and its training losses so far, float64
(updates,)."""


@dataclass(frozen=True)
class Trained:
    """What :func:`fit` gives back, one entry per replica.

    ``losses`` float64 (R, updates) are the training losses before each update, NaN once a replica
    has failed.
    """

    nets: list[nn.Module]
    losses: Tensor
    failed: tuple[str | None, ...]  # why a replica's training ended early, or None
    seconds: float  # wall-clock time of the whole call

    def sotl(self, burn_in: int = 0) -> Tensor:
        """Sum of training losses (Ru et al. 2021) after ``burn_in`` updates, float64 (R,)."""
        return self.losses[:, burn_in:].sum(1)


# reason: the one way to train; all arguments but four have defaults
def fit(
    nets: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    seed: int = 0,
    replicas: Sequence[int] | None = None,
    fused: bool | None = None,
    curriculum: Curriculum | None = None,
    watch: Watch = lambda place, net, losses: None,
    watch_at: Collection[int] = (),
) -> Trained:
    """Train replicas of one architecture, each on its own order of the same data.

    Args:
        nets: the replicas, freshly initialised; they are trained in place and given back.
        x: images (N, C, H, W) or rows (N, D), float.
        y: labels, int64 (N,) or float (N, K).
        recipe: optimiser, rate, updates, batch size, loss.
        seed: of the data order, the augmentation and dropout; replica ``r`` uses the streams
            ``(seed, "order", replicas[r])`` and ``(seed, "augment", replicas[r])``.
        replicas: the replicas' numbers; by default 0, 1, 2, …
        fused: train them in one call, one after the other, or (``None``) as :func:`fusion_pays`
            says.
        curriculum: the images of each update, and its learning rate; then ``recipe.batch_size`` is
            not used, and where it has learning rates neither are the recipe's rate and schedule.
        watch: called with a replica's place in ``nets``, the network and its losses so far when it
            has done one of ``watch_at`` updates; it may switch modes and touch batch-norm averages,
            nothing else. What it raises ends the training.
        watch_at: numbers of updates.

    A loss that is not finite ends that replica; the others continue.
    """
    # Ten parameters: a public function, of which all but the first four are seldom given.
    started = time.perf_counter()
    numbers = range(len(nets)) if replicas is None else replicas
    if curriculum is None:
        orders = [batches(len(x), recipe, seeds.generator(seed, "order", r)) for r in numbers]
    else:
        curriculum.check(len(x))
        orders = [curriculum.batches() for _ in numbers]
    feed = Feed(x, y, recipe.augment, tuple(seeds.generator(seed, "augment", r) for r in numbers))
    run = _Run(recipe, feed, partial(_rate, recipe, curriculum), watch, watch_at)
    if fused is None:
        fused = fusion_pays(nets, x, recipe)
    for net in nets:
        net.train()
    with seeds.seeded(seeds.derive(seed, "dropout", *numbers)):  # drawn from the global generator
        losses = (_fit_fused if fused else _fit_each)(nets, run, orders)
    bad = ~torch.isfinite(losses)
    failed = tuple(_reason(row) for row in bad)
    losses = losses.masked_fill(bad.cumsum(1) > 0, math.nan)
    return Trained(list(nets), losses, failed, time.perf_counter() - started)


def batches(n: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches (B,) without end: shuffled passes over ``n`` items laid end to end.

    Where all items fit into a batch, each batch is all of them.
    """
    size = min(n, recipe.batch_size)
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(n, generator=generator)])
        yield queue[:size]
        queue = queue[size:]


def loss_of(logits: Tensor, y: Tensor, kind: Loss) -> Tensor:
    """Mean loss over a batch: logits (B, K) against labels (B,) or (B, K)."""
    if kind == "cross-entropy":
        return F.cross_entropy(logits, y)
    target = y if y.is_floating_point() else F.one_hot(y, logits.shape[-1]).to(logits.dtype)
    return F.l1_loss(logits, target) if kind == "l1" else F.mse_loss(logits, target)


@torch.no_grad()
def evaluate(net: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy on inputs (N, …) with hard labels (N,)."""
    net.eval()
    correct = loss = 0.0
    for start in range(0, len(x), batch_size):
        logits, target = net(x[start : start + batch_size]), y[start : start + batch_size]
        correct += (logits.argmax(1) == target).sum().item()
        loss += F.cross_entropy(logits, target, reduction="sum").item()
    return correct / len(x), loss / len(x)


@torch.no_grad()
def calibrate(net: nn.Module, x: Tensor) -> None:
    """Set the averages that batch norms use in evaluation to those of the inputs ``x`` (N, …).

    It takes one forward pass.

    A network trained on a proxy set has the set's averages, and those are not what real images look
    like: without this its accuracy says more about batch norm than about the architecture
    (``experiments/README.md``). Li et al. 2016 ("Revisiting batch normalization for practical
    domain adaptation"). No labels are used and no weight changes.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    net.train()
    net(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def make_optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; elementwise, so stacked parameters are treated like single ones."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def rate_at(recipe: Recipe, update: int) -> float:
    """The learning rate of update number ``update`` (from 0)."""
    if update < recipe.warmup:
        return recipe.lr * (update + 1) / recipe.warmup
    update, updates = update - recipe.warmup, recipe.updates - recipe.warmup
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * update / updates))
    return recipe.lr * (0.1 if recipe.schedule == "step" and 2 * update >= updates else 1.0)


def fusion_pays(nets: Sequence[nn.Module], x: Tensor, recipe: Recipe) -> bool:
    """Whether one stacked call beats one replica after the other, for these sizes.

    On a CPU it does for three or more small replicas, whose time goes into calls and not into
    arithmetic; on an accelerator for any two. Never for attention, which ``vmap`` does one by one.
    """
    if len(nets) < 2:
        return False
    if any(isinstance(module, nn.MultiheadAttention) for module in nets[0].modules()):
        return False
    if x.device.type != "cpu":
        return True
    if len(nets) < 3:
        return False
    batch = min(len(x), recipe.batch_size)
    return batch * forward_flops(nets[0], x[:1]) <= FUSION_LIMIT


FUSION_LIMIT = 20_000_000
"""Operations of a replica's forward pass on one batch, up to which three fused replicas beat one
after the other. Read off ``make bench`` on two cores of an AMD EPYC (Zen 5)."""


@dataclass(frozen=True)
class _Run:
    """One call of :func:`fit`: ``rate`` gives the learning rate of an update."""

    recipe: Recipe
    feed: Feed
    rate: Callable[[int], float]
    watch: Watch
    watch_at: Collection[int]


def _rate(recipe: Recipe, curriculum: Curriculum | None, update: int) -> float:
    usual = rate_at(recipe, update)
    return usual if curriculum is None else curriculum.rate(update, usual)


def _fit_each(nets: Sequence[nn.Module], run: _Run, orders: Sequence[Iterator[Tensor]]) -> Tensor:
    losses = torch.full((len(nets), run.recipe.updates), math.nan, dtype=torch.float64)
    for place, (net, order, row) in enumerate(zip(nets, orders, losses, strict=True)):

        def step(batch: Tensor, place: int = place, net: nn.Module = net) -> Tensor:
            logits = net(run.feed.images(batch, place))
            return loss_of(logits, run.feed.y[batch], run.recipe.loss)[None]

        def look(losses: Tensor, place: int = place, net: nn.Module = net) -> None:
            run.watch(place, net, losses[0])
            net.train()

        _descend(list(net.parameters()), step, run, order, row[None], look)
    return losses


def _fit_fused(nets: Sequence[nn.Module], run: _Run, orders: Sequence[Iterator[Tensor]]) -> Tensor:
    parameters, buffers = stack_module_state(list(nets))

    def one(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_of(functional_call(nets[0], (p, b), (x,)), y, run.recipe.loss)

    def step(batch: Tensor) -> Tensor:  # batch (R, B) -> losses (R,)
        x, y = run.feed.stacked(batch), run.feed.y[batch]
        result: Tensor = vmap(one, randomness="different")(parameters, buffers, x, y)
        return result

    def unstack() -> None:
        stacked = {**parameters, **buffers}
        with torch.no_grad():
            for r, net in enumerate(nets):
                net.load_state_dict({name: value[r] for name, value in stacked.items()})

    def look(losses: Tensor) -> None:
        unstack()
        for place, net in enumerate(nets):
            run.watch(place, net, losses[place])
            net.train()

    losses = torch.full((len(nets), run.recipe.updates), math.nan, dtype=torch.float64)
    order = (torch.stack(rows) for rows in zip(*orders, strict=True))
    _descend(list(parameters.values()), step, run, order, losses, look)
    unstack()
    return losses


def _descend(
    parameters: list[Tensor],
    step: Callable[[Tensor], Tensor],
    run: _Run,
    order: Iterator[Tensor],
    losses: Tensor,
    look: Callable[[Tensor], None],
) -> None:
    """Run the updates, writing the loss before each into ``losses`` (R, updates); ``look`` gets
    those so far."""
    optimizer = make_optimizer(parameters, run.recipe)
    kept = []
    for update, batch in zip(range(run.recipe.updates), order, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(update)
        loss = step(batch)  # (R,)
        optimizer.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        kept.append(loss.detach())
        if update + 1 in run.watch_at:
            look(torch.stack(kept, 1).to("cpu", torch.float64))
        if (update + 1) % CHECK_EVERY == 0 and not torch.isfinite(kept[-1]).any():
            break
    losses[:, : len(kept)] = torch.stack(kept, 1).to("cpu", torch.float64)


CHECK_EVERY = 25
"""Updates between looks at the loss; each look waits for the device."""


def _reason(bad: Tensor) -> str | None:
    if not bad.any():
        return None
    return f"the training loss stopped being finite at update {int(bad.int().argmax())}"
