"""One figure a question, built from what a report shows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..rank import Key, Ledger, Ranking, words
from ..search.sources import ZERO_COST
from . import colours
from .charts import (
    Axis,
    Bar,
    Bars,
    Chart,
    Estimate,
    Figure,
    Floats,
    Forest,
    ForestPanel,
    ForestRow,
    Mark,
    Series,
    durations,
    linear,
    logarithmic,
    moving_mean,
    named,
    power,
)
from .inputs import Pareto, RegretCurve, ReportInputs, Trust

NAMED = 400
"""Candidates, truly best first, that a scatter plot names; more would make the page large."""

CURVES = 5
"""Candidates whose learning curves are drawn."""


def build(inputs: ReportInputs) -> dict[str, Figure]:
    """All figures of a report by name, in reading order."""
    drawn: list[Figure | None] = [
        regret(inputs.regret_curve),
        forest(inputs),
        *(scatter(inputs.ranking, key, winner) for key, winner in _scattered(inputs)),
        None if inputs.pareto is None else pareto(inputs.pareto),
        time_bars(inputs.ledger),
        break_even(inputs.ledger),
        curves(inputs),
    ]
    return {figure.name: figure for figure in drawn if figure is not None}


def regret(curves: Sequence[RegretCurve]) -> Chart | None:
    """What a better network costs each way: median regret with its band against cost.

    The axis holds all medians; a band that goes beyond ends there.
    """
    if not curves:
        return None
    medians = np.concatenate([_percent(curve.regret) for curve in curves])
    y = linear("regret, percentage points", [0.0, *medians], _short, pad=0.02)
    names = [colours.SERIES[i % len(colours.SERIES)] for i in range(len(curves))]
    series = [
        Series(
            curve.name, colour, np.asarray(curve.costs, float), _percent(curve.regret),
            low=_percent(curve.low), high=_percent(curve.high).clip(max=y.high),
            strong=curve is curves[0],
        )
        for curve, colour in zip(curves, names, strict=True)
    ]  # fmt: skip
    x = durations("cost, core time", np.concatenate([s.x for s in series]))
    return Chart("regret", "Regret against cost", x, y, tuple(series), height=320)


def forest(inputs: ReportInputs) -> Forest | None:
    """ρ of every row with its 95 % interval, and ρ among the truly best; grouped by source."""
    rows = [*_trust_rows(inputs.trust)] if inputs.trust is not None else []
    cut = inputs.ranking.cut if inputs.has_truth else None
    if inputs.has_truth:
        rows += _ranking_rows(inputs, ["rho"] if cut is None else ["rho", f"rho_best{cut}"])
    if not rows:
        return None
    ceiling = inputs.ranking.ceiling
    panels = [
        ForestPanel(_rho_axis("ρ with truth", rows, 0), None if ceiling is None else ceiling.rho)
    ]
    if cut is not None:
        within = None if ceiling is None else ceiling.rho_best.get(cut)
        panels.append(ForestPanel(_rho_axis(f"ρ among the truly best {cut} %", rows, 1), within))
        rows = [(name, _padded(row, len(panels))) for name, row in rows]
    return Forest("correlation", "Rank correlation with truth", tuple(panels), named(rows))


def _ranking_rows(inputs: ReportInputs, names: Sequence[str]) -> list[tuple[str, ForestRow]]:
    records = inputs.ranking.rows.to_dict("records")
    return [
        (
            words.source(key[0]),
            ForestRow(
                words.source(key[0]) if key[0] == key[1] else words.short(key[1]),
                colours.name(key[0]),
                tuple(_estimate(row, name) for name in names),
                strong=key == inputs.headline,
            ),
        )
        for key, row in zip(inputs.ranking.keys(), records, strict=True)
    ]


def _trust_rows(trust: Trust) -> Iterator[tuple[str, ForestRow]]:
    estimate = Estimate(trust.rho, trust.low, trust.high)
    few = f" of {words.times(trust.label_epochs, 'epoch')}" if trust.label_epochs else ""
    yield "labels", ForestRow(f"out of fold, {trust.labels} labels{few}", "ink", (estimate,))


def _padded(row: ForestRow, panels: int) -> ForestRow:
    unknown = (Estimate(math.nan, math.nan, math.nan),) * (panels - len(row.estimates))
    return ForestRow(row.label, row.colour, row.estimates + unknown, row.strong)


def _estimate(row: Mapping[Any, Any], name: str) -> Estimate:
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _rho_axis(label: str, rows: Sequence[tuple[str, ForestRow]], panel: int) -> Axis:
    shown = [row.estimates[panel] for _, row in rows if panel < len(row.estimates)]
    ends = [v for e in shown for v in (e.value, e.low) if math.isfinite(v)]
    low = max(-1.0, math.floor(2 * min(0.0, *ends, 0.0)) / 2)
    step = 0.5 if low < 0 else 0.25
    ticks = np.arange(low, 1 + step / 2, step)
    return Axis(label, low - 0.02, 1.02, tuple((float(t), _short(t)) for t in ticks))


def _scattered(inputs: ReportInputs) -> list[tuple[Key, str | None]]:
    """The rows worth a scatter plot: the selection indicator on each source, the vote, and
    parameters."""
    if not inputs.has_truth:
        return []
    name, keys = inputs.headline[1], inputs.ranking.keys()
    wanted = [
        inputs.headline,
        *((source, name) for source in ("proxy", "random", "early-stopping")),
    ]
    wanted += [("zero-cost", "vote"), ("parameters", "parameters")]
    shown = [key for key in dict.fromkeys(wanted) if key in keys]
    return [(key, inputs.ranking.row(key)["winner"]) for key in shown]


def scatter(ranking: Ranking, key: Key, winner: str | None) -> Chart:
    """Truth against an indicator, both as ranks, so that neither saturates; the best at the top
    right.

    Raises:
        ValueError: there is no truth.
    """
    if ranking.truth is None:
        raise ValueError("a scatter plot against truth takes truth")
    values = ranking.values[key].reindex(ranking.truth.index).dropna()
    truth = ranking.truth[values.index]
    table = pd.DataFrame({"x": stats.rankdata(values), "y": stats.rankdata(truth), "truth": truth})
    table = table.assign(failed=np.isneginf(values.to_numpy())).sort_values(
        "truth", ascending=False
    )
    n = len(table)
    diagonal = np.array([1.0, max(n, 2)])
    series = [Series("", "soft", diagonal, diagonal)]
    for failed in (False, True):
        part = table[table["failed"] == failed]
        if len(part):
            colour = "bad" if failed else colours.name(key[0])
            series.append(_dots(part, key, colour, "failed" if failed else "dots", n))
    if winner in table.index:
        x, y = (table.loc[[winner], [axis]].to_numpy(float)[:, 0] for axis in "xy")
        series.append(Series("", "ink", x, y, kind="ring"))
    title = f"{capital(words.source(key[0]))}: ρ = {words.number(ranking.row(key)['rho'])}"
    axes = _rank_axis(key, n), _truth_axis(ranking, truth)
    return Chart(f"scatter-{'-'.join(key)}", title, *axes, tuple(series), height=250, wide=False)


def _dots(part: pd.DataFrame, key: Key, colour: str, kind: str, n: int) -> Series:
    named = part.head(NAMED)
    texts = tuple(
        f"{arch}: truth {words.percent(truth)} (rank {_rank(y, n)}), {words.label(key)} rank "
        f"{_rank(x, n)}"
        for arch, truth, x, y in zip(
            named.index, named["truth"], named["x"], named["y"], strict=True
        )
    )
    x, y = part["x"].to_numpy(float), part["y"].to_numpy(float)
    if kind == "failed":
        why = "not available" if key[0] == ZERO_COST else "training failed"
        return Series(why, colour, x, y, "failed", texts, tuple(named.index))
    return Series("", colour, x, y, "dots", texts, tuple(named.index))


def _rank(x: float, n: int) -> str:
    """A rank from the lowest as one from the best; ties share the mean of their places."""
    return f"{n + 1 - x:g}"


def _rank_axis(key: Key, n: int) -> Axis:
    """Ranks from the best, which is at the right."""
    places = sorted({1, round((n + 1) / 2), n})
    ticks = tuple((float(n + 1 - place), f"{place:,}") for place in places)
    return Axis(f"rank by {words.short(key[1])}", *_around(n), ticks)


def _truth_axis(ranking: Ranking, truth: pd.Series) -> Axis:
    """Ranks, with the truth of the candidates that have them as ticks."""
    ordered, n = np.sort(truth.to_numpy(float)), len(truth)
    places = sorted({1, round(1 + (n - 1) / 4), round((n + 1) / 2), round(1 + 3 * (n - 1) / 4), n})
    ticks = tuple((float(place), words.number(100 * ordered[place - 1], 1)) for place in places)
    return Axis(f"truth, by rank: {words.indicator(ranking.measure)}, %", *_around(n), ticks)


def _around(n: int) -> tuple[float, float]:
    pad = 0.05 * max(n - 1, 1)
    return 1 - pad, n + pad


def pareto(objectives: Pareto) -> Chart:
    """All candidates in two objectives, and the front that no other beats in both."""
    x, y, front = (
        np.asarray(objectives.x, float),
        np.asarray(objectives.y, float),
        np.asarray(objectives.front, bool),
    )
    names = tuple(
        f"{arch}: {objectives.x_label} {_big(cost)}, {objectives.y_label} {value:.4g}"
        for arch, cost, value in zip(objectives.archs, x, y, strict=True)
    )
    parts = []
    for label, colour, chosen in (
        ("candidates", "random", ~front),
        ("Pareto front", "proxy", front),
    ):
        order = np.flatnonzero(chosen)[np.argsort(x[chosen], kind="stable")]
        texts, keys = tuple(names[i] for i in order), tuple(objectives.archs[i] for i in order)
        parts.append(Series(label, colour, x[order], y[order], "dots", texts, keys))
    line = Series("", "proxy", parts[1].x, parts[1].y)
    axis = logarithmic if (x > 0).all() else linear
    axes = axis(objectives.x_label, x, _big), linear(objectives.y_label, y, lambda v: f"{v:.4g}")
    return Chart(
        "pareto",
        f"{objectives.y_label} against {objectives.x_label}",
        *axes,
        (parts[0], line, parts[1]),
    )


def time_bars(ledger: Ledger) -> Bars:
    """Core seconds of distillation and of scoring all candidates on each source."""
    spent = words.seconds(ledger.distill_core_s)
    note = "in an earlier run" if ledger.reused else ""
    bars = [Bar(words.making(ledger.distilled), "proxy", ledger.distill_core_s, spent, note)]
    for name, cost in ledger.sources.items():
        each = f"{words.seconds(cost.core_s_per_candidate)} per candidate"
        bars.append(
            Bar(
                words.source(name),
                colours.name(name),
                cost.core_s,
                words.seconds(cost.core_s),
                each,
            )
        )
    for name, seconds, runs in ledger.decision_rows():
        if math.isfinite(seconds):
            each = f"{words.seconds(seconds / runs)} per candidate"
            bars.append(Bar(name, "whole-data", seconds, words.seconds(seconds), each))
    whole = ledger.truth_core_s_per_candidate
    if whole is not None:
        total = whole * max((cost.candidates for cost in ledger.sources.values()), default=0)
        each = f"{words.seconds(whole)} per candidate, not spent"
        bars.append(Bar("whole data", "whole-data", total, words.seconds(total), each, hollow=True))
    return Bars("time", "Core time", "core time, all candidates and seeds", tuple(bars))


def break_even(ledger: Ledger) -> Chart | None:
    """Core time against the number of candidates, each way; ``None`` where nothing compares."""
    lines = [
        (name, ledger.distill_core_s if name == "proxy" else 0.0, cost.core_s_per_candidate)
        for name, cost in ledger.sources.items()
    ]
    if ledger.truth_core_s_per_candidate is not None:
        lines.append(("whole-data", 0.0, ledger.truth_core_s_per_candidate))
    if not ledger.distilled or "proxy" not in ledger.sources or len(lines) < 2:
        return None
    here = ledger.sources["proxy"].candidates
    marks = [n for n in (ledger.break_even, ledger.break_even_early_stopping) if n]
    x: Floats = np.geomspace(1, 10 * max(here, 10, *marks), 60, dtype=np.float64)
    series = [
        Series(
            words.source(name) + (", distillation included" if name == "proxy" else ""),
            colours.name(name), x, fixed + each * x, strong=name == "proxy",
        )
        for name, fixed, each in lines
    ]  # fmt: skip
    axes = (
        logarithmic("candidates", x, lambda n: f"{n:,.0f}"),
        durations("core time", np.concatenate([s.y for s in series])),
    )
    marked = (Mark(float(here), None, "this run"), *_crossings(ledger))
    return Chart("break-even", "Core time by number of candidates", *axes, tuple(series), marked)


def _crossings(ledger: Ledger) -> Iterator[Mark]:
    """Where the proxy's line crosses the others."""
    each = ledger.sources["proxy"].core_s_per_candidate
    for n in (ledger.break_even, ledger.break_even_early_stopping):
        if n is not None and n >= 1:
            yield Mark(n, ledger.distill_core_s + each * n, words.candidates(n), "proxy")


