"""Figures as inline SVG: lines and dots stretch with the page, texts and dots keep their size.

A chart is drawn into a square of :data:`SIDE` units that the page stretches to any width; strokes
do not scale with it, and a dot is a stroke without length and with round ends. Axes, labels and
legend are HTML beside it.
"""

from collections.abc import Iterator
from html import escape

import numpy as np
from markupsafe import Markup

from .charts import Axis, Chart, Estimate, Floats, ForestPanel, Mark, Series

SIDE = 1000

DENSE = 200
"""Dots from which they are drawn smaller."""


def chart(drawn: Chart) -> Markup:
    """The area between the axes: grid, bands, lines, dots and marks."""
    parts = [*_grid(drawn)]
    for series in drawn.series:
        x, y = _units(drawn.x, series.x), SIDE - _units(drawn.y, series.y)
        if series.low is not None and series.high is not None:
            edges = (SIDE - _units(drawn.y, ends) for ends in (series.low, series.high))
            parts.append(_band(series, x, *edges))
        parts += _dots(series, x, y) if series.kind != "line" else [_line(series, x, y)]
    parts += [_mark(drawn, mark) for mark in drawn.marks]
    crowd = (
        ' class="dense"' if sum(len(s.x) for s in drawn.series if s.kind == "dots") > DENSE else ""
    )
    box = f'viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none"'
    head = f'<svg{crowd} {box} role="img" aria-label="{escape(drawn.title)}">'
    return Markup(head + "".join(parts) + "</svg>")


def track(panel: ForestPanel, estimate: Estimate, colour: str, *, strong: bool) -> Markup:
    """One row of a forest plot: grid, interval and estimate, at percentages of the cell's width."""
    parts = [
        _rule(panel.axis, value, "zero" if value == 0 else "grid") for value, _ in panel.axis.ticks
    ]
    if panel.ceiling is not None:
        parts.append(_rule(panel.axis, panel.ceiling, "ceiling"))
    if np.isfinite(estimate.value):
        ends = (estimate.low, estimate.high) if np.isfinite(estimate.low) else (estimate.value,) * 2
        (low, high), middle = (
            (_share(panel.axis, v) for v in ends),
            _share(panel.axis, estimate.value),
        )
        ink, width, radius = f"var(--c-{colour})", 3 if strong else 2, 5 if strong else 4
        style = f"stroke:{ink};stroke-width:{width}"
        parts.append(
            f'<line class="span" x1="{low}" x2="{high}" y1="50%" y2="50%" style="{style}"/>'
        )
        parts.append(f'<circle cx="{middle}" cy="50%" r="{radius}" style="fill:{ink}"/>')
    return Markup('<svg aria-hidden="true">' + "".join(parts) + "</svg>")


def scale(axis: Axis) -> Markup:
    """The ticks of a forest plot's axis as a line of text."""
    texts = [
        f'<text x="{_share(axis, value)}" y="13" text-anchor="middle">{escape(text)}</text>'
        for value, text in axis.ticks
    ]
    return Markup('<svg class="scale" aria-hidden="true">' + "".join(texts) + "</svg>")


def percent(share: float) -> str:
    """A share of 1 as a CSS percentage."""
    return f"{100 * share:.2f}%"


def _share(axis: Axis, value: float) -> str:
    low, high = sorted((axis.low, axis.high))
    return percent(float(axis.place(min(max(value, low), high))))


def _rule(axis: Axis, value: float, name: str) -> str:
    x = _share(axis, value)
    return f'<line class="{name}" x1="{x}" x2="{x}" y1="0" y2="100%"/>'


def _units(axis: Axis, values: Floats) -> Floats:
    units: Floats = SIDE * axis.place(values).clip(-0.5, 1.5)
    return units


def _grid(drawn: Chart) -> Iterator[str]:
    for value, _ in drawn.x.ticks:
        yield f'<path class="grid" d="M{SIDE * float(drawn.x.place(value)):.1f} 0V{SIDE}"/>'
    for value, _ in drawn.y.ticks:
        yield f'<path class="grid" d="M0 {SIDE * (1 - float(drawn.y.place(value))):.1f}H{SIDE}"/>'


def _points(x: Floats, y: Floats) -> str:
    return "L".join(f"{u:.1f} {v:.1f}" for u, v in zip(x, y, strict=True))


def _line(series: Series, x: Floats, y: Floats) -> str:
    width = 2.4 if series.strong else 1.5
    style = f"stroke:var(--c-{series.colour});stroke-width:{width}"
    return f'<path class="line" d="M{_points(x, y)}" style="{style}"/>'


def _band(series: Series, x: Floats, low: Floats, high: Floats) -> str:
    edge = f"M{_points(x, low)}L{_points(x[::-1], high[::-1])}Z"
    return f'<path class="band" d="{edge}" style="fill:var(--c-{series.colour})"/>'


def _dots(series: Series, x: Floats, y: Floats) -> Iterator[str]:
    """Each dot that has a name by itself, so that it can be pointed at; all others as one path."""
    named, style = len(series.names), f"stroke:var(--c-{series.colour})"
    rest = "".join(f"M{u:.1f} {v:.1f}h.1" for u, v in zip(x[named:], y[named:], strict=True))
    if rest:
        yield f'<path class="{series.kind}" d="{rest}" style="{style}"/>'
    for u, v, name, key in reversed(list(zip(x, y, series.names, series.keys, strict=False))):
        yield (
            f'<path class="{series.kind} named" data-key="{escape(key)}" '
            f'd="M{u:.1f} {v:.1f}h.1" style="{style}">'
            f"<title>{escape(name)}</title></path>"
        )


def _mark(drawn: Chart, mark: Mark) -> str:
    x = SIDE * float(drawn.x.place(mark.x))
    if mark.y is None:
        return f'<path class="mark" d="M{x:.1f} 0V{SIDE}"/>'
    y = SIDE * (1 - float(drawn.y.place(mark.y)))
    return f'<path class="ring" d="M{x:.1f} {y:.1f}h.1" style="stroke:var(--c-{mark.colour})"/>'
