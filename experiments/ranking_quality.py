"""How well each source of ``ranking_study.py`` ranks, for its seconds, and the cheapest way to a
given quality."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from rich.console import Console
from rich.progress import track
from scipy import stats

from proxynas import spaces
from proxynas.predict import predictor
from proxynas.rank import correlation

REAL = "real images"
VOTE = "zero-cost:vote"
PRIORS = {
    "nasbench201": (VOTE, "zero-cost:jacob_cov", "parameters:parameters"),
    "convnet-grid": (VOTE,),
}
"""What takes no training, by space: what a search there ranks by beside trainings."""
LOSSES = ("val_loss", "sotl", "sotl_late")
INDICATORS = ("val_accuracy", *LOSSES)
WITH = " with "
"""Between an indicator and what takes no training, whose mean rank it is."""
VALIDATED = ("val_accuracy", "val_loss")
"""Indicators that cost a validation beside the training."""
FREE = ("zero-cost:", "parameters:", "flops")
"""How the columns of what takes no training begin."""
FEW = ("12 epochs, half the data:val_accuracy", "12 epochs, all the data:test_accuracy")
SHARES = (5, 10, 20)
"""Truly best networks, in % of all whose truth is known."""
TARGETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95)
CANDIDATES = (100, 1000, 10_000)
"""Of a search: they share what the set cost."""
AT_RANDOM = 100
"""Networks of a sample as if drawn from all (APM's Table 3 has as many)."""

Row = dict[str, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def prior(table: pd.DataFrame, space: str) -> pd.Series:
    """The mean rank of the zero-cost indicators that a search of a space uses."""
    ranks: pd.Series = table[list(PRIORS[space])].rank().mean(axis=1)
    return ranks


def promising(table: pd.DataFrame, space: str) -> pd.Index:
    """The truly best tenth of all networks, and the tenth that takes no training to find."""
    tenth = len(table) // 10
    best = table["truth"].nlargest(tenth).index
    return best.union(prior(table, space).nlargest(tenth).index).sort_values()


def combined(indicators: Iterable[str]) -> list[str]:
    """Those that are mean ranks with what takes no training."""
    return [name for name in indicators if WITH in name]


@dataclass(frozen=True)
class Study:
    """Networks that were trained on every source, in the order of ``table``."""

    table: pd.DataFrame
    free: tuple[str, ...]
    trained: pd.DataFrame
    kinds: correlation.Names
    held: dict[str, Bools]
    draws: correlation.Ints
    at_random: correlation.Ints | None
    """How often each network is in resamples of :data:`AT_RANDOM` that hold as many promising
    networks as a random sample of all; None where all were trained."""

    @classmethod
    def of(cls, space: spaces.SearchSpace, known: pd.DataFrame, rows: pd.DataFrame) -> "Study":
        """Of ``rows`` (of a training and moment each), with what is ``known`` of all networks."""
        whole = rows.groupby("arch")["source"].nunique() == rows["source"].nunique()
        table = known.loc[whole[whole].index]
        table = table.assign(prior=prior(table, space.name))
        kind = space.kind or str
        kinds = np.array([kind(str(arch)) for arch in table.index])
        held = {"rho": np.ones(len(table), dtype=bool)}
        for share in SHARES:
            best = known["truth"].nlargest(len(known) * share // 100).index
            held[f"best {share} %"] = table.index.isin(best)
        draws = correlation.resample(len(table), 2000, np.random.default_rng(0), kinds)
        trained = rows[rows["arch"].isin(table.index)]
        at_random = None
        if len(table) < len(known):
            at_random = _as_at_random(table.index, promising(known, space.name), len(known))
        return cls(table, PRIORS[space.name], trained, kinds, held, draws, at_random)

    def agreement(self, values: pd.Series) -> Row:
        """ρ with truth over all networks and among the truly best, with 95 % intervals."""
        x = values.fillna(-math.inf).to_numpy(dtype=float)
        y, result = self.table["truth"].to_numpy(), Row()
        for name, held in self.held.items():
            drawn = correlation.spearman_draws(x[held], y[held], self.draws[:, held])
            rho = float(stats.spearmanr(x[held], y[held]).statistic)
            result[name] = [round(value, 3) for value in (rho, *correlation.interval(drawn))]
        if self.at_random is not None:
            drawn = correlation.spearman_draws(x, y, self.at_random)
            values_drawn = (float(np.mean(drawn)), *correlation.interval(drawn))
            result[f"{AT_RANDOM} at random"] = [round(value, 3) for value in values_drawn]
        return result

    def difference(self, values: pd.Series, others: pd.Series) -> list[float]:
        """ρ of one ranking minus ρ of another, with its 95 % interval."""
        y = self.table["truth"].to_numpy()
        pair = [one.fillna(-math.inf).to_numpy(dtype=float) for one in (values, others)]
        drawn = [correlation.spearman_draws(x, y, self.draws) for x in pair]
        rho = [float(stats.spearmanr(x, y).statistic) for x in pair]
        interval = correlation.interval(drawn[0] - drawn[1])
        return [round(value, 3) for value in (rho[0] - rho[1], *interval)]

    def indicators(self, rows: pd.DataFrame) -> dict[str, pd.Series]:
        """Higher is better, of one source and budget; their combinations with zero-cost last."""
        one = rows.set_index("arch").reindex(self.table.index)  # NaN: failed
        values = {name: one[name] * (-1 if name in LOSSES else 1) for name in INDICATORS}
        free = [self.table[name].rank() for name in self.free]
        beside = WITH + ", ".join(name.split(":")[1] for name in self.free)
        for name in INDICATORS:
            values[name + beside] = pd.concat([values[name].rank(), *free], axis=1).mean(axis=1)
        return values

    def without_training(self) -> Row:
        """What the zero-cost ranking and training for few epochs agree with truth."""
        few = {column.split(":")[0]: self.table[column] for column in FEW if column in self.table}
        ranked = {"zero-cost": self.table["prior"], **few}
        return {name: self.agreement(values) for name, values in ranked.items()}

    def sources(self) -> Row:
        """What every source and budget costs, agrees with truth, and is better than others."""
        return {
            str(name): {
                f"{updates:g}": self._row(rows) for updates, rows in trained.groupby("updates")
            }
            for name, trained in self.trained.groupby("source")
        }

    def _row(self, rows: pd.DataFrame) -> Row:
        values = self.indicators(rows)
        source, updates = rows["source"].iloc[0], rows["updates"].iloc[0]
        seconds = [round(float(rows[f"{name}_seconds"].mean()), 3) for name in ("train", "val")]
        result: Row = {"core_seconds": {"training": seconds[0], "a validation": seconds[1]}}
        result |= {name: self.agreement(value) for name, value in values.items()}
        result["minus zero-cost"] = {
            name: self.difference(values[name], self.table["prior"]) for name in combined(values)
        }
        trained = self.trained[self.trained["updates"] == updates]
        rivals = [name for name in trained["source"].unique() if _random_of(source, name)]
        for rival in (REAL, *rivals):
            others = trained[trained["source"] == rival]
            if rival != source and len(others) == len(self.table):
                theirs = self.indicators(others)
                result[f"minus {rival}"] = {
                    name: self.difference(values[name], theirs[name]) for name in values
                }
        return result


def _as_at_random(trained: pd.Index, best: pd.Index, count: int) -> correlation.Ints:
    """How often each of ``trained`` is in 2,000 resamples with the share of ``best`` among
    ``count``."""
    held = trained.isin(best)
    share = round(AT_RANDOM * len(best) / count)
    draws = np.zeros((2000, len(trained)), dtype=np.int64)
    rng = np.random.default_rng(0)
    for half, size in ((held, share), (~held, AT_RANDOM - share)):
        draws[:, half] = rng.multinomial(size, np.full(half.sum(), 1 / half.sum()), 2000)
    return draws


def _random_of(source: str, name: str) -> bool:
    """Whether ``name`` is of random images, as many as those of ``source``."""
    parts = set(name.split("-"))
    return "random" in parts and any(
        part.startswith("ipc") for part in parts.intersection(source.split("-"))
    )


def seconds(row: Row, indicator: str) -> float:
    """Core seconds of a candidate: its training, and a validation where the indicator needs one."""
    spent = row["core_seconds"]
    validated = indicator.split(WITH)[0] in VALIDATED
    return float(spent["training"] + validated * spent["a validation"])


def cheapest(found: Row) -> Row:
    """For every ρ, and how many candidates share the making of a set: the source, updates and
    indicator that reach it for the fewest core seconds a candidate; of each set that was made, and
    of the other sources.

    By what the training gives alone, and combined with zero-cost indicators where these do not
    reach the ρ themselves. The best of many ways, chosen by what they turned out to be, so that
    each is a little flattered.
    """
    free = found["without training"]["zero-cost"]["rho"][0]
    made = found["distilling_core_seconds"]
    kinds = {source: [source] for source in made}
    kinds["others"] = [source for source in found["sources"] if source not in made]
    return {
        name: {
            str(target): {
                str(candidates): {
                    kind: _cheapest(found, target, candidates, indicators, sources)
                    for kind, sources in kinds.items()
                }
                for candidates in CANDIDATES
            }
            for target in TARGETS
            if name == "alone" or target > free
        }
        for name, indicators in (("alone", INDICATORS), ("combined", combined(_any_row(found))))
    }


def _any_row(found: Row) -> Row:
    """What is known of some source and budget."""
    budgets = next(iter(found["sources"].values()))
    row: Row = next(iter(budgets.values()))
    return row


def _cheapest(
    found: Row, target: float, candidates: int, indicators: Sequence[str], sources: Sequence[str]
) -> tuple[float, str] | None:
    ways = []
    for source in sources:
        shared = found["distilling_core_seconds"].get(source, 0) / candidates
        for (updates, row), indicator in product(found["sources"][source].items(), indicators):
            if row[indicator]["rho"][0] >= target:
                cost = round(seconds(row, indicator) + shared, 2)
                ways.append((cost, f"{source}, {updates} updates, {indicator}"))
    return min(ways, default=None)


def predicted(study: Study, space: spaces.SearchSpace, labels: int, draws: int) -> Row:
    """What a predictor that is fitted to some labels gains from each source's indicators.

    A draw takes ``labels`` of the networks by chance and fits predictors to their truth: on what
    takes no training (zero-cost indicators, costs, the space's axes), and on that with the four
    indicators of a source and budget. ρ with truth over the networks without a label; means over
    the draws, and the middle 95 % of the differences from the first within a draw.
    """
    columns = [name for name in map(str, study.table) if name.startswith(FREE) and "+" not in name]
    free = study.table[columns]
    axes = pd.DataFrame([space.describe(str(arch)) for arch in free.index], index=free.index)
    inputs = {"no training": free}
    for (source, updates), rows in study.trained.groupby(["source", "updates"]):
        trained = study.indicators(rows)
        beside = pd.DataFrame({name: trained[name] for name in INDICATORS})
        inputs[f"{source}, {updates:g} updates"] = free.join(beside)
    found: dict[str, list[float]] = {name: [] for name in inputs}
    for seed in track(range(draws), "predictors", console=Console(stderr=True)):
        drawn = np.random.default_rng(seed).permutation(len(free))[:labels]
        known = free.index[drawn]
        rest = free.index.difference(known)
        for name, features in inputs.items():
            fitted = predictor.fit(
                features, study.table.loc[known, "truth"],
                prior=study.table["prior"], seed=seed, axes=axes, repeats=1,
            )  # fmt: skip
            rho = stats.spearmanr(fitted.scores[rest], study.table.loc[rest, "truth"]).statistic
            found[name].append(float(rho))
    base = np.array(found["no training"])
    return {
        name: {
            "rho": round(float(np.mean(values)), 3),
            "minus no training": [
                round(float(value), 3)
                for value in ((values - base).mean(), *correlation.interval(values - base))
            ],
        }
        for name, values in ((name, np.array(values)) for name, values in found.items())
    }


def draw(found: Row, path: Path) -> None:
    """ρ against core seconds a candidate, a line a source."""
    figure, axes = plt.subplots(
        1, 4, figsize=(14, 4.4), sharex=True, sharey=True, layout="constrained"
    )
    late = next(name for name in combined(_any_row(found)) if name.startswith("sotl_late"))
    tenth = "best 10 %"
    panels = (
        ("val_accuracy", "rho", "validation accuracy"),
        ("sotl_late", "rho", "late SoTL"),
        (late, "rho", "late SoTL with zero-cost"),
        (late, tenth, "the same, among the truly best tenth"),
    )
    for axis, (indicator, which, title) in zip(axes, panels, strict=True):
        for name, budgets in found["sources"].items():
            spent = [seconds(row, indicator) for row in budgets.values()]
            rho = [row[indicator][which] for row in budgets.values()]
            (line,) = axis.plot(spent, [value[0] for value in rho], "o-", ms=3, label=name)
            low, high = zip(*[value[1:] for value in rho], strict=True)
            axis.fill_between(spent, low, high, color=line.get_color(), alpha=0.1, lw=0)
        for (name, value), style in zip(
            found["without training"].items(), (":", "-.", "--"), strict=False
        ):
            axis.axhline(value[which][0], color="0.4", ls=style, lw=1, label=name)
        axis.set(xscale="log", xlabel="core seconds a candidate", title=title)
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_ylabel("ρ with truth")
    named = axes[0].get_legend_handles_labels()
    figure.legend(*named, loc="outside lower center", ncols=6, fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
