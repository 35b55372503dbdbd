r"""ρ of one row of a search with truth, or minus another row's, with its 95 % bootstrap interval.

    python experiments/intervals.py RUN gm-ipc1:sotl_late --minus random-ipc1:sotl_late
    python experiments/intervals.py RUN "12 epochs, half the data:val_accuracy" --best 100
    python experiments/intervals.py RUN zero-cost:vote --without OTHER-RUN --kinds
    python experiments/intervals.py RUN zero-cost:vote \
        --truth "12 epochs, all the data:test_accuracy"

RUN is a run directory; a row is written as a column of its ``indicators.csv``. ``--best`` takes the
truly best cells, ``--without`` leaves out those of another run, with ``--kinds`` those isomorphic
to one of them as well, and ``--truth`` takes another column for the truth. Resamples draw kinds of
isomorphic cells, as the report's do. For what the report itself does not compare.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from proxynas import spaces
from proxynas.core import settings
from proxynas.rank import correlation


def main(
    folder: Path,
    row: str,
    minus: str | None = None,
    best: Annotated[int, typer.Option()] = 0,
    without: Annotated[list[Path] | None, typer.Option()] = None,
    kinds: Annotated[bool, typer.Option("--kinds")] = False,
    truth: str = "truth",
) -> None:
    """Print the estimate and its interval."""
    table = read(folder).dropna(subset=[truth, row, *([minus] if minus else [])])
    kind = kind_of(folder)
    name_of = kind if kinds else str
    others = {name_of(arch) for other in without or [] for arch in read(other).index}
    table = table[[name_of(arch) not in others for arch in table.index]]
    table = table.nlargest(best, truth) if best else table
    wanted, groups = table[truth].to_numpy(), np.array([kind(arch) for arch in table.index])
    draws = correlation.resample(len(table), 2000, np.random.default_rng(0), groups)
    found, resampled = 0.0, np.zeros(len(draws))
    for sign, name in ((1, row), *([(-1, minus)] if minus else [])):
        values = table[name].to_numpy()
        found += sign * correlation.spearman(values, wanted)
        resampled += sign * correlation.spearman_draws(values, wanted, draws)
    low, high = correlation.interval(resampled)
    print(f"{found:.2f} [{low:.2f}, {high:.2f}] over {len(table)}")


def read(folder: Path) -> pd.DataFrame:
    """The rows' values for each architecture of a run."""
    return pd.read_csv(folder / "indicators.csv", index_col="arch")


def kind_of(folder: Path) -> Callable[[str], str]:
    """What isomorphic architectures of a run's space have in common; where it does not know, their
    name."""
    spec = settings.read_toml(folder / "spec.toml")
    return spaces.load(spec["space"], spec.get("space_options", {})).kind or str


if __name__ == "__main__":
    typer.run(main)
