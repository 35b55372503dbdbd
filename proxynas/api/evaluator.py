"""Scoring networks of any loop on a proxy set, one at a time, with values on the way."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

import torch
from torch import Tensor, nn

from .. import proxyset
from ..core import hardware, settings
from ..core.errors import NetworkError, SpecError
from ..core.text import quoted
from ..datasets import Dataset, Split
from ..nets.flops import forward_flops
from ..proxyset import ProxySet
from ..search.score import Glimpse, Source, Work, score
from ..search.sources import PROXY
from ..search.store import Score, sotl_late
from ..specs import Recipe, RunSpec
from .undisturbed import undisturbed

Report = Callable[[int, float], None]
"""Called with a number of updates and the value of an indicator then; what it raises ends the
training."""

TRAINED = ("val_accuracy", "val_loss", "val_auc", "sotl", "sotl_late")
"""Indicators that are read off the training."""

COSTS = ("parameters", "flops")

INDICATORS = (*TRAINED, *COSTS)
"""Everything that an evaluation gives."""


@dataclass(frozen=True)
class Evaluation(Mapping[str, float]):
    """What a network is worth: a mapping from the names of indicators to their values.

    ``val_accuracy`` in [0, 1], ``val_loss``, ``val_auc`` (mean validation accuracy on the way; NaN
    with one validation), ``sotl`` (training loss sum), ``sotl_late`` (of the second half),
    ``parameters``, and ``flops`` of one input's forward pass. Those of several seeds are means over
    the trainings that did not fail; where all failed, what training gives is NaN and ``failed``
    says why. ``seconds`` are wall-clock, ``core_seconds`` those of one core, building, training and
    validating.
    """

    indicators: Mapping[str, float]
    seconds: float
    core_seconds: float
    failed: str | None = None

    def __getitem__(self, name: str) -> float:
        return self.indicators[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.indicators)

    def __len__(self) -> int:
        return len(self.indicators)


@dataclass(frozen=True)
class Evaluator:
    """Trains networks on a proxy set and validates them on real images.

    It is made once, changes nothing outside itself, and can be pickled. Of ``data`` it keeps only
    what it needs, copied: the ``val_size`` validation images and ``calibrate`` training images (no
    path, so the data need not be where it is sent to).

    Args:
        proxy: the proxy set; it must be of these data.
        data: the real data. Test images are never looked at, and not kept.
        recipe: how networks are trained; ``None``: as the set says.
        seeds: trainings of each network, from different initialisations, fused where that is
            faster.
        val_size: validation images.
        val_points: validations of each training, evenly spread, the last at its end.
        calibrate: real training images that batch norms see before each validation; 0: none.
        device: where networks are trained: cpu, cuda, cuda:N or auto.

    Raises:
        ProxyFileError: the set is of other data.
        SpecError: a number is out of range.

    >>> import proxynas as pn
    >>> data, proxy = pn.load_data("digits"), pn.read_proxy("digits-gm-ipc1")
    >>> evaluator = pn.Evaluator(proxy, data, recipe=pn.Recipe(updates=20), val_points=2)
    >>> space = pn.load_space("convnet-grid")
    >>> net = space.build("D1-W32-relu-none-avgpooling", data.shape, data.num_classes)
    >>> evaluation = evaluator.evaluate(net, report=lambda update, value: print("update", update))
    update 10
    update 20
    >>> list(evaluation)
    ['val_accuracy', 'val_loss', 'val_auc', 'sotl', 'sotl_late', 'parameters', 'flops']
    >>> 0 <= evaluation["val_accuracy"] <= 1, evaluation.seconds > 0
    (True, True)
    """

    proxy: ProxySet = field(repr=False)
    data: Dataset = field(repr=False)
    recipe: Recipe | None = None
    seeds: int = 1
    val_size: int = RunSpec.val_size
    val_points: int = 5
    calibrate: int = RunSpec.calibrate
    device: str = "cpu"

    def __post_init__(self) -> None:
        proxyset.check(self.proxy, self.data)
        numbers = ("seeds", "val_size", "val_points", "calibrate")
        settings.make(RunSpec, {name: getattr(self, name) for name in numbers}, "an evaluator")
        if self.val_points > self.trained_by.updates:
            raise SpecError(
                f"val_points must be at most the {self.trained_by.updates} updates, "
                f"but got {self.val_points}"
            )
        object.__setattr__(self, "data", _kept(self.data, self.val_size, self.calibrate))

    @property
    def trained_by(self) -> Recipe:
        """How networks are trained: batches no larger than the set, the loss of its labels, the
        momentum of its learned rates."""
        return proxyset.candidate_recipe(self.proxy, self.recipe or self.proxy.recipe)

    def evaluate(
        self,
        network: nn.Module | Callable[[], nn.Module],
        *,
        name: str = "",
        indicator: str = "val_accuracy",
        report: Report | None = None,
        seed: int = 0,
        device: str | None = None,
    ) -> Evaluation:
        """Train a network on the proxy set, and validate it.

        Args:
            network: maps inputs (B, …) to logits (B, K). A copy of it is trained, from the weights
                that it has; or a function without arguments that makes a fresh one.
            name: what the random choices of this network are derived from, beside ``seed``. With an
                architecture's name and a function that builds it, the indicators are those of
                ``proxynas search`` by the same settings.
            indicator: what ``report`` is told, and for ``val_auc``, ``sotl`` and ``sotl_late`` what
                it is so far.
            report: called at each validation. With several seeds it hears of the first.
            seed: of initialisation, data order and dropout.
            device: instead of the evaluator's.

        The global generators of Python, NumPy and PyTorch, its number of threads and its flags are
        afterwards as before, also where ``report`` raises: that ends the training and is raised
        from here. Evaluations in several threads take turns: for several at a time use processes.

        Raises:
            NetworkError: it is no network, does not take these inputs, gives other than K logits,
                or has no weights to train; or a network that is made already with several seeds.
            SpecError: an unknown indicator.
            DeviceError: there is no such device.
        """
        check_indicator(indicator)
        device = hardware.check(device or self.device)
        with undisturbed():
            started, core = time.perf_counter(), _core_clock(device)
            networks = _Networks(network, self.seeds)
            watch = _told(report, indicator, self.trained_by.updates)
            rows = score(
                self._work(networks, seed, device), PROXY, name, list(range(self.seeds)), watch
            )
            indicators = _means(rows) | networks.costs
            seconds, core_seconds = time.perf_counter() - started, _core_clock(device) - core
        if report is not None:
            report(self.trained_by.updates, (_means(rows[:1]) | networks.costs)[indicator])
        every = all(row.failed for row in rows)
        return Evaluation(indicators, seconds, core_seconds, rows[0].failed if every else None)

    def _work(self, networks: "_Networks", seed: int, device: str) -> Work:
        source = Source(
            PROXY,
            self.proxy.x,
            self.proxy.y,
            self.trained_by,
            calibration=self.data.train.x if self.calibrate else None,
            val_points=self.val_points,
            curriculum=self.proxy.curriculum,
        )
        return Work(networks, self.data, {PROXY: source}, seed, device).placed()


def _kept(data: Dataset, val_size: int, calibrate: int) -> Dataset:
    """The images that evaluating takes, copied: a view would take its whole tensor along."""

    def first(split: Split, n: int) -> Split:
        return Split(split.x[:n].detach().cpu().clone(), split.y[:n].detach().cpu().clone())

    return replace(
        data,
        train=first(data.train, calibrate),
        val=first(data.val, val_size),
        test=first(data.test, 0),
    )


class _Networks:
    """Makes the replicas of one network, and checks the first."""

    def __init__(self, network: nn.Module | Callable[[], nn.Module], replicas: int) -> None:
        self.network = network
        self.costs: dict[str, float] = {}
        if not callable(network):
            raise NetworkError(
                f"expected a network, or a function that makes one, but got {quoted(network)}; an "
                "architecture is built first: space.build(arch, data.shape, data.num_classes)"
            )
        if isinstance(network, nn.Module) and replicas > 1:
            raise NetworkError(
                f"seeds is {replicas}, but a network has one initialisation; "
                "give a function that makes it, such as lambda: Net(width=32)"
            )

    def build(self, arch: str, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A copy of the network, or a new one."""
        given = self.network
        net = copy.deepcopy(given) if isinstance(given, nn.Module) else given()
        if not isinstance(net, nn.Module):
            raise NetworkError(
                "the function must return a torch.nn.Module, but returned "
                f"{type(net).__name__}; give a network, or a function that makes one"
            )
        if not self.costs:
            net = net.cpu()
            self.costs = _costs(net, shape, classes)
        return net


