"""Can the set, the rate, the length and the indicator be chosen for ranking, by a few labels?

    python experiments/chosen_for_ranking.py train --out runs/chosen
    python experiments/chosen_for_ranking.py summary --out runs/chosen

The first trains 60 ConvNets of at most ten million operations on fourteen sets of ten digits
(distilled and selected ones), at three rates, and appends a line a training and moment to
``trained.csv``; it goes on where it stopped. The second splits the networks at random into 20 with
labels and 40 without, a hundred times, takes the set, the rate, the number of updates and the
indicator that rank the 20 best, and prints what ρ they have on the other 40: chosen among all sets,
distilled ones, real images, or the settings of a single set; in hindsight; and of what a search
does without choosing, with a predictor fitted to the same labels beside it.
"""

import csv
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from scipy import stats

import proxynas as pn
from proxynas import datasets, spaces
from proxynas.core import files, hardware
from proxynas.datasets import Dataset
from proxynas.engine import LOCAL
from proxynas.predict import predictor
from proxynas.search.score import Glimpse, Source, Work, score
from proxynas.search.store import sotl_late
from proxynas.specs import Recipe
from proxynas.truth import table

app = typer.Typer(add_completion=False)

SETS: dict[str, dict[str, Any]] = {
    "GM, 50 steps": {"method": "gm", "steps": 50},
    "GM, 200 steps": {"method": "gm", "steps": 200},
    "GM, 600 steps": {"method": "gm", "steps": 600},
    "DM, 100 steps": {"method": "dm", "steps": 100},
    "DM, 600 steps": {"method": "dm", "steps": 600},
    "unroll, 30 steps": {"method": "unroll", "steps": 30},
    "random 0": {"method": "random", "seed": 0},
    "random 1": {"method": "random", "seed": 1},
    "random 2": {"method": "random", "seed": 2},
    "random 3": {"method": "random", "seed": 3},
    "herding": {"method": "herding"},
    "k-center": {"method": "kcenter"},
    "entropy": {"method": "entropy"},
    "EL2N": {"method": "el2n"},
}
DISTILLED = ("GM", "DM", "unroll")
RATES = (0.003, 0.01, 0.03)
USUAL_RATE = 0.01
UPDATES, POINTS = 100, 4
NETWORKS, LABELS, MOST = 60, 20, 1e7
SPLITS = 100
LOSSES = ("val_loss", "sotl", "sotl_late")
INDICATORS = ("val_accuracy", *LOSSES)
FIELDS = ("arch", "set", "rate", "updates", *INDICATORS)

Row = dict[str, Any]
Task = tuple[str, str]
Out = Annotated[Path, typer.Option(help="folder of the sets and the results")]


def networks() -> list[str]:
    """ConvNets of the grid, random ones that do not cost too much."""
    space = pn.load_space("convnet-grid")
    drawn = space.sample(4 * NETWORKS, np.random.default_rng(5))
    cheap = [arch for arch in drawn if space.cost(arch, (1, 8, 8), 10)[1] <= MOST]
    return cheap[:NETWORKS]


