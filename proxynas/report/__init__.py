"""The report of a run: one self-contained page, the same as JSON, CSV and PNG, terminal tables."""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core import files
from ..core.text import cell
from ..rank import Ranking, Verdict, verdict
from . import drawings, figures, images, page, pareto
from .firstscreen import Next, next_step, summary
from .inputs import Pareto, RegretCurve, ReportInputs, Trust, Winner

__all__ = [
    "Next",
    "Pareto",
    "RegretCurve",
    "ReportInputs",
    "Trust",
    "Winner",
    "as_json",
    "indicators_csv",
    "next_step",
    "plain",
    "scores_csv",
    "summary",
    "values_csv_gz",
    "write",
]

SCORES = (
    *("source", "arch", "seed", "val_accuracy", "val_loss", "val_auc", "sotl", "sotl_late"),
    *("parameters", "flops", "failed"),
)
"""Columns of ``scores.csv``: nothing of the clock, so that a run store always gives the same
bytes."""

TIMINGS = ("source", "arch", "seed", "seconds")


def write(folder: Path, inputs: ReportInputs) -> Path:
    """Write the tables as CSV files, ``report.json``, and then figures (PNG) and the page.

    ``scores.csv`` has every run, ``timings.csv`` its seconds, ``indicators.csv`` every candidate,
    and ``values.csv.gz`` the same in short, to be published beside the JSON.

    Returns the path of the page, which is one file that needs nothing else.

    Raises:
        RunFolderError: the folder cannot be written or is full.
        KeyError: the ranking has no row for the headline.
    """
    judged = verdict(inputs.ranking, inputs.ledger, inputs.headline, inputs.headline_reason)
    files.write_text(folder / "scores.csv", scores_csv(inputs.scores, inputs.costs))
    files.write_text(folder / "indicators.csv", indicators_csv(inputs.ranking))
    files.write_bytes(folder / "values.csv.gz", values_csv_gz(inputs.ranking))
    files.write_text(folder / "timings.csv", _csv(inputs.scores, TIMINGS))
    if inputs.pareto is not None:
        front = pareto.front_table(inputs)
        files.write_text(
            folder / "pareto.csv", _shown(front).to_csv(index=False, lineterminator="\n")
        )
    files.write_text(
        folder / "report.json",
        json.dumps(as_json(inputs, judged), indent=2, ensure_ascii=False) + "\n",
    )
    drawn = drawings.build(inputs)
    for name, figure in drawn.items():
        files.write_bytes(folder / "figures" / f"{name}.png", figures.png(figure))
    if inputs.shown is not None:
        grid = images.grid(*inputs.shown, inputs.class_names)
        files.write_bytes(folder / "figures" / "proxy-images.png", grid)
    path = folder / "report.html"
    files.write_text(path, page.render(inputs, judged, drawn, str(folder)))
    return path


def scores_csv(scores: pd.DataFrame, costs: pd.DataFrame) -> str:
    """One line a (source, arch, seed), sorted; the same rows always give the same text."""
    return _csv(scores.join(costs[["parameters", "flops"]], on="arch"), SCORES)


def indicators_csv(ranking: Ranking) -> str:
    """One line a candidate, sorted: truth and each ``source:indicator``, higher is better."""
    text: str = _values(ranking).to_csv(lineterminator="\n")
    return text


def values_csv_gz(ranking: Ranking) -> bytes:
    """The table of :func:`indicators_csv` in six digits, compressed; bytes depend on nothing else.

    Whole numbers keep all of their digits, so that counts which differ stay different.
    """
    text: str = _values(ranking).to_csv(lineterminator="\n", float_format=_short)
    return gzip.compress(text.encode(), mtime=0)


def _values(ranking: Ranking) -> pd.DataFrame:
    names = [cell(f"{source}:{name}") for source, name in ranking.keys()]  # noqa: SIM118
    table = ranking.values.set_axis(names, axis=1)
    if ranking.truth is not None:
        table.insert(0, "truth", ranking.truth.reindex(table.index))
    return table


def _short(value: object) -> str:
    number = float(str(value))
    return f"{number:.0f}" if number.is_integer() else f"{number:.6g}"


def as_json(inputs: ReportInputs, judged: Verdict) -> dict[str, Any]:
    """The report as plain values; what is not known is ``None``."""
    row = inputs.ranking.row(inputs.headline)
    best = {
        "arch": row["winner"],
        "truth": row["winner_truth"],
        "regret": row["regret"],
        "tied": row["tied"],
        "source": inputs.headline[0],
        "indicator": inputs.headline[1],
        "reason": inputs.headline_reason,
    }
    values: dict[str, Any] = plain(
        {
            "title": inputs.title,
            "rank": inputs.ranking.rows.to_dict("records"),
            "noise_ceiling": _ceiling(inputs.ranking),
            "ledger": inputs.ledger.to_dict(),
            "best": best,
            "worth": judged.worth,
            "summary": list(summary(inputs, judged)),
            "verdict": list(judged.sentences),
            "failed": inputs.ranking.failed.to_dict("records"),
            "dataset": inputs.dataset,
            "spec": inputs.spec,
            "provenance": inputs.provenance,
            **_optional(inputs),
        }
    )
    return values


def _ceiling(ranking: Ranking) -> dict[str, Any] | None:
    """Seed against seed, with names as in the rows of the ranking."""
    ceiling = ranking.ceiling
    if ceiling is None:
        return None
    best = {f"rho_best{percent}": rho for percent, rho in ceiling.rho_best.items()}
    return {"seeds": ceiling.seeds, "n": ceiling.n, "rho": ceiling.rho, **best}


def _optional(inputs: ReportInputs) -> dict[str, Any]:
    """What only some runs have; absent where it is not there."""
    parts = {
        "winner": inputs.winner and asdict(inputs.winner),
        "trust": inputs.trust and asdict(inputs.trust),
        "regret_curve": [asdict(curve) for curve in inputs.regret_curve],
        "pareto": inputs.pareto and asdict(inputs.pareto),
    }
    return {name: value for name, value in parts.items() if value}


def plain(value: Any) -> Any:
    """Values as JSON knows them: NaN and infinities become ``None``, the rest numbers and text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _csv(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    ordered = rows.sort_values(["source", "arch", "seed"]).reindex(columns=list(columns))
    text: str = _shown(ordered).to_csv(index=False, lineterminator="\n")
    return text


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with texts as spreadsheets may open them (:func:`proxynas.core.text.cell`)."""
    return rows.map(lambda value: cell(value) if isinstance(value, str) else value)
