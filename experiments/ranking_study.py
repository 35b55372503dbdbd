"""What ranks networks best for its seconds: which set, trained on for how long?

    python experiments/ranking_study.py train --data CIFAR-10 --out runs/ranking
    python experiments/ranking_study.py summary --out runs/ranking

The first trains networks on every set and on the real images, batches of ten, the rate constant,
and appends a line a training and moment to ``trained.csv``; it goes on where it stopped. One
training gives several budgets: what its indicators were after 25, 50, … 1,000 updates, what the
updates had cost by then, and what one validation costs. A set is passed over a hundred times at
most, so that one of a single image a class ends at 100 updates. The second makes the JSON and the
figure.

The networks are cells of NAS-Bench-201: half of them among the truly best tenth of the 1,000 of
``nasbench201-zerocost.csv.gz`` or in what zero-cost indicators take for it, the others any of the
rest. With ``--truth`` they are the ConvNets of a table that ``proxynas truth`` made; their
zero-cost indicators are measured first (``known.csv``).
"""

import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import ranking_quality as quality
import torch
import typer
from torch import Tensor, nn

import proxynas as pn
from proxynas import datasets, proxyset, spaces, training
from proxynas.core import files, hardware, seeds
from proxynas.core.allocator import keep_freed_memory
from proxynas.datasets import Dataset, Split
from proxynas.engine import LOCAL
from proxynas.proxyset import ProxySet
from proxynas.rank.indicators import VOTERS
from proxynas.search import zerocost
from proxynas.search.score import Source, Work
from proxynas.search.store import sotl_late
from proxynas.specs import Recipe
from proxynas.truth import read as read_truth

app = typer.Typer(add_completion=False)

VALUES = Path(__file__).with_name("nasbench201-zerocost.csv.gz")
CELLS, CONVNETS = "nasbench201", "convnet-grid"
OPTIONS = {CELLS: {"channels": 8, "cells": 1}, CONVNETS: {}}
"""Of the cells that are trained; truth and zero-cost indicators are of the published ones."""

MOMENTS = (25, 50, 100, 200, 500, 1000)
"""Updates after which a training is looked at."""
RATE = {CELLS: 0.05, CONVNETS: 0.01}
BATCH = 10
PASSES = 100
VALIDATION = 500
FIELDS = ("arch", "source", "updates", *quality.INDICATORS, "train_seconds", "val_seconds")
SETS = ("cifar10-gm-ipc1", "cifar10-apm-ipc10")

Row = dict[str, Any]
Task = tuple[str, str]

Out = Annotated[Path, typer.Option(help="folder of the results")]


@dataclass(frozen=True)
class Ground:
    """A space, and what is known of its networks before any is trained on a set."""

    space: str
    table: pd.DataFrame

    def load(self) -> spaces.SearchSpace:
        """The space."""
        return spaces.load(self.space, OPTIONS[self.space])


def ground(out: Path) -> Ground:
    """The ConvNets that ``train`` was given, or the cells."""
    path = out / "known.csv"
    of_cells = not path.exists()
    table = pd.read_csv(VALUES if of_cells else path, index_col="arch")
    return Ground(CELLS if of_cells else CONVNETS, table)


def add_ground(out: Path, dataset: Dataset, truth: Path) -> None:
    """Write ``known.csv``: truth and zero-cost indicators of the ConvNets of a table."""
    accuracy = read_truth(truth).accuracy()
    space = spaces.load(CONVNETS)
    voters = [*zerocost.INDICATORS]
    rows = {}
    for arch in accuracy.index:
        row = zerocost.zero_cost(space, arch, dataset, voters, seed=0)
        parameters, flops = space.cost(arch, dataset.shape, dataset.num_classes)
        seconds = sum(row[f"{name}_seconds"] for name in voters)
        costs = {"parameters:parameters": parameters, "flops": flops, "seconds": seconds}
        rows[arch] = {f"zero-cost:{name}": row[name] for name in voters} | costs
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arch")
    vote = zerocost.vote(found[[f"zero-cost:{name}" for name in VOTERS]])
    files.write_text(
        out / "known.csv", found.assign(truth=accuracy, **{quality.VOTE: vote}).to_csv()
    )


