"""The distillation loop: budget, progress, checkpoint and resume, metering; no method sees it."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from .. import __version__, training
from ..core import hardware, seeds, settings, tensorfile
from ..core.errors import DivergedError, ProxynasError, RunFolderError, SpecError, out_of_memory
from ..core.progress import Progress
from ..datasets import Dataset
from ..proxyset import ProxySet
from ..specs import DistillSpec
from . import find
from .method import Method, Shared, State, Task

CHECKPOINT_SECONDS = 10.0
UNLIMITED_STEPS = 10**9
"""Steps where the seconds alone decide."""
OTHER_VERSION = "is of another version of proxynas"


def distill(
    spec: DistillSpec,
    dataset: Dataset,
    recipe: training.Recipe | None = None,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_shared: Callable[[int, int], None] = lambda done, total: None,
) -> ProxySet:
    """Make a proxy set.

    With ``checkpoint`` (a file) the state is saved every ten seconds and when the loop ends, but
    not after an error that the same settings would hit again. The same call resumes from it, and
    with a budget in steps ends at the very same set. The caller removes the file: a finished one
    makes the call return at once. What distillations share (experts) is made first, or taken from
    the cache; its seconds count either way. ``on_shared(done, total)`` is called on the way.

    Raises:
        SpecError: unknown method or setting, an ipc that the smallest class cannot hold, steps for
            a coreset, fewer seconds than what is shared has cost.
        RunFolderError: the checkpoint is of another distillation, or another version's.
        DivergedError: the loss stopped being finite.
    """
    method = find(spec.method)
    task, steps = plan(spec, dataset)
    hardware.reset_peak(spec.device)
    store = _Checkpoint(checkpoint, fingerprint(spec, dataset))
    restored = store.restore(dataset.train.x.device)  # first: what is shared may take hours
    shared = _prepare(method, task, spec, on_shared)
    meter = _Meter(spec.device)
    if restored is not None:
        store.check(restored[0], method, task)
    state, progress = restored or (_begin(method, task), _initial_progress(shared))
    resumed_at = progress.step if restored is not None else None
    progress.steps = steps
    meter.read(progress)
    try:
        while progress.step < steps and not _out_of_time(progress, spec):
            with store.reading(progress.step == resumed_at):
                state, loss = _step(method, task, state, progress.step)
            progress.losses.append(loss)
            progress.step += 1
            progress.loss = loss
            meter.read(progress)
            on_step(progress)
            store.save_if_due(state, progress)
    except ProxynasError:  # the same settings would fail again: nothing to resume
        raise
    except BaseException:
        meter.read(progress)
        store.save(state, progress)
        raise
    meter.read(progress)
    store.save(state, progress)
    provenance = _provenance(spec, task, progress, shared)
    return _proxy_set(method, task, state, recipe or training.Recipe(), provenance)


def plan(spec: DistillSpec, dataset: Dataset) -> tuple[Task[Any], int]:
    """Check a distillation's settings against the data; the task, and its number of steps at most.

    Raises:
        SpecError: see :func:`distill`.
    """
    method = find(spec.method)
    smallest = min(dataset.class_counts())
    if spec.ipc > smallest:
        name = dataset.class_names[dataset.class_counts().index(smallest)]
        limit = f"at most {smallest}, the images that class {name!r} has"
        raise SpecError(f"ipc must be {limit}, but got {spec.ipc}")
    steps = method.steps if spec.steps is None else spec.steps
    if method.steps == 0 and steps > 0:
        raise SpecError(
            f"{spec.method} selects images and takes no steps, but steps is {steps}; leave it out"
        )
    if spec.seconds is not None and spec.steps is None and method.steps > 0:
        steps = UNLIMITED_STEPS
    config = settings.make(method.settings, spec.settings, where=f"settings of {spec.method}")
    planned = steps if steps < UNLIMITED_STEPS else None
    task = Task(dataset, spec.ipc, config, spec.seed, planned)
    method.check(task)
    return task, steps


def fingerprint(spec: DistillSpec, dataset: Dataset) -> str:
    """Identifies a distillation by its settings, data and kind of device, whatever the budget in
    seconds."""
    described = settings.to_dict(spec) | {"device": spec.device.partition(":")[0]}
    for key in ("seconds", "clock", "data", "data_root", "download"):
        described.pop(key, None)
    text = json.dumps({**described, "fingerprint": dataset.fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Meter:
    """Seconds and memory of this call, added to a progress at every reading."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._wall = time.perf_counter()
        self._core = time.process_time()

    def read(self, progress: Progress) -> None:
        """Add the seconds since the last reading."""
        wall = time.perf_counter()
        core = time.process_time()
        progress.seconds += wall - self._wall
        progress.core_seconds += core - self._core
        progress.peak_mib = max(progress.peak_mib, hardware.peak_mib(self._device))
        self._wall = wall
        self._core = core


