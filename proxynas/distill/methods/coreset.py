"""Coresets: real images chosen instead of learned, the baselines every distilled set has to beat.

Images x of one class, their features φ(x) with mean m; sᵢ is the i-th that is chosen, as yet not
chosen, i = 1 … ipc:

    random       sᵢ = any x
    herding      sᵢ = argminₓ ‖m − (φ(s₁) + … + φ(sᵢ₋₁) + φ(x)) / i‖                 (Welling 2009)
    k-center     sᵢ = argmaxₓ minⱼ ‖φ(x) − φ(sⱼ)‖,   s₁ = argminₓ ‖φ(x) − m‖           (Wolf 2011)
    forgetting   sᵢ = argmaxₓ #{t : x right when last seen before t, wrong at t}     (Toneva 2019)
    best-random  S  = argmax over random sets of a network's validation accuracy when trained on S
    entropy      sᵢ ~ (maxᵦ h(b) − h(b(x)) + 1) / h(b(x)),   h(b): images in bin b      (Na 2021)
    el2n         sᵢ = argmaxₓ meanₙ ‖softmax fₙ(x) − onehot(y)‖                        (Paul 2021)

Herding brings the mean feature of the chosen images nearest to that of the class; k-center, here
the greedy one of Sener & Savarese 2018, leaves no image far from a chosen one. Forgetting takes the
images that a network in training forgets most often; one that it never had right counts as
forgotten without end. Entropy, "proxy data" made for architecture search, draws from a histogram of
the logarithm of the entropy of a trained network's prediction, rare bins (images that are very
easy, or hard) oftener than frequent ones. EL2N takes the images on which several networks err most,
early in their training. Optimal random selection draws many random coresets and keeps the one on
which a small network validates best.

This is how Zhao 2021 (§3.1 and appendix) uses the first four, each class on its own; best-random is
a fairer "random" for whoever may validate. Herding and k-center take the features of a network
trained on the whole data, a ConvNet (an MLP on tables), before its last layer. All training is part
of what a method costs.

Where implementations differ: Toneva 2019 counts over 200 epochs; our default of 10 is what a
baseline may cost, and ties are broken at random. Na 2021 draws without looking at classes, after
longer training; the bins are of half a power of ten, its code's for CIFAR-10. Paul 2021 averages
ten networks after twenty of 200 epochs, and keeps half of the data and more.
"""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn
from torch.nn import functional as F

from ... import training
from ...core import seeds, settings
from ...core.errors import DivergedError
from ...nets import convnet, mlp
from ..method import Method, S, State, Task, class_labels, draw, real_images

Positive = Annotated[int, Field(ge=1)]


@checked(frozen=True, config=settings.CONFIG)
class Random:
    """Random selection has no settings."""


@checked(frozen=True, config=settings.CONFIG)
class Features:
    """Settings of herding and k-center: the network whose features are used, and its training."""

    width: Positive = 64
    updates: Positive = 500
    batch_size: Positive = 128
    lr: Annotated[float, Field(gt=0)] = 0.01


@checked(frozen=True, config=settings.CONFIG)
class Forgetting:
    """Settings of forgetting: the network that forgets, and its training."""

    width: Positive = 64
    epochs: Annotated[int, Field(ge=2)] = 10
    batch_size: Positive = 128
    lr: Annotated[float, Field(gt=0)] = 0.01


@checked(frozen=True, config=settings.CONFIG)
class Entropy(Features):
    """Settings of entropy: the network that predicts, its training, and the width of a bin."""

    bin_width: Annotated[float, Field(gt=0)] = 0.5  # of log10 of the entropy in nats


@checked(frozen=True, config=settings.CONFIG)
class EL2N(Features):
    """Settings of EL2N: the networks that err, and their training, which is short."""

    networks: Positive = 3
    updates: Positive = 200


@checked(frozen=True, config=settings.CONFIG)
class BestRandom:
    """Settings of optimal random selection: how many draws, and the network that judges them."""

    draws: Positive = 20
    width: Positive = 32
    updates: Positive = 100
    batch_size: Positive = 256
    lr: Annotated[float, Field(gt=0)] = 0.01


def init_random(task: Task[Random]) -> State:
    """Real images drawn at random, (C, ipc, …)."""
    return {"x": real_images(task.dataset, task.ipc, seeds.generator(task.seed, "random"))}


def init_herding(task: Task[Features]) -> State:
    """Real images whose features average as the whole class's do, (C, ipc, …)."""
    features = _features(task, "herding")  # (N, F)
    return _choose(task, "herding", lambda members: herd(features[members], task.ipc))


def init_kcenter(task: Task[Features]) -> State:
    """Real images that leave no other of their class far away in feature space, (C, ipc, …)."""
    features = _features(task, "kcenter")  # (N, F)
    return _choose(task, "kcenter", lambda members: farthest_first(features[members], task.ipc))


