"""Is a second training of a candidate worth its cost? ρ with truth of one training and of two.

    python experiments/seeds.py runs/digits-decision/scores.csv

The file is ``scores.csv`` of a search of ConvNets on digits with two seeds.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from scipy import stats

from proxynas.truth import table

LOSSES = ("val_loss", "sotl")
INDICATORS = ("val_accuracy", *LOSSES)


def main(path: Annotated[Path, typer.Argument(help="scores.csv of a search")]) -> None:
    """Print a line a source and an indicator: ρ of each seed alone, and of their mean."""
    scores, truth = pd.read_csv(path), table.find("convnet-grid", "digits")
    assert truth is not None
    accuracy = truth.accuracy()
    for source, rows in scores[scores["failed"].isna()].groupby("source", sort=False):
        if rows["seed"].nunique() < 2:
            continue
        for name in INDICATORS:
            sign = -1 if name in LOSSES else 1
            alone = [
                _rho(sign * of_seed.set_index("arch")[name], accuracy)
                for _, of_seed in rows.groupby("seed")
            ]
            both = _rho(sign * rows.groupby("arch")[name].mean(), accuracy)
            typer.echo(
                f"{source} {name}: {' '.join(f'{rho:.3f}' for rho in alone)} alone, "
                f"{both:.3f} their mean"
            )


def _rho(values: pd.Series, truth: pd.Series) -> float:
    return float(stats.spearmanr(values, truth.reindex(values.index)).statistic)


if __name__ == "__main__":
    typer.run(main)
