"""The report: files that are whole and valid, a page that stands alone, tables that fit the
terminal."""

import gzip
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from proxynas.rank import ledger, rank, words
from proxynas.report import ReportInputs, images, values_csv_gz, write
from proxynas.report.tables import ledger_table, ranking_table
from proxynas.search.store import Score, Store
from proxynas.truth import COLUMNS, TruthTable

ARCHS = [f"D{d}-W{w}-relu-none-avgpooling" for d in (1, 2, 3, 4) for w in (32, 64, 128)]


def fill(path: Path, order: int = 1) -> Store:
    """A store of three sources and two seeds; one candidate fails on the proxy."""
    store = Store(path)
    store.add_candidates({arch: (100 + 7 * i, 5000 - i) for i, arch in enumerate(ARCHS)})
    for source in ("proxy", "random", "early-stopping")[::order]:
        for i, arch in enumerate(ARCHS):
            failed = (
                "the training loss stopped being finite at update 3"
                if (source, i) == ("proxy", 2)
                else None
            )
            value = None if failed else 0.4 + 0.04 * ((i * (5 if source == "random" else 1)) % 12)
            row = {
                "val_accuracy": value,
                "val_loss": value and 1 - value,
                "sotl": value and 9 - value,
            }
            losses = np.linspace(2, 1, 4, dtype="f4")
            store.add(
                Score(
                    source,
                    arch,
                    seed,
                    **row,
                    val_auc=None,
                    test_accuracy=None,
                    test_loss=None,
                    losses=losses,
                    seconds=0.25,
                    failed=failed,
                )
                for seed in (0, 1)
            )
    return store


def table() -> TruthTable:
    rows = [
        {
            "arch": a,
            "seed": s,
            "test_accuracy": 0.5 + 0.03 * i,
            "val_accuracy": 0.5 + 0.03 * i,
            "seconds": 4.0,
        }
        for i, a in enumerate(ARCHS)
        for s in (0, 1)
    ]
    return TruthTable(
        pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {"made_on": "another <machine>"}
    )


def inputs(path: Path, truth: TruthTable | None, **changes: object) -> ReportInputs:
    store = fill(path)
    scores, costs = store.scores(), store.candidates()
    stages = {"search": {"seconds": 6.0, "peak_mib": 200.0}}
    distill = {"seconds": 9.0, "core_seconds": 11.0, "peak_mib": 100.0, "reused": False}
    values = {
        "title": "digits & <others>",
        "spec": {"data": "digits", "nested": {"lr": 0.1}, "seeds": 2},
        "dataset": {"name": "digits", "shape": (1, 8, 8), "classes": 2, "splits": {"train": 1200}},
        "images": torch.linspace(-0.2, 1.2, 6 * 64).reshape(6, 1, 8, 8),
        "labels": torch.tensor([0, 1, 0, 1, 0, 1]),
        "class_names": ["zero", "one"],
        "ranking": rank(scores, costs, truth, resamples=50),
        "ledger": ledger(
            scores, stages, truth, distill=distill, device="cpu", proxy_bytes=64, real_bytes=640000
        ),
        "scores": scores,
        "costs": costs,
        "headline": ("proxy", "val_loss"),
        "headline_reason": "the default",
        "provenance": {"method": "gm", "bad": float("nan")},
        **changes,
    }
    store.close()
    return ReportInputs(**values)  # type: ignore[arg-type]  # the values are as declared


