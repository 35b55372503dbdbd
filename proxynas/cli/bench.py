"""``make bench``: what the defaults are chosen by, measured as ratios within one run.

Each row times the naive way and the fast way in turn (A B A B …) and prints the median of the
ratios, their range, and which of the two the default takes for that size.
"""

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from .. import datasets, spaces, training
from ..core import hardware, seeds
from ..core.allocator import keep_freed_memory
from ..core.errors import WorkerError
from ..datasets import Dataset
from ..distill import gradients, implicit, linearised, students
from ..distill.loop import plan
from ..distill.method import Task
from ..distill.methods import gm, rcig
from ..engine import LOCAL, Engine
from ..engine.cluster import RayCluster
from ..nets.pooling import HalvingAvgPool, SmoothingAvgPool
from ..search.store import ACCURACIES, Score, Store
from ..specs import DistillSpec


@dataclass(frozen=True)
class Row:
    """Seconds of the naive way; ratios naive/fast, above 1 where the fast way wins; which of them
    the default takes."""

    what: str
    naive_s: float
    ratios: list[float]
    default_fast: bool

    @property
    def default_ratio(self) -> float:
        """How much faster the default is than the naive way; 1 where it is the naive way."""
        return median(self.ratios) if self.default_fast else 1.0


def compare(
    what: str,
    naive: Callable[[], object],
    fast: Callable[[], object],
    default_fast: bool,
    repeats: int,
    *,
    warm_up: bool = True,
) -> Row:
    """Time both in turn, after one warm-up each."""
    if warm_up:
        naive(), fast()
    pairs = [(_seconds(naive), _seconds(fast)) for _ in range(repeats)]
    return Row(what, median(a for a, _ in pairs), [a / b for a, b in pairs], default_fast)


def matching(device: str, repeats: int) -> list[Row]:
    """GM: the synthetic images' gradients of all classes in one call, against a class at a time."""
    rows = []
    for width, ipc in ((32, 1), (64, 1), (128, 1), (64, 10), (128, 10)):
        student = f"D2-W{width}-relu-instancenorm-avgpooling"
        usual = {"student": student, "outer": 1}
        naive, fast = (
            _gm_step(
                DistillSpec(ipc=ipc, settings={**usual, "batch_classes": batched}, device=device)
            )
            for batched in (False, True)
        )
        dataset = datasets.load_for(DistillSpec(device=device))
        space = spaces.load("convnet-grid")
        net = space.build(student, dataset.shape, dataset.num_classes).to(device)
        x = torch.zeros(dataset.num_classes, ipc, *dataset.shape, device=device)
        pays = gradients.batching_pays(net, x)
        rows.append(compare(f"GM step, width {width}, ipc {ipc}", naive, fast, pays, repeats))
    return rows