@app.command()
def train(
    out: Out,
    workers: Annotated[int | None, typer.Option(help="trainings at a time")] = None,
) -> None:
    """Train all networks on all sets at all rates; what ``trained.csv`` has is not done again."""
    path, dataset = out / "trained.csv", datasets.load("digits")
    for name, asked in SETS.items():
        pn.make_proxy(dataset, ipc=1, out=out / f"{name}.safetensors", **asked)
    work = partial(_prepare, dataset, out)
    done = set(pd.read_csv(path).groupby(["arch", "set", "rate"]).groups) if path.exists() else ()
    tasks = [
        (arch, _source_name(name, rate))
        for arch in networks()
        for name in SETS
        for rate in RATES
        if (arch, name, rate) not in done
    ]
    typer.echo(f"{len(tasks)} trainings to do")
    with (
        LOCAL.opened(work, LOCAL.workers(workers)) as mapped,
        open(path, "a", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, FIELDS)
        if not file.tell():
            writer.writeheader()
        for rows in mapped(_train, tasks, _lost):
            writer.writerows(rows)
            file.flush()


def _source_name(name: str, rate: float) -> str:
    return f"{name}@{rate}"


def _prepare(dataset: Dataset, out: Path) -> Work:
    torch.set_flush_denormal(True)
    sources = {}
    for name in SETS:
        loaded = pn.read_proxy(out / f"{name}.safetensors")
        for rate in RATES:
            sources[_source_name(name, rate)] = Source(
                _source_name(name, rate),
                loaded.x,
                loaded.y,
                Recipe(UPDATES, 10, lr=rate),
                calibration=dataset.train.x[:256],
                val_points=POINTS,
            )
    return Work(spaces.load("convnet-grid"), dataset, sources, seed=0)


def _train(work: Work, task: Task) -> list[Row]:
    arch, source = task
    name, rate = source.split("@")
    rows: list[Row] = []

    def note(losses: torch.Tensor, accuracy: float, val_loss: float) -> None:
        values = (accuracy, val_loss, losses.sum().item(), sotl_late(losses.numpy()))
        about = {"arch": arch, "set": name, "rate": rate, "updates": len(losses)}
        rows.append({**about, **dict(zip(INDICATORS, values, strict=True))})

    def look(glimpse: Glimpse) -> None:
        note(glimpse.losses, glimpse.accuracies[-1], glimpse.val_loss)

    (row,) = score(work, source, arch, [0], look)
    if row.val_accuracy is None or row.val_loss is None:
        return _lost(task, row.failed or "it gave nothing")
    note(torch.from_numpy(row.losses), row.val_accuracy, row.val_loss)
    return rows


def _lost(task: Task, reason: str) -> list[Row]:
    name, rate = task[1].split("@")
    typer.echo(f"  {task[0]} on {name} at {rate}: {reason}")
    return [{"arch": task[0], "set": name, "rate": rate, "updates": UPDATES}]


@app.command()
def summary(out: Out) -> None:
    """Print ρ of every way to choose, and write ``chosen-for-ranking.json``."""
    values, truth = _values(out)
    names = values.columns.get_level_values(0)
    real = np.array([not str(name).startswith(DISTILLED) for name in names])
    ways = {
        "all sets": np.ones(len(names), dtype=bool),
        "distilled sets": ~real,
        "real images": real,
        "one random set": np.asarray(names == "random 0"),
        "one distilled set": np.asarray(names == "GM, 200 steps"),
    }
    found: Row = {"hardware": hardware.describe("cpu"), "networks": len(truth)}
    rng = np.random.default_rng(0)
    splits = [rng.permutation(len(truth)) for _ in range(SPLITS)]
    rho = np.stack([_rho(values, truth, order[:LABELS]) for order in splits])  # (splits, columns)
    held_out = np.stack([_rho(values, truth, order[LABELS:]) for order in splits])
    for way, allowed in ways.items():
        best = np.where(allowed, rho, -math.inf).argmax(1)
        hindsight = int(np.where(allowed, held_out.mean(0), -math.inf).argmax())
        found[way] = {
            "configurations": int(allowed.sum()),
            "chosen by labels": _spread(held_out[np.arange(SPLITS), best]),
            "on the labels": _spread(rho[np.arange(SPLITS), best]),
            "in hindsight": _spread(held_out[:, hindsight]),
            "that is": " ".join(str(part) for part in list(values.columns)[hindsight]),
        }
        typer.echo(f"{way}: {json.dumps(found[way])}")
    for name in ("GM, 200 steps", "random 0"):
        found[f"fixed: {name}"] = _fixed(
            pd.DataFrame(values[name, USUAL_RATE, UPDATES]), truth, splits
        )
        typer.echo(f"fixed: {name}: {json.dumps(found[f'fixed: {name}'])}")
    by_set = {
        str(name): round(float(held_out.mean(0)[np.asarray(names == name)].max()), 3)
        for name in dict.fromkeys(names)
    }
    found["best on average, by set"] = by_set
    typer.echo(json.dumps(by_set))
    files.write_text(out / "chosen-for-ranking.json", json.dumps(found, indent=1))


def _fixed(
    values: pd.DataFrame, truth: pd.Series, splits: Sequence[NDArray[np.int64]]
) -> dict[str, list[float]]:
    """Held-out ρ of single indicators of one training as a search does it, and of a predictor that
    is fitted to the labels on the four of them."""
    rho = np.stack([_rho(values, truth, order[LABELS:]) for order in splits])
    fitted = []
    for seed, order in enumerate(splits):
        labels = truth.iloc[order[:LABELS]]
        prediction = predictor.fit(values, labels, prior=values["sotl"], seed=seed).scores
        fitted.append(_rho(prediction.to_frame(), truth, order[LABELS:])[0])
    found = {str(name): _spread(rho[:, i]) for i, name in enumerate(values.columns)}
    return {**found, "predictor": _spread(np.array(fitted))}


def _values(out: Path) -> tuple[pd.DataFrame, pd.Series]:
    """A row a network, a column a (set, rate, updates, indicator), higher is better; and truth."""
    rows = pd.read_csv(out / "trained.csv")
    rows[list(LOSSES)] *= -1
    values = rows.pivot(index="arch", columns=["set", "rate", "updates"], values=list(INDICATORS))
    values = values.reorder_levels([1, 2, 3, 0], axis=1).sort_index(axis=1).fillna(-math.inf)
    known = table.find("convnet-grid", "digits")
    assert known is not None
    return values, known.accuracy().loc[values.index]


def _rho(values: pd.DataFrame, truth: pd.Series, chosen: NDArray[np.int64]) -> np.ndarray[Any, Any]:
    """Spearman's ρ of every column with truth, over the chosen rows."""
    ranks = stats.rankdata(values.to_numpy()[chosen], axis=0)
    wanted = stats.rankdata(truth.to_numpy()[chosen])
    ranks, wanted = ranks - ranks.mean(0), wanted - wanted.mean()
    scale = np.sqrt((ranks**2).sum(0) * (wanted**2).sum())
    return np.asarray(np.where(scale > 0, wanted @ ranks / np.where(scale > 0, scale, 1), 0.0))


def _spread(values: np.ndarray[Any, Any]) -> list[float]:
    """Mean, and the middle 80 % over the splits."""
    low, high = np.quantile(values, [0.1, 0.9])
    return [round(float(value), 3) for value in (values.mean(), low, high)]


if __name__ == "__main__":
    app()
