"""From figures and sentences to one HTML page: this file chooses and words, the templates lay out."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..rank import Key, Ranking, Verdict, words
from ..rank.indicators import LOWER_IS_BETTER
from . import colours, firstscreen, images, svg
from .charts import Figure
from .drawings import CURVES, capital, curve_source
from .inputs import ReportInputs

AGREEMENT_LIMIT = 24
"""Rows up to which the matrix of agreements is shown."""

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

    @property
    def uri(self) -> str:
        """The table as CSV, in a ``data:`` address."""
        lines = [[column.title for column in self.columns], *([c.value for c in row] for row in self.rows)]
        text = "\n".join(",".join(map(_csv, line)) for line in lines) + "\n"
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def render(inputs: ReportInputs, judged: Verdict, drawn: Mapping[str, Figure]) -> str:
    """The page, with the figures ``drawn``; one file that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(svg=svg, number=words.number, span=words.span)
    return environment.get_template("report.html.jinja").render(**_context(inputs, judged, drawn))


def _context(inputs: ReportInputs, judged: Verdict, drawn: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        "version": __version__,
        "title": inputs.title,
        "about": _about(inputs),
        "colours": colours.COLOURS,
        "worth": judged.worth,
        "summary": judged.sentences[:2],
        "details": judged.sentences[2:],
        "tiles": firstscreen.tiles(inputs),
        "next": firstscreen.next_step(inputs, judged),
        "has_truth": inputs.has_truth,
        "trust": inputs.trust,
        "ceiling": inputs.noise_ceiling,
        "figures": drawn,
        "scatters": [figure for name, figure in drawn.items() if name.startswith("scatter-")],
        "tables": {table.name: table for table in (_indicators(inputs), _best(inputs), _costs(inputs))},
        "agreement": _agreement(inputs.ranking),
        "measure": words.indicator(inputs.ranking.measure),
        "top": inputs.ranking.top,
        "rival": RIVALS[_rival(inputs.ranking)],
        "selection": words.phrase(inputs.headline),
        "curve_source": words.source(curve_source(inputs) or ""),
        "curve_count": CURVES,
        "ledger": inputs.ledger,
        "making": words.making(inputs.ledger.distilled),
        "seconds": words.seconds,
        "size": words.size,
        "strips": images.strips(inputs.images, inputs.labels, inputs.class_names) if inputs.has_images else [],
        "failed": inputs.ranking.failed.to_dict("records"),
        "source_name": words.source,
        "facts": [(name, list(_flat(values))) for name, values in _facts(inputs) if values],
    }


def _about(inputs: ReportInputs) -> str:
    parts = [str(inputs.dataset.get("name", "")), f"{len(inputs.ranking.values):,} candidates", inputs.ledger.device]
    return " · ".join(part for part in parts if part)


def _facts(inputs: ReportInputs) -> list[tuple[str, Mapping[str, Any]]]:
    named = [("Settings", inputs.spec), ("Dataset", inputs.dataset), ("Provenance", inputs.provenance)]
    return [(name, values) for name, values in named if values]


def _rival(ranking: Ranking) -> str:
    """What rows are compared with: the vote, where there is one."""
    return "over_parameters" if ranking.rows["over_vote"].isna().all() else "over_vote"


def _indicators(inputs: ReportInputs) -> Table:
    """Every figure of every row of the ranking."""
    ranking, rival = inputs.ranking, _rival(inputs.ranking)
    columns = [Column("Trained on"), Column("Indicator")]
    if inputs.has_truth:
        names = [("ρ", "rho"), ("ρ − rival’s", rival), ("τ", "tau"), (f"ρ, its top {ranking.top}", "rho_top10")]
        names += [(f"ρ, {title}", name) for title, name in best_columns(ranking)]
        columns += [Column(title, number=True) for title, _ in names]
        columns += [Column(title, number=True) for title in ("Regret (points)", "Winner’s truth (%)")]
    else:
        names = []
    columns += [Column("Winner", mono=True), Column("Candidates", number=True)]
    rows = []
    for key, row in zip(ranking.keys(), _records(ranking), strict=True):
        label = words.column(key[1]) if key[0] != key[1] else "–"
        cells = [_words(words.source(key[0])), _words(label), *(_estimate(row, name) for _, name in names)]
        if inputs.has_truth:
            cells += [_number(100 * row["regret"], 1), _number(100 * row["winner_truth"], 1)]
        rows.append((*cells, _words(row["winner"] if isinstance(row["winner"], str) else "–"), _count(row["n"])))
    return Table("indicators", tuple(columns), tuple(rows), _strong(ranking.keys(), inputs.headline))


