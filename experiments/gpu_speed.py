"""Which way of training candidates is the fastest on a GPU, and what does it cost in loss?

    python experiments/gpu_speed.py --device cuda --out gpu-speed.json
    python experiments/gpu_speed.py --device cpu --tiny --out gpu-speed.json

Each way trains the same network from the same start on the same images, for as many updates; all
take turns. Milliseconds an update (median), how many times the plain way's speed, and the mean loss
of the last tenth of the updates. Then candidates a second: with several of a network's seeds in one
call, and with several processes on one device. What is in the file given by --out is not measured
again.
"""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from proxynas import spaces, training
from proxynas.core import files, hardware
from proxynas.core.errors import WorkerError
from proxynas.engine import LOCAL

Step = Callable[[], Tensor]
"""One update; the loss before it."""

Result = dict[str, Any]
"""A row: what was measured, by name."""

NETWORKS = {
    "ConvNet": ("convnet-grid", "D3-W128-relu-instancenorm-avgpooling"),
    "tiny ConvNet": ("convnet-grid", "D1-W32-relu-instancenorm-avgpooling"),
    "cell": ("nasbench201", "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+"
             "|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"),
}  # fmt: skip


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="See that it runs, in a minute.")] = False,
    out: Annotated[Path | None, typer.Option(help="The results as JSON.")] = None,
) -> None:
    """Measure every way, and print a table."""
    device = hardware.check(device)
    batch, updates, repeats = (2, 2, 1) if tiny else (256, 50, 5)
    parts: dict[str, Callable[[], list[Result]]] = {}
    for what in ("tiny ConvNet",) if tiny else ("ConvNet", "cell"):
        parts[f"{what}, ways"] = partial(compared, what, device, batch, updates, repeats)
        counts = (1, 2) if tiny else (1, 3, 10, 30)
        parts[f"{what}, seeds"] = partial(stacked, what, device, batch, updates, counts)
    sizes = (1, 1, (2,)) if tiny else (24, 20, (1, 2, 4, 8))
    parts["processes"] = partial(shared, device, *sizes)
    about: dict[str, Any] = {"device": hardware.describe(device), "torch": torch.__version__}
    about["parts"] = done = {}
    if out is not None and out.exists():
        done.update(json.loads(out.read_text())["parts"])
    for name, measure in parts.items():
        if name not in done:
            done[name] = measure()
        if out is not None:  # what is measured is not measured again
            files.write_bytes(out, (json.dumps(about, indent=1) + "\n").encode())
        print(name)
        for row in done[name]:
            print("  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def built(what: str, device: str) -> nn.Module:
    """The network, always with the same weights."""
    space, arch = NETWORKS[what]
    torch.manual_seed(0)
    return spaces.load(space).build(arch, (3, 32, 32), 10).to(device).train()


def images(device: str, n: int) -> tuple[Tensor, Tensor]:
    """Random images (n, 3, 32, 32) and labels (n,)."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (n,), generator=generator)
    return torch.randn(n, 3, 32, 32, generator=generator).to(device), y.to(device)


def compared(what: str, device: str, batch: int, updates: int, repeats: int) -> list[Result]:
    """A row a way; one that this machine cannot go says why."""
    made: dict[str, Step] = {}
    rows: list[Result] = []
    for way, make in WAYS.items():
        if updates < 10 and way.startswith("compiled") and device == "cpu":
            continue  # compiling takes longer than all else at a tiny size
        products(way)
        try:
            step = make(what, device, batch)
            for _ in range(3 if way in GRAPHS else 6):  # compiles, warms up; a graph has done three
                step()
            made[way] = step
        except Exception as error:  # whatever a compiler or a driver says
            reason = str(error).strip().splitlines() or [type(error).__name__]
            rows.append({"network": what, "way": way, "not here": reason[0][:100]})
    seconds: dict[str, list[float]] = {way: [] for way in made}
    losses: dict[str, list[float]] = {way: [] for way in made}
    for _ in range(repeats):
        for way, step in made.items():
            products(way)
            started = now(device)
            found = torch.stack([step().detach().clone() for _ in range(updates)])
            seconds[way].append((now(device) - started) / updates)
            losses[way] += found.float().tolist()
    usual = median(seconds["float32"])
    for way, each in seconds.items():
        late = losses[way][-max(1, len(losses[way]) // 10) :]
        row = {"network": what, "way": way, "ms": round(1e3 * median(each), 3)}
        rows.append(row | {"faster": round(usual / median(each), 2), "loss": round(mean(late), 3)})
    return rows


def products(way: str) -> None:
    """How float32 products and convolutions are computed from now on; PyTorch's own choice is exact
    products and TF32 in convolutions, and that is how candidates are trained."""
    torch.set_float32_matmul_precision("high" if way == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = way in ("tf32", "as PyTorch does")


def plain(
    what: str,
    device: str,
    batch: int,
    *,
    bf16: bool = False,
    last: bool = False,
    compiled: bool = False,
) -> Step:
    """The plain update, in bfloat16, with channels last, or compiled."""
    net, (x, y) = built(what, device), images(device, batch)
    if last:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)
    forward: Callable[[Tensor], Tensor] = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    kind = torch.device(device).type

    def step() -> Tensor:
        with torch.autocast(kind, torch.bfloat16) if bf16 else nullcontext():
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def graphed(what: str, device: str, batch: int, *, bf16: bool = False) -> Step:
    """The update, recorded once as a CUDA graph and replayed.

    Raises:
        RuntimeError: there is no GPU.
    """
    if not device.startswith("cuda"):
        raise RuntimeError("CUDA graphs are for GPUs")
    step = plain(what, device, batch, bf16=bf16)
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


WAYS: dict[str, Callable[[str, str, int], Step]] = {
    "float32": plain,
    "tf32": plain,
    "bfloat16": partial(plain, bf16=True),
    "channels last": partial(plain, last=True),
    "channels last, bfloat16": partial(plain, last=True, bf16=True),
    "compiled": partial(plain, compiled=True),
    "compiled, bfloat16": partial(plain, compiled=True, bf16=True),
    "as PyTorch does": plain,
    "CUDA graph": graphed,
    "CUDA graph, bfloat16": partial(graphed, bf16=True),
}


GRAPHS = ("CUDA graph", "CUDA graph, bfloat16")


def stacked(
    what: str, device: str, batch: int, updates: int, counts: tuple[int, ...]
) -> list[Result]:
    """Updates a second of one network with several seeds in one call."""
    rows: list[Result] = []
    x, y = images(device, batch)
    recipe = training.Recipe(updates=updates, batch_size=batch)
    training.fit([built(what, device)], x, y, training.Recipe(updates=3, batch_size=batch))
    for count in counts:
        row: Result = {"network": what, "seeds in one call": count}
        started = now(device)
        try:
            training.fit([built(what, device) for _ in range(count)], x, y, recipe, fused=count > 1)
        except torch.OutOfMemoryError:
            rows.append(row | {"not here": "there is not enough memory"})
            break
        rows.append(row | {"updates a second": round(count * updates / (now(device) - started), 1)})
    return rows


def shared(device: str, tasks: int, updates: int, workers: tuple[int, ...]) -> list[Result]:
    """Candidates a second with several processes on one device."""
    rows = []
    for count in workers:
        with LOCAL.on(device).opened(partial(images, device, 100), count, apart=True) as mapped:
            list(mapped(partial(trained, device), [1] * count, lost))  # starts, and warms up
            started = time.perf_counter()
            list(mapped(partial(trained, device), [updates] * tasks, lost))
            rate = tasks / (time.perf_counter() - started)
        rows.append({"processes": count, "candidates a second": round(rate, 2)})
    return rows


def trained(device: str, data: tuple[Tensor, Tensor], updates: int) -> float:
    """A small candidate, trained in a worker."""
    recipe = training.Recipe(updates=updates, batch_size=100)
    done = training.fit([built("ConvNet", device)], *data, recipe)
    return done.losses[0, -1].item()


def lost(updates: int, reason: str) -> float:
    """A worker that is lost ends this.

    Raises:
        WorkerError: always.
    """
    raise WorkerError(reason)


def now(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    typer.run(main)