def _costs(net: nn.Module, shape: tuple[int, ...], classes: int) -> dict[str, float]:
    """Parameters and FLOPs of a network that fits the data.

    Raises:
        NetworkError: it does not.
    """
    modes = [(module, module.training) for module in net.modules()]
    try:
        with torch.no_grad():
            logits = net.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise NetworkError(
            f"the network does not take inputs of shape (B, {', '.join(map(str, shape))}): "
            f"{' '.join(str(error).split())}"
        ) from error
    for module, training in modes:
        module.training = training
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NetworkError(
            f"the network must give logits of shape (2, {classes}) for two inputs, one for each "
            f"class, but gave {got}; make its last layer give {classes}"
        )
    trainable = [p for p in net.parameters() if p.requires_grad]
    if not trainable:
        raise NetworkError(
            "the network has no weights to train; leave requires_grad on, or rank it by zero-cost "
            "indicators"
        )
    flops = forward_flops(net, torch.zeros(1, *shape))
    return {"parameters": float(sum(p.numel() for p in trainable)), "flops": float(flops)}


def check_indicator(name: str, known: Sequence[str] = INDICATORS) -> None:
    """Refuse a name that is none of those that are known, by default :data:`INDICATORS`.

    Raises:
        SpecError: lists those that there are.
    """
    if name not in known:
        raise SpecError(f"the indicator must be one of {', '.join(known)}, but got {name!r}")


