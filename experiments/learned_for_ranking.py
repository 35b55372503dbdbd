"""Can the images themselves, and the rates, be learned so that networks are ranked well?

    python experiments/learned_for_ranking.py train --out runs/learned
    python experiments/learned_for_ranking.py summary --out runs/learned

The first takes 60 ConvNets, 20 of which have labels (their truth), and changes a set step by step:
each of the 20, freshly initialised, is trained on it for 30 updates; the set moves against the
gradient, backwards through these trainings, of how badly their losses on real images order the
labels (RankNet's logistic loss of pairs, Burges et al. 2005). Beside it the same with the mean
loss of the 20 instead, what ``unroll`` minimises, which knows no labels; and the same where only
the 30 learning rates are learned. A line a network and moment goes to ``learned.csv``; it goes on
where it stopped. The second prints ρ with truth on the 20 and on the other 40.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from chosen_for_ranking import LABELS, networks
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import proxynas as pn
from proxynas import datasets, spaces
from proxynas.core import files, hardware, seeds
from proxynas.datasets import Dataset, Split
from proxynas.distill import students
from proxynas.distill.methods.unroll import InnerTraining, hypergradient
from proxynas.predict import predictor
from proxynas.search import zerocost
from proxynas.specs.constraint import COSTS
from proxynas.truth import table

app = typer.Typer(add_completion=False)

SPACE = spaces.load("convnet-grid")

STARTS: dict[str, dict[str, Any]] = {
    "random, ipc 1": {"method": "random", "ipc": 1},
    "GM, ipc 1": {"method": "gm", "ipc": 1, "steps": 200},
    "random, ipc 10": {"method": "random", "ipc": 10},
}
RATES_ALONE = "ranking, rates alone"
AIMS = ("ranking", "mean loss", RATES_ALONE)
UPDATES, RATE, MOMENTUM, REAL = 30, 0.01, 0.9, 256
STEPS, MOMENTS = 40, (0, 20, 40)
IMAGE_LR, RATE_LR, TEMPERATURE = 0.02, 0.05, 0.5
INITS = 2
"""Fresh initialisations of every network whenever a set is judged."""
FIELDS = ("split", "start", "aim", "step", "arch", "labelled", "init", "val_loss")

Row = dict[str, Any]
Out = Annotated[Path, typer.Option(help="folder of the sets and the results")]


@dataclass(frozen=True)
class Study:
    """Digits, the networks in an order whose first 20 have labels, and their truth."""

    dataset: Dataset
    archs: list[str]
    truth: dict[str, float]
    split: int

    def build(self, arch: str, *stream: object) -> nn.Module:
        """A fresh network, initialised from a stream of the split's seed."""
        with seeds.seeded(seeds.derive(self.split, arch, *stream)):
            return SPACE.build(arch, self.dataset.shape, self.dataset.num_classes)


def study(split: int) -> Study:
    """The 60 networks, shuffled by the number of the split."""
    known = table.find("convnet-grid", "digits")
    assert known is not None
    archs = [str(arch) for arch in np.random.default_rng(split).permutation(networks())]
    accuracy = known.accuracy()
    truth = {arch: float(accuracy[arch]) for arch in archs}
    return Study(datasets.load("digits"), archs, truth, split)


@app.command()
def train(
    out: Out,
    splits: Annotated[int, typer.Option(help="ways to choose the 20 networks")] = 3,
    start: Annotated[list[str] | None, typer.Option(help="what to start from, or all")] = None,
    aim: Annotated[list[str] | None, typer.Option(help="what to learn for, or all")] = None,
) -> None:
    """Learn every set and judge it on the way; what ``learned.csv`` has is not done again."""
    torch.set_flush_denormal(True)
    path = out / "learned.csv"
    out.mkdir(parents=True, exist_ok=True)
    done = set(pd.read_csv(path).groupby(["start", "split", "aim"]).groups) if path.exists() else ()
    asked = product(start or STARTS, range(splits), aim or AIMS)
    runs = [run for run in asked if run not in done]
    typer.echo(f"{len(runs)} sets to learn")
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not file.tell():
            writer.writeheader()
        for begun, split, sought in runs:
            typer.echo(f"split {split}, {begun}, {sought}")
            rows = learn(study(split), begun, sought)
            about = {"split": split, "start": begun, "aim": sought}
            writer.writerows({**about, **row} for row in rows)
            file.flush()