def curves(inputs: ReportInputs) -> Chart | None:
    """Training losses of the best-ranked candidates, before the middle and the spread of all
    others."""
    source = curve_source(inputs)
    if source is None:
        return None
    rows = inputs.scores[(inputs.scores["source"] == source) & inputs.scores["failed"].isna()]
    updates = min(map(len, rows["losses"]))
    width = max(1, updates // 25)
    means = {
        str(arch): moving_mean(
            np.mean([loss[:updates] for loss in part], axis=0, dtype=np.float64), width
        )
        for arch, part in rows.groupby("arch")["losses"]
    }
    best = [
        str(arch)
        for arch in inputs.ranking.best(inputs.headline, len(means)).index
        if arch in means
    ][:CURVES]
    x: Floats = np.arange(updates - width + 1, dtype=np.float64) + (width + 1) / 2
    low, middle, high = np.quantile(np.stack(list(means.values())), (0.1, 0.5, 0.9), axis=0)
    series = [
        Series(f"all {len(means):,}: median, 10 to 90 %", "random", x, middle, low=low, high=high)
    ]
    series += [
        Series(f"{place}. {arch}", colour, x, means[arch], strong=place == 1)
        for place, (arch, colour) in enumerate(zip(best, colours.SERIES, strict=False), start=1)
    ]
    values = np.concatenate([low, high, *(s.y for s in series)])
    steep = values.min() > 0 and values.max() / values.min() > 30
    y = (logarithmic if steep else linear)("training loss", values, power)
    axes = linear("update", x, lambda v: f"{v:,.0f}", pad=0.01, whole=True), y
    title = f"Training loss on the {words.source(source)}"
    return Chart("curves", title, *axes, tuple(thinned(s) for s in series))


def curve_source(inputs: ReportInputs) -> str | None:
    """The source whose learning curves are shown: the selection indicator's, or the first with
    any."""
    rows = inputs.scores
    if "losses" not in rows:
        return None
    long = rows[rows["failed"].isna() & (rows["losses"].map(np.size) > 1)]
    there = list(dict.fromkeys(long["source"]))
    wanted = [name for name in (inputs.headline[0], "proxy", *there) if name in there]
    return str(wanted[0]) if wanted else None


def thinned(series: Series, points: int = 200) -> Series:
    """A line with at most about so many points, which is what a page can show."""
    step = max(1, math.ceil(len(series.x) / points))
    ends = (
        None
        if series.low is None or series.high is None
        else (series.low[::step], series.high[::step])
    )
    low, high = ends or (None, None)
    return Series(series.label, series.colour, series.x[::step], series.y[::step], series.kind,
                  low=low, high=high, strong=series.strong)  # fmt: skip


def _percent(values: Sequence[float]) -> Floats:
    return 100 * np.asarray(values, dtype=np.float64)


def _short(value: float) -> str:
    return words.number(float(value), 2).rstrip("0").rstrip(".") or "0"


def _big(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
