"""``--budget``: one dial. What the user left out is chosen so that the run fits, and every choice
gets its reason.

Costs are predicted from counted operations and two short measurements on this machine: a few
updates of a middling candidate, and one distillation step. The plan is printed and written into the
run directory, so that rerunning the command keeps the plan it began with, whatever the machine does
then.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import datasets, distill, proxyset, spaces, training
from ..core import hardware, seeds, settings
from ..core.errors import SpecError
from ..core.progress import Watcher
from ..datasets import Dataset
from ..distill import students
from ..distill.loop import plan as plan_distillation
from ..engine import LOCAL, Engine
from ..nets.flops import forward_flops
from ..search.strategies import ADAPTIVE
from ..spaces import SearchSpace
from ..specs import Recipe, SearchSpec
from . import oracles, sources
from .rounds import first_candidates, make_strategy
from .run import costs
from .truth_tables import find_truth

SEARCH_SHARE = 0.35
DISTILL_SHARE = 0.2
LABEL_SHARE = (
    0.3  # of labels, verification and the winner; the search's where a truth table is charged
)
# The rest: start-up, ranking, report, and what the predictions miss.

FEWEST = 40
"""Candidates below which a correlation says too little (95 % of ρ = 0.5 is then 0.22 to 0.70)."""

MOST = 200

LADDER = (
    # ipc, updates, seeds, val_size: from what one would like down to what is cheap
    (10, 200, 3, 2000),
    (10, 100, 2, 1000),
    (1, 200, 3, 1000),
    (1, 100, 2, 1000),
    (1, 100, 1, 500),
    (1, 50, 1, 300),
    (1, 30, 1, 200),
)


@dataclass(frozen=True)
class Plan:
    """The settings chosen, the folder they belong to, and a line of reason for each choice."""

    spec: SearchSpec
    folder: Path
    reasons: tuple[str, ...]


# reason: what a search was asked for, and how it will run; all but the first four have defaults
def plan(
    budget: str,
    config: Path | None,
    flags: Mapping[str, Any],
    out: Path | None,
    *,
    workers: int | None = None,
    engine: Engine = LOCAL,
    watcher: Watcher | None = None,
) -> Plan:
    """Choose what ``flags`` and ``config`` leave out so that the search fits ``budget``.

    Raises:
        SpecError: the budget is malformed, or too short for anything.
    """
    seconds, watcher = parse(budget), watcher or Watcher()
    given = settings.given(SearchSpec, config, flags)
    first = settings.make(SearchSpec, given, where=str(config) if config is not None else "")
    folder = out or Path("runs") / "-".join(
        [Path(first.data).name, Path(first.space).stem, f"budget-{budget}"]
    )
    kept = _kept(folder, given)
    if kept is not None:
        return Plan(kept, folder, (KEPT.format(folder=folder),))
    first = replace(first, device=hardware.check(first.device))
    dataset = datasets.load_for(first, watcher.loading)
    watcher.ended()
    watcher.say(f"planning for {budget}:")
    machine = _measured(first, dataset, engine.on(first.device).workers(workers))
    charged = _charged(first, dataset, machine.space)
    share = SEARCH_SHARE + (LABEL_SHARE if charged else 0)
    spec, reasons = _search_part(first, given, dataset, machine, share * seconds)
    if charged or _charged(spec, dataset, machine.space, planned=True):
        labelling = ["the truth table is charged for labels: they take no time"]
    else:
        spec, labelling = _label_part(spec, given, dataset, machine, LABEL_SHARE * seconds)
    spec, distilling = _distill_part(spec, given, dataset, DISTILL_SHARE * seconds)
    return Plan(spec, folder, (*reasons, *labelling, *distilling))


KEPT = "the plan of {folder} is kept, since its run has begun; for another give another --out"


def parse(budget: str) -> float:
    """Seconds of ``90s``, ``10m``, ``1.5h`` or a plain number of seconds.

    Raises:
        SpecError: not such a text, or under 30 seconds.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", budget.strip())
    if match is None:
        raise SpecError(f"--budget must be a time such as 90s, 10m or 1h, but got {budget!r}")
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if seconds < 30:
        raise SpecError(
            f"--budget must be at least 30s, but got {budget!r}; starting up alone takes some "
            "seconds"
        )
    return seconds


