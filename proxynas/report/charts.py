"""What a figure consists of, in data: axes, series, rows; pages and PNG files are drawn from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Words = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """An axis from ``low``, which may be the larger, to ``high``, with its ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, values: ArrayLike) -> Floats:
        """Where values lie along the axis: 0 at ``low``, 1 at ``high``."""
        x = np.asarray(values, dtype=np.float64)
        low, high = self.low, self.high
        if self.log:
            x, low, high = np.log(x), math.log(low), math.log(high)
        placed: Floats = (x - low) / (high - low)
        return placed


def linear(
    label: str, values: ArrayLike, words: Words, *, pad: float = 0.04, whole: bool = False
) -> Axis:
    """An axis around finite ``values``: some five round ticks (``whole``: no fractions) in
    ``words``."""
    low, high = _span(values)
    low, high = low - pad * (high - low), high + pad * (high - low)
    places = MaxNLocator(5, integer=whole).tick_values(low, high)
    return Axis(label, low, high, tuple((float(t), words(t)) for t in places if low <= t <= high))


def logarithmic(label: str, values: ArrayLike, words: Words, *, ticks: int = 5) -> Axis:
    """A logarithmic axis around ``values`` above zero; ticks at powers of ten, and between if
    few."""
    low, high = _span(values)
    margin = (high / low) ** 0.04
    low, high = low / margin, high * margin
    decades = math.log10(high / low)
    between = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    places = [
        t for t in LogLocator(subs=between, numticks=99).tick_values(low, high) if low <= t <= high
    ]
    places = places[:: max(1, math.ceil(len(places) / (ticks + 2)))]
    return Axis(label, low, high, tuple((float(t), words(t)) for t in places), log=True)


TIMES = (
    *(
        (0.001, "1 ms"),
        (0.01, "10 ms"),
        (0.1, "0.1 s"),
        (1, "1 s"),
        (10, "10 s"),
        (60, "1 min"),
        (600, "10 min"),
    ),
    *(
        (3600, "1 h"),
        (36_000, "10 h"),
        (360_000, "100 h"),
        (3_600_000, "1,000 h"),
        (36_000_000, "10,000 h"),
    ),
)


def durations(label: str, values: ArrayLike) -> Axis:
    """A logarithmic axis around seconds above zero, with ticks at round durations."""
    axis = logarithmic(label, values, str)
    ticks = tuple((float(t), text) for t, text in TIMES if axis.low <= t <= axis.high)
    return Axis(label, axis.low, axis.high, ticks, log=True)


def power(value: float) -> str:
    """A number for a logarithmic axis: small ones as powers of ten, as in 3·10⁻⁵."""
    if value >= 0.001 or value <= 0:
        return f"{value:.3g}"
    digits, _, exponent = f"{value:.0e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


def _span(values: ArrayLike) -> tuple[float, float]:
    x = np.asarray(values, dtype=np.float64)
    x = x[np.isfinite(x)]
    low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if low <= 0 else (low * 0.9, high * 1.1)
    return low, high


@dataclass(frozen=True)
class Series:
    """Points or a line; ``colour`` is a name of :mod:`colours`."""

    label: str  # in the legend; "": not there
    colour: str
    x: Floats  # (n,)
    y: Floats  # (n,)
    kind: Literal["line", "dots", "failed", "ring"] = "line"
    names: tuple[str, ...] = ()  # one a point, shown when it is pointed at
    keys: tuple[str, ...] = ()  # one a point: the candidate, lit up wherever it is drawn
    low: Floats | None = None  # (n,), a band with high
    high: Floats | None = None
    strong: bool = False


@dataclass(frozen=True)
class Mark:
    """A thin line across the figure at ``x``, or a short text at (``x``, ``y``)."""

    x: float
    y: float | None
    text: str
    colour: str = "ink"


@dataclass(frozen=True)
class Chart:
    """Series in a pair of axes."""

    name: str  # of its file
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    height: int = 300  # pixels, on a page
    wide: bool = True


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; NaN where it is not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ForestRow:
    """One row of a forest plot: an estimate for each of its panels."""

    label: str
    colour: str
    estimates: tuple[Estimate, ...]
    strong: bool = False


@dataclass(frozen=True)
class ForestPanel:
    """One column of a forest plot: its axis, and a vertical line for what can be expected at
    best."""

    axis: Axis
    ceiling: float | None = None


@dataclass(frozen=True)
class Forest:
    """Estimates with intervals, one below the other, in groups; all rows of a panel share its
    axis."""

    name: str
    title: str
    panels: tuple[ForestPanel, ...]
    groups: tuple[tuple[str, tuple[ForestRow, ...]], ...]

    @property
    def rows(self) -> tuple[ForestRow, ...]:
        """The rows of all groups."""
        return tuple(row for _, rows in self.groups for row in rows)


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart."""

    label: str
    colour: str
    value: float
    text: str
    note: str = ""
    hollow: bool = False  # not spent in this run


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from zero."""

    name: str
    title: str
    label: str  # of the values
    bars: tuple[Bar, ...]

    def share(self, bar: Bar) -> float:
        """The bar's length as a share of the longest."""
        return bar.value / max(*(b.value for b in self.bars), 1e-12)


Figure = Chart | Forest | Bars


def moving_mean(values: Floats, width: int) -> Floats:
    """The mean over windows of ``width`` along the last axis: (…, n − width + 1)."""
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=-1)
    mean: Floats = windows.mean(axis=-1)
    return mean


def named(rows: Sequence[tuple[str, ForestRow]]) -> tuple[tuple[str, tuple[ForestRow, ...]], ...]:
    """Rows that follow each other under one name, as groups."""
    groups: list[tuple[str, list[ForestRow]]] = []
    for name, row in rows:
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(row)
    return tuple((name, tuple(group)) for name, group in groups)
