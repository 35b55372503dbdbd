"""Which memory of ten images a class keeps a network from forgetting? (Figure 7 of Zhao 2021)

    python experiments/continual.py MNIST --out runs/continual

MNIST is the folder of its images; Fashion-MNIST is read where torchvision or Debian's package has
it. A network learns MNIST, then Fashion-MNIST, then the 8×8 digits (enlarged), all with one last
layer for ten classes, as in the published task-incremental learning, whose data were SVHN, MNIST
and USPS. After each it is tested on all tasks so far. Of earlier tasks it keeps a memory alone:
random images, images chosen by herding, or a set that was distilled. As in Castro et al. 2018
("End-to-end incremental learning"), which the paper builds on, the outputs of the network of before
are a second target (knowledge distillation, temperature 2, weight 1), and each stage ends with
training on as many images of the new task as the memory has of an old one.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

import proxynas as pn
from proxynas import datasets, spaces, training
from proxynas.core import files, hardware, seeds
from proxynas.core.allocator import keep_freed_memory
from proxynas.datasets import Dataset, Split
from proxynas.specs import Recipe

STUDENT = "D3-W32-relu-instancenorm-avgpooling"
SIDE, IPC = 28, 10
UPDATES, BALANCED, BATCH = 150, 30, 32
"""Updates of a stage and of its balanced end (published 5,000 and 500), and images of each task in
a batch."""
TEMPERATURE, WEIGHT = 2.0, 1.0
GM = {"student": STUDENT, "real_batch": 64, "init": "real", "inner": 10}
DM = {"student": STUDENT, "real_batch": 64, "augment": "crop+cutout+scale+rotate"}
MEMORIES: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "herding": {"method": "herding"},
    "GM": {"method": "gm", "settings": GM, "steps": 20},
    "DM": {"method": "dm", "settings": DM, "steps": 400},
}


def main(
    mnist: Annotated[str, typer.Argument(help="MNIST: a name or a folder")],
    out: Annotated[Path, typer.Option(help="folder of the memories and the results")],
    networks: Annotated[int, typer.Option(help="networks a row")] = 3,
) -> None:
    """Print a line a memory; what is in the folder is not made again."""
    keep_freed_memory()
    tasks = [datasets.load(mnist), datasets.load("fashion-mnist"), datasets.load("digits")]
    path = out / "continual.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    found["hardware"] = hardware.describe("cpu")
    for name in ("none", *MEMORIES):
        memory = [] if name == "none" else [_memory(name, task, out) for task in tasks[:-1]]
        for kept in (True, False):
            row = f"{name}, {'with' if kept else 'without'} distillation of knowledge"
            if row in found:
                continue
            runs = [_run(tasks, memory, kept, seed) for seed in range(networks)]
            stages = list(zip(*runs, strict=True))
            found[row] = [[round(mean(s), 4), round(stdev(s), 4)] for s in stages]
            files.write_text(path, json.dumps(found, indent=1))
            typer.echo(f"{row}: {found[row]}")


def _memory(name: str, task: Dataset, out: Path) -> Split:
    """Ten images a class of a task, made once."""
    place = out / f"{name}-{task.num_classes}-{task.fingerprint[:8]}.safetensors"
    loaded = pn.make_proxy(task, ipc=IPC, out=place, **MEMORIES[name])
    return Split(loaded.x, loaded.y)


def _run(tasks: Sequence[Dataset], memory: Sequence[Split], kept: bool, seed: int) -> list[float]:
    """Test accuracy after each stage, the mean over the tasks so far."""
    space, arch = spaces.resolve(STUDENT)
    with seeds.seeded(seeds.derive(seed, "continual")):
        net = space.build(arch, (1, SIDE, SIDE), 10)
    accuracies = []
    for stage, task in enumerate(tasks):
        new = Split(_sized(task.train.x), task.train.y)
        rng = seeds.generator(seed, "continual", stage)
        old = copy.deepcopy(net).eval() if stage and kept else None
        _train(net, [new, *memory[:stage]], old, (UPDATES, 0.01), rng)
        if stage and memory:
            few = torch.randperm(len(new), generator=rng)[: IPC * 10]
            balanced = [Split(new.x[few], new.y[few]), *memory[:stage]]
            _train(net, balanced, old, (BALANCED, 0.001), rng)
        tested = [
            training.evaluate(net, _sized(seen.test.x[:2000]), seen.test.y[:2000])[0]
            for seen in tasks[: stage + 1]
        ]
        accuracies.append(mean(tested))
    return accuracies


def _train(
    net: nn.Module,
    parts: Sequence[Split],
    old: nn.Module | None,
    schedule: tuple[int, float],
    rng: torch.Generator,
) -> None:
    """Updates on a batch of each part, in place; ``schedule`` has their number and the rate."""
    updates, rate = schedule
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    batches = [_batches(part, rng) for part in parts]
    net.train()
    for _ in range(updates):
        drawn = [next(batch) for batch in batches]
        x, y = (torch.cat(column) for column in zip(*drawn, strict=True))
        logits = net(x)
        loss = F.cross_entropy(logits, y)
        if old is not None:
            with torch.no_grad():
                target = F.softmax(old(x) / TEMPERATURE, 1)
            soft = F.cross_entropy(logits / TEMPERATURE, target)
            loss = loss + WEIGHT * soft
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _batches(part: Split, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in training.batches(len(part), Recipe(batch_size=BATCH), rng):
        yield part.x[chosen], part.y[chosen]


def _sized(x: Tensor) -> Tensor:
    """Images (n, 1, 28, 28)."""
    return x if x.shape[-1] == SIDE else F.interpolate(x, (SIDE, SIDE), mode="bilinear")


if __name__ == "__main__":
    typer.run(main)
