"""What a search finds for what it costs, beside what else could have been done: simulated.

Where a truth table knows every candidate and its seconds compare with this run's, the search and
its rivals are simulated on it (:mod:`proxynas.predict.curves`). A training shows one seed's
validation accuracy, and regret is measured by the table's mean, so nothing is picked by what it is
judged by.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ..core import hardware
from ..predict import curves
from ..predict.curves import Pool, Strategy
from ..predict.models import ridge
from ..rank import Key, Ledger, words
from ..rank.indicators import VOTE
from ..report import RegretCurve
from ..search.sources import EARLY_STOPPING, PROXY, ZERO_COST
from . import oracles
from .decision import features
from .labelling import first_runs
from .run import Run

REPLICATES = 20
"""Simulations of each strategy, with other seeds."""

POINTS = 60
"""Costs at which regret is looked at, evenly on a logarithmic axis."""

WARM_START = 20
"""Candidates that the rival with few epochs on the best by zero-cost indicators looks at."""

RIDGE = {"ridge": ridge}

FEWEST = 20
"""Candidates below which nothing is simulated."""


def regret_curves(this: Run, values: pd.DataFrame, ledger: Ledger) -> list[RegretCurve]:
    """Regret against core seconds, this search first; empty where truth does not allow it.

    Args:
        this: the run, with a truth table.
        values: a row per candidate, a column per (source, indicator), higher is better.
        ledger: what the indicators cost.
    """
    pool = pool_of(this, values, ledger)
    if pool is None:
        return []
    total = pool.indicator_seconds + float(pool.seconds.sum())
    grid = np.geomspace(float(pool.seconds.min()), total, POINTS)
    drawn = []
    for name, (strategy, one) in rivals(this, pool, values, ledger).items():
        regrets = np.stack(
            [_simulated(one, strategy, grid, total, seed) for seed in range(REPLICATES)]
        )
        known = np.isfinite(regrets).all(axis=0)
        if known.any():
            band = curves.bands(regrets[:, known])
            drawn.append(
                RegretCurve(name, grid[known].tolist(), band["median"], band["low"], band["high"])
            )
    return drawn


def pool_of(this: Run, values: pd.DataFrame, ledger: Ledger) -> Pool | None:
    """What trainings of the candidates show and cost; ``None`` where truth does not allow it."""
    table, device = this.truth, hardware.describe(this.spec.device)
    if table is None or len(values) < FEWEST or this.headline not in values:
        return None
    if not table.costs_like(device, this.dataset.fingerprint, this.spec.space_options):
        return None
    rows = table.rows[table.rows["arch"].isin(values.index) & table.rows["failed"].isna()]
    if rows["arch"].nunique() < len(values) or rows[["seconds", "val_accuracy"]].isna().any(
        axis=None
    ):
        return None
    partial, partial_seconds = _few_epochs(this, values, ledger)
    if this.spec.label_epochs and oracles.label_table(this) is None:
        return None  # nobody knows what the other candidates' short labels would be
    return Pool(
        runs=_lists(rows, table.measure),
        shown=_lists(rows, "val_accuracy"),
        seconds=rows.groupby("arch")["seconds"].mean(),
        features=features(values, PROXY),
        prior=values[this.headline],
        indicator_seconds=_spent(ledger, PROXY) + _spent(ledger, ZERO_COST) + ledger.distill_core_s,
        axes=pd.DataFrame([this.space.describe(arch) for arch in values.index], index=values.index),
        partial=partial,
        partial_seconds=partial_seconds,
    )


def _few_epochs(
    this: Run, values: pd.DataFrame, ledger: Ledger
) -> tuple[pd.Series | None, pd.Series | None]:
    """Accuracies after few epochs and what each costs: those of the label table, else of early
    stopping; ``None`` where there are neither."""
    table = oracles.label_table(this)
    if table is not None:
        runs = first_runs(table).set_index("arch")
        shown = runs["val_accuracy"].fillna(runs[table.measure]).astype("float64")
        shown = shown.where(runs["failed"].isna(), 0.0).reindex(values.index)
        return shown, oracles.short_seconds(this, table).reindex(values.index)
    early = ledger.sources.get(EARLY_STOPPING)
    partial = values.get((EARLY_STOPPING, "val_accuracy"))
    if early is None or partial is None:
        return None, None
    return partial, pd.Series(early.core_s_per_candidate, index=values.index)


def rivals(
    this: Run, pool: Pool, values: pd.DataFrame, ledger: Ledger
) -> Mapping[str, tuple[Strategy, Pool]]:
    """Each strategy with the pool it sees, this search first, where the run has its indicators."""
    labels, few = max(this.spec.label, 1), this.spec.label_epochs
    mine = search_of(labels)
    if few:
        mine = curves.predicted_early(this.spec.label, this.spec.shortlisted, models=RIDGE)
    strategies: dict[str, tuple[Strategy, Pool]] = {
        "proxynas": (mine, replace(pool, axes=None)),
        "random search": (curves.random_search, pool),
    }
    short = words.times(few, "epoch") if few else "early stopping"
    looks = min(WARM_START, len(pool.runs))
    vote: Key = (ZERO_COST, VOTE)
    if vote in values:
        cheap = replace(
            pool,
            prior=values[vote],
            features=features(values, ZERO_COST),
            indicator_seconds=_spent(ledger, ZERO_COST),
            axes=None,
        )
        strategies["zero-cost indicators, no proxy set"] = (
            search_of(labels),
            cheap,
        )
        strategies["zero-cost pick"] = (curves.zero_cost, cheap)
        if pool.partial is not None:
            strategies[f"{short} on the {looks} best by zero-cost indicators"] = (
                curves.warm_start(looks),
                cheap,
            )
    if pool.partial is not None:
        strategies[f"{short} on everything"] = (curves.few_epochs, pool)
    strategies["regularised evolution"] = (curves.evolution(10, 3), pool)
    return strategies


def search_of(labels: int) -> Strategy:
    """A search with ``labels`` labels that verifies five at a time.

    Ridge regression stands in for the mean of models here, which takes longer to fit.
    """
    return curves.predicted(labels, batch=5, most=10, models=RIDGE)


def _simulated(
    pool: Pool, strategy: Strategy, grid: curves.Floats, budget: float, seed: int
) -> curves.Floats:
    costs, regrets = curves.simulate(pool, strategy, budget, seed)
    return curves.at(costs, regrets, grid)


def _spent(ledger: Ledger, source: str) -> float:
    return ledger.sources[source].core_s if source in ledger.sources else 0.0


def _lists(rows: pd.DataFrame, column: str) -> dict[str, list[float]]:
    return {
        str(arch): [float(value) for value in part[column]] for arch, part in rows.groupby("arch")
    }