def _kept(folder: Path, given: Mapping[str, Any]) -> SearchSpec | None:
    """The spec of a run that was begun, if what is given now agrees with it; the flow says where it
    does not."""
    path = folder / "spec.toml"
    if not path.is_file():
        return None
    return settings.make(
        SearchSpec, settings.merge(settings.read_toml(path), given), where=str(path)
    )


@dataclass(frozen=True)
class Machine:
    """What candidates of a space cost here.

    flops: operations of a forward pass of the mean candidate; speed: operations a second on one
    core, or the GPU; workers: tasks at a time.
    """

    space: SearchSpace
    flops: float
    speed: float
    workers: int


def _measured(spec: SearchSpec, dataset: Dataset, workers: int) -> Machine:
    if spec.strategy == "all":
        raise SpecError(
            "--budget plans the number of candidates, and the strategy all takes every one; leave "
            "one out"
        )
    space = spaces.load(spec.space, spec.space_options, spec.time_limit)
    cost = costs(space, dataset)
    sample = make_strategy(replace(spec, strategy="random", candidates=24), space, cost).ask(24)
    flops = [cost(arch)[1] for arch in sample]
    speed = _speed(spec, space, sample[_middle(flops)], dataset)
    return Machine(space, sum(flops) / len(flops), speed, workers)


def _charged(spec: SearchSpec, dataset: Dataset, space: SearchSpace, planned: bool = False) -> bool:
    """Whether labels come from a truth table: one that knows the candidates, where they are planned
    and no strategy chooses them, or the whole space."""
    table = find_truth(spec, dataset, space)
    if table is None or spec.oracle == "none":
        return False
    archs = None
    if planned and spec.strategy not in ADAPTIVE:
        archs = first_candidates(spec, space, make_strategy(spec, space, costs(space, dataset)))
    return oracles.knows_all(table, space, archs)


def _search_part(
    spec: SearchSpec, given: Mapping[str, Any], dataset: Dataset, machine: Machine, seconds: float
) -> tuple[SearchSpec, list[str]]:
    space, workers = machine.space, machine.workers
    wanted = min(int(given.get("candidates", FEWEST)), space.size)
    images = _images(spec)
    for ipc, updates, runs, val_size in LADDER:
        chosen = {"updates": updates, "seeds": runs, "val_size": val_size}
        tried = _with(spec, given, **chosen, **({"ipc": ipc} if images is None else {}))
        if "ipc" not in given and tried.ipc > min(dataset.class_counts()) // 10:
            continue
        runs = len(sources.training_sources(tried)) * tried.seeds
        size = tried.ipc * dataset.num_classes if images is None else images
        each = runs * _run_seconds(tried, dataset, size, machine)
        affordable = int(seconds * workers / each)
        if affordable >= wanted:
            break
    if affordable < 5:
        least = 10 * each / workers / SEARCH_SHARE
        raise SpecError(
            f"--budget is too short: about {each / workers:.0f} s per candidate on this machine; "
            f"allow at least {least:.0f}s"
        )
    n = min(given.get("candidates", min(affordable, MOST)), space.size)
    fits = affordable >= wanted
    ladder = "" if images is not None else f"ipc {tried.ipc}, "
    reasons = [
        f"this machine does {machine.speed / 1e6:,.0f} MFLOP/s per core on a middling candidate of "
        f"{space.name}",
        f"{ladder}{tried.updates} updates, {tried.seeds} seed(s): "
        + (f"the most with room for {wanted} candidates" if fits else "the least that helps"),
        f"{n} candidates: about {each * n / workers:.0f} s on {workers} core(s), the baselines "
        "included" + (f", more than the {seconds:.0f} s set aside" if n > affordable else ""),
        f"{tried.val_size} validation images score each run",
    ]
    return replace(tried, candidates=n), reasons


