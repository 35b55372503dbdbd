"""Compare searches of one space by the candidates that they chose, all ranked together.

    python experiments/pooled_ranks.py RUN RUN …

RUN is the directory of a `proxynas search`; all have the same proxy set. For each: the best place
of its candidates in the ranking of all by the mean rank of SoTL, validation loss and vote, how many
are among the best ten and twenty, their median place, the means of its ten lowest SoTL and
validation losses and of its ten highest validation accuracies, and the core seconds of training.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from proxynas.rank import indicators
from proxynas.search.store import Store

INDICATOR = "sotl+val_loss+vote"


def read(run: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Scores on the proxy set, zero-cost indicators and costs."""
    store = Store(run / "run.sqlite")
    scores, zero_cost, costs = store.scores(), store.zero_cost(), store.candidates()
    store.close()
    return scores[scores["source"] == "proxy"], zero_cost, costs


def pooled(runs: dict[str, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]) -> pd.Series:
    """The place of every candidate of all runs, 1 the best."""
    scores, zero_cost, costs = (pd.concat(parts) for parts in zip(*runs.values(), strict=True))
    values = indicators.columns(
        scores.drop_duplicates(["arch", "seed"]),
        zero_cost.drop_duplicates(["arch", "indicator"]),
        costs[~costs.index.duplicated()],
        None,
        [INDICATOR],
    )
    return values["proxy", INDICATOR].rank(ascending=False)


def main() -> None:
    """Print one JSON object, a key a run."""
    runs = {Path(name).name: read(Path(name)) for name in sys.argv[1:]}
    places = pooled(runs)
    table = {}
    for name, (scores, _, costs) in runs.items():
        own = places[costs.index]
        table[name] = {
            "candidates": len(own),
            "best_place": float(own.min()),
            "among_best_10": int((own <= 10).sum()),
            "among_best_20": int((own <= 20).sum()),
            "median_place": float(own.median()),
            "of": len(places),
            "sotl_best_10": round(float(scores["sotl"].nsmallest(10).mean()), 2),
            "val_loss_best_10": round(float(scores["val_loss"].nsmallest(10).mean()), 3),
            "val_accuracy_best_10": round(float(scores["val_accuracy"].nlargest(10).mean()), 3),
            "core_seconds": round(float(scores["seconds"].sum()), 1),
        }
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
