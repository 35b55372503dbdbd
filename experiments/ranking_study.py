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

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import typer
from scipy import stats
from torch import Tensor, nn

import proxynas as pn
from proxynas import datasets, proxyset, spaces, training
from proxynas.core import files, hardware, seeds
from proxynas.core.allocator import keep_freed_memory
from proxynas.datasets import Dataset, Split
from proxynas.engine import LOCAL
from proxynas.proxyset import ProxySet
from proxynas.rank import correlation
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
REAL = "real images"
PRIOR = ("zero-cost:vote", "zero-cost:jacob_cov", "parameters:parameters")
LOSSES = ("val_loss", "sotl", "sotl_late")
INDICATORS = ("val_accuracy", *LOSSES)
VALIDATED = ("val_accuracy", "val_loss")
"""Indicators that cost a validation beside the training."""
FIELDS = ("arch", "source", "updates", *INDICATORS, "train_seconds", "val_seconds")
COMBINED = "sotl_late with vote, jacob_cov, parameters"
FEW = ("12 epochs, half the data:val_accuracy", "12 epochs, all the data:test_accuracy")
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
    files.write_text(out / "known.csv", found.assign(truth=accuracy, **{PRIOR[0]: vote}).to_csv())


def cells(table: pd.DataFrame, count: int, seed: int) -> list[str]:
    """Cells to train, alternately of the promising half and of the rest, so that any first part of
    them is a sample like the whole."""
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
    sources = {REAL: _source(REAL, dataset.train, None, budget)}
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
) -> None:
    """Print a line a source and budget, and write the JSON and the figure."""
    known = ground(out)
    study = _study(known, pd.read_csv(out / "trained.csv"))
    found: Row = {
        "networks": len(study.table),
        "kinds": len(np.unique(study.kinds)),
        "truly_best_tenth": int(study.top.sum()),
        "hardware": hardware.describe("cpu"),
        "distilling_core_seconds": {
            name: round(proxyset.read(name).provenance["core_seconds"], 1) for name in proxy or SETS
        },
        "without training": {
            "zero-cost": study.agreement(study.table["prior"]),
            **{
                column.split(":")[0]: study.agreement(study.table[column])
                for column in FEW
                if column in study.table
            },
        },
        "sources": {
            name: {str(updates): _row(study, rows) for updates, rows in trained.groupby("updates")}
            for name, trained in study.trained.groupby("source")
        },
    }
    for name, budgets in found["sources"].items():
        for updates, row in budgets.items():
            values = "  ".join(f"{key} {row[key]['rho'][0]:.2f}" for key in (*INDICATORS, COMBINED))
            seconds = " + ".join(f"{value:.2f}" for value in row["core_seconds"].values())
            typer.echo(f"{name} {updates}: {seconds} s  {values}")
    name = "ranking-study" if known.space == CELLS else "ranking-convnets"
    files.write_text(out / f"{name}.json", json.dumps(found, indent=1, ensure_ascii=False))
    _draw(found, out / f"{name}.png")


@dataclass(frozen=True)
class Study:
    """Networks that were trained on every source, in the order of ``table``."""

    table: pd.DataFrame
    trained: pd.DataFrame
    kinds: correlation.Names
    top: np.ndarray[Any, np.dtype[np.bool_]]
    draws: correlation.Ints

    def agreement(self, values: pd.Series) -> Row:
        """ρ with truth over all networks, and among the truly best tenth, with 95 % intervals."""
        x = values.fillna(-math.inf).to_numpy(dtype=float)
        y, result = self.table["truth"].to_numpy(), Row()
        for name, held in (("rho", np.ones(len(x), dtype=bool)), ("best_tenth", self.top)):
            drawn = correlation.spearman_draws(x[held], y[held], self.draws[:, held])
            rho = float(stats.spearmanr(x[held], y[held]).statistic)
            result[name] = [round(value, 3) for value in (rho, *correlation.interval(drawn))]
        return result

    def difference(self, values: pd.Series, others: pd.Series) -> list[float]:
        """ρ of one ranking minus ρ of another, with its 95 % interval."""
        y = self.table["truth"].to_numpy()
        pair = [one.fillna(-math.inf).to_numpy(dtype=float) for one in (values, others)]
        drawn = [correlation.spearman_draws(x, y, self.draws) for x in pair]
        rho = [float(stats.spearmanr(x, y).statistic) for x in pair]
        interval = correlation.interval(drawn[0] - drawn[1])
        return [round(value, 3) for value in (rho[0] - rho[1], *interval)]

    def indicators(self, rows: pd.DataFrame) -> dict[str, pd.Series]:
        """Higher is better, of one source and budget; their combination with zero-cost last."""
        one = rows.set_index("arch").reindex(self.table.index)  # NaN: failed
        values = {name: one[name] * (-1 if name in LOSSES else 1) for name in INDICATORS}
        ranks = [values["sotl_late"].rank(), *(self.table[name].rank() for name in PRIOR)]
        return {**values, COMBINED: pd.concat(ranks, axis=1).mean(axis=1)}