def learn(asked: Study, start: str, aim: str) -> list[Row]:
    """Change the set for ``STEPS`` steps; how the networks did on it at ``MOMENTS``."""
    rows: list[Row] = []
    proxy = pn.make_proxy(asked.dataset, seed=asked.split, **STARTS[start])
    classes = asked.dataset.num_classes
    by_class = proxy.x.view(classes, -1, *proxy.x.shape[1:])  # (C, ipc, …)
    images = by_class.transpose(0, 1).clone().requires_grad_()  # ipc batches of one image a class
    log_rates = torch.full((UPDATES,), math.log(RATE)).requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [images], "lr": IMAGE_LR}, {"params": [log_rates], "lr": RATE_LR}]
    )
    labels = torch.arange(classes)
    for step in range(STEPS + 1):
        inner = InnerTraining(images.detach(), labels, log_rates.detach().exp(), MOMENTUM)
        if step in MOMENTS:
            rows += judge(asked, inner, step)
            typer.echo(f"  {step} of {STEPS} steps")
        if step < STEPS:
            dx, log_rates.grad = gradients(asked, inner, aim, step)
            images.grad = None if aim == RATES_ALONE else dx
            optimizer.step()
    return rows


def gradients(asked: Study, inner: InnerTraining, aim: str, step: int) -> tuple[Tensor, Tensor]:
    """Of the aim, a function of the labelled networks' real losses, in images and log rates."""
    rows = torch.randperm(len(asked.dataset.train), generator=seeds.generator(asked.split, step))
    real = (asked.dataset.train.x[rows[:REAL]], asked.dataset.train.y[rows[:REAL]])
    found, truth = [], []
    for arch in asked.archs[:LABELS]:
        parameters, loss = students.student_loss([asked.build(arch, "learn", step)])
        gradient = hypergradient(loss, parameters, inner, real)
        if math.isfinite(gradient.loss) and gradient.x.isfinite().all():
            found.append(gradient)
            truth.append(asked.truth[arch])
    losses = torch.tensor([gradient.loss for gradient in found], requires_grad=True)
    value = losses.mean() if aim == "mean loss" else disorder(-losses.log(), torch.tensor(truth))
    (weights,) = torch.autograd.grad(value, losses)
    pairs = list(zip(weights, found, strict=True))
    dx = torch.stack([weight * gradient.x for weight, gradient in pairs]).sum(0)
    drates = torch.stack([weight * gradient.rates for weight, gradient in pairs]).sum(0)
    return dx, drates * inner.rates  # dη/d log η = η


def disorder(scores: Tensor, truth: Tensor) -> Tensor:
    """The mean logistic loss of all pairs (RankNet), of scores (N,) of mean 0 and variance 1."""
    scaled = (scores - scores.mean()) / scores.std()
    better = truth[:, None] > truth[None, :]
    return F.softplus(-(scaled[:, None] - scaled[None, :]) / TEMPERATURE)[better].mean()


def judge(asked: Study, inner: InnerTraining, step: int) -> list[Row]:
    """The loss on validation images of all networks, trained on the set from scratch."""
    rows = []
    for place, arch in enumerate(asked.archs):
        for init in range(INITS):
            val_loss = trained(asked.build(arch, "judge", init), inner, asked.dataset.val)
            labelled = place < LABELS
            rows.append(dict(zip(FIELDS[3:], (step, arch, labelled, init, val_loss), strict=True)))
    return rows