class Page(HTMLParser):
    """Checks that elements nest, and keeps addresses and text."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("has_truth", [True, False])
def test_page_stands_alone_and_nests(tmp_path: Path, has_truth: bool) -> None:
    path = write(tmp_path / "out", inputs(tmp_path / "run.sqlite", table() if has_truth else None))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "digits & <others>" in page.text
    assert ("no ground truth" in page.text) is not has_truth
    assert ("Which candidates are ranked wrongly?" in page.text) is has_truth
    assert "stopped being finite" in page.text
    assert "nested.lr" in page.text
    names = {file.name for file in (tmp_path / "out" / "figures").iterdir()}
    assert {"time.png", "break-even.png", "proxy-images.png"} <= names
    assert ("correlation.png" in names) is has_truth


def test_a_proxy_on_which_everything_fails_still_gives_a_report(tmp_path: Path) -> None:
    store = fill(tmp_path / "run.sqlite")
    rows, costs = store.scores(), store.candidates()
    store.close()
    own = rows["source"] == "proxy"
    rows.loc[own, ["val_accuracy", "val_loss", "sotl"]] = float("nan")
    rows.loc[own, "failed"] = "diverged"
    for truth in (table(), None):
        report = inputs(
            tmp_path / "run.sqlite",
            truth,
            scores=rows,
            ranking=rank(rows, costs, truth, resamples=20),
        )
        text = Page(write(tmp_path / "out", report).read_text(encoding="utf-8")).text
        assert "No candidate could be ranked" in text
        assert (
            json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["best"][
                "arch"
            ]
            is None
        )
        Console(width=100, file=io.StringIO()).print(ranking_table(report.ranking, report.headline))


def test_nothing_but_the_report_is_left_behind(tmp_path: Path) -> None:
    write(tmp_path / "out", inputs(tmp_path / "run.sqlite", table()))
    found = {file.name for file in (tmp_path / "out").iterdir()}
    tables = {"scores.csv", "indicators.csv", "timings.csv", "values.csv.gz"}
    assert found == {"report.html", "report.json", "figures", *tables}


@pytest.mark.parametrize("stage", ["drawings.build", "figures.png", "page.render"])
def test_data_files_are_written_before_figures_and_the_page(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ValueError("nothing can be drawn")

    monkeypatch.setattr(f"proxynas.report.{stage}", fail)
    with pytest.raises(ValueError, match="nothing can be drawn"):
        write(tmp_path / "out", inputs(tmp_path / "run.sqlite", table()))
    found = {file.name for file in (tmp_path / "out").iterdir()}
    data = {"scores.csv", "indicators.csv", "timings.csv", "values.csv.gz", "report.json"}
    assert found - {"figures"} == data


@pytest.mark.parametrize("has_truth", [True, False])
def test_json_is_valid_and_has_what_it_promises(tmp_path: Path, has_truth: bool) -> None:
    write(tmp_path, inputs(tmp_path / "run.sqlite", table() if has_truth else None))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report = json.loads(
        (tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse
    )
    assert {"rank", "ledger", "best", "verdict", "provenance", "spec"} <= report.keys()
    row = next(r for r in report["rank"] if (r["source"], r["indicator"]) == ("proxy", "val_loss"))
    assert (row["rho"] is not None) is has_truth
    assert {
        "rho_low",
        "rho_high",
        "tau",
        "tau_low",
        "rho_best10",
        "rho_best10_high",
        "regret",
        "tied",
        "n",
    } <= row.keys()
    assert report["noise_ceiling"] == ({"seeds": 2, "n": 12, "rho": 1.0} if has_truth else None)
    assert report["summary"] == report["verdict"][:2]
    assert report["ledger"]["total_s"] == 15.0
    assert report["best"]["arch"] == ARCHS[-1]
    assert report["best"]["truth"] == (pytest.approx(0.83) if has_truth else None)
    assert report["provenance"] == {"method": "gm", "bad": None}


def test_published_values_are_those_of_the_ranking_and_small(tmp_path: Path) -> None:
    report = inputs(tmp_path / "run.sqlite", table())
    write(tmp_path / "a", report)
    packed = (tmp_path / "a" / "values.csv.gz").read_bytes()
    assert packed == values_csv_gz(report.ranking)
    assert packed[4:8] == bytes(4)  # the time within is none
    read = pd.read_csv(tmp_path / "a" / "values.csv.gz", index_col="arch")
    whole = pd.read_csv(tmp_path / "a" / "indicators.csv", index_col="arch")
    pd.testing.assert_frame_equal(read, whole, rtol=1e-5, check_dtype=False)
    assert read["truth"].tolist() == pytest.approx(
        0.5 + 0.03 * np.arange(12)[whole["truth"].rank().astype(int) - 1]
    )
    costs = report.costs.assign(flops=123_456_789 + np.arange(12))
    counted = values_csv_gz(rank(report.scores, costs, table(), resamples=5))
    assert pd.read_csv(io.BytesIO(gzip.decompress(counted)))["flops:flops"].nunique() == 12


def many(n: int, seeds: int) -> ReportInputs:
    """A report of so many candidates, their truth of so many seeds."""
    rng = np.random.default_rng(0)
    archs = [f"a{i:03d}" for i in range(n)]
    quality = dict(zip(archs, rng.random(n), strict=True))
    scores = pd.DataFrame(
        {
            "source": "proxy",
            "arch": archs,
            "seed": 0,
            "val_accuracy": list(quality.values()),
            "val_loss": 1.0,
            "sotl": 1.0,
            "losses": None,
            "seconds": 1.0,
            "failed": None,
        }
    )
    rows = [
        {"arch": a, "seed": s, "test_accuracy": np.clip(q + 0.1 * rng.normal(), 0, 1)}
        for a, q in quality.items()
        for s in range(seeds)
    ]
    truth = TruthTable(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {})
    costs = pd.DataFrame({"parameters": 1, "flops": 1}, index=pd.Index(archs, name="arch"))
    kinds = {arch: arch[:3] for arch in archs}
    paid = {"seconds": 1.0, "core_seconds": 1.0, "distilled": False}
    return ReportInputs(
        title="many",
        spec={},
        dataset={},
        images=None,
        labels=None,
        class_names=[],
        ranking=rank(scores, costs, truth, kinds=kinds, resamples=50),
        ledger=ledger(scores, {}, truth, distill=paid, device="cpu", proxy_bytes=1, real_bytes=1),
        scores=scores,
        costs=costs,
        headline=("proxy", "val_accuracy"),
        headline_reason="",
    )


def test_the_page_shows_the_best_parts_and_the_noise_ceiling(tmp_path: Path) -> None:
    report = many(120, seeds=3)
    text = Page(write(tmp_path, report).read_text(encoding="utf-8")).text
    assert "ρ, best 10 %" in text
    assert "ρ, best 20 %" in text
    assert "ρ, best 5 %" not in text
    assert "seed against seed" in text
    assert "kinds of isomorphic candidates" in text
    assert "not computed anew within a resample" in text
    assert "selecting the coreset" in text
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["noise_ceiling"]
    assert found.keys() == {"seeds", "n", "rho", "rho_best10", "rho_best20"}
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(ranking_table(report.ranking, report.headline))
    text = console.export_text()
    assert "…" not in text
    row = next(line for line in text.splitlines() if "seed against seed" in line)
    assert words.number(found["rho"]) in row
    assert words.number(found["rho_best10"]) in row


def test_without_seeds_there_is_no_noise_ceiling(tmp_path: Path) -> None:
    text = Page(write(tmp_path, many(30, seeds=1)).read_text(encoding="utf-8")).text
    assert "seed against seed" not in text
    assert "best 20 %" not in text
    assert (
        json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["noise_ceiling"] is None
    )


def test_what_was_not_distilled_has_no_break_even(tmp_path: Path) -> None:
    write(tmp_path, many(30, seeds=1))
    assert not (tmp_path / "figures" / "break-even.png").exists()
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["worth"] == ""
    assert not [sentence for sentence in found["verdict"] if "distil" in sentence]


def test_the_same_rows_give_the_same_scores_csv(tmp_path: Path) -> None:
    one = inputs(tmp_path / "one.sqlite", None)
    store = fill(tmp_path / "two.sqlite", order=-1)  # stored in another order, with other times
    shuffled = store.scores().assign(seconds=1.0).sample(frac=1, random_state=0)
    store.close()
    write(tmp_path / "a", one)
    write(tmp_path / "b", inputs(tmp_path / "one.sqlite", None, scores=shuffled))
    a, b = ((tmp_path / name / "scores.csv").read_bytes() for name in "ab")
    assert a == b
    read = pd.read_csv(io.BytesIO(a))
    assert read.columns.tolist() == [
        "source",
        "arch",
        "seed",
        "val_accuracy",
        "val_loss",
        "val_auc",
        "sotl",
        "sotl_late",
        "parameters",
        "flops",
        "failed",
    ]
    assert len(read) == 3 * 12 * 2
    assert read["failed"].notna().sum() == 2
    timings = pd.read_csv(tmp_path / "a" / "timings.csv")
    assert timings["seconds"].sum() == pytest.approx(18.0)


def test_data_that_are_no_images_have_no_images(tmp_path: Path) -> None:
    rows = inputs(tmp_path / "run.sqlite", table(), images=None, labels=None)
    assert (
        "by class, enlarged"
        not in Page(write(tmp_path / "out", rows).read_text(encoding="utf-8")).text
    )
    assert not (tmp_path / "out" / "figures" / "proxy-images.png").exists()


def test_strips_keep_every_pixel(tmp_path: Path) -> None:
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    soft = torch.eye(3)[torch.tensor([0, 0, 2, 2, 2])]
    found = images.strips(x, soft, ["cat", "dog"])
    assert [(s.name, s.shown, s.of) for s in found] == [("cat", 2, 2), ("2", 3, 3)]
    assert (found[1].width, found[1].height) == (3 * 48 + 2 * images.GAP, 48)
    pixels = np.asarray(Image.open(io.BytesIO(images.grid(x, soft, ["cat", "dog"]))))
    enlarged = pixels[:48:3, :48:3, :3]  # the first image, every third pixel
    np.testing.assert_array_equal(
        enlarged, np.rint(255 * x[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    )


@pytest.mark.parametrize("has_truth", [True, False])
def test_tables_fit_a_terminal_of_80_columns(tmp_path: Path, has_truth: bool) -> None:
    report = inputs(tmp_path / "run.sqlite", table() if has_truth else None)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(ranking_table(report.ranking, report.headline))
    console.print(ledger_table(report.ledger))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "early stopping" in text
    assert "distillation" in text
    assert ("seed against seed" in text) is has_truth
    assert re.search(r"ρ +95 %", text) if has_truth else "there is no ground truth" in text