def cells(table: pd.DataFrame, count: int, seed: int) -> list[str]:
    """Cells to train, alternately of the promising half and of the rest, so that any first part of
    them is a sample like the whole."""
    promising = quality.promising(table, CELLS)
    rng = np.random.default_rng(seed)
    halves = (promising, table.index.difference(promising))
    drawn = [rng.choice(half, count // 2, replace=False) for half in halves]
    return [str(arch) for pair in zip(*drawn, strict=True) for arch in pair]


@app.command()
def train(
    data: Annotated[str, typer.Option(help="a name or a folder; CIFAR-10 for cells")],
    out: Out,
    proxy: Annotated[
        list[str] | None, typer.Option(help="a set; by default the two of CIFAR-10 that ship")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="a table of ConvNets on these data")] = None,
    count: Annotated[int, typer.Option(help="networks, at most")] = 100,
    seed: Annotated[int, typer.Option(help="of networks, random images and trainings")] = 0,
    updates: Annotated[int, typer.Option(help="updates of a training, at most")] = MOMENTS[-1],
    draws: Annotated[int, typer.Option(help="random sets of each size")] = 1,
    workers: Annotated[int | None, typer.Option(help="trainings at a time")] = None,
) -> None:
    """Train all networks on all sets; what ``trained.csv`` has is not trained again."""
    path = out / "trained.csv"
    out.mkdir(parents=True, exist_ok=True)
    _note_hardware(out / "hardware.txt")
    dataset = datasets.load(data)
    if truth is not None and not (out / "known.csv").exists():
        add_ground(out, dataset, truth)
    known = ground(out)
    budget = Budget(seed, updates, draws, RATE[known.space])
    work = partial(_prepare, known, dataset, proxy or SETS, budget)
    asked = cells(known.table, count, seed) if known.space == CELLS else known.table.index[:count]
    names = [*work().sources]
    done = set(pd.read_csv(path).groupby(["arch", "source"]).groups) if path.exists() else set()
    tasks = [(arch, name) for arch in asked for name in names]
    left = [task for task in tasks if task not in done]
    typer.echo(f"{len(left)} of {len(tasks)} trainings to do: {', '.join(names)}")
    with (
        LOCAL.opened(work, LOCAL.workers(workers)) as mapped,
        open(path, "a", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, FIELDS)
        if not done and not file.tell():
            writer.writeheader()
        for number, rows in enumerate(mapped(_train, left, _lost), 1):
            writer.writerows(rows)
            file.flush()
            typer.echo(f"  {number} of {len(left)}  {rows[0]['source']}")


def _note_hardware(path: Path) -> None:
    """Add this machine to those that the trainings were made on."""
    machines = path.read_text().splitlines() if path.exists() else []
    here = hardware.describe("cpu")
    if here not in machines:
        files.write_text(path, "\n".join([*machines, here]) + "\n")


@dataclass(frozen=True)
class Budget:
    """The seed, the updates of a training at most, the random sets of each size, the rate."""

    seed: int
    updates: int
    draws: int
    rate: float


def _prepare(known: Ground, dataset: Dataset, sets: Sequence[str], budget: Budget) -> Work:
    torch.set_flush_denormal(True)
    keep_freed_memory()
    sources = {quality.REAL: _source(quality.REAL, dataset.train, None, budget)}
    sizes = set()
    for name in sets:
        loaded = proxyset.read(name)
        proxyset.check(loaded, dataset)
        stem = Path(name).stem
        sources[stem] = _source(stem, Split(loaded.x, loaded.y), loaded, budget)
        sizes.add(len(loaded) // dataset.num_classes)
    for ipc, draw in product(sorted(sizes), range(budget.draws)):
        drawn = pn.make_proxy(dataset, "random", ipc=ipc, seed=budget.seed + draw)
        name = f"random-ipc{ipc}" + (f"-{draw}" if draw else "")
        sources[name] = _source(name, Split(drawn.x, drawn.y), None, budget)
    val = Split(dataset.val.x[:VALIDATION], dataset.val.y[:VALIDATION])
    return Work(known.load(), replace(dataset, val=val), sources, budget.seed)


def _source(name: str, images: Split, loaded: ProxySet | None, budget: Budget) -> Source:
    updates = min(budget.updates, PASSES * len(images) // BATCH)
    recipe = Recipe(updates, BATCH, lr=budget.rate, nesterov=True)
    if loaded is not None:
        recipe = proxyset.candidate_recipe(loaded, recipe)
    return Source(name, images.x, images.y, recipe)


def _train(work: Work, task: Task) -> list[Row]:
    arch, name = task
    source, data = work.sources[name], work.dataset
    rows: list[Row] = []
    seed = seeds.derive(work.seed, name, arch)
    with seeds.seeded(seeds.derive(seed, "init")):
        net = work.space.build(arch, data.shape, data.num_classes)
    validating, started = 0.0, time.process_time()

    def look(_: int, watched: nn.Module, losses: Tensor) -> None:
        nonlocal validating
        before = time.process_time()
        training.calibrate(watched, data.train.x[:256])
        accuracy, loss = training.evaluate(watched, data.val.x, data.val.y)
        seconds = time.process_time() - before
        rows.append(
            {
                "arch": arch,
                "source": name,
                "updates": len(losses),
                "val_accuracy": accuracy,
                "val_loss": loss,
                "sotl": losses.sum().item(),
                "sotl_late": sotl_late(losses.numpy()),
                "train_seconds": before - started - validating,
                "val_seconds": seconds,
            }
        )
        validating += seconds

    moments = [moment for moment in MOMENTS if moment <= source.recipe.updates]
    trained = training.fit(
        [net], source.x, source.y, source.recipe, seed=seed, watch=look, watch_at=moments
    )
    whole = [row for row in rows if math.isfinite(row["sotl"])]  # a failure keeps what was before
    return whole or _lost(task, trained.failed[0] or "it gave nothing")


def _lost(task: Task, reason: str) -> list[Row]:
    typer.echo(f"  {task[0]} on {task[1]}: {reason}")
    return [{"arch": task[0], "source": task[1]}]


@app.command()
def summary(
    out: Out,
    proxy: Annotated[
        list[str] | None, typer.Option(help="a set that was distilled, for what that cost")
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the JSON and the figure")] = None,
) -> None:
    """Print a line a source and budget, and write the JSON and the figure."""
    known = ground(out)
    study = quality.Study.of(known.load(), known.table, pd.read_csv(out / "trained.csv"))
    if min(held.sum() for held in study.held.values()) < 3:
        raise typer.BadParameter(f"{len(study.table)} networks are whole; train more of them first")
    made_on = out / "hardware.txt"
    found: Row = {
        "networks": len(study.table),
        "kinds": len(np.unique(study.kinds)),
        "truly_best": {key: int(held.sum()) for key, held in study.held.items() if key != "rho"},
        "hardware": made_on.read_text().splitlines() if made_on.exists() else [],
        "distilling_core_seconds": {
            Path(one).stem: round(proxyset.read(one).provenance["core_seconds"], 1)
            for one in proxy or SETS
        },
        "without training": study.without_training(),
        "sources": study.sources(),
    }
    found["cheapest"] = quality.cheapest(found)
    for source, budgets in found["sources"].items():
        for updates, row in budgets.items():
            shown = (*quality.INDICATORS, *quality.combined(row))
            values = "  ".join(f"{key} {row[key]['rho'][0]:.2f}" for key in shown)
            seconds = " + ".join(f"{value:.2f}" for value in row["core_seconds"].values())
            typer.echo(f"{source} {updates}: {seconds} s  {values}")
    name = name or ("ranking-study" if known.space == CELLS else "ranking-convnets")
    files.write_text(out / f"{name}.json", json.dumps(found, indent=1, ensure_ascii=False))
    quality.draw(found, out / f"{name}.png")


@app.command()
def predict(
    out: Out,
    labels: Annotated[int, typer.Option(help="networks whose truth a predictor is fitted to")] = 40,
    draws: Annotated[int, typer.Option(help="choices of these networks")] = 20,
    name: Annotated[str, typer.Option(help="of the JSON")] = "ranking-predicted",
) -> None:
    """Print what a performance predictor gains from each source, and write it as JSON."""
    known = ground(out)
    space, rows = known.load(), pd.read_csv(out / "trained.csv")
    study = quality.Study.of(space, known.table, rows)
    about: Row = {"networks": len(study.table), "labels": labels, "draws": draws}
    found = about | quality.predicted(study, space, labels, draws)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    typer.echo(text)
    files.write_text(out / f"{name}.json", text)


if __name__ == "__main__":
    app()