def trained(net: nn.Module, inner: InnerTraining, val: Split) -> float:
    """The network's loss after the trainings' updates; norms use the statistics of the batch."""
    optimizer = torch.optim.SGD(net.train().parameters(), lr=RATE, momentum=MOMENTUM)
    for update, rate in enumerate(inner.rates.tolist()):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(net(inner.x[update % len(inner.x)]), inner.y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return F.cross_entropy(net(val.x), val.y).item()


@app.command()
def summary(out: Out) -> None:
    """Print a line a start, aim and moment, and write ``learned-for-ranking.json``."""
    rows = pd.read_csv(out / "learned.csv")
    rows["truth"] = rows["arch"].map(study(0).truth)
    beside = untrained(out)
    found: Row = {
        "hardware": hardware.describe("cpu"),
        "predictor without a set": _spread(
            [_predicted(part, beside) for _, part in rows[rows["step"] == 0].groupby("split")]
        ),
    }
    typer.echo(json.dumps(found))
    for (start, aim), learned in rows.groupby(["start", "aim"], sort=False):
        for step, judged in learned.groupby("step"):
            by_split = [part for _, part in judged.groupby("split")]
            predicted = [_predicted(part, beside, "val_loss") for part in by_split]
            about: Row = {
                "splits": len(by_split),
                "median loss": round(float(judged["val_loss"].median()), 3),
                "the 20 with labels": _spread([_rho(part[part["labelled"]]) for part in by_split]),
                "the other 40": _spread([_rho(part[~part["labelled"]]) for part in by_split]),
                "the other 40, predictor": _spread(predicted),
            }
            found[f"{start}, {aim}, {step} steps"] = about
            typer.echo(f"{start}, {aim}, {step} steps: {json.dumps(about)}")
    files.write_text(out / "learned-for-ranking.json", json.dumps(found, indent=1))


def untrained(out: Path) -> pd.DataFrame:
    """What takes no training, of all networks: zero-cost indicators and costs (a file keeps it)."""
    path, dataset = out / "untrained.csv", datasets.load("digits")
    if not path.exists():
        names = [*zerocost.INDICATORS]
        rows = {}
        for arch in networks():
            row = zerocost.zero_cost(SPACE, arch, dataset, names, seed=0)
            cost = SPACE.cost(arch, dataset.shape, dataset.num_classes)
            rows[arch] = {name: row[name] for name in names} | dict(zip(COSTS, cost, strict=True))
        found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arch")
        files.write_text(path, found.to_csv())
    return pd.read_csv(path, index_col="arch")


def _predicted(judged: pd.DataFrame, beside: pd.DataFrame, *features: str) -> float:
    """ρ with truth over the 40 of a predictor that is fitted to the labels of the 20, on what takes
    no training and, of one training of each, ``features``."""
    one = judged[judged["init"] == 0].drop_duplicates("arch").set_index("arch")
    values = beside.loc[one.index].assign(**{name: -one[name] for name in features})
    prior = values[list(features) or ["jacob_cov"]].mean(axis=1)
    labels = one.loc[one["labelled"], "truth"]
    axes = pd.DataFrame([SPACE.describe(str(arch)) for arch in one.index], index=one.index)
    scores = predictor.fit(values, labels, prior=prior, seed=0, axes=axes).scores
    others = ~one["labelled"]
    return float(stats.spearmanr(scores[others], one.loc[others, "truth"]).statistic)


def _rho(judged: pd.DataFrame) -> float:
    """Spearman's ρ of minus the loss with truth, the mean over the initialisations."""
    rho = []
    for _, one in judged.groupby("init"):
        loss = one["val_loss"].fillna(math.inf)  # a failed training ranks last
        rho.append(stats.spearmanr(-loss, one["truth"]).statistic)
    return float(np.mean(rho))


def _spread(by_split: Sequence[float]) -> list[float]:
    """Mean over the splits, the least, the most."""
    values = (np.mean(by_split), min(by_split), max(by_split))
    return [round(float(value), 3) for value in values]


if __name__ == "__main__":
    app()
