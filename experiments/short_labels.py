"""Do labels of few epochs find a better network for the same cost? ConvNets on digits.

    proxynas truth --candidates 120 --seeds 1 --epochs 3 --out runs/digits-3.csv
    python experiments/short_labels.py INDICATORS runs/digits-3.csv

INDICATORS is ``indicators.csv`` of a search of all 720 networks with zero-cost indicators. A draw
takes some of the networks that the table of few epochs has. A whole training shows one seed's
validation accuracy of the shipped truth table, regret is of the mean test accuracy, and a training
of few epochs costs its share of a whole one's seconds. The predictor sees zero-cost indicators,
parameters and FLOPs. Costs are in mean whole trainings.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import predictor_pools
import typer

from proxynas.core import seeds
from proxynas.predict import curves
from proxynas.predict.curves import Pool
from proxynas.truth import table

COSTS = (2, 4, 6, 8, 10, 15, 20, 25, 30)
GOALS = (0.005, 0.002, 0.001)

STRATEGIES = {
    "10 whole labels": curves.predicted(10),
    "20 whole labels": curves.predicted(20),
    "10 short labels, 10 shortlisted": curves.predicted_early(10, 10),
    "20 short labels, 20 shortlisted": curves.predicted_early(20, 20),
    "few epochs on the best 20 by zero-cost indicators": curves.warm_start(20),
    "few epochs on everything": curves.few_epochs,
    "zero-cost pick": curves.zero_cost,
    "random search": curves.random_search,
}


def main(
    indicators: Path,
    short: Path,
    draws: Annotated[int, typer.Option(help="draws of networks, and of all else")] = 20,
    size: Annotated[int, typer.Option(help="networks of a draw")] = 60,
) -> None:
    """Print the mean regret at some costs, and the costs of some regrets, as JSON."""
    pool = _pool(indicators, short)
    unit = float(pool.seconds.mean())
    grid = np.geomspace(0.2, size, 200)
    found: dict[str, Any] = {"networks": len(pool.names), "draws": draws, "size": size}
    for name, strategy in STRATEGIES.items():
        regrets = []
        for seed in range(draws):
            rng = np.random.default_rng(seeds.derive(seed, "candidates of a draw"))
            drawn = _part(pool, sorted(rng.choice(pool.names, size, replace=False)))
            costs, seen = curves.simulate(drawn, strategy, math.inf, seed)
            regrets.append(curves.at(costs / unit, seen, grid))
        mean = np.array(curves.bands(np.stack(regrets))["mean"])
        at = {str(cost): _rounded(mean[np.searchsorted(grid, cost)]) for cost in COSTS}
        reached = {str(goal): _rounded(curves.reached(grid, mean, goal)) for goal in GOALS}
        found[name] = {"regret": at, "reached": reached}
    typer.echo(json.dumps(found, indent=1))


def _pool(indicators: Path, short: Path) -> Pool:
    """The networks of the table ``short``, without the axes, which a search does not show to its
    predictor."""
    few, truth = table.read(short), table.find("convnet-grid", "digits")
    assert truth is not None
    assert truth.epochs is not None
    assert few.epochs is not None
    first = few.rows.drop_duplicates("arch").set_index("arch")["val_accuracy"]
    pool = predictor_pools.part(predictor_pools.digits(indicators, 0.07), sorted(first.index))
    grouped = truth.rows.groupby("arch")["val_accuracy"]
    return replace(
        pool,
        axes=None,
        shown={str(arch): list(values) for arch, values in grouped},
        partial=first.astype("float64"),
        partial_seconds=pool.seconds * few.epochs / truth.epochs,
    )


def _part(pool: Pool, names: list[str]) -> Pool:
    assert pool.shown is not None
    shown = {name: pool.shown[name] for name in names}
    return replace(predictor_pools.part(pool, names), shown=shown)


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


if __name__ == "__main__":
    typer.run(main)