def best_columns(ranking: Ranking) -> list[tuple[str, str]]:
    """What the columns of ρ among the truly best are called, and their names; none that is not known anywhere."""
    named = [("best tenth", "rho_best")]
    return [(title, name) for title, name in named if name in ranking.rows and ranking.rows[name].notna().any()]


def _best(inputs: ReportInputs) -> Table:
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
        parameters, flops = inputs.costs.loc[str(arch), ["parameters", "flops"]]
        cells = [_count(place), _words(str(arch)), _indicator(-value if key[1] in LOWER_IS_BETTER else value, key[1])]
        cells += [_number(100 * truth, 1)] if inputs.has_truth else []
        rows.append((*cells, _count(parameters), _count(flops)))
    return Table("best", tuple(columns), tuple(rows))


def _costs(inputs: ReportInputs) -> Table:
    """Core seconds of each stage and source."""
    ledger = inputs.ledger
    titles = ("Core time", "Per candidate", "Per run", "Runs")
    columns = (Column("Spent on"), *(Column(title, number=True) for title in titles))
    note, none = " (in an earlier run)" if ledger.reused else "", Cell("", "")
    rows = [(_words(f"distillation{note}"), _seconds(ledger.distill_core_s), none, none, none)]
    for name, cost in ledger.sources.items():
        times = (cost.core_s, cost.core_s_per_candidate, cost.core_s_per_run)
        rows.append((_words(words.source(name)), *(_seconds(t) for t in times), _count(cost.runs)))
    if ledger.truth_core_s_per_candidate is not None:
        whole = _seconds(ledger.truth_core_s_per_candidate)
        rows.append((_words("whole data (from the truth table)"), none, whole, none, none))
    return Table("costs", columns, tuple(rows))


def _ceiling(ranking: Ranking) -> dict[str, Any] | None:
    """Seed against seed, as a row of the table."""
    found = ranking.ceiling
    if found is None:
        return None
    best = [words.number(found.rho_best.get(percent, math.nan)) for percent in ranking.cuts]
    return {"rho": words.number(found.rho), "best": best, "seeds": found.seeds, "n": f"{found.n:,}"}


def _agreement(ranking: Ranking) -> dict[str, Any] | None:
    names = [words.label(key) for key in ranking.keys()]  # noqa: SIM118  # keys() is a method here
    if len(names) > AGREEMENT_LIMIT:
        return None
    matrix = ranking.agreement.to_numpy()
    cells = [
        [(words.number(v), round(100 * min(abs(v), 1)) if math.isfinite(v) else 0, v < 0) for v in row]
        for row in matrix
    ]
    return {"names": names, "rows": list(zip(names, cells, strict=True))}


def _strong(keys: Sequence[Key], key: Key) -> int | None:
    return list(keys).index(key) if key in keys else None


def _estimate(row: Mapping[Any, Any], name: str) -> Cell:
    interval = words.span(row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan))
    return Cell(words.number(row[name]), row[name], "" if interval == "–" else interval)


def _number(value: float, digits: int) -> Cell:
    return Cell(words.number(value, digits), value)


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}", float(value))


def _seconds(value: float) -> Cell:
    return Cell(words.seconds(value), value)


def _words(text: str) -> Cell:
    return Cell(text, text)


def _indicator(value: float, name: str) -> Cell:
    if not math.isfinite(value):
        return Cell("failed", "failed")
    if name == "val_accuracy":
        return Cell(words.percent(value), value)
    return _count(value) if name in ("parameters", "flops") else _number(value, 3)


def _csv(value: float | str) -> str:
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if set(value) & set(',"\n') else value
    return f"{value:.10g}" if math.isfinite(value) else ""


def _records(ranking: Ranking) -> list[dict[Any, Any]]:
    return ranking.rows.to_dict("records")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
