"""What does training on a proxy set add to the predictor's features? The same labels, other
features.

    python experiments/predictor_ablation.py runs/digits-decision/indicators.csv

The table is ``indicators.csv`` of a search of ConvNets on digits with all baselines. A draw takes
some of the candidates, chooses labels as a search does, each one training's validation accuracy
from the truth table, and fits a predictor on the indicators of each source beside those that take
no training. It looks at its ρ with truth (mean test accuracy) over the candidates without a label,
and at the regret after the ten best of the prediction are trained, too. Differences are within a
draw, from what takes no training.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from scipy import stats

from proxynas.core import seeds
from proxynas.predict import choose, predictor, verify
from proxynas.search.sources import EARLY_STOPPING, PROXY, RANDOM, ZERO_COST
from proxynas.specs.constraint import COSTS
from proxynas.truth import table

app = typer.Typer(add_completion=False)

SETS = (ZERO_COST, RANDOM, PROXY, EARLY_STOPPING)
"""Sources whose indicators are features beside zero-cost ones and costs; the first has none."""

VERIFIED = 10


@app.command()
def run(
    indicators: Path,
    labels: Annotated[int, typer.Option(help="labels of a draw")] = 40,
    draws: Annotated[int, typer.Option(help="draws of candidates and labels")] = 40,
    size: Annotated[int, typer.Option(help="candidates of a draw")] = 100,
) -> None:
    """Print means over draws and the middle 95 % of the differences as JSON."""
    everything = pd.read_csv(indicators, index_col="arch").sort_index()
    truth = table.find("convnet-grid", "digits")
    assert truth is not None
    rows = truth.rows[truth.rows["arch"].isin(everything.index)]
    found: list[dict[str, Any]] = []
    for seed in range(draws):
        rng = np.random.default_rng(seeds.derive(seed, "candidates of a draw"))
        names = sorted(rng.choice(everything.index, min(size, len(everything)), replace=False))
        found += _draw(everything.loc[names], rows[rows["arch"].isin(names)], labels, seed)
    typer.echo(json.dumps(_summary(pd.DataFrame(found), labels, size), indent=1))


def features_of(values: pd.DataFrame, source: str) -> pd.DataFrame:
    """As in a search: the source's indicators, zero-cost ones and costs, no mean ranks and no
    predictions."""
    wanted = [
        name
        for name in map(str, values)
        if name.partition(":")[0] in (source, ZERO_COST, *COSTS)
        and "+" not in name
        and not name.endswith(":predicted")
    ]
    return values[wanted]


def _draw(values: pd.DataFrame, runs: pd.DataFrame, labels: int, seed: int) -> list[dict[str, Any]]:
    """One draw of labels: a row for each set of features. Later rounds are chosen by the proxy
    set's predictor, as in a search, and all sets have the same labels."""
    truth = runs.groupby("arch")["test_accuracy"].mean()
    shown = {str(arch): part.to_numpy() for arch, part in runs.groupby("arch")["val_accuracy"]}
    prior = values[["proxy:sotl", "proxy:val_loss", "zero-cost:vote"]].rank().mean(axis=1)
    rng = np.random.default_rng(seeds.derive(seed, "ablation", labels))
    once = pd.Series({arch: float(rng.choice(runs)) for arch, runs in shown.items()})
    first, *later = choose.rounds(labels)
    design = choose.spread(prior, first, seed)
    for more in later:
        fitted = predictor.fit(
            features_of(values, PROXY), once[design.index], prior=prior, seed=seed, repeats=1
        )
        design = choose.further(fitted, design, more, seed)
    rest = truth.index.difference(design.index)
    top = truth.nlargest(round(0.2 * len(truth))).index.intersection(rest)
    rows = []
    for source in SETS:
        fitted = predictor.fit(
            features_of(values, source), once[design.index], prior=prior, seed=seed, repeats=1
        )
        trained = [*design.index, *verify.best(fitted, design.index, VERIFIED)]
        rows.append(
            {
                "seed": seed,
                "source": source,
                "rho": stats.spearmanr(fitted.values[rest], truth[rest]).statistic,
                "rho_best20": stats.spearmanr(fitted.values[top], truth[top]).statistic,
                "regret": float(truth.max() - truth[verify.winner(once[trained])]),
            }
        )
    return rows


def _summary(rows: pd.DataFrame, labels: int, candidates: int) -> dict[str, Any]:
    wide = rows.pivot(index="seed", columns="source")
    found: dict[str, Any] = {"labels": labels, "candidates": candidates, "draws": len(wide)}
    for source in SETS:
        for name in ("rho", "rho_best20", "regret"):
            gap = (wide[name, source] - wide[name, ZERO_COST]).to_numpy()
            found.setdefault(source, {})[name] = {
                "mean": _rounded(wide[name, source].mean()),
                "minus_zero_cost": _rounded(gap.mean()),
                "middle95": [_rounded(v) for v in np.nanquantile(gap, [0.025, 0.975])],
            }
    for name in ("rho", "rho_best20", "regret"):
        gap = (wide[name, PROXY] - wide[name, RANDOM]).to_numpy()
        found.setdefault("proxy minus random", {})[name] = {
            "mean": _rounded(gap.mean()),
            "middle95": [_rounded(v) for v in np.nanquantile(gap, [0.025, 0.975])],
        }
    return found


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


if __name__ == "__main__":
    app()
