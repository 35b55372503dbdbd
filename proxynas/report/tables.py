"""The ranking and the ledger as rich tables for the terminal, readable at 80 columns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from ..rank import Key, Ledger, Ranking, words
from ..rank.indicators import LOWER_IS_BETTER

LOOK: Any = {"title_justify": "left", "pad_edge": False, "show_edge": False, "box": box.SIMPLE_HEAD}

ROWS = 10
"""Rows of the ranking that are printed unless all are asked for."""


def ranking_table(ranking: Ranking, headline: Key, *, everything: bool = True) -> Table:
    """One row a (source, indicator): ρ with its 95 % interval, regret in percentage points.

    All rows, or :func:`best_rows`; the selection indicator in bold. The last row, where truth has
    seeds, is how well one training of it ranks another.
    """
    has_truth = ranking.truth is not None and not ranking.truth.empty
    keys = ranking.keys() if everything else best_rows(ranking, headline)
    title = _title(ranking, has_truth) + ("" if everything else _left_out(ranking, keys))
    table = Table(title=title, padding=(0, 1, 0, 0), **LOOK)
    table.add_column("trained on", no_wrap=True)
    table.add_column("indicator", min_width=16)
    if not has_truth:
        table.add_column("ranks first", overflow="fold")
    best = [] if ranking.cut is None else [f"best {ranking.cut} %"]
    for name in ("ρ", "95 %", *best, "regret") if has_truth else ():
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for key in keys:
        source = words.source(key[0]) if key[0] != last else ""
        last = key[0]
        row = ranking.row(key)
        first = row["winner"] if isinstance(row["winner"], str) else "–"
        cells = _figures(row.to_dict(), ranking.cut) if has_truth else [first]
        name = words.short(key[1]) if key[0] != key[1] else ""
        table.add_row(source, name, *cells, style="bold" if key == headline else None)
    if has_truth and ranking.ceiling is not None:
        found = [
            words.number(ranking.ceiling.rho_best.get(ranking.cut or 0, math.nan)) for _ in best
        ]
        table.add_section()
        table.add_row(
            "truth",
            "seed against seed",
            words.number(ranking.ceiling.rho),
            "",
            *found,
            "",
            style="dim",
        )
    return table


def best_rows(ranking: Ranking, headline: Key) -> list[Key]:
    """At most :data:`ROWS` rows, in table order: those that a decision takes.

    The selection indicator on every source, the vote, parameters, and each source's row of highest
    ρ.
    """
    keys = ranking.keys()
    sources = dict.fromkeys(key[0] for key in keys)
    wanted = [headline, ("zero-cost", "vote"), ("parameters", "parameters")]
    wanted += [(source, headline[1]) for source in sources]
    rho = {key: float(ranking.row(key)["rho"]) for key in keys}
    for source in sources:
        known = [key for key in keys if key[0] == source and math.isfinite(rho[key])]
        wanted += [max(known, key=rho.__getitem__)] if known else []
    chosen = [key for key in dict.fromkeys(wanted) if key in keys][:ROWS]
    return [key for key in keys if key in chosen]


def ledger_table(ledger: Ledger) -> Table:
    """What was spent: core seconds of each stage, then wall-clock time, memory and storage."""
    table = Table(title=f"Cost on {ledger.device}", **LOOK)
    table.add_column("spent on", no_wrap=True)
    for name in ("core time", "per candidate", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    note = " (earlier run)" if ledger.reused else ""
    table.add_row(
        f"{words.making(ledger.distilled)}{note}", words.seconds(ledger.distill_core_s), "", ""
    )
    for source, cost in ledger.sources.items():
        each = words.seconds(cost.core_s_per_candidate)
        table.add_row(words.source(source), words.seconds(cost.core_s), each, f"{cost.runs:,}")
    for name, seconds, runs in ledger.decision_rows():
        table.add_row(name, words.seconds(seconds), words.seconds(seconds / runs), f"{runs:,}")
    if ledger.truth_core_s_per_candidate is not None:
        table.add_row(
            "whole data, not run here",
            "",
            words.seconds(ledger.truth_core_s_per_candidate),
            "",
            style="dim",
        )
    table.add_section()
    table.add_row("wall-clock in all", words.seconds(ledger.total_s), "", "", style="bold")
    table.add_row("peak memory", words.size(ledger.peak_mib * 2**20), "", "")
    table.add_row(
        "storage, proxy set / real data",
        f"{words.size(ledger.proxy_bytes)} / {words.size(ledger.real_bytes)}",
    )
    return table


def pareto_table(front: pd.DataFrame, headline: Key) -> Table:
    """The candidates that none beats in all objectives."""
    title = f"Pareto front by {words.key(headline)}: no candidate is better in every objective"
    table = Table(title=title, title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("network", overflow="fold")
    for name in (
        words.short(headline[1]),
        "parameters",
        "FLOPs",
        *(["truth"] if "truth" in front else []),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    sign = -1 if headline[1] in LOWER_IS_BETTER else 1
    for row in front.to_dict("records"):
        cells = [
            words.number(sign * row["indicator"], 3),
            f"{row['parameters']:,}",
            f"{row['flops']:,}",
        ]
        table.add_row(
            row["arch"], *cells, *([words.percent(row["truth"])] if "truth" in row else [])
        )
    return table


def _title(ranking: Ranking, has_truth: bool) -> str:
    if not has_truth:
        return f"Rankings of {len(ranking.values)} candidates; there is no ground truth"
    return f"Agreement with truth over {ranking.rows['n'].iloc[0]} candidates (regret in points)"


def _left_out(ranking: Ranking, keys: Sequence[Key]) -> str:
    return f"; {len(keys)} of {len(ranking.keys())} rows" if len(keys) < len(ranking.keys()) else ""


def _figures(row: Mapping[Any, Any], cut: int | None) -> list[str]:
    best = [] if cut is None else [words.number(row[f"rho_best{cut}"])]
    interval = words.span(row["rho_low"], row["rho_high"])
    return [words.number(row["rho"]), interval, *best, words.number(100 * row["regret"], 1)]
