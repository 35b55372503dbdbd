"""What ranks NAS-Bench-201's cells best for its seconds: which set, trained on for how long?

    python experiments/ranking_study.py train --data CIFAR-10 --out runs/ranking
    python experiments/ranking_study.py summary --out runs/ranking

The first trains cells on every set and on the real images, batches of ten, the rate constant, and
appends a line a training and moment to ``trained.csv``; it goes on where it stopped. One training
gives ten budgets: what its indicators were after 100, 200, … 1,000 updates, and what it had cost by
then, the validations included. A set is passed over a hundred times at most, so that one of a
single image a class gives 10, 20, … 100 updates.
Half of the cells are among the truly best tenth of the 1,000 of ``nasbench201-zerocost.csv.gz`` or
in what zero-cost indicators take for it, the others are any of the rest. The second makes the JSON
and the figure.
"""

import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from scipy import stats

from proxynas import datasets, proxyset, spaces
from proxynas.core import files, hardware
from proxynas.core.allocator import keep_freed_memory
from proxynas.datasets import Dataset, Split
from proxynas.engine import LOCAL
from proxynas.proxyset import ProxySet
from proxynas.rank import correlation
from proxynas.search.score import Glimpse, Source, Work, score
from proxynas.search.store import sotl_late
from proxynas.specs import Recipe

app = typer.Typer(add_completion=False)

VALUES = Path(__file__).with_name("nasbench201-zerocost.csv.gz")
SPACE = {"channels": 8, "cells": 1}
"""Of the cells that are trained; truth and zero-cost indicators are of the published ones."""

UPDATES, POINTS, BATCH, RATE = 1000, 10, 10, 0.05
PASSES = 100
VALIDATION = 500
REAL = "real images"
PRIOR = ("zero-cost:vote", "zero-cost:jacob_cov", "parameters:parameters")
LOSSES = ("val_loss", "sotl", "sotl_late")
INDICATORS = ("val_accuracy", "val_auc", *LOSSES)
FIELDS = ("arch", "source", "updates", *INDICATORS, "seconds")
BUDGETS = (100, 300, 1000)
FEW = ("12 epochs, half the data:val_accuracy", "12 epochs, all the data:test_accuracy")
CANDIDATES = (100, 1000, 10000)
"""Numbers of candidates that share a distillation."""

Row = dict[str, Any]
Task = tuple[str, str]

Out = Annotated[Path, typer.Option(help="folder of the results")]


