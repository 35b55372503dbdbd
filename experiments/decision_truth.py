"""Was the search right? What it decided without truth, against the truth of all candidates.

    python experiments/decision_truth.py runs/digits-decision

The folder is a search of ConvNets on digits with labels and a winner.
"""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from scipy import stats

from proxynas.search.sources import WHOLE
from proxynas.search.store import Store
from proxynas.truth import table


def main(folder: Annotated[Path, typer.Argument(help="the run directory")]) -> None:
    """Print the winner beside the best, who is better, and ρ over those without a label."""
    known = table.find("convnet-grid", "digits")
    assert known is not None
    values = pd.read_csv(folder / "indicators.csv", index_col="arch")
    truth = known.accuracy().reindex(values.index)
    scores = Store(folder / "run.sqlite").scores()
    trained = values.index.isin(scores.loc[scores["source"] == WHOLE, "arch"])
    winner = json.loads((folder / "report.json").read_text())["winner"]["arch"]
    typer.echo(f"winner {winner}: {truth[winner]:.4f}")
    typer.echo(f"best {truth.idxmax()}: {truth.max():.4f}, trained: {trained[truth.argmax()]}")
    typer.echo(f"untrained and better: {int((truth[~trained] > truth[winner]).sum())}")
    rho = stats.spearmanr(values.loc[~trained, "proxy:predicted"], truth[~trained]).statistic
    typer.echo(f"rho over the {int((~trained).sum())} untrained: {rho:.3f}")


if __name__ == "__main__":
    typer.run(main)
