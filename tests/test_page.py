"""The page in parts: axes, figures, tables, the first screen, and what only some runs have."""

import base64
import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from proxynas.rank import rank, verdict, words
from proxynas.report import (
    Pareto,
    RegretCurve,
    ReportInputs,
    Trust,
    Winner,
    charts,
    drawings,
    firstscreen,
    pagetables,
    svg,
    write,
)
from proxynas.report.tables import ROWS, best_rows
from proxynas.truth import TruthTable

from .test_report import ARCHS, Page, inputs, many, table

HEADLINE = ("proxy", "val_loss")


def everything(path: Path) -> ReportInputs:
    """A report with made-up values for all that only some runs have."""
    costs = np.geomspace(1, 1000, 20)
    curves = []
    for place, name in enumerate(("proxynas", "random search", "successive halving")):
        regret = 0.05 / costs ** (0.6 - 0.15 * place)
        curves.append(
            RegretCurve(
                name,
                costs.tolist(),
                regret.tolist(),
                (0.5 * regret).tolist(),
                (2 * regret).tolist(),
            )
        )
    x, y = np.arange(1, 13) * 1e5, np.linspace(50, 83, 12)
    return replace(
        inputs(path, table()),
        winner=Winner(
            ARCHS[-1],
            0.83,
            "test_accuracy",
            training="12 epochs on all 1,198 images",
            verified=10,
            files=("winner.safetensors", "winner.py"),
            unverified_better=0.3,
            unverified_gain=0.004,
        ),
        trust=Trust(0.8, 0.6, 0.9, 20, "Labels were drawn over the whole ranking."),
        regret_curve=tuple(curves),
        pareto=Pareto("FLOPs", "test accuracy (%)", ARCHS, x.tolist(), y.tolist(), [True] * 12),
    )  # fmt: skip


def test_regret_is_drawn_as_high_as_its_medians_in_colours_that_differ() -> None:
    one = RegretCurve("a", [1.0, 2.0], [0.02, 0.01], [0.0, 0.0], [0.9, 0.01])
    chart = drawings.regret([replace(one, name=str(place)) for place in range(8)])
    assert chart is not None
    assert 2 < chart.y.high < 2.2
    for series in chart.series:
        assert series.high is not None
        assert series.high.tolist() == pytest.approx([chart.y.high, 1.0])
    assert len({series.colour for series in chart.series}) == 8


def test_axes_place_their_ends_and_ticks() -> None:
    axis = charts.linear("x", [0, 10], str, pad=0)
    assert axis.place([0, 5, 10]).tolist() == [0, 0.5, 1]
    assert [value for value, _ in axis.ticks] == [0, 2, 4, 6, 8, 10]
    log = charts.logarithmic("x", [1, 100], str)
    assert log.place(10) == pytest.approx(0.5)
    assert {1, 10, 100} <= {value for value, _ in log.ticks}
    times = charts.durations("time", [0.5, 7200])
    assert [text for _, text in times.ticks] == ["1 s", "10 s", "1 min", "10 min", "1 h"]
    flipped = charts.Axis("x", 10, 0, ())
    assert flipped.place([10, 0]).tolist() == [0, 1]
    constant = charts.linear("x", [3, 3], str)
    assert constant.low < 3 < constant.high


def test_small_numbers_are_powers_of_ten() -> None:
    assert [charts.power(v) for v in (0.02, 1e-5, 3e-4, 20)] == ["0.02", "10⁻⁵", "3·10⁻⁴", "20"]


def test_a_moving_mean_is_that_of_its_window() -> None:
    assert charts.moving_mean(np.array([1.0, 2.0, 6.0, 3.0]), 2).tolist() == [1.5, 4.0, 4.5]


def test_a_scatter_plot_shows_ranks_so_that_it_does_not_saturate(tmp_path: Path) -> None:
    """ρ of what is drawn is that of the row; the truths' spread does not matter; failed candidates
    are marked."""
    report = inputs(tmp_path / "run.sqlite", table())
    drawn = drawings.scatter(report.ranking, HEADLINE, ARCHS[-1])
    dots = [series for series in drawn.series if series.kind in ("dots", "failed")]
    x, y = (np.concatenate([getattr(series, axis) for series in dots]) for axis in "xy")
    assert stats.pearsonr(x, y).statistic == pytest.approx(report.ranking.row(HEADLINE)["rho"])
    assert sorted(y) == list(range(1, 13))
    assert [(series.kind, len(series.x)) for series in dots] == [("dots", 11), ("failed", 1)]
    ring = next(series for series in drawn.series if series.kind == "ring")
    assert (ring.x, ring.y) == ([12], [12])
    text = str(svg.chart(drawn))
    assert text.count("<title>") == 12
    assert f"<title>{ARCHS[-1]}: truth 83.0 % (rank 1), proxy set, val loss rank 1</title>" in text