def cells(count: int, seed: int) -> list[str]:
    """Cells to train, alternately of the promising half and of the rest, so that any first part of
    them is a sample like the whole."""
    table = pd.read_csv(VALUES, index_col="arch")
    tenth = len(table) // 10
    promising = table["truth"].nlargest(tenth).index.union(_prior(table).nlargest(tenth).index)
    rng = np.random.default_rng(seed)
    halves = (promising.sort_values(), table.index.difference(promising))
    drawn = [rng.choice(half, count // 2, replace=False) for half in halves]
    return [str(arch) for pair in zip(*drawn, strict=True) for arch in pair]


def _prior(table: pd.DataFrame) -> pd.Series:
    """The mean rank of the zero-cost indicators that a search of cells uses."""
    ranks: pd.Series = table[list(PRIOR)].rank().mean(axis=1)
    return ranks


@app.command()
def train(
    data: Annotated[str, typer.Option(help="CIFAR-10: a name or a folder")],
    out: Out,
    proxy: Annotated[
        list[str] | None, typer.Option(help="a set; by default the two of CIFAR-10 that ship")
    ] = None,
    count: Annotated[int, typer.Option(help="cells")] = 100,
    seed: Annotated[int, typer.Option(help="of cells, random images and trainings")] = 0,
    workers: Annotated[int | None, typer.Option(help="trainings at a time")] = None,
) -> None:
    """Train all cells on all sets; what ``trained.csv`` has is not trained again."""
    path = out / "trained.csv"
    dataset = datasets.load(data)
    work = partial(_prepare, dataset, proxy or ["cifar10-gm-ipc1", "cifar10-apm-ipc10"], seed)
    names = [*work().sources]
    done = set(_read(path).groupby(["arch", "source"]).groups) if path.exists() else set()
    tasks = [(arch, name) for arch in cells(count, seed) for name in names]
    left = [task for task in tasks if task not in done]
    typer.echo(f"{len(left)} of {len(tasks)} trainings to do: {', '.join(names)}")
    out.mkdir(parents=True, exist_ok=True)
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


def _prepare(dataset: Dataset, sets: Sequence[str], seed: int) -> Work:
    torch.set_flush_denormal(True)
    keep_freed_memory()
    sources = {REAL: _source(REAL, dataset, dataset.train, None)}
    sizes = set()
    for name in sets:
        loaded = proxyset.read(name)
        proxyset.check(loaded, dataset)
        sources[Path(name).stem] = _source(
            Path(name).stem, dataset, Split(loaded.x, loaded.y), loaded
        )
        sizes.add(len(loaded) // dataset.num_classes)
    for ipc in sorted(sizes):
        chosen = random_images(dataset.train.y, ipc, seed)
        name, images = f"random-ipc{ipc}", Split(dataset.train.x[chosen], dataset.train.y[chosen])
        sources[name] = _source(name, dataset, images, None)
    val = Split(dataset.val.x[:VALIDATION], dataset.val.y[:VALIDATION])
    return Work(spaces.load("nasbench201", SPACE), replace(dataset, val=val), sources, seed)


def _source(name: str, dataset: Dataset, images: Split, loaded: ProxySet | None) -> Source:
    updates = min(UPDATES, PASSES * len(images) // BATCH)
    recipe = Recipe(updates, BATCH, lr=RATE, nesterov=True)
    return Source(
        name,
        images.x,
        images.y,
        recipe if loaded is None else proxyset.candidate_recipe(loaded, recipe),
        calibration=dataset.train.x[:256],
        val_points=POINTS,
    )


def random_images(y: torch.Tensor, ipc: int, seed: int) -> torch.Tensor:
    """Indices of ``ipc`` random images of each class."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[y[order] == label][:ipc] for label in range(int(y.max()) + 1)])


def _train(work: Work, task: Task) -> list[Row]:
    arch, source = task
    rows: list[Row] = []
    started = time.process_time()

    def note(losses: torch.Tensor, accuracies: Sequence[float], val_loss: float) -> None:
        rows.append(
            {
                "arch": arch,
                "source": source,
                "updates": len(losses),
                "val_accuracy": accuracies[-1],
                "val_auc": float(np.mean(accuracies)),
                "val_loss": val_loss,
                "sotl": losses.sum().item(),
                "sotl_late": sotl_late(losses.numpy()),
                "seconds": time.process_time() - started,
            }
        )

    def look(glimpse: Glimpse) -> None:
        seen.append(glimpse.accuracies[-1])
        note(glimpse.losses, glimpse.accuracies, glimpse.val_loss)

    seen: list[float] = []
    (row,) = score(work, source, arch, [0], look)
    if row.failed is not None or row.val_accuracy is None or row.val_loss is None:
        return _lost(task, row.failed or "it gave nothing")
    note(torch.from_numpy(row.losses), [*seen, row.val_accuracy], row.val_loss)
    return rows


def _lost(task: Task, reason: str) -> list[Row]:
    typer.echo(f"  {task[0]} on {task[1]}: {reason}")
    return [{"arch": task[0], "source": task[1], "updates": UPDATES}]


@app.command()
def summary(out: Out) -> None:
    """Print ρ of every source and budget, and write ``ranking-study.json`` and the figure."""
    rows = _read(out / "trained.csv")
    whole = rows.groupby("arch")["source"].nunique() == rows["source"].nunique()
    archs = whole[whole].index
    table = pd.read_csv(VALUES, index_col="arch")
    best = table["truth"].nlargest(len(table) // 10).index
    table = table.loc[archs].assign(prior=_prior(table.loc[archs]))
    kind = spaces.load("nasbench201", SPACE).kind or str
    draws = correlation.resample(
        len(table), 2000, np.random.default_rng(0), np.array([kind(arch) for arch in archs])
    )
    top = archs.isin(best)
    found: Row = {
        "cells": len(archs),
        "kinds": len({kind(arch) for arch in archs}),
        "truly_best_tenth": int(top.sum()),
        "hardware": hardware.describe("cpu"),
        "zero-cost": _agreement(table["prior"], table["truth"], draws, top),
    }
    for column in FEW:
        found[column.split(":")[0]] = _agreement(table[column], table["truth"], draws, top)
    for source, trained in rows[rows["arch"].isin(archs)].groupby("source"):
        budgets = {}
        for updates, one in trained.groupby("updates"):
            one = one.set_index("arch").loc[archs]
            values = {name: one[name] * (-1 if name in LOSSES else 1) for name in INDICATORS}
            ranks = [values["sotl_late"].rank(), *(table[name].rank() for name in PRIOR)]
            values["sotl_late+zero-cost"] = pd.concat(ranks, axis=1).mean(axis=1)
            budgets[str(updates)] = {
                "core_seconds": round(float(one["seconds"].mean()), 2),
                **{
                    name: _agreement(value.fillna(-math.inf), table["truth"], draws, top)
                    for name, value in values.items()
                },
            }
        found[str(source)] = budgets
    files.write_text(out / "ranking-study.json", json.dumps(found, indent=1, ensure_ascii=False))
    for name, one in found.items():
        typer.echo(f"{name}: {json.dumps(one)}"[:300])


def _agreement(
    values: pd.Series, truth: pd.Series, draws: correlation.Ints, top: np.ndarray[Any, Any]
) -> Row:
    """ρ over all cells, and among the truly best tenth, with 95 % intervals."""
    x, y = values.to_numpy(dtype=float), truth.to_numpy()
    result: Row = {}
    for name, held in (("rho", np.ones(len(x), dtype=bool)), ("best_tenth", top)):
        part = draws[:, held]
        low, high = correlation.interval(correlation.spearman_draws(x[held], y[held], part))
        rho = float(stats.spearmanr(x[held], y[held]).statistic)
        result[name] = [round(number, 3) for number in (rho, low, high)]
    return result


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


if __name__ == "__main__":
    app()