def _study(ground: Ground, rows: pd.DataFrame) -> Study:
    whole = rows.groupby("arch")["source"].nunique() == rows["source"].nunique()
    known = ground.table
    best = known["truth"].nlargest(len(known) // 10).index
    table = known.loc[whole[whole].index]
    table = table.assign(prior=_prior(table))
    kind = ground.load().kind or str
    kinds = np.array([kind(str(arch)) for arch in table.index])
    draws = correlation.resample(len(table), 2000, np.random.default_rng(0), kinds)
    trained = rows[rows["arch"].isin(table.index)]
    return Study(table, trained, kinds, table.index.isin(best), draws)


def _row(study: Study, rows: pd.DataFrame) -> Row:
    values = study.indicators(rows)
    source, updates = rows["source"].iloc[0], rows["updates"].iloc[0]
    seconds = [round(float(rows[f"{name}_seconds"].mean()), 3) for name in ("train", "val")]
    result: Row = {"core_seconds": {"training": seconds[0], "a validation": seconds[1]}}
    result |= {name: study.agreement(value) for name, value in values.items()}
    result["minus_zero_cost"] = study.difference(values[COMBINED], study.table["prior"])
    trained = study.trained[study.trained["updates"] == updates]
    rivals = [name for name in trained["source"].unique() if _random_of(source, name)]
    for rival in (REAL, *rivals):
        others = trained[trained["source"] == rival]
        if rival != source and len(others) == len(study.table):
            theirs = study.indicators(others)
            result[f"minus {rival}"] = {
                name: study.difference(values[name], theirs[name]) for name in values
            }
    return result


def _random_of(source: str, name: str) -> bool:
    """Whether ``name`` is of random images, as many as those of ``source``."""
    return name.startswith("random-") and name.split("-")[1] in source.split("-")


def _draw(found: Row, path: Path) -> None:
    """ρ against core seconds a candidate, a line a source."""
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 4), sharex=True, sharey=True, layout="constrained"
    )
    panels = (("val_accuracy", "rho"), (COMBINED, "rho"), (COMBINED, "best_tenth"))
    for axis, (indicator, which) in zip(axes, panels, strict=True):
        for name, budgets in found["sources"].items():
            seconds = [
                row["core_seconds"]["training"]
                + (indicator in VALIDATED) * row["core_seconds"]["a validation"]
                for row in budgets.values()
            ]
            rho = [row[indicator][which] for row in budgets.values()]
            (line,) = axis.plot(seconds, [value[0] for value in rho], "o-", ms=3, label=name)
            low, high = zip(*[value[1:] for value in rho], strict=True)
            axis.fill_between(seconds, low, high, color=line.get_color(), alpha=0.1, lw=0)
        for (name, value), style in zip(
            found["without training"].items(), (":", "-.", "--"), strict=False
        ):
            axis.axhline(value[which][0], color="0.4", ls=style, lw=1, label=name)
        part = "over all" if which == "rho" else "among the truly best tenth"
        axis.set(xscale="log", xlabel="core seconds a candidate", title=f"{indicator},\n{part}")
    axes[0].set_ylabel("ρ with truth")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    app()
