"""The tables of a page: what they show, what they sort by, and the same as CSV."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..rank import Key, Ranking, words
from ..rank.indicators import LOWER_IS_BETTER
from ..rank.ranking import NoiseCeiling
from ..search.sources import ZERO_COST
from .drawings import capital
from .inputs import ReportInputs

RIVALS = {"over_vote": "the vote of zero-cost indicators", "over_parameters": "counting parameters"}


@dataclass(frozen=True)
class Column:
    """One column of a table: its title, and whether it holds numbers."""

    title: str
    number: bool = False
    mono: bool = False


@dataclass(frozen=True)
class Cell:
    """What a table shows, what it sorts by and writes to CSV, and an interval beside it."""

    text: str
    value: float | str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and downloaded."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    strong: int | None = None  # the row that is shaded
    keys: tuple[str, ...] = ()  # the candidate of each row, lit up wherever it is drawn

    @property
    def uri(self) -> str:
        """The table as CSV, in a ``data:`` address."""
        lines: list[list[float | str]] = [[column.title for column in self.columns]]
        lines += [[cell.value for cell in row] for row in self.rows]
        text = "\n".join(",".join(map(_csv, line)) for line in lines) + "\n"
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def rival(ranking: Ranking) -> str:
    """What rows are compared with: the vote, where there is one."""
    return "over_parameters" if ranking.rows["over_vote"].isna().all() else "over_vote"


def indicators(inputs: ReportInputs) -> Table:
    """Every figure of every row of the ranking."""
    ranking, than = inputs.ranking, rival(inputs.ranking)
    columns = [Column("Trained on"), Column("Indicator")]
    if inputs.has_truth:
        names = [("ρ", "rho"), ("ρ − rival’s", than), ("τ", "tau")]
        names += [(f"ρ, best {percent} %", f"rho_best{percent}") for percent in ranking.cuts]
        columns += [Column(title, number=True) for title, _ in names]
        columns += [
            Column(title, number=True) for title in ("Regret (points)", "Winner’s truth (%)")
        ]
    else:
        names = []
    columns += [Column("Winner", mono=True), Column("Candidates", number=True)]
    rows = []
    for key, row in zip(ranking.keys(), ranking.rows.to_dict("records"), strict=True):
        label = words.short(key[1]) if key[0] != key[1] else "–"
        cells = [
            _words(words.source(key[0])),
            _words(label),
            *(_estimate(row, name) for _, name in names),
        ]
        if inputs.has_truth:
            cells += [_number(100 * row["regret"], 1), _number(100 * row["winner_truth"], 1)]
        winner = row["winner"] if isinstance(row["winner"], str) else "–"
        star = "*" if row["tied"] else ""
        rows.append((*cells, Cell(winner + star, winner), _count(float(row["n"]))))
    if inputs.has_truth and ranking.ceiling is not None:
        rows.append(_ceiling(ranking.ceiling, [name for _, name in names]))
    return Table("ranking", tuple(columns), tuple(rows), _strong(ranking.keys(), inputs.headline))


def _ceiling(ceiling: NoiseCeiling, names: Sequence[str]) -> tuple[Cell, ...]:
    """Seed against seed, as a row of the table of indicators."""
    known = {
        "rho": ceiling.rho,
        **{f"rho_best{percent}": rho for percent, rho in ceiling.rho_best.items()},
    }
    none = Cell("", "")
    cells = [_number(known[name], 2) if name in known else none for name in names]
    return (
        _words("truth"),
        _words("seed against seed"),
        *cells,
        none,
        none,
        none,
        _count(ceiling.n),
    )


def best(inputs: ReportInputs) -> Table:
    """The ten best-ranked candidates."""
    ranking, key = inputs.ranking, inputs.headline
    columns = [Column("Rank", number=True), Column("Architecture", mono=True)]
    columns += [Column(capital(words.column(key[1])), number=True)]
    columns += [Column(title, number=True) for title in ("Truth (%)", "Parameters", "FLOPs")]
    if not inputs.has_truth:
        del columns[3]
    rows = []
    for place, (arch, value) in enumerate(ranking.best(key).items(), start=1):
        truth = math.nan if ranking.truth is None else float(ranking.truth.get(arch, math.nan))
        sizes = inputs.costs.loc[str(arch), ["parameters", "flops"]].to_numpy(dtype="float64")
        cells = [
            _count(place),
            _words(str(arch)),
            _indicator(-value if key[1] in LOWER_IS_BETTER else value, key),
        ]
        cells += [_number(100 * truth, 1)] if inputs.has_truth else []
        rows.append((*cells, *map(_count, sizes)))
    return Table("best", tuple(columns), tuple(rows), keys=tuple(row[1].text for row in rows))


def costs(inputs: ReportInputs) -> Table:
    """Core seconds of each stage and source."""
    ledger = inputs.ledger
    titles = ("Core time", "Per candidate", "Per run", "Runs")
    columns = (Column("Spent on"), *(Column(title, number=True) for title in titles))
    note, none = " (in an earlier run)" if ledger.reused else "", Cell("", "")
    spent = _seconds(ledger.distill_core_s)
    rows: list[tuple[Cell, ...]] = [
        (_words(f"{words.making(ledger.distilled)}{note}"), spent, none, none, none)
    ]
    for name, cost in ledger.sources.items():
        times = (cost.core_s, cost.core_s_per_candidate, cost.core_s_per_run)
        rows.append((_words(words.source(name)), *(_seconds(t) for t in times), _count(cost.runs)))
    for name, seconds, runs in ledger.decision_rows():
        each = _seconds(seconds / runs)
        rows.append((_words(name), _seconds(seconds), each, each, _count(runs)))
    if ledger.truth_core_s_per_candidate is not None:
        whole = _seconds(ledger.truth_core_s_per_candidate)
        rows.append((_words("whole data (from the truth table)"), none, whole, none, none))
    return Table("costs", columns, tuple(rows))


TABLES = {"ranking": indicators, "best": best, "costs": costs}
"""How each table of a page is built, by name."""


def _strong(keys: Sequence[Key], key: Key) -> int | None:
    return list(keys).index(key) if key in keys else None


def _estimate(row: Mapping[Any, Any], name: str) -> Cell:
    interval = words.span(row[f"{name}_low"], row[f"{name}_high"])
    return Cell(words.number(row[name]), row[name], "" if interval == "–" else interval)


def _number(value: float, digits: int) -> Cell:
    return Cell(words.number(value, digits), value)


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}", float(value))


def _seconds(value: float) -> Cell:
    return Cell(words.seconds(value), value)


def _words(text: str) -> Cell:
    return Cell(text, text)


def _indicator(value: float, key: Key) -> Cell:
    source, name = key
    if not math.isfinite(value):
        return _words("not available" if source == ZERO_COST else "failed")
    if name == "val_accuracy":
        return Cell(words.percent(value), value)
    return _count(value) if name in ("parameters", "flops") else _number(value, 3)


def _csv(value: float | str) -> str:
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if set(value) & set(',"\n') else value
    return f"{value:.10g}" if math.isfinite(value) else ""
