"""Which mean rank of up to four indicators agrees best with truth, for every training set of a
search?

    python experiments/mean_ranks.py runs/nasbench201-study

It looks at truth, so what it finds holds for other candidates only after it was measured on them.
"""

import itertools
import sys
from pathlib import Path

import pandas as pd

TRAINED = ("sotl", "sotl_late", "val_loss", "val_auc")
FREE = (
    "zero-cost:vote",
    "zero-cost:naswot",
    "zero-cost:synflow",
    "zero-cost:jacob_cov",
    "parameters:parameters",
)


def main(folder: Path) -> None:
    """Print the ten best mean ranks of each training set, and the best one without training."""
    table = pd.read_csv(folder / "indicators.csv", index_col="arch")
    ranks, truth = table.drop(columns="truth").rank(), table["truth"]
    names = (column.split(":") for column in table.columns if ":" in column)
    sources = [source for source, name in names if name == "sotl" and source != "whole-data"]
    for source in sources:
        columns = [*(f"{source}:{name}" for name in TRAINED), *FREE]
        tried = [c for n in range(1, 5) for c in itertools.combinations(columns, n)]
        found = {c: ranks[list(c)].mean(axis=1).corr(truth, method="spearman") for c in tried}
        best = sorted(found, key=lambda c: -found[c])
        print(f"{source}: {len(tried)} mean ranks")
        for c in [*best[:10], next(c for c in best if set(c) <= set(FREE))]:
            print(f"  {found[c]:.3f}  {' + '.join(column.partition(':')[2] for column in c)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