EPOCHS = (12, 6, 3, 1)
"""Passes over the whole data that trainings may have, from what one would like down."""

SHORT_EPOCHS = (3, 1)
"""Those of labels, from what one would like down; as many as of a whole training where they are
given as 0, or where nothing shorter fits."""

ENOUGH, FEWEST_TRAININGS = 12, 4
"""Trainings on the whole data for which fewer epochs are not accepted, and that are worth it at
all."""


def _label_part(
    spec: SearchSpec, given: Mapping[str, Any], dataset: Dataset, machine: Machine, seconds: float
) -> tuple[SearchSpec, list[str]]:
    """Labels, verification and their epochs: as many trainings on the whole data as fit, the
    winner's among them."""
    if not spec.label and not spec.verify:
        return spec, ["no labels and no verification, as asked"]
    for epochs in EPOCHS:
        tried = _with(spec, given, epochs=epochs)
        each = _whole_seconds(tried, dataset, machine)
        trainings = int(seconds * machine.workers / each) - 1
        short = _short_labels(tried, given, trainings)
        if short is not None:
            return _label_reason(short, each, machine)
        if trainings >= ENOUGH or "epochs" in given:
            break
    if trainings < FEWEST_TRAININGS and not {"label", "verify"} & set(given):
        need = (FEWEST_TRAININGS + 1) * each / machine.workers / LABEL_SHARE
        reason = (
            f"no labels and no verification: a training on the whole data takes {each:.0f} s; "
            f"they fit from --budget {need:.0f}s on"
        )
        return replace(spec, label=0, verify=0), [reason]
    verify = max(1, min(SearchSpec().verify, trainings // 4))
    label = max(0, min(SearchSpec().label, trainings - verify))
    chosen = _with(tried, given, label=label, verify=verify, label_epochs=0)
    return _label_reason(chosen, each, machine)


def _short_labels(spec: SearchSpec, given: Mapping[str, Any], trainings: int) -> SearchSpec | None:
    """As many labels as by default, of few epochs, and as many shortlisted, where the time of
    ``trainings`` whole ones has room for them and for :data:`FEWEST_TRAININGS` of those; ``None``
    where it has not."""
    verify = min(SearchSpec().verify, max(trainings // 2, 1))
    for epochs in SHORT_EPOCHS:
        tried = _with(spec, given, label_epochs=epochs, verify=verify)
        few = tried.label_epochs or 0
        if not 0 < few < tried.epochs:
            continue
        taken = (tried.label + tried.shortlisted) * few / tried.epochs
        if taken + tried.verify <= trainings >= FEWEST_TRAININGS:
            return tried
    return None


def _label_reason(spec: SearchSpec, each: float, machine: Machine) -> tuple[SearchSpec, list[str]]:
    """The settings and what they take, where a whole training takes ``each`` seconds."""
    few = spec.label_epochs or spec.epochs
    short = (spec.label + spec.shortlisted) * few / spec.epochs
    total = (short + spec.verify + 1) * each / machine.workers
    takes = f"about {total:.0f} s, the winner's training included"
    if spec.label_epochs:
        return spec, [
            f"{spec.label} labels and {spec.shortlisted} shortlisted, {few} of {spec.epochs} "
            f"epochs on the whole data each, then {spec.verify} verified with all of them: {takes}"
        ]
    return spec, [
        f"{spec.label} labels and {spec.verify} verified, {spec.epochs} epochs on the whole "
        f"data each: {takes}"
    ]


def _distill_part(
    spec: SearchSpec, given: Mapping[str, Any], dataset: Dataset, seconds: float
) -> tuple[SearchSpec, list[str]]:
    if spec.proxy is not None:
        return spec, [f"the proxy set {spec.proxy} is there: nothing to distil"]
    reasons = []
    images = dataset.is_images
    if (
        images
        and spec.method == "gm"
        and not {"student", "real_batch"} & set(spec.settings)
        and spec.device == "cpu"
    ):
        smaller = {
            "student": students.default_student(dataset.shape, 32),
            "real_batch": 64,
            **spec.settings,
        }
        spec = replace(spec, settings=smaller)
        reasons.append(
            "GM with a student of 32 filters and 64 real images a class: widths do as well (Zhao "
            "2021, Fig. 12)"
        )
    method = distill.find(spec.method)
    if method.steps == 0 or "steps" in given:
        return spec, reasons
    if method.prepare is not None:
        raise SpecError(
            f"--budget does not plan what {spec.method} trains beforehand; give --steps, or make "
            "the set with "
            "'proxynas distill' and give it as --proxy"
        )
    task, _ = plan_distillation(spec.distillation(), dataset)
    state = method.init(task)
    state, _ = method.step(task, state, 0)  # warm up
    started = time.perf_counter()
    method.step(task, state, 1)
    each = time.perf_counter() - started
    steps = max(1, min(method.steps, int(seconds / each)))
    reasons.append(
        f"{steps} steps of {spec.method}, {each:.2g} s each: {steps * each:.0f} s (published: "
        f"{method.steps})"
    )
    return replace(spec, steps=steps), reasons


def _with(spec: SearchSpec, given: Mapping[str, Any], **chosen: int) -> SearchSpec:
    kept: dict[str, Any] = {key: value for key, value in chosen.items() if key not in given}
    return replace(spec, **kept)


def _middle(values: list[int]) -> int:
    mean = sum(values) / len(values)
    return min(range(len(values)), key=lambda i: abs(values[i] - mean))


def _speed(spec: SearchSpec, space: SearchSpace, arch: str, dataset: Dataset) -> float:
    """Operations a second of training ``arch`` on one core (or the GPU), from a few updates."""
    recipe = replace(spec.candidate_recipe(), updates=4)
    x, y = dataset.train.x[:20], dataset.train.y[:20]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        space.check(arch, dataset.shape, dataset.num_classes)
        with seeds.seeded(0):
            net = space.build(arch, dataset.shape, dataset.num_classes).to(spec.device)
        training.fit([net], x, y, replace(recipe, updates=1), fused=False)  # warm up
        seconds = training.fit([net], x, y, recipe, fused=False).seconds
        return 3 * recipe.updates * len(x) * forward_flops(net, x[:1]) / max(seconds, 1e-4)
    finally:
        torch.set_num_threads(threads)


def _images(spec: SearchSpec) -> int | None:
    """How many images (or rows) the proxy set that was given has; ``None`` where one is still to be
    made."""
    return None if spec.proxy is None else len(proxyset.read(spec.proxy))


def _run_seconds(spec: SearchSpec, dataset: Dataset, size: int, machine: Machine) -> float:
    """One training run on a proxy set of ``size`` images.

    Forward and backward are three forward passes, validation is one, and calls cost something too.
    """
    recipe = spec.candidate_recipe()
    validated = spec.val_points * (min(spec.val_size, len(dataset.val)) + spec.calibrate)
    return _seconds(recipe, min(recipe.batch_size, size), validated, machine)


def _whole_seconds(spec: SearchSpec, dataset: Dataset, machine: Machine) -> float:
    """One training run on the whole data."""
    recipe = spec.whole_recipe(len(dataset.train))
    return _seconds(recipe, min(recipe.batch_size, len(dataset.train)), len(dataset.val), machine)


def _seconds(recipe: Recipe, batch: int, validated: int, machine: Machine) -> float:
    passes = 3 * recipe.updates * batch + validated
    return passes * machine.flops / machine.speed + recipe.updates * CALL_SECONDS


CALL_SECONDS = 0.0015
"""What an update costs however small the network is: some hundred PyTorch calls."""