def _told(report: Report | None, indicator: str, updates: int) -> Callable[[Glimpse], None]:
    """What tells ``report`` of the first replica."""

    def tell(glimpse: Glimpse) -> None:
        if report is not None and glimpse.place == 0 and indicator in TRAINED:
            report(len(glimpse.losses), _so_far(glimpse, indicator, updates))

    return tell


def _so_far(glimpse: Glimpse, indicator: str, updates: int) -> float:
    losses = glimpse.losses
    return {
        "val_accuracy": glimpse.accuracies[-1],
        "val_loss": glimpse.val_loss,
        "val_auc": mean(glimpse.accuracies),
        "sotl": losses.sum().item(),
        "sotl_late": losses[updates // 2 :].sum().item(),
    }[indicator]


def _means(rows: Sequence[Score]) -> dict[str, float]:
    """Of each indicator of training the mean over the rows that did not fail, else NaN."""
    values: dict[str, list[float]] = {name: [] for name in TRAINED}
    for row in (row for row in rows if row.failed is None):
        late = sotl_late(row.losses)
        found = (row.val_accuracy, row.val_loss, row.val_auc, row.sotl, late)
        for name, value in zip(TRAINED, found, strict=True):
            values[name].append(math.nan if value is None else value)
    return {name: mean(column) if column else math.nan for name, column in values.items()}


def _core_clock(device: str) -> float:
    """Seconds of this thread, which does all of the work on a CPU; on a GPU wall-clock ones."""
    return time.thread_time() if device == "cpu" else time.perf_counter()
