"""Is a GM step faster than that of the public code of Zhao 2021, and is its set as good?

    OMP_NUM_THREADS=1 python experiments/gm_public_code.py steps CHECKOUT MNIST CIFAR
    OMP_NUM_THREADS=1 python experiments/gm_public_code.py sets CHECKOUT MNIST --steps 50

CHECKOUT is a folder with https://github.com/VICO-UoE/DatasetCondensation (main.py, utils.py and
networks.py are read); MNIST and CIFAR are folders of images, CIFAR-10 for the latter. The ``main``
of the checkout runs as it is, but for its data, which are ours, and its evaluation, which is left
out. One thread, core seconds, both codes in turn; ours in a worker process of the engine, which
keeps the memory that it frees, as all of its commands do. ``--keep`` lets the public code's process
do that, too.

A step is one update of the synthetic images of all classes. Where a student is matched several
times, its training between two matches counts: seconds of a student by the updates made with it.
"outer 2, inner 50" is two updates and one training of 50 epochs between them.
"""

import importlib
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from proxynas import datasets, spaces
from proxynas.compare import evaluation
from proxynas.core.allocator import keep_freed_memory
from proxynas.core.errors import WorkerError
from proxynas.core.torchvision import torchvision
from proxynas.datasets import Dataset
from proxynas.distill import loop
from proxynas.engine import LOCAL
from proxynas.engine.contract import Mapper
from proxynas.proxyset import ProxySet
from proxynas.specs import DistillSpec, EvaluationSpec

