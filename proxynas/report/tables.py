"""The ranking and the ledger as rich tables for the terminal, readable at 100 columns."""

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ..rank import Key, Ledger, Ranking, words


def ranking_table(ranking: Ranking, headline: Key) -> Table:
    """One row a (source, indicator); the headline in bold. ρ and τ with 95 % intervals, regret in percentage points.

    The last row, where truth has seeds, is how well one training of it ranks another.
    """
    has_truth = ranking.truth is not None and not ranking.truth.empty
    table = Table(title=_title(ranking, has_truth), title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("trained on", no_wrap=True)
    table.add_column("indicator", no_wrap=True)
    if not has_truth:
        table.add_column("ranks first", overflow="fold")
    best = [] if ranking.cut is None else [f"ρ best {ranking.cut} %"]
    for name in ("ρ  95 %", "τ  95 %", *best, "regret") if has_truth else ():
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for key, row in zip(ranking.keys(), ranking.rows.to_dict("records"), strict=True):
        source = words.source(key[0]) if key[0] != last else ""
        last = key[0]
        cells = (
            [
                _estimate(row, "rho"),
                _estimate(row, "tau"),
                *(words.number(row[f"rho_best{ranking.cut}"]) for _ in best),
                words.number(100 * row["regret"], 1),
            ]
            if has_truth
            else [row["winner"] if isinstance(row["winner"], str) else "–"]
        )
        name = words.short(key[1]) if key[0] != key[1] else ""
        table.add_row(escape(source), name, *cells, style="bold" if key == headline else None)
    if has_truth and ranking.ceiling is not None:
        found = [words.number(ranking.ceiling.rho_best.get(ranking.cut or 0, math.nan)) for _ in best]
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


def ledger_table(ledger: Ledger) -> Table:
    """What was spent: core seconds of distillation and of each source, then wall time, memory and storage."""
    table = Table(title=f"Cost on {ledger.device}", title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("spent on", no_wrap=True)
    for name in ("core time", "a candidate", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    note = " (earlier run)" if ledger.reused else ""
    table.add_row(f"{words.making(ledger.distilled)}{note}", words.seconds(ledger.distill_core_s), "", "")
    for source, cost in ledger.sources.items():
        each = words.seconds(cost.core_s_per_candidate)
        table.add_row(words.source(source), words.seconds(cost.core_s), each, f"{cost.runs:,}")
    if ledger.truth_core_s_per_candidate is not None:
        table.add_row(
            "whole data, not run here",
            "",
            words.seconds(ledger.truth_core_s_per_candidate),
            "",
            style="dim",
        )
    table.add_section()
    table.add_row("wall time, distillation included", words.seconds(ledger.total_s), "", "", style="bold")
    table.add_row("peak memory", words.size(ledger.peak_mib * 2**20), "", "")
    table.add_row(
        "storage, proxy set / real data",
        f"{words.size(ledger.proxy_bytes)} / {words.size(ledger.real_bytes)}",
    )
    return table


def _title(ranking: Ranking, has_truth: bool) -> str:
    if not has_truth:
        return f"Rankings of {len(ranking.values)} candidates; there is no ground truth"
    return f"Agreement with truth over {ranking.rows['n'].iloc[0]} candidates (regret in percentage points)"


def _estimate(row: Mapping[Any, Any], name: str) -> str:
    return f"{words.number(row[name])}  {words.span(row[f'{name}_low'], row[f'{name}_high'])}"
