"""The samples of a ranking study, against values that are known of all networks."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from proxynas.core import resources
from proxynas.rank import correlation


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(resources.folder("experiments"))
    return importlib.import_module("ranking_study")


def test_chosen_cells_weighed_like_random_ones_agree_with_truth_as_all_cells_do(
    script: Any,
) -> None:
    """Half of a study's cells are promising, of all cells fewer are. Weighed as ``100 at random``,
    ρ of what is known of all 1,000 comes out as over these."""
    known, quality = pd.read_csv(script.VALUES, index_col="arch"), script.quality
    best = quality.promising(known, script.CELLS)
    for name in (quality.VOTE, quality.FEW[1]):
        of_all = stats.spearmanr(known[name], known["truth"]).statistic
        estimates = []
        for seed in range(10):
            cells = known.loc[script.cells(known, 200, seed)]
            held = cells.index.isin(best)
            draws = quality._as_at_random(cells.index, best, len(known))
            assert held.sum() == 100
            assert set(draws[:, held].sum(1)) == {round(100 * len(best) / len(known))}
            assert set(draws.sum(1)) == {100}
            x, y = cells[name].to_numpy(), cells["truth"].to_numpy()
            estimates.append(np.mean(correlation.spearman_draws(x, y, draws)))
        assert np.mean(estimates) == pytest.approx(of_all, abs=0.02)
