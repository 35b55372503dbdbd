"""From figures and sentences to one HTML page: this file chooses and words, the templates lay
out."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..rank import Ranking, Verdict, words
from . import colours, firstscreen, images, pagetables, svg
from .charts import Figure
from .drawings import CURVES, curve_source
from .inputs import ReportInputs

AGREEMENT_LIMIT = 24
"""Rows up to which the matrix of agreements is shown."""


def render(inputs: ReportInputs, judged: Verdict, drawn: Mapping[str, Figure], run: str) -> str:
    """The page of the directory ``run``, with the figures ``drawn``; it needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(svg=svg, number=words.number, span=words.span)
    return environment.get_template("report.html.jinja").render(
        **_context(inputs, judged, drawn), next=firstscreen.next_step(inputs, judged, run)
    )


def _context(inputs: ReportInputs, judged: Verdict, drawn: Mapping[str, Figure]) -> dict[str, Any]:
    shown = inputs.shown
    return {
        "version": __version__,
        "title": inputs.title,
        "about": _about(inputs),
        "colours": colours.COLOURS,
        "summary": firstscreen.summary(inputs, judged),
        "details": judged.details if inputs.winner is None else judged.sentences,
        "tiles": firstscreen.tiles(inputs),
        "has_truth": inputs.has_truth,
        "trust": inputs.trust,
        "ceiling": inputs.ranking.ceiling,
        "cuts": inputs.ranking.cuts,
        "by_kind": bool(inputs.ranking.rows["n_distinct"].lt(inputs.ranking.rows["n"]).any()),
        "figures": drawn,
        "scatters": [figure for name, figure in drawn.items() if name.startswith("scatter-")],
        "tables": {name: build(inputs) for name, build in pagetables.TABLES.items()},
        "agreement": _agreement(inputs.ranking),
        "measure": words.indicator(inputs.ranking.measure),
        "rival": pagetables.RIVALS[pagetables.rival(inputs.ranking)],
        "selection": words.phrase(inputs.headline),
        "curve_source": words.source(curve_source(inputs) or ""),
        "curve_count": CURVES,
        "ledger": inputs.ledger,
        "making": words.making(inputs.ledger.distilled),
        "seconds": words.seconds,
        "size": words.size,
        "strips": [] if shown is None else images.strips(*shown, inputs.class_names),
        "failed": inputs.ranking.failed.to_dict("records"),
        "source_name": words.source,
        "facts": [(name, list(_flat(values))) for name, values in _facts(inputs) if values],
    }


def _about(inputs: ReportInputs) -> str:
    parts = [
        str(inputs.dataset.get("name", "")),
        f"{len(inputs.ranking.values):,} candidates",
        inputs.ledger.device,
    ]
    return " · ".join(part for part in parts if part)


def _facts(inputs: ReportInputs) -> list[tuple[str, Mapping[str, Any]]]:
    named = [
        ("Settings", inputs.spec),
        ("Dataset", inputs.dataset),
        ("Provenance", inputs.provenance),
    ]
    return [(name, values) for name, values in named if values]


def _agreement(ranking: Ranking) -> dict[str, Any] | None:
    names = [words.label(key) for key in ranking.keys()]  # noqa: SIM118  # keys() is a method here
    if len(names) > AGREEMENT_LIMIT:
        return None
    matrix = ranking.agreement.to_numpy()
    cells = [
        [
            (words.number(v), round(100 * min(abs(v), 1)) if math.isfinite(v) else 0, v < 0)
            for v in row
        ]
        for row in matrix
    ]
    return {"names": names, "rows": list(zip(names, cells, strict=True))}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}",
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
            )
