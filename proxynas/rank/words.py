"""What rows and figures are called in sentences, tables and captions."""

import math

from ..search.sources import EARLY_STOPPING, KINDS, ZERO_COST
from .indicators import Key
from .ranking import Difference

INDICATORS = {
    "val_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "val_loss": "validation loss",
    "val_auc": "area under the validation curve",
    "sotl": "training loss sum (SoTL)",
    "sotl_late": "training loss sum of the second half (late SoTL)",
    "naswot": "NASWOT",
    "vote": "zero-cost vote",
    "predicted": "performance predictor",
    "parameters": "parameters",
    "flops": "FLOPs",
}
SHORT = {
    "val_accuracy": "val accuracy",
    "val_loss": "val loss",
    "val_auc": "val AUC",
    "sotl": "SoTL",
    "sotl_late": "late SoTL",
    "vote": "vote",
    "predicted": "predictor",
}


def source(name: str) -> str:
    """A source of data in words."""
    return KINDS[name].label if name in KINDS else name


def indicator(name: str) -> str:
    """An indicator in words."""
    if "+" in name:
        *first, last = (INDICATORS.get(term, term) for term in name.split("+"))
        return f"the mean rank of {', '.join(first)} and {last}"
    return INDICATORS.get(name, name)


def column(name: str) -> str:
    """An indicator where a column or an axis has little room: in full where it is one, in few
    letters where several."""
    return f"mean rank: {short(name)}" if "+" in name else indicator(name)


def short(name: str) -> str:
    """An indicator in as few letters as a table on a terminal has room for."""
    return " + ".join(SHORT.get(term, indicator(term)) for term in name.split("+"))


def key(name: Key) -> str:
    """A row of the ranking in words."""
    return source(name[0]) if name[0] == name[1] else f"{source(name[0])}, {indicator(name[1])}"


def label(name: Key) -> str:
    """A row of the ranking in as few letters as a figure has room for."""
    return source(name[0]) if name[0] == name[1] else f"{source(name[0])}, {short(name[1])}"


def phrase(name: Key) -> str:
    """A row of the ranking inside a sentence."""
    if name[0] == name[1]:
        return f"counting {indicator(name[1])}"
    article = "the " if name[1] in ("vote", "predicted") else ""
    if name[0] == ZERO_COST:
        return f"{article}{indicator(name[1])}, before any training"
    early = name[0] == EARLY_STOPPING
    after = "on the real data, stopped early" if early else f"on the {source(name[0])}"
    trained = "" if name[1].startswith("sotl") else "after training "
    return f"{article}{indicator(name[1])} {trained}{after}"


def rival(name: Key) -> str:
    """A row of the ranking where a sentence compares the proxy set with it."""
    kind = KINDS.get(name[0])
    return kind.rival if kind is not None and kind.rival else phrase(name)


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign; an en dash where it is not known."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def span(low: float, high: float) -> str:
    """An interval, as in ``[0.31, 0.62]``; an en dash where it is not known."""
    return f"[{number(low)}, {number(high)}]" if math.isfinite(low) and math.isfinite(high) else "–"


def difference(d: Difference) -> str:
    """A difference with its sign and its 95 % interval."""
    sign = "+" if d.value > 0 else ""
    return f"{sign}{number(d.value)} {span(d.low, d.high)}"


def making(distilled: bool) -> str:
    """What a proxy set cost: it was distilled, or is a coreset."""
    return "distillation" if distilled else "selecting the coreset"


def percent(value: float) -> str:
    """A share of 1 in percent."""
    return "–" if not math.isfinite(value) else f"{number(100 * value, 1)} %"


def times(n: int, noun: str) -> str:
    """A number of things: ``1 epoch``, ``12 epochs``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 0.1:
        return f"{1000 * value:.1f} ms"
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.1f} min" if value < 600 else f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def size(value: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def candidates(value: float | None) -> str:
    """A break-even point as a whole number of candidates."""
    return "never" if value is None else f"{max(1, math.ceil(value)):,}"