app = typer.Typer(pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Case:
    """What both codes do: a student of ``width`` filters matched ``outer`` times and trained for
    ``inner`` epochs between; measured ``repeats`` times, and once before to warm up."""

    what: str
    ipc: int
    width: int
    outer: int = 1
    inner: int = 1
    repeats: int = 5

    @property
    def student(self) -> str:
        """Its name in ``convnet-grid``."""
        return f"D3-W{self.width}-relu-instancenorm-avgpooling"


CASES = (
    Case("MNIST", ipc=1, width=32),
    Case("MNIST", ipc=10, width=32, outer=2, inner=50),
    Case("MNIST", ipc=1, width=128, repeats=2),
    Case("CIFAR-10", ipc=1, width=32),
)


class EnoughError(Exception):
    """Ends the public code's loop when all is measured."""


@app.command()
def steps(
    checkout: Path,
    mnist: Path,
    cifar: Path,
    keep: Annotated[bool, typer.Option(help="The public code keeps freed memory, too.")] = False,
) -> None:
    """Core seconds a step of both codes, in turn."""
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    public, folders = imported(checkout), {"MNIST": mnist, "CIFAR-10": cifar}
    for case in CASES:
        data = datasets.load(folders[case.what])
        with LOCAL.opened(partial(datasets.load, folders[case.what]), 1, apart=True) as mapped:
            pairs = in_turn(public, data, case, mapped)[1:]
        ratios = [a / b for a, b in pairs]
        print(
            f"{case}: public {median(a for a, _ in pairs):.3f} s, "
            f"proxynas {median(b for _, b in pairs):.3f} s, ratio {median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]",
            flush=True,
        )
        print("  pairs:", *(f"{a:.3f}/{b:.3f}" for a, b in pairs), flush=True)


@app.command()
def sets(
    checkout: Path,
    mnist: Path,
    steps: int = 50,
    seeds: Annotated[int, typer.Option(help="Sets of each code.")] = 1,
    networks: Annotated[int, typer.Option(help="Networks that are trained on a set.")] = 2,
) -> None:
    """Test accuracy of networks trained on sets of one image a class after as many steps."""
    torch.set_num_threads(1)
    public, data, case = imported(checkout), datasets.load(mnist), Case("MNIST", ipc=1, width=32)
    accuracies: dict[str, list[float]] = {"public": [], "proxynas": []}
    for seed in range(seeds):
        for name in accuracies:
            started = time.process_time()
            if name == "public":
                proxy = public_set(public, data, case, steps, seed)
            else:
                proxy = loop.distill(spec_of(case, steps, seed), data)
            seconds = time.process_time() - started
            reached = accuracy(proxy, data, case, networks)
            accuracies[name] += reached
            print(f"{name}, seed {seed}: {steps} steps, {seconds:.1f} core seconds, {reached}")
    for name, reached in accuracies.items():
        sd = stdev(reached) if len(reached) > 1 else 0.0
        print(f"{name}: {100 * mean(reached):.1f} ± {100 * sd:.1f} % ({len(reached)} networks)")


def imported(checkout: Path) -> Any:
    """The module ``main`` of the checkout; torchvision is loaded first, as proxynas loads it."""
    assert torchvision
    sys.path.insert(0, str(checkout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy, about the module's old name
        return importlib.import_module("main")


def ours(data: Dataset, spec: DistillSpec) -> float:
    """Core seconds that a distillation takes of a worker."""
    started = time.process_time()
    loop.distill(spec, data)
    return time.process_time() - started


def lost(spec: DistillSpec, reason: str) -> float:
    """A worker that is lost ends this.

    Raises:
        WorkerError: always.
    """
    raise WorkerError(reason)


def in_turn(public: Any, data: Dataset, case: Case, mapped: Mapper) -> list[tuple[float, float]]:
    """Core seconds a step of the public code and of ours, a pair for each repeat.

    The public code asks for a new student when one is done with: there its time is taken, then
    ours is measured in a worker, then it goes on.
    """
    pairs: list[tuple[float, float]] = []
    began: float | None = None

    def network(*given: object) -> nn.Module:
        nonlocal began
        now = time.process_time()
        if began is not None:
            [spent] = mapped(ours, [spec_of(case, 1, len(pairs))], lost)
            pairs.append(((now - began) / case.outer, spent / case.outer))
        if len(pairs) > case.repeats:
            raise EnoughError
        began = time.process_time()
        net: nn.Module = make(*given)
        return net

    make = public.get_network
    with suppress(EnoughError):
        run_public(public, data, case, case.repeats + 3, network)
    return pairs


def spec_of(case: Case, students: int, seed: int) -> DistillSpec:
    """What ``proxynas distill --method gm`` is asked for; other settings are as published."""
    chosen = {"student": case.student, "outer": case.outer, "inner": case.inner}
    return DistillSpec(method="gm", ipc=case.ipc, steps=students, settings=chosen, seed=seed)


def run_public(
    public: Any,
    data: Dataset,
    case: Case,
    students: int,
    network: Callable[..., nn.Module],
) -> Tensor:
    """Run the public code for that many students; its images (C·ipc, …)."""
    saved: list[dict[str, Any]] = []
    images = TensorDataset(data.train.x, data.train.y)
    pre, side = data.preprocessing, data.shape[1:]
    classes = data.num_classes
    given = (data.shape[0], side, classes, data.class_names, pre.mean, pre.std, images, None, None)
    model = "ConvNet" if case.width == 128 else f"ConvNetW{case.width}"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about the mean of no evaluation
        flags = {
            "--model": model,
            "--ipc": case.ipc,
            "--Iteration": students - 1,  # it takes one more than that
            "--eval_mode": "none",
            "--num_eval": 0,
            "--num_exp": 1,
            "--data_path": folder,
            "--save_path": folder,
        }
        argv = ["main.py", *(str(word) for pair in flags.items() for word in pair)]
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(public, "get_dataset", return_value=given),
            mock.patch.object(public, "get_network", network),
            mock.patch.object(public, "get_loops", return_value=(case.outer, case.inner)),
            mock.patch.object(public, "save_image"),
            mock.patch.object(torch, "save", lambda what, _: saved.append(what)),
            redirect_stdout(io.StringIO()),
        ):
            public.main()
    result: Tensor = saved[0]["data"][0][0]
    return result


def public_set(public: Any, data: Dataset, case: Case, steps: int, seed: int) -> ProxySet:
    """A proxy set of the public code; it seeds its students by the clock."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    x = run_public(public, data, case, steps, public.get_network)
    y = torch.arange(data.num_classes).repeat_interleave(case.ipc)
    return ProxySet(x, y, data.preprocessing, data.class_names)


def accuracy(proxy: ProxySet, data: Dataset, case: Case, networks: int) -> list[float]:
    """Test accuracy of networks like the student: 300 updates, as ``proxynas evaluate`` does."""
    trainer = evaluation.prepared(proxy, EvaluationSpec(updates=300), data.train.x.device)
    space = spaces.load("convnet-grid")
    return [
        evaluation.accuracy(trainer.network(space, case.student, number), data.test)
        for number in range(networks)
    ]


if __name__ == "__main__":
    app()