def test_many_candidates_do_not_make_the_page_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the truly best are named; the others are one path."""
    monkeypatch.setattr(drawings, "NAMED", 10)
    report = many(120, seeds=1)
    text = str(svg.chart(drawings.scatter(report.ranking, report.headline, None)))
    assert text.count("<title>") == 10
    assert text.count("h.1") == 120


def test_the_forest_plot_has_every_row_and_the_noise_ceiling() -> None:
    report = many(120, seeds=3)
    forest = drawings.forest(report)
    assert forest is not None
    assert len(forest.rows) == len(report.ranking.rows)
    assert [row.strong for row in forest.rows].count(True) == 1
    assert [panel.axis.label for panel in forest.panels] == [
        "ρ with truth",
        "ρ among the truly best 10 %",
    ]
    assert report.ranking.ceiling is not None
    assert forest.panels[0].ceiling == report.ranking.ceiling.rho
    first = next(row for row in forest.rows if row.strong).estimates
    expected = report.ranking.row(report.headline)
    assert (first[0].value, first[0].low, first[1].high) == (
        expected["rho"],
        expected["rho_low"],
        expected["rho_best10_high"],
    )


def test_learning_curves_are_means_over_seeds(tmp_path: Path) -> None:
    report = inputs(tmp_path / "run.sqlite", table())
    chart = drawings.curves(report)
    assert chart is not None
    best = chart.series[1]
    assert best.label == f"1. {ARCHS[-1]}"
    assert best.y.tolist() == pytest.approx(np.linspace(2, 1, 4).tolist())
    assert best.x.tolist() == [1, 2, 3, 4]
    assert drawings.curves(many(30, seeds=1)) is None


def test_tables_are_the_same_as_csv(tmp_path: Path) -> None:
    report = inputs(tmp_path / "run.sqlite", table())
    for build in pagetables.TABLES.values():
        shown = build(report)
        text = base64.b64decode(shown.uri.partition(",")[2]).decode()
        rows = list(csv.reader(io.StringIO(text)))
        assert rows[0] == [column.title for column in shown.columns]
        assert len(rows) == 1 + len(shown.rows)
        assert {len(row) for row in rows} == {len(shown.columns)}
    ranking = pagetables.indicators(report)
    assert ranking.strong is not None
    assert [cell.text for cell in ranking.rows[ranking.strong]][:2] == ["proxy set", "val loss"]


def test_the_first_screen_answers(tmp_path: Path) -> None:
    report = inputs(tmp_path / "run.sqlite", table())
    which, good, sure, cost = firstscreen.tiles(report)
    row = report.ranking.row(HEADLINE)
    assert which.figure == ARCHS[-1]
    assert good.figure == "83.0 %"
    assert sure.figure == f"ρ = {words.number(row['rho'])}"
    assert cost.figure == "15 s"
    which, good, sure, cost = firstscreen.tiles(everything(tmp_path / "all.sqlite"))
    assert "best of 10 trained on the whole data" in which.note
    assert "an untrained candidate is better with probability 30 %, by 0.4 points" in good.note
    blind = replace(inputs(tmp_path / "none.sqlite", None), trust=Trust(0.8, 0.6, 0.9, 20))
    assert firstscreen.tiles(blind)[2].figure == "ρ ≈ 0.80"


def test_a_correlation_that_truth_leaves_undefined_is_told_from_labels(tmp_path: Path) -> None:
    report = everything(tmp_path / "run.sqlite")
    rows = table().rows
    two = TruthTable(rows[rows["arch"].isin(ARCHS[:2])], {})
    ranking = rank(report.scores, report.costs, two, resamples=5)
    report = replace(report, ranking=ranking)
    assert math.isnan(ranking.row(HEADLINE)["rho"])
    judged = verdict(report.ranking, report.ledger, HEADLINE, "")
    assert (
        "By 20 labels the ranking of the others has ρ ≈ 0.80"
        in firstscreen.summary(report, judged)[1]
    )
    assert firstscreen.tiles(report)[2].figure == "ρ ≈ 0.80"


def test_what_cannot_be_had_is_no_failed_training() -> None:
    assert pagetables._indicator(-math.inf, ("zero-cost", "naswot")).text == "not available"
    assert pagetables._indicator(-math.inf, ("proxy", "sotl")).text == "failed"
    for source, why in (("zero-cost", "not available"), ("proxy", "training failed")):
        series = drawings._dots(
            pd.DataFrame({"x": [1.0], "y": [2.0], "truth": [0.5]}, index=["a"]),
            (source, "naswot"), "bad", "failed", 30,
        )  # fmt: skip
        assert series.label == why


def test_what_to_do_next_follows_from_the_verdict(tmp_path: Path) -> None:
    def after(report: ReportInputs) -> str:
        judged = verdict(report.ranking, report.ledger, report.headline, "")
        return firstscreen.next_step(report, judged).text

    report = inputs(tmp_path / "run.sqlite", table())
    assert "Next time rank by “parameters”" in after(report)  # which is the truth itself here
    blind = inputs(tmp_path / "run.sqlite", None)
    assert "picks a verified winner" in after(blind)
    judged = verdict(blind.ranking, blind.ledger, HEADLINE, "")
    assert "--config 'my run'/spec" in firstscreen.next_step(blind, judged, "my run").command
    assert "weights are in winner.safetensors and winner.py" in after(
        everything(tmp_path / "run.sqlite")
    )
    coreset = many(120, seeds=3)
    assert "and the next few as well" in after(coreset)
    backwards = coreset.scores.assign(val_accuracy=1 - coreset.scores["val_accuracy"])
    ranking = rank(backwards, coreset.costs, None, resamples=5)
    assert "picks a verified winner" in after(replace(coreset, ranking=ranking))


def test_what_only_some_runs_have_is_shown_where_it_is_there(tmp_path: Path) -> None:
    wanted = {
        "regret": "What does a better network cost?",
        "pareto": "Which smaller networks are as good?",
        "trust": "out of fold, 20 labels",
        "winner": "winner.safetensors",
    }
    for name, report in (
        ("with", everything(tmp_path / "a.sqlite")),
        ("without", inputs(tmp_path / "b.sqlite", table())),
    ):
        page = Page(write(tmp_path / name, report).read_text(encoding="utf-8"))
        found = json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))
        assert [text in page.text for text in wanted.values()] == [name == "with"] * 4
        assert ({"winner", "trust", "regret_curve", "pareto"} <= found.keys()) is (name == "with")
        figures = {file.stem for file in (tmp_path / name / "figures").iterdir()}
        assert ({"regret", "pareto"} <= figures) is (name == "with")


def test_the_trust_alone_is_shown_where_there_is_no_truth(tmp_path: Path) -> None:
    report = replace(inputs(tmp_path / "run.sqlite", None), trust=Trust(0.8, 0.6, 0.9, 20))
    page = Page(write(tmp_path / "out", report).read_text(encoding="utf-8"))
    assert "out of fold, 20 labels" in page.text
    assert "0.80 [0.60, 0.90]" in re.sub(r"\s+", " ", page.text)


@pytest.mark.parametrize("sizes", [(2, 1, 1, 1), (0, 0, 0, 0)])
def test_a_curve_of_unequal_lengths_is_refused(sizes: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="must be as many"):
        RegretCurve("random search", *([1.0] * size for size in sizes))


def test_the_terminal_shows_the_rows_that_a_decision_takes(tmp_path: Path) -> None:
    ranking = inputs(tmp_path / "run.sqlite", table()).ranking
    shown = best_rows(ranking, HEADLINE)
    assert len(shown) <= ROWS
    assert {
        HEADLINE,
        ("random", "val_loss"),
        ("early-stopping", "val_loss"),
        ("parameters", "parameters"),
    } <= set(shown)
    keys = ranking.keys()
    assert shown == [key for key in keys if key in shown]
    for source in {key[0] for key in keys}:
        rho = {key: ranking.row(key)["rho"] for key in keys if key[0] == source}
        assert max(rho.values()) == max(rho[key] for key in shown if key in rho)