@dataclass
class _Checkpoint:
    """State and progress in a file, or nowhere; ``key`` says of which distillation."""

    path: Path | None
    key: str
    saved: float = field(default_factory=time.perf_counter)

    def save(self, state: State, progress: Progress) -> None:
        if self.path is None:
            return
        tensorfile.write(self.path, {"key": self.key, "progress": asdict(progress)}, state)
        self.saved = time.perf_counter()

    def save_if_due(self, state: State, progress: Progress) -> None:
        if time.perf_counter() - self.saved > CHECKPOINT_SECONDS:
            self.save(state, progress)

    def restore(self, device: torch.device) -> tuple[State, Progress] | None:
        """What was saved, if anything.

        Raises:
            RunFolderError: it is unreadable, changed since, or of another distillation.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            about, tensors = tensorfile.read(self.path)
            if about.get("key") != self.key:
                other = f"{self.path} is the checkpoint of another distillation"
                raise RunFolderError(f"{other}; give another --out, or remove it")
            progress = TypeAdapter(Progress).validate_python(about.get("progress"))
        except ValueError as error:  # an unsound file, or progress that is none
            unsound = isinstance(error, tensorfile.UnsoundError)
            raise self._refused(str(error) if unsound else OTHER_VERSION) from None
        return {name: tensor.to(device) for name, tensor in tensors.items()}, progress

    def check(self, state: State, method: Method[Any], task: Task[Any]) -> None:
        """Refuse a restored state that the method can make no set of.

        Raises:
            RunFolderError: its tensors are missing, or others.
        """
        with self.reading():
            x, _ = method.finish(task, state)
        like = task.dataset.train.x
        if x.shape[1:] != like.shape[1:] or x.dtype != like.dtype:
            raise self._refused(OTHER_VERSION)

    @contextmanager
    def reading(self, restored: bool = True) -> Iterator[None]:
        """What a method raises over a state as it was restored is the checkpoint's fault.

        Raises:
            RunFolderError: a tensor is missing, or not as the method left it.
        """
        try:
            yield
        except ProxynasError:
            raise
        except Exception as error:
            if not restored or out_of_memory(error):
                raise
            raise self._refused(OTHER_VERSION) from error

    def _refused(self, problem: str) -> RunFolderError:
        return RunFolderError(
            f"the checkpoint {self.path} {problem}; remove it to start this distillation again"
        )


def _prepare(
    method: Method[Any], task: Task[Any], spec: DistillSpec, on_done: Callable[[int, int], None]
) -> Shared | None:
    """What the method shares with other distillations, if anything."""
    if method.prepare is None:
        return None
    meter, spent = _Meter(spec.device), Progress()

    def count(done: int, total: int) -> None:
        on_done(done, total)
        meter.read(spent)
        if done < total and spec.seconds is not None and _spent(spent, spec) >= spec.seconds:
            raise SpecError(
                f"seconds is {spec.seconds:g}, which {done} of {total} shared by distillations "
                f"with {method.name} took already; give more seconds, or fewer of them"
            )

    shared = method.prepare(task, count)
    if spec.seconds is not None and _spent(shared, spec) >= spec.seconds:
        took = f"the {shared.what} of {method.name} alone took {_spent(shared, spec):.1f}"
        advice = f"give more seconds, or fewer {shared.what}"
        raise SpecError(f"seconds is {spec.seconds:g}, but {took}; {advice}")
    return shared


def _out_of_time(progress: Progress, spec: DistillSpec) -> bool:
    return spec.seconds is not None and _spent(progress, spec) >= spec.seconds


def _spent(cost: Progress | Shared, spec: DistillSpec) -> float:
    """Seconds by the clock that limits the distillation."""
    return cost.core_seconds if spec.core_clock else cost.seconds


def _initial_progress(shared: Shared | None) -> Progress:
    """That of a new distillation, which has cost what it shares with others."""
    if shared is None:
        return Progress()
    return Progress(
        seconds=shared.seconds, core_seconds=shared.core_seconds, peak_mib=shared.peak_mib
    )


def _begin(method: Method[Any], task: Task[Any]) -> State:
    with seeds.seeded(seeds.derive(task.seed, method.name, "global")):
        return method.init(task)


def _step(method: Method[Any], task: Task[Any], state: State, k: int) -> tuple[State, float]:
    with seeds.seeded(seeds.derive(task.seed, method.name, "global", k)):  # dropout draws from it
        state, loss = method.step(task, state, k)
    if not math.isfinite(loss):
        diverged = f"{method.name} diverged at step {k}: its loss is {loss}"
        raise DivergedError(f"{diverged}; lower its learning rate (--set lr=…)")
    return state, loss


def _proxy_set(
    method: Method[Any],
    task: Task[Any],
    state: State,
    recipe: training.Recipe,
    provenance: dict[str, Any],
) -> ProxySet:
    x, y = method.finish(task, state)
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise DivergedError(
            f"{method.name} made a set with infinite values; lower its learning rate (--set lr=…)"
        )
    extras = method.extras(task, state)
    return ProxySet(
        x.cpu(),
        y.cpu(),
        task.dataset.preprocessing,
        task.dataset.class_names,
        replace(recipe, **extras.recipe),
        provenance,
        extras.curriculum,
        extras.generator,
    )


def _provenance(
    spec: DistillSpec, task: Task[Any], progress: Progress, shared: Shared | None
) -> dict[str, Any]:
    every = max(1, len(progress.losses) // 100)
    provenance = {
        "method": spec.method,
        "ipc": spec.ipc,
        "seed": spec.seed,
        "steps": progress.step,
        "settings": settings.to_dict(task.settings),
        "data": task.dataset.name,
        "fingerprint": task.dataset.fingerprint,
        "seconds": round(progress.seconds, 3),
        "core_seconds": round(progress.core_seconds, 3),
        "peak_mib": round(progress.peak_mib, 1),
        "loss_every": every,
        "losses": [round(loss, 6) for loss in progress.losses[::every]],
        "made_on": hardware.describe(spec.device),
        "spec": fingerprint(spec, task.dataset),
        "versions": {"proxynas": __version__, "torch": torch.__version__},
    }
    if shared is not None:  # its seconds are among the seconds above
        provenance["shared"] = {
            **asdict(shared),
            "seconds": round(shared.seconds, 3),
            "core_seconds": round(shared.core_seconds, 3),
        }
    return provenance
