"""The distillation loop: budget, progress, checkpoint and resume, metering. A method sees none of
it."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .. import __version__, training
from ..core import files, hardware, settings
from ..core.errors import DivergedError, ProxynasError, RunFolderError, SpecError
from ..core.progress import Progress
from ..datasets import Dataset
from ..proxyset import ProxySet
from ..specs import DistillSpec
from . import find
from .method import Method, Shared, State, Task

CHECKPOINT_SECONDS = 10.0


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

    With ``checkpoint`` (a file) the state is saved every ten seconds and when the loop is left, but
    for an error that the same settings would end in again; the same call goes on from there, and
    with a budget in steps ends at the very same set. The file is the caller's to remove: a finished
    one makes the call return at once. What distillations share (experts) is made first, or found;
    its seconds count either way. ``on_shared(done, total)`` is told how far that is.

    Raises:
        SpecError: unknown method or setting, an ipc that the smallest class cannot hold, steps for
            a coreset, fewer seconds than what is shared has cost.
        RunFolderError: the checkpoint is of another distillation.
        DivergedError: the loss stopped being finite.
    """
    chosen = find(spec.method)
    task, steps = plan(spec, dataset)
    key = fingerprint(spec, dataset)
    restored = _restore(
        checkpoint, key, dataset.train.x.device
    )  # first: what is shared may take hours
    shared = _shared(chosen, task, spec, on_shared)
    started, started_core = time.perf_counter(), time.process_time()
    state, progress = restored or (chosen.init(task), _begun(shared))
    progress.steps = steps
    before, before_core = progress.seconds, progress.core_seconds

    def meter() -> None:
        progress.seconds = before + time.perf_counter() - started
        progress.core_seconds = before_core + time.process_time() - started_core
        progress.peak_mib = max(progress.peak_mib, hardware.peak_mib(spec.device))

    saved = time.perf_counter()
    try:
        meter()
        while progress.step < steps and (
            spec.seconds is None or _spent(progress, spec) < spec.seconds
        ):
            state, loss = _step(chosen, task, state, progress.step)
            progress.losses.append(loss)
            progress.step, progress.loss = progress.step + 1, loss
            meter()
            on_step(progress)
            if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, key, state, progress)
                saved = time.perf_counter()
    except ProxynasError:  # the same settings would fail again: there is nothing to go on from
        raise
    except BaseException:
        _keep(checkpoint, key, state, progress, meter)
        raise
    _keep(checkpoint, key, state, progress, meter)
    x, y = chosen.finish(task, state)
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise DivergedError(
            f"{chosen.name} made a set with infinite values; lower its learning rate (--set lr=…)"
        )
    extras = chosen.extras(task, state)
    return ProxySet(
        x,
        y,
        dataset.preprocessing,
        dataset.class_names,
        replace(recipe or training.Recipe(), **extras.recipe),
        _provenance(spec, task, progress, shared),
        extras.curriculum,
        extras.generator,
    )


def plan(spec: DistillSpec, dataset: Dataset) -> tuple[Task, int]:
    """Check a distillation's settings against the data; the task, and how many steps it takes at
    most.

    Raises:
        SpecError: see :func:`distill`.
    """
    chosen = find(spec.method)
    smallest = min(dataset.class_counts())
    if spec.ipc > smallest:
        name = dataset.class_names[dataset.class_counts().index(smallest)]
        raise SpecError(
            f"ipc must be at most {smallest}, the images that class {name!r} has, but got {spec.ipc}"
        )
    steps = chosen.steps if spec.steps is None else spec.steps
    if chosen.steps == 0 and steps > 0:
        raise SpecError(
            f"{spec.method} selects images and takes no steps, but steps is {steps}; leave it out"
        )
    if spec.seconds is not None and spec.steps is None and chosen.steps > 0:
        steps = 10**9  # the seconds alone decide
    own: object = settings.make(chosen.settings, spec.settings, where=f"settings of {spec.method}")
    task = Task(dataset, spec.ipc, own, spec.seed, steps if steps < 10**9 else None)
    chosen.check(task)
    return task, steps


def fingerprint(spec: DistillSpec, dataset: Dataset) -> str:
    """Names one distillation: the same for the same settings and data, whatever the budget in
    seconds."""
    described = settings.to_dict(spec)
    for key in ("seconds", "clock", "data", "data_root", "download"):
        described.pop(key, None)
    text = json.dumps({**described, "fingerprint": dataset.fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shared(
    chosen: Method, task: Task, spec: DistillSpec, on_done: Callable[[int, int], None]
) -> Shared | None:
    if chosen.prepare is None:
        return None
    found = chosen.prepare(task, on_done)
    if spec.seconds is not None and _spent(found, spec) >= spec.seconds:
        raise SpecError(
            f"seconds is {spec.seconds:g}, but the {found.what} of {chosen.name} alone took {_spent(found, spec):.1f}; "
            f"give more seconds, or fewer {found.what}"
        )
    return found


def _spent(cost: Progress | Shared, spec: DistillSpec) -> float:
    """Seconds by the clock that limits the distillation."""
    return cost.core_seconds if spec.core_clock else cost.seconds


def _begun(shared: Shared | None) -> Progress:
    """A new distillation: it has cost what it shares with others."""
    if shared is None:
        return Progress()
    return Progress(
        seconds=shared.seconds, core_seconds=shared.core_seconds, peak_mib=shared.peak_mib
    )


def _step(chosen: Method, task: Task, state: State, k: int) -> tuple[State, float]:
    state, loss = chosen.step(task, state, k)
    if not math.isfinite(loss):
        raise DivergedError(
            f"{chosen.name} diverged at step {k}: its loss is {loss}; lower its learning rate (--set lr=…)"
        )
    return state, loss


def _keep(
    path: Path | None, key: str, state: State, progress: Progress, meter: Callable[[], None]
) -> None:
    if path is not None:
        meter()
        _save(path, key, state, progress)


def _save(path: Path, key: str, state: State, progress: Progress) -> None:
    told = {"key": key, "progress": json.dumps(progress.__dict__)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    files.write_bytes(path, save(tensors, told))


def _restore(path: Path | None, key: str, device: torch.device) -> tuple[State, Progress] | None:
    if path is None or not path.exists():
        return None
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        told = file.metadata() or {}
        if told.get("key") != key:
            raise RunFolderError(
                f"{path} is the checkpoint of another distillation; give another --out, or remove it"
            )
        state = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118  # not a dict
        return state, Progress(**json.loads(told["progress"]))
    raise RunFolderError(
        f"{path} is not a readable checkpoint; remove it to start this distillation anew"
    )


def _provenance(
    spec: DistillSpec, task: Task, progress: Progress, shared: Shared | None
) -> dict[str, Any]:
    every = max(1, len(progress.losses) // 100)
    told = {
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
        told["shared"] = {
            **asdict(shared),
            "seconds": round(shared.seconds, 3),
            "core_seconds": round(shared.core_seconds, 3),
        }
    return told