def published(device: str, repeats: int) -> list[Row]:
    """GM: a step as it is written in Zhao 2021, Algorithm 1, against ours."""
    rows = []
    for side, width, ipc in ((28, 32, 1), (32, 64, 1), (32, 64, 10)):
        student = f"D3-W{width}-relu-instancenorm-avgpooling"
        spec = DistillSpec(
            ipc=ipc, image_size=side, settings={"student": student, "outer": 1}, device=device
        )
        task, _ = plan(spec, datasets.load_for(spec))
        what = f"GM step, {side} × {side}, width {width}, ipc {ipc}, against Algorithm 1"
        naive = partial(_algorithm_1, task, gm.init(task))
        rows.append(compare(what, naive, _gm_step(spec), True, max(2, repeats // 3)))
    return rows


def _algorithm_1(task: Task[gm.GM], state: dict[str, torch.Tensor]) -> None:
    """One match, class by class, each class's real images in one batch; then the images move."""
    net = students.student(task, str(task.settings.student), "gm", "student", 0)
    x = state["synthetic.x"].detach().clone().requires_grad_()
    images = torch.optim.SGD([x], lr=0.1, momentum=0.5)
    train, weights = task.dataset.train, list(net.parameters())
    for c in range(len(x)):
        picks = torch.nonzero(train.y == c).flatten()
        order = torch.randperm(len(picks), device=picks.device)[: task.settings.real_batch]
        picks = picks[order]  # as many as ours: all of them where a class has fewer
        loss = F.cross_entropy(net(train.x[picks]), train.y[picks])
        real = torch.autograd.grad(loss, weights)
        loss = F.cross_entropy(net(x[c]), torch.full((x.shape[1],), c, device=x.device))
        synthetic = torch.autograd.grad(loss, weights, create_graph=True)
        rows = [
            (1 - F.cosine_similarity(a.flatten(1), b.flatten(1), -1, 1e-6)).sum()
            for a, b in zip(synthetic, real, strict=True)
            if a.ndim >= 2
        ]
        torch.stack(rows).sum().backward()  # type: ignore[no-untyped-call]
    images.step()


def computing(repeats: int) -> list[Row]:
    """What every training has: average pooling, PyTorch's against ours; and freed memory, kept."""
    x = torch.randn(64, 32, 32, 32, requires_grad=True)
    threes = nn.AvgPool2d(3, 1, 1, count_include_pad=False), SmoothingAvgPool()
    rows = []
    for size, *pools in ((2, nn.AvgPool2d(2), HalvingAvgPool()), (3, *threes)):
        naive, fast = (partial(lambda pool: pool(x).square().sum().backward(), p) for p in pools)
        name = f"average pooling {size} × {size}, 64 × 32 maps, 32 × 32"
        rows.append(compare(name, naive, fast, True, repeats))
    spawned = partial(ProcessPoolExecutor, 1, get_context("spawn"))
    with spawned() as usual, spawned(keep_freed_memory) as kept:
        naive, fast = (partial(lambda p: p.submit(_train_large).result(), p) for p in (usual, kept))
        name = "training with batches of 256, 28 × 28, freed memory kept"
        return [*rows, compare(name, naive, fast, True, repeats)]


def tabulating(device: str, repeats: int) -> list[Row]:
    """RCIG: both inner loops on one Jacobian a step, against derivatives along a line at every turn
    of them."""
    rows = []
    for side, depth, width, ipc in (
        (8, 2, 32, 1),
        (8, 2, 32, 10),
        (8, 2, 128, 1),
        (28, 3, 16, 10),
        (32, 3, 16, 20),
        (28, 3, 32, 1),
    ):
        student = f"doubling-convnet:D{depth}-W{width}-none-softplus"
        usual: dict[str, object] = {
            "student": student,
            "real_batch": 256,
            "pool": 1,
            "inner_lr": 1e-4,
            "hinv_lr": 1e-3,
        }
        tasks = [
            plan(spec, datasets.load_for(spec))[0]
            for spec in (
                DistillSpec(
                    method="rcig",
                    ipc=ipc,
                    image_size=side,
                    settings={**usual, "tabulate": tabulate},
                    device=device,
                )
                for tabulate in (False, True)
            )
        ]
        naive, fast = (_rcig_step(task, device) for task in tasks)
        net = students.student(tasks[0], student, "bench")
        body = linearised.cut(net, tasks[0].dataset.num_classes)
        x = torch.zeros(10 * ipc, *tasks[0].dataset.shape, device=device)
        pays = implicit.tabulation_pays(body, x, torch.zeros(len(x), 10, device=device), 40)
        what = f"RCIG step, {side} × {side}, width {width}, ipc {ipc}"
        rows.append(compare(what, naive, fast, pays, repeats))
    return rows


def fusing(device: str, repeats: int) -> list[Row]:
    """Training: three seeds in one stacked call, against one after the other."""
    rows = []
    space, dataset = spaces.load("convnet-grid"), datasets.load_for(DistillSpec(device=device))
    for arch, batch in (
        ("D1-W32-relu-none-avgpooling", 10),
        ("D2-W32-relu-instancenorm-avgpooling", 10),
        ("D4-W32-relu-batchnorm-maxpooling", 10),
        ("D3-W64-relu-none-avgpooling", 10),
        ("D2-W32-relu-instancenorm-avgpooling", 100),
        ("D3-W128-relu-instancenorm-avgpooling", 10),
        ("D4-W64-relu-layernorm-none", 10),
    ):
        with seeds.seeded(0):
            nets = [
                space.build(arch, dataset.shape, dataset.num_classes).to(device) for _ in range(3)
            ]
        recipe = training.Recipe(updates=20, batch_size=batch)

        def fit(
            fused: bool, nets: list[torch.nn.Module] = nets, recipe: training.Recipe = recipe
        ) -> None:
            training.fit(nets, dataset.train.x, dataset.train.y, recipe, fused=fused)
            _synchronize(device)

        pays = training.fusion_pays(nets, dataset.train.x, recipe)
        what = f"3 seeds, {arch}, batch {batch}"
        rows.append(compare(what, partial(fit, False), partial(fit, True), pays, repeats))
    return rows


RUN = "D2-W64-relu-instancenorm-avgpooling"
"""The network that engines train."""


def working(repeats: int) -> list[Row]:
    """Searching: two worker processes of one thread each, against one; starting them is
    included."""
    tasks = [RUN] * 60

    def go(workers: int) -> None:
        with LOCAL.opened(_prepare, workers) as mapped:
            list(mapped(_train_one, tasks, _lost))

    what, times = "60 training runs, two workers", max(2, repeats // 3)
    return [compare(what, lambda: go(1), lambda: go(2), True, times, warm_up=False)]


@dataclass(frozen=True)
class Scaling:
    """An engine with some workers: seconds until each has done its first task, training runs a
    second after that, and core milliseconds that an empty task takes of the first process."""

    engine: str
    workers: int
    start_s: float
    a_second: float
    task_ms: float


def scaling(workers: Sequence[int] = (1, 2), tasks: int = 24, empty: int = 500) -> list[Scaling]:
    """Searching on every engine that is installed, with one worker and with two."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as processes of this machine have
    engines: dict[str, Engine] = {"local": LOCAL}
    if importlib.util.find_spec("ray") is not None:
        engines["ray"] = RayCluster()
    measured = []
    for name, engine in engines.items():
        engine.workers(None)  # connects
        for n in workers:
            started = time.perf_counter()
            with engine.opened(_prepare, n) as mapped:
                list(mapped(_train_one, [RUN] * n, _lost))
                start = time.perf_counter() - started
                list(mapped(_train_one, [RUN] * tasks, _lost))
                seconds, used = time.perf_counter() - started - start, time.process_time()
                list(mapped(_nothing, [RUN] * empty, _lost))
                each = 1e3 * (time.process_time() - used) / empty
            measured.append(Scaling(name, n, start, tasks / seconds, each))
    return measured


def storing(rows: int = 500) -> tuple[float, float]:
    """What a candidate costs the run store on one source, three seeds of 100 updates in one
    transaction: wall and core milliseconds."""
    numbers = dict.fromkeys((*ACCURACIES, "sotl"), 0.5)
    losses = np.zeros(100, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "run.sqlite")
        started, used = time.perf_counter(), time.process_time()
        for n in range(rows):
            store.add(
                Score("proxy", str(n), seed, **numbers, losses=losses, seconds=1.0, failed=None)
                for seed in range(3)
            )
        wall, core = time.perf_counter() - started, time.process_time() - used
        store.close()
    return 1e3 * wall / rows, 1e3 * core / rows


def print_scaling(console: Console) -> None:
    """The table of :func:`scaling`, and the line of :func:`storing`."""
    table = Table(title="engines", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("engine", "workers", "start s", "candidates/s", "a task, core ms"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for row in scaling():
        numbers = (f"{row.start_s:.1f}", f"{row.a_second:.2f}", f"{row.task_ms:.2f}")
        table.add_row(row.engine, str(row.workers), *numbers)
    console.print(table)
    wall, core = storing()
    console.print(f"the run store, a candidate on a source: {wall:.2f} ms, {core:.2f} core ms")


def main() -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--engines", action="store_true", help="measure engines and nothing else")
    chosen = parser.parse_args()
    device, console = hardware.check(chosen.device), Console(highlight=False, width=120)
    keep_freed_memory()  # as commands do
    if chosen.engines:
        print_scaling(console)
        return
    parts = (matching, published, tabulating, fusing)
    rows = [row for part in parts for row in part(device, chosen.repeats)]
    rows += [*computing(chosen.repeats), *working(chosen.repeats)] if device == "cpu" else []
    table = Table(
        title=f"naive / fast, on {hardware.describe(device)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("what", "naive ms", "naive / fast", "range", "default", "default gains"):
        table.add_column(name, justify="left" if name in ("what", "default") else "right")
    for row in rows:
        ratio, least, most = median(row.ratios), min(row.ratios), max(row.ratios)
        cells = [f"{1e3 * row.naive_s:.1f}", f"{ratio:.2f}", f"{least:.2f}–{most:.2f}"]
        default = "fast" if row.default_fast else "naive"
        table.add_row(row.what, *cells, default, f"{row.default_ratio:.2f}×")
    console.print(table)
    if device == "cpu":
        print_scaling(console)


def _rcig_step(task: Task[rcig.RCIG], device: str) -> Callable[[], object]:
    state = rcig.init(task)

    def step() -> None:
        rcig.step(task, state, 0)
        _synchronize(device)

    return step


def _gm_step(spec: DistillSpec) -> Callable[[], object]:
    task, _ = plan(spec, datasets.load_for(spec))
    state = gm.init(task)

    def step() -> None:
        gm.step(task, state, 0)
        _synchronize(spec.device)

    return step


def _prepare() -> tuple[spaces.SearchSpace, Dataset]:
    return spaces.load("convnet-grid"), datasets.load_for(DistillSpec())


def _nothing(context: object, task: str) -> float:
    return 0.0


def _train_large() -> None:
    torch.set_num_threads(1)
    net = spaces.load("convnet-grid").build("D3-W32-relu-instancenorm-avgpooling", (1, 28, 28), 10)
    x, y = torch.zeros(256, 1, 28, 28), torch.zeros(256, dtype=torch.int64)
    training.fit([net], x, y, training.Recipe(updates=3, batch_size=256))


def _lost(task: str, reason: str) -> float:
    raise WorkerError(reason)


def _train_one(context: tuple[spaces.SearchSpace, Dataset], arch: str) -> float:
    space, dataset = context
    net = space.build(arch, dataset.shape, dataset.num_classes)
    recipe = training.Recipe(updates=200, batch_size=25)
    return training.fit([net], dataset.train.x, dataset.train.y, recipe).losses[0, -1].item()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    from . import bench  # by its name, so that the workers of a cluster find its functions

    bench.main()
