"""From figures and sentences to one HTML page: this file chooses and words, the template lays out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from .. import __version__
from ..rank import Key, Ledger, Ranking, Verdict, words
from ..rank.indicators import LOWER_IS_BETTER
from . import images

if TYPE_CHECKING:
    from . import ReportInputs

AGREEMENT_LIMIT = 24
"""Rows up to which the matrix of agreements is shown."""


def render(inputs: "ReportInputs", judged: Verdict, drawn: Mapping[str, str]) -> str:
    """The page; ``drawn`` has the figures as ``data:`` addresses."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(**_context(inputs, judged, drawn))


def _context(inputs: "ReportInputs", judged: Verdict, drawn: Mapping[str, str]) -> dict[str, Any]:
    ranking = inputs.ranking
    has_truth = ranking.truth is not None and not ranking.truth.empty
    return {
        "version": __version__,
        "title": inputs.title,
        "about": _about(inputs),
        "worth": judged.worth,
        "verdict": judged,
        "has_truth": has_truth,
        "keys": _key_numbers(inputs, has_truth),
        "rows": [
            _row(row, key, inputs.headline, _rival(ranking), list(ranking.cuts))
            for row, key in zip(_records(ranking), ranking.keys(), strict=True)
        ],
        "cuts": ranking.cuts,
        "ceiling": _ceiling(ranking),
        "by_kind": bool(ranking.rows["n_distinct"].lt(ranking.rows["n"]).any()),
        "measure": words.indicator(ranking.measure),
        "rival": RIVALS[_rival(ranking)],
        "agreement": _agreement(ranking),
        "scatters": [(uri, _alt(name)) for name, uri in drawn.items() if name.startswith("scatter-")],
        "figures": drawn,
        "headline": words.phrase(inputs.headline),
        "best": _best(inputs),
        "indicator": words.column(inputs.headline[1]),
        "costs": _costs(inputs.ledger),
        "ledger": inputs.ledger,
        "making": words.making(inputs.ledger.distilled),
        "seconds": words.seconds,
        "size": words.size,
        "strips": _strips(inputs),
        "failed": ranking.failed.to_dict("records"),
        "source_name": words.source,
        "spec": list(_flat(inputs.spec)),
        "provenance": list(_flat(inputs.provenance)),
    }


def _about(inputs: "ReportInputs") -> str:
    parts = [str(inputs.dataset.get("name", "")), f"{len(inputs.ranking.values):,} candidates", inputs.ledger.device]
    return " · ".join(part for part in parts if part)


def _key_numbers(inputs: "ReportInputs", has_truth: bool) -> list[tuple[str, str, str]]:
    """(figure, what it is, remark)."""
    row, ledger = inputs.ranking.row(inputs.headline), inputs.ledger
    numbers = []
    if has_truth:
        low_high = words.span(row["rho_low"], row["rho_high"])
        numbers.append((words.number(row["rho"]), "ρ with truth", f"95 % interval {low_high}, {row['n']:,} candidates"))
        measure = words.indicator(inputs.ranking.measure).capitalize()
        numbers.append((words.percent(row["winner_truth"]), f"{measure} of the best-ranked", _name(row["winner"])))
        numbers.append(
            (_points(row["regret"]), "Regret, percentage points", "below the best candidate with known truth")
        )
    else:
        numbers.append(("not known", "ρ with truth", "no ground truth for these candidates"))
        numbers.append((_name(row["winner"]), "Best-ranked network", words.key(inputs.headline)))
    note = "wall time, of which {} {}{}".format(
        words.seconds(ledger.distill_s),
        words.making(ledger.distilled),
        " (paid in an earlier run)" if ledger.reused else "",
    )
    numbers.append((words.seconds(ledger.total_s), "In all", note))
    whole = ledger.truth_core_s_per_candidate
    if ledger.distilled and "proxy" in ledger.sources and whole is not None:
        numbers.append(
            (words.candidates(ledger.break_even), "Candidates to break even", "against the whole data, in core time")
        )
    return numbers


RIVALS = {"over_vote": "the vote of zero-cost indicators", "over_parameters": "counting parameters"}


def _rival(ranking: Ranking) -> str:
    """What rows are compared with: the vote, where there is one."""
    return "over_parameters" if ranking.rows["over_vote"].isna().all() else "over_vote"


def _row(row: Mapping[Any, Any], key: Key, headline: Key, rival: str, cuts: Sequence[int]) -> dict[str, Any]:
    names = ("rho", rival, "tau", *(f"rho_best{percent}" for percent in cuts))
    estimates = [(words.number(row[name]), words.span(row[f"{name}_low"], row[f"{name}_high"])) for name in names]
    return {
        "source": words.source(key[0]),
        "indicator": words.column(key[1]) if key[0] != key[1] else "",
        "n": f"{row['n']:,}",
        "estimates": estimates,
        "regret": _points(row["regret"]),
        "winner": _name(row["winner"]),
        "tied": row["tied"],
        "winner_truth": words.percent(row["winner_truth"]),
        "headline": key == headline,
    }


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


def _best(inputs: "ReportInputs") -> list[dict[str, str]]:
    ranking, key = inputs.ranking, inputs.headline
    rows = []
    for place, (arch, value) in enumerate(ranking.best(key).items(), start=1):
        truth = math.nan if ranking.truth is None else float(ranking.truth.get(arch, math.nan))
        parameters, flops = inputs.costs.loc[str(arch), ["parameters", "flops"]]
        rows.append(
            {
                "rank": str(place),
                "arch": str(arch),
                "value": _indicator(-value if key[1] in LOWER_IS_BETTER else value, key[1]),
                "truth": words.percent(truth),
                "parameters": f"{parameters:,}",
                "flops": f"{flops:,}",
            }
        )
    return rows


def _costs(ledger: Ledger) -> list[tuple[str, ...]]:
    """(spent on, core time, a candidate, a run, runs)."""
    note = " (in an earlier run)" if ledger.reused else ""
    making = words.making(ledger.distilled)
    rows: list[tuple[str, ...]] = [(f"{making}{note}", words.seconds(ledger.distill_core_s), "", "", "")]
    for name, cost in ledger.sources.items():
        times = (cost.core_s, cost.core_s_per_candidate, cost.core_s_per_run)
        rows.append((words.source(name), *(words.seconds(t) for t in times), f"{cost.runs:,}"))
    if ledger.truth_core_s_per_candidate is not None:
        rows.append(("whole data (from the truth table)", "", words.seconds(ledger.truth_core_s_per_candidate), "", ""))
    return rows


def _strips(inputs: "ReportInputs") -> list[images.Strip]:
    if inputs.images is None or inputs.labels is None or inputs.images.ndim != 4 or not len(inputs.images):
        return []
    return images.strips(inputs.images, inputs.labels, inputs.class_names)


def _indicator(value: float, name: str) -> str:
    if not math.isfinite(value):
        return "failed"
    if name == "val_accuracy":
        return words.percent(value)
    return f"{value:,.0f}" if name in ("parameters", "flops") else words.number(value, 3)


def _name(winner: object) -> str:
    return winner if isinstance(winner, str) else "–"


def _points(value: float) -> str:
    return words.number(100 * value, 1)


def _records(ranking: Ranking) -> list[dict[Any, Any]]:
    return ranking.rows.to_dict("records")


def _alt(name: str) -> str:
    return "scatter plot of an indicator against truth: " + name.partition("-")[2]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