def init_forgetting(task: Task[Forgetting]) -> State:
    """The real images forgotten most often, (C, ipc, …)."""
    forgetting = task.settings
    x, y = task.dataset.train.x, task.dataset.train.y
    size = min(forgetting.batch_size, len(x))
    updates = max(1, forgetting.epochs * len(x) // size)
    recipe = training.Recipe(updates, size, lr=forgetting.lr)
    net = _network(task, "forgetting", forgetting.width)
    seed = seeds.derive(task.seed, "forgetting", "order")
    counts = forgetting_events(net, x, y, recipe, seed)  # (N,)

    def most_forgotten(members: Tensor) -> Tensor:
        return counts[members].argsort(descending=True, stable=True)[: task.ipc]

    return _choose(task, "forgetting", most_forgotten)


def init_best_random(task: Task[BestRandom]) -> State:
    """The random coreset (C, ipc, …) on which a small network reaches the best validation accuracy.

    Of equally good ones it is the first.
    """
    best_random = task.settings
    dataset = task.dataset
    recipe = training.Recipe(best_random.updates, best_random.batch_size, lr=best_random.lr)
    y = class_labels(dataset.num_classes, task.ipc, dataset.train.x.device)
    order_seed = seeds.derive(task.seed, "best-random", "order")
    best = -1.0
    chosen = torch.empty(0)
    for n in range(best_random.draws):
        x = real_images(dataset, task.ipc, seeds.generator(task.seed, "best-random", n))
        net = _network(task, "best-random", best_random.width)  # the same one judges every draw
        _check("best-random", training.fit([net], x.flatten(0, 1), y, recipe, seed=order_seed))
        accuracy, _ = training.evaluate(net, dataset.val.x, dataset.val.y)
        if accuracy > best:
            best = accuracy
            chosen = x
    return {"x": chosen}


def init_entropy(task: Task[Entropy]) -> State:
    """Real images of rare entropy, (C, ipc, …), drawn with :func:`rarity` as weights."""
    logits = _logits(task, _trained(task, "entropy"))
    log_p = logits.log_softmax(1)
    weights = rarity(-(log_p.exp() * log_p).sum(1).cpu(), task.settings.bin_width)  # (N,)
    generator = seeds.generator(task.seed, "entropy", "draw")

    def drawn(members: Tensor) -> Tensor:
        chances = weights[members.cpu()]
        return chances.multinomial(task.ipc, generator=generator).to(members.device)

    return _choose(task, "entropy", drawn)


def init_el2n(task: Task[EL2N]) -> State:
    """The real images that networks are furthest from having right, (C, ipc, …)."""
    train = task.dataset.train
    onehot = F.one_hot(train.y, task.dataset.num_classes)
    errors = [
        (_logits(task, _trained(task, "el2n", n)).softmax(1) - onehot).norm(dim=1)
        for n in range(task.settings.networks)
    ]
    score = torch.stack(errors).mean(0)  # (N,)

    def furthest(members: Tensor) -> Tensor:
        return score[members].argsort(descending=True, stable=True)[: task.ipc]

    return _choose(task, "el2n", furthest)


def rarity(entropies: Tensor, bin_width: float) -> Tensor:
    """Weights (N,) of ``entropies`` (N,), in nats: P1 of Na 2021, shared by the images of a bin.

    A bin of h images has weight max h − h + 1, so that the fullest has least.
    """
    logs = entropies.double().clamp_min(torch.finfo(torch.float32).tiny).log10()
    places = (logs / bin_width).floor()
    _, bins, counts = torch.unique(places, return_inverse=True, return_counts=True)
    of_bin: Tensor = (counts.max() - counts + 1) / counts
    return of_bin[bins]


def herd(features: Tensor, n: int) -> Tensor:
    """Indices (n,) of rows of ``features`` (N, F) by herding (Welling 2009), first chosen first."""
    mean = features.mean(0)
    total = torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for size in range(1, n + 1):
        gaps = (mean - (total + features) / size).norm(dim=1).where(free, torch.inf)  # (N,)
        best = int(gaps.argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(chosen, device=features.device)


def farthest_first(features: Tensor, n: int) -> Tensor:
    """Indices (n,) of rows of ``features`` (N, F) by greedy k-center, first chosen first."""
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    gaps = (features - features[chosen[0]]).norm(dim=1)  # (N,): distance to the nearest chosen row
    gaps[chosen[0]] = -1
    for _ in range(n - 1):
        best = int(gaps.argmax())
        chosen.append(best)
        gaps = gaps.minimum((features - features[best]).norm(dim=1))
        gaps[best] = -1  # equal rows are still different images
    return torch.tensor(chosen, device=features.device)


def forgetting_events(
    net: nn.Module, x: Tensor, y: Tensor, recipe: training.Recipe, seed: int
) -> Tensor:
    """How often each of (N, …) images was forgotten while ``net`` trains on them, int64 (N,).

    An image counts when a batch has it (Toneva 2019, Algorithm 1), on the logits before that
    update. One that was never right has a count above all others.
    """
    order_generator = seeds.generator(seed, "order", 0)
    order = training.batches(len(x), recipe, order_generator)  # the very batches of training.fit
    events = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    right_before = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    ever_right = torch.zeros_like(right_before)

    def look(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        batch = next(order).to(x.device)
        right = logits.detach().argmax(1) == y[batch]
        events[batch] += (right_before[batch] & ~right).long()
        right_before[batch] = right
        ever_right[batch] |= right

    handle = net.register_forward_hook(look)
    try:
        _check("forgetting", training.fit([net], x, y, recipe, seed=seed, fused=False))
    finally:
        handle.remove()
    return events.where(ever_right, recipe.updates + 1)


def no_step(task: Task[object], state: State, k: int) -> tuple[State, float]:
    """A coreset is whole once it is chosen."""
    raise AssertionError("a coreset has no steps")


def finish(task: Task[object], state: State) -> tuple[Tensor, Tensor]:
    """Images (C·ipc, …) and hard labels."""
    x = state["x"].flatten(0, 1)
    return x, class_labels(task.dataset.num_classes, task.ipc, x.device)


def _choose(task: Task[object], name: str, pick: Callable[[Tensor], Tensor]) -> State:
    """The images of each class that ``pick`` chooses, (C, ipc, …).

    It gets the indices of a class's images in random order, and returns places among them.
    """
    dataset = task.dataset
    generator = seeds.generator(task.seed, name)
    classes = draw(dataset.train.y, dataset.num_classes, len(dataset.train), generator)
    return {"x": torch.stack([dataset.train.x[members[pick(members)]] for members in classes])}


def _features(task: Task[Features], name: str) -> Tensor:
    """Features (N, F) of all training images, of a network trained on them."""
    net = _trained(task, name)
    with torch.no_grad():
        pieces = torch.split(task.dataset.train.x, task.settings.batch_size)
        return torch.cat([net.features(piece).flatten(1) for piece in pieces])


def _logits(task: Task[Features], net: nn.Module) -> Tensor:
    """Logits (N, K) of all training images."""
    pieces = torch.split(task.dataset.train.x, task.settings.batch_size)
    with torch.no_grad():
        return torch.cat([net(piece) for piece in pieces])


def _trained(task: Task[Features], name: str, *number: int) -> convnet.ConvNet | mlp.MLP:
    """A network trained on all training images, as the settings say, in evaluation mode.

    Raises:
        DivergedError: its loss stopped being finite.
    """
    config, train = task.settings, task.dataset.train
    net = _network(task, name, config.width, *number)
    recipe = training.Recipe(config.updates, config.batch_size, lr=config.lr)
    order_seed = seeds.derive(task.seed, name, "order", *number)
    _check(name, training.fit([net], train.x, train.y, recipe, seed=order_seed))
    return net.eval()


def _check(name: str, trained: training.Trained) -> None:
    reason = trained.failed[0]
    if reason is not None:
        raise DivergedError(f"{name}: {reason} of its network; lower its rate (--set lr=…)")


def _network(task: Task[object], name: str, width: int, *number: int) -> convnet.ConvNet | mlp.MLP:
    """The published ConvNet, ``width`` wide, or for tables an MLP as deep.

    It is initialised by the name, its number and the task's seed. Of its three blocks images under
    8×8 have as many as leave more than one pixel to the last norm.
    """
    dataset = task.dataset
    shape, classes = dataset.shape, dataset.num_classes
    net: convnet.ConvNet | mlp.MLP
    with seeds.seeded(seeds.derive(task.seed, name, "net", *number)):
        if len(shape) == 3:
            net = convnet.ConvNet(
                shape,
                classes,
                depth=max(1, min(3, int(math.log2(min(shape[1:]))))),
                width=width,
                norm="instancenorm",
                activation="relu",
                pooling="avgpooling",
            )
        else:
            net = mlp.MLP(shape, classes, depth=3, width=width, activation="relu", init="default")
    return net.to(dataset.train.x.device)


def _coreset(
    name: str, summary: str, settings_class: type[S], init: Callable[[Task[S]], State]
) -> Method[S]:
    return Method(name, summary, settings_class, 0, init, no_step, finish)


RANDOM = _coreset(
    "random",
    "a random coreset: real images drawn at random",
    Random,
    init_random,
)
HERDING = _coreset(
    "herding",
    "herding: real images near the class mean in feature space",
    Features,
    init_herding,
)
KCENTER = _coreset(
    "kcenter",
    "k-center: real images that cover their class in feature space",
    Features,
    init_kcenter,
)
FORGETTING = _coreset(
    "forgetting",
    "forgetting: the real images that training forgets most often",
    Forgetting,
    init_forgetting,
)
BEST_RANDOM = _coreset(
    "best-random",
    "the best of many random coresets, by validation accuracy",
    BestRandom,
    init_best_random,
)
ENTROPY = _coreset(
    "entropy",
    "proxy data for architecture search: real images of rare entropy",
    Entropy,
    init_entropy,
)
ERRING = _coreset(
    "el2n",
    "EL2N: the real images that networks are furthest from having right",
    EL2N,
    init_el2n,
)
METHODS = (RANDOM, HERDING, KCENTER, FORGETTING, BEST_RANDOM, ENTROPY, ERRING)
