"""The figures of a report, each a matplotlib ``Figure`` on white; nothing global is touched."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..rank import Key, Ledger, Ranking, words
from ..rank.indicators import LOWER_IS_BETTER

COLOURS = {
    "proxy": "#0b62a4",
    "random": "#7a7a7a",
    "early-stopping": "#c8641b",
    "zero-cost": "#20808d",
    "parameters": "#3f7f4c",
    "flops": "#7d5ba6",
    "whole-data": "#1d1d1f",
}
OTHERS = ("#a3364a", "#8c6d1f", "#5c5f9e", "#4f7a1f")
MANY = 2_000
"""Points from which a scatter plot is drawn as pixels inside the SVG, so that the page stays small."""

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8e",
    "axes.labelcolor": "#3a3a3c",
    "xtick.color": "#3a3a3c",
    "ytick.color": "#3a3a3c",
    "svg.hashsalt": "proxynas",
    "svg.fonttype": "path",
}


def colour(source: str) -> str:
    """The colour of a source, the same in every figure."""
    return COLOURS.get(source) or OTHERS[sum(source.encode()) % len(OTHERS)]


def png(figure: Figure) -> bytes:
    """The figure as PNG, 160 dots an inch."""
    return _saved(figure, "png")


def svg_uri(figure: Figure) -> str:
    """The figure as a ``data:`` address of an SVG, for an ``img`` element."""
    return "data:image/svg+xml;base64," + base64.b64encode(_saved(figure, "svg")).decode()


def scatter(ranking: Ranking, key: Key) -> Figure:
    """An indicator against truth, better to the right; candidates that failed are crosses at the left edge."""
    figure, axes = _figure(2.9, 2.7)
    truth = ranking.truth
    if truth is None:
        raise ValueError("a scatter plot against truth takes truth")
    x = ranking.values[key].reindex(truth.index)
    known, y = np.isfinite(x), 100 * truth
    sign = -1 if key[1] in LOWER_IS_BETTER else 1
    axes.plot(sign * x[known], y[known], "o", ms=4.2, mew=0, alpha=0.6, color=colour(key[0]), rasterized=len(x) > MANY)
    if sign < 0:
        axes.invert_xaxis()
    if key[1] in ("parameters", "flops") and (x[known] > 0).all() and known.any():
        axes.set_xscale("log")
    failed = np.isneginf(x)
    if failed.any():
        edge = axes.get_yaxis_transform()
        axes.plot(np.full(failed.sum(), 0.012), y[failed], "x", ms=5, color="#b3261e", transform=edge, clip_on=False)
    rho = ranking.row(key)["rho"]
    axes.set_title(
        f"{_capital(words.source(key[0]))}: ρ = {words.number(rho)}", loc="left", fontsize=9.5, fontweight="bold"
    )
    axes.set_xlabel(f"{words.column(key[1])} (better →)")
    axes.set_ylabel(f"truth: {words.indicator(ranking.measure)} (%)")
    return figure


def forest(ranking: Ranking, headline: Key) -> Figure:
    """ρ with its 95 % interval for every row, the headline in bold."""
    rows = ranking.rows
    figure, axes = _figure(7.2, 0.9 + 0.27 * len(rows))
    for place, row in enumerate(rows.to_dict("records")):
        if math.isfinite(row["rho"]):
            ink = colour(row["source"])
            axes.plot([row["rho_low"], row["rho_high"]], [place, place], "-", lw=1.8, color=ink, alpha=0.75)
            axes.plot([row["rho"]], [place], "o", ms=5.5, color=ink)
    axes.axvline(0, color="#8a8a8e", lw=0.8)
    keys = ranking.keys()
    axes.set_yticks(range(len(rows)), [words.label(key) for key in keys])
    for label, key in zip(axes.get_yticklabels(), keys, strict=True):
        label.set_fontweight("bold" if key == headline else "normal")
    if headline in keys:
        axes.axhspan(
            keys.index(headline) - 0.45, keys.index(headline) + 0.45, color=colour(headline[0]), alpha=0.08, lw=0
        )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    lowest = rows["rho_low"].min()
    axes.set_xlim(min(-0.1, lowest - 0.05) if math.isfinite(lowest) else -1, 1.02)
    axes.grid(axis="x", color="#e3e3e6", lw=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("Spearman’s ρ with truth (95 % bootstrap interval)")
    return figure


def time_bars(ledger: Ledger) -> Figure:
    """Core seconds of distillation and of training all candidates on each source."""
    bars = [(words.making(ledger.distilled), ledger.distill_core_s, colour("proxy"))]
    bars += [(words.source(name), cost.core_s, colour(name)) for name, cost in ledger.sources.items()]
    if ledger.truth_core_s_per_candidate is not None:
        number = max((cost.candidates for cost in ledger.sources.values()), default=0)
        bars.append(("whole data (not run here)", number * ledger.truth_core_s_per_candidate, "#d0d0d4"))
    figure, axes = _figure(7.2, 0.8 + 0.32 * len(bars))
    names, values, colours = zip(*bars, strict=True)
    axes.barh(range(len(bars)), values, color=colours, height=0.62)
    for place, value in enumerate(values):
        axes.annotate(
            words.seconds(value), (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * max(*values, 1e-9))
    axes.set_xlabel("core seconds, all candidates and seeds")
    return figure


def break_even(ledger: Ledger) -> Figure | None:
    """Core time against the number of candidates for each way of scoring; ``None`` where nothing compares."""
    lines = [
        (name, 0.0 if name != "proxy" else ledger.distill_core_s, c.core_s_per_candidate)
        for name, c in ledger.sources.items()
    ]
    if ledger.truth_core_s_per_candidate is not None:
        lines.append(("whole-data", 0.0, ledger.truth_core_s_per_candidate))
    if not ledger.distilled or "proxy" not in ledger.sources or len(lines) < 2:
        return None
    here = ledger.sources["proxy"].candidates
    marks = [n for n in (ledger.break_even, ledger.break_even_early_stopping) if n]
    x = np.geomspace(1, 10 * max(here, 10, *marks), 200)
    figure, axes = _figure(7.2, 3.3)
    for name, fixed, each in lines:
        label = words.source(name) + (" with distillation" if name == "proxy" else "")
        axes.plot(x, fixed + each * x, lw=2.2 if name == "proxy" else 1.5, color=colour(name), label=label)
    axes.axvline(here, color="#8a8a8e", lw=0.8, ls=":")
    at: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    axes.annotate("this run", (here, 1), xytext=(3, -9), fontsize=8, color="#3a3a3c", **at)
    _mark(axes, ledger)
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel="core time")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda s, _: words.seconds(s)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#ececef", lw=0.6)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def _mark(axes: Axes, ledger: Ledger) -> None:
    """Where the proxy's line crosses the others."""
    each = ledger.sources["proxy"].core_s_per_candidate
    for n in (ledger.break_even, ledger.break_even_early_stopping):
        if n is not None and n >= 1:
            y = ledger.distill_core_s + each * n
            axes.plot([n], [y], "o", ms=6, mfc="white", mec=colour("proxy"), mew=1.6, zorder=4)
            axes.annotate(words.candidates(n), (n, y), xytext=(7, -10), textcoords="offset points", fontsize=8.5,
                          fontweight="bold", color=colour("proxy"))  # fmt: skip


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of so many inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def scattered(ranking: Ranking, headline: Key) -> Sequence[Key]:
    """The rows worth a scatter plot: the headline, its rivals with the same indicator, and parameters."""
    wanted = [
        headline,
        *((source, headline[1]) for source in ("proxy", "random", "early-stopping")),
        ("parameters",) * 2,
    ]
    keys = ranking.keys()
    return [key for key in dict.fromkeys(wanted) if key in keys]
