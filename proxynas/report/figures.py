"""Figures as PNG files, drawn by matplotlib on white; nothing global is touched."""

import io
import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter, NullLocator

from .charts import Axis, Bars, Chart, Figure, Forest, ForestPanel, Mark, Series
from .colours import light

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8e",
    "axes.labelcolor": "#3a3a3c",
    "axes.axisbelow": True,
    "grid.color": "#ececef",
    "grid.linewidth": 0.7,
    "xtick.color": "#3a3a3c",
    "ytick.color": "#3a3a3c",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # names are names
}

LABEL = 40
"""Letters of a legend's entry."""


def png(figure: Figure) -> bytes:
    """The figure as PNG, 160 dots an inch."""
    with matplotlib.rc_context(STYLE):
        if isinstance(figure, Chart):
            canvas = _chart(figure)
        elif isinstance(figure, Forest):
            canvas = _forest(figure)
        else:
            canvas = _bars(figure)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
        return buffer.getvalue()


def _canvas(width: float, height: float) -> Canvas:
    """An empty figure of so many inches."""
    canvas = Canvas(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    return canvas


def _chart(chart: Chart) -> Canvas:
    canvas = _canvas(7.2 if chart.wide else 3.4, chart.height / 96)
    axes = canvas.add_subplot()
    for series in chart.series:
        _draw(axes, series)
    for mark in chart.marks:
        _mark(axes, mark)
    _scale(axes, chart.x, vertical=False)
    _scale(axes, chart.y, vertical=True)
    axes.set_title(chart.title)
    axes.grid()
    if any(series.label for series in chart.series):
        axes.legend()
    return canvas


def _draw(axes: Axes, series: Series) -> None:
    ink, label = light(series.colour), series.label or "_"
    label = label if len(label) <= LABEL else f"{label[:LABEL]}…"
    if series.low is not None and series.high is not None:
        axes.fill_between(series.x, series.low, series.high, color=ink, alpha=0.15, lw=0)
    if series.kind == "line":
        axes.plot(series.x, series.y, "-", lw=2.2 if series.strong else 1.4, color=ink, label=label)
        return
    shape: dict[str, Any] = {
        "dots": {"marker": "o", "ms": 4.4, "mew": 0, "alpha": 0.75},
        "failed": {"marker": "x", "ms": 5},
        "ring": {"marker": "o", "ms": 9, "mfc": "none", "mew": 1.3},
    }[series.kind]
    axes.plot(series.x, series.y, ls="", color=ink, label=label, clip_on=False, **shape)


def _mark(axes: Axes, mark: Mark) -> None:
    at: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "color": light(mark.colour)}
    if mark.y is None:
        axes.axvline(mark.x, color="#8a8a8e", lw=0.8, ls=":")
        axes.annotate(
            mark.text, (mark.x, 1), xytext=(3, -9), xycoords=axes.get_xaxis_transform(), **at
        )
    else:
        axes.plot(
            [mark.x], [mark.y], "o", ms=6, mfc="white", mec=light(mark.colour), mew=1.6, zorder=4
        )
        axes.annotate(mark.text, (mark.x, mark.y), xytext=(7, -10), fontweight="bold", **at)


def _scale(axes: Axes, axis: Axis, *, vertical: bool) -> None:
    places, texts = zip(*axis.ticks, strict=True) if axis.ticks else ((), ())
    way = axes.yaxis if vertical else axes.xaxis
    way.axes.set(**{f"{'y' if vertical else 'x'}scale": "log" if axis.log else "linear"})
    way.set_minor_locator(NullLocator())
    way.set_minor_formatter(NullFormatter())
    way.set_ticks(list(places), list(texts))
    way.set_label_text(axis.label)
    (axes.set_ylim if vertical else axes.set_xlim)(axis.low, axis.high)


def _forest(forest: Forest) -> Canvas:
    rows = len(forest.rows) + len(forest.groups)
    canvas = _canvas(3.6 + 2.6 * len(forest.panels), 0.8 + 0.2 * rows)
    for number, panel in enumerate(forest.panels):
        axes = canvas.add_subplot(1, len(forest.panels), number + 1)
        _panel(axes, forest, panel, number)
    return canvas


def _panel(axes: Axes, forest: Forest, panel: ForestPanel, number: int) -> None:
    places: list[int] = []
    texts: list[tuple[str, bool]] = []
    place = 0
    for name, rows in forest.groups:
        if len(rows) > 1 or rows[0].label != name:
            places, texts, place = [*places, place], [*texts, (name, True)], place + 1
        for row in rows:
            e, ink = row.estimates[number], light(row.colour)
            if math.isfinite(e.value):
                axes.plot(
                    [e.low, e.high],
                    [place, place],
                    "-",
                    lw=2.4 if row.strong else 1.6,
                    color=ink,
                    alpha=0.6,
                )
                axes.plot([e.value], [place], "o", ms=6 if row.strong else 4.5, color=ink)
            if row.strong:
                axes.axhspan(place - 0.5, place + 0.5, color=ink, alpha=0.09, lw=0)
            places, texts, place = [*places, place], [*texts, (row.label, row.strong)], place + 1
    axes.axvline(0, color="#8a8a8e", lw=0.8)
    if panel.ceiling is not None:
        axes.axvline(panel.ceiling, color="#3a3a3c", lw=0.9, ls="--")
    _scale(axes, panel.axis, vertical=False)
    axes.set_yticks(places, [text for text, _ in texts] if number == 0 else [""] * len(texts))
    for label, (_, bold) in zip(axes.get_yticklabels(), texts, strict=True):
        label.set_fontweight("bold" if bold else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place - 0.4, -0.6)
    axes.grid(axis="x")


def _bars(figure: Bars) -> Canvas:
    canvas = _canvas(7.2, 0.8 + 0.3 * len(figure.bars))
    axes = canvas.add_subplot()
    for place, bar in enumerate(figure.bars):
        ink = light(bar.colour)
        axes.barh(
            place,
            bar.value,
            height=0.6,
            color="white" if bar.hollow else ink,
            edgecolor=ink,
            lw=0.9,
        )
        text = f"{bar.text}  ({bar.note})" if bar.note else bar.text
        axes.annotate(
            text,
            (bar.value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(figure.bars)), [bar.label for bar in figure.bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5 * max(*(bar.value for bar in figure.bars), 1e-9))
    axes.set_xticks(np.empty(0))
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(figure.label)
    return canvas
