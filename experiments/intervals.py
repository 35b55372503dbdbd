"""ρ of one row of a search with truth, or minus another row's, with its 95 % bootstrap interval; of all or of the best.

    python experiments/intervals.py runs/nasbench201-study gm-ipc1:sotl_late --minus random-ipc1:sotl_late
    python experiments/intervals.py runs/nasbench201-zerocost "12 epochs:val_accuracy" --best 100

A row is written as a column of ``indicators.csv``. For what the report itself does not compare.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from proxynas.rank import correlation


def main(folder: Path, row: str, minus: str | None = None, best: Annotated[int, typer.Option()] = 0) -> None:
    """Print the estimate and its interval."""
    table = pd.read_csv(folder / "indicators.csv", index_col="arch").dropna(subset=["truth"])
    table = table.nlargest(best, "truth") if best else table
    truth, draws = table["truth"].to_numpy(), correlation.resample(len(table), 2000, np.random.default_rng(0))
    found, resampled = 0.0, np.zeros(len(draws))
    for sign, name in ((1, row), *([(-1, minus)] if minus else [])):
        values = table[name].to_numpy()
        found += sign * correlation.spearman(values, truth)
        resampled += sign * correlation.spearman_draws(values, truth, draws)
    low, high = correlation.interval(resampled)
    print(f"{found:.2f} [{low:.2f}, {high:.2f}] over {len(table)}")


if __name__ == "__main__":
    typer.run(main)
