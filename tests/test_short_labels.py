"""Labels of few epochs: shortlisted by prediction, verified by whole trainings, never mixed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from proxynas.core import settings
from proxynas.core.errors import SpecError, TruthError
from proxynas.core.progress import Watcher
from proxynas.pipeline import flow, oracles, planning
from proxynas.pipeline.decision import Decision, decide
from proxynas.pipeline.labelling import Charged, Recorded
from proxynas.pipeline.run import prepare_run
from proxynas.predict import predictor, verify
from proxynas.search.sources import FEW_EPOCHS, WHOLE
from proxynas.search.store import Store
from proxynas.specs import SearchSpec
from proxynas.truth import COLUMNS, TruthTable

SHORT = SearchSpec(label=20, label_epochs=3, shortlist=12, verify=5)
HEADLINE = ("proxy", "sotl")


def table_of(
    accuracies: dict[str, float], failed: str | None = None, **header: object
) -> TruthTable:
    rows = pd.DataFrame(
        {"arch": list(accuracies), "seed": 0, "val_accuracy": list(accuracies.values())}
    ).reindex(columns=list(COLUMNS))
    rows["test_accuracy"] = rows["val_accuracy"]
    rows["failed"] = rows["failed"].astype(object)
    if failed is not None:
        rows.loc[rows["arch"] == failed, "failed"] = "diverged"
    return TruthTable(rows.assign(seconds=10.0), dict(header))


def made_up(n: int = 80) -> tuple[pd.DataFrame, dict[str, float], dict[str, float]]:
    """Indicators of ``n`` candidates, and what they reach in the end and after few epochs."""
    rng = np.random.default_rng(0)
    quality = rng.normal(size=n)
    archs = pd.Index([f"a{i:02}" for i in range(n)], name="arch")
    values = pd.DataFrame(
        {
            ("proxy", "sotl"): quality + 0.5 * rng.normal(size=n),
            ("zero-cost", "synflow"): quality + rng.normal(size=n),
        },
        index=archs,
    )
    whole = dict(zip(archs, 0.9 + 0.02 * quality, strict=True))
    few = dict(zip(archs, 0.6 + 0.05 * (quality + 0.2 * rng.normal(size=n)), strict=True))
    return values, whole, few


def decided(store: Store, spec: SearchSpec = SHORT, failed: str | None = None) -> Decision:
    values, whole, few = made_up()
    seconds = dict.fromkeys(values.index, 2.5)
    early = table_of(few, failed)
    early = TruthTable(early.rows.assign(seconds=np.nan), early.header)
    given = Charged(store, table_of(whole)), Charged(store, early, FEW_EPOCHS, seconds)
    return decide(spec, given[0], values, HEADLINE, given[1])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run.sqlite")


def test_the_winner_is_picked_among_whole_trainings_of_the_best_short_ones(store: Store) -> None:
    _, whole, few = made_up()
    decision = decided(store)
    seen = pd.concat([decision.labels, decision.shortlisted])
    assert seen.index.is_unique
    assert (len(decision.labels), len(decision.shortlisted), len(decision.verified)) == (20, 12, 5)
    assert seen.to_dict() == {arch: few[arch] for arch in seen.index}
    assert list(decision.verified.index) == list(seen.sort_values(ascending=False).index[:5])
    assert decision.trained.to_dict() == {arch: whole[arch] for arch in decision.verified.index}
    assert decision.winner == decision.verified.idxmax()
    assert (decision.label_s, decision.shortlist_s, decision.verify_s) == (50.0, 30.0, 50.0)
    counts = store.scores()["source"].value_counts()
    assert (counts[FEW_EPOCHS], counts[WHOLE]) == (32, 5)


def test_trust_and_headroom_are_of_accuracies_after_few_epochs(store: Store) -> None:
    decision = decided(store)
    assert decision.trust is not None
    assert decision.trust.labels == 20
    assert decision.headroom is not None
    assert decision.headroom.untrained == 80 - 32
    assert decision.headroom.high < 0.1
    assert decision.label_epochs == 3


def test_the_shortlist_is_the_best_by_prediction_fitted_again(store: Store) -> None:
    values, _, _ = made_up()
    decision = decided(store)
    features = pd.DataFrame({f"{a}:{b}": values[a, b] for a, b in values})
    first = predictor.fit(features, decision.labels, prior=values[HEADLINE], seed=0)
    assert list(decision.shortlisted.index[:10]) == verify.best(first, decision.labels.index, 10)


def test_the_same_store_gives_the_same_decision(store: Store) -> None:
    values, _, _ = made_up()
    first = decided(store)
    again = decide(SHORT, Recorded(store), values, HEADLINE, Recorded(store, FEW_EPOCHS))
    for name in ("labels", "shortlisted", "verified"):
        assert getattr(first, name).equals(getattr(again, name)), name
    assert (first.winner, first.trust, first.headroom, first.charged) == (
        again.winner, again.trust, again.headroom, again.charged,
    )  # fmt: skip


def test_a_failed_short_label_is_marked_and_does_not_spoil_the_fit(store: Store) -> None:
    broken = str(decided(store).labels.idxmax())
    other = decided(Store(store.path.with_name("other.sqlite")), failed=broken)
    assert np.isnan(other.labels[broken])
    assert other.trust is not None
    assert other.trust.labels == 19
    assert broken not in other.verified.index
    assert other.winner is not None


def test_without_labels_the_shortlist_is_a_warm_start(store: Store) -> None:
    values, _, few = made_up()
    decision = decided(store, replace(SHORT, label=0))
    best = values[HEADLINE].sort_values(ascending=False).index[:12]
    assert decision.trust is None
    assert set(decision.shortlisted.index[:10]) == set(best[:10])
    assert decision.shortlisted.to_dict() == {a: few[a] for a in decision.shortlisted.index}


def test_finalists_are_completed_by_the_prediction() -> None:
    values, _, few = made_up()
    labels = pd.Series(few).iloc[:12]
    features = pd.DataFrame({"sotl": values[HEADLINE]})
    fitted = predictor.fit(features, labels, prior=values[HEADLINE], seed=0)
    labels.iloc[0] = np.nan
    found = verify.finalists(labels, fitted, 14)
    assert found[:11] == list(labels.dropna().sort_values(ascending=False).index)
    assert found[11:] == verify.best(fitted, labels.index, 3)
    assert verify.finalists(labels, fitted, 2) == found[:2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label_epochs": 13}, "label_epochs must be at most the 12 epochs"),
        ({"shortlist": 3}, "shortlist is for labels of few epochs"),
        ({"label_table": "few.csv", "label_epochs": 0}, "label_table is for labels of few epochs"),
        ({"label_epochs": 3}, "give --label-table a table of them"),
        ({"label_epochs": 3, "label_table": "a.csv", "oracle": "none"}, "leave it out"),
    ],
)
def test_settings_that_do_not_go_together(
    given: dict[str, object], message: str, tmp_path: Path
) -> None:
    spec = settings.make(SearchSpec, {"candidates": 6, **given})
    with pytest.raises(SpecError, match=message):
        flow.search(spec, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_a_label_table_of_other_epochs_or_candidates_is_refused(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    this = prepare_run(small_spec, tmp_path, 1, Watcher())
    archs = list(this.space)
    accuracies = dict.fromkeys(archs, 0.5)
    path = tmp_path / "few.csv"
    spec = replace(this.spec, label_epochs=3, label_table=str(path))
    this = replace(this, spec=spec, truth=table_of(accuracies, epochs=12))
    this.store.add_candidates(dict.fromkeys(archs, (1, 1)))
    for header, known, message in (
        ({"epochs": 6}, archs, "after 6 epochs, but label_epochs is 3"),
        ({"command": {"epochs": 3}}, archs[1:], f"lacks {archs[0]}"),
    ):
        table_of({arch: accuracies[arch] for arch in known}, **header).write(path)
        with pytest.raises(TruthError, match=message):
            oracles.label_table(this)


def test_what_a_table_does_not_say_is_charged_by_its_share(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    this = prepare_run(small_spec, tmp_path, 1, Watcher())
    archs = list(this.space)
    path = tmp_path / "few.csv"
    few = table_of(dict.fromkeys(archs, 0.5), epochs=3)
    TruthTable(few.rows.assign(seconds=np.nan), few.header).write(path)
    spec = replace(this.spec, label_epochs=3, label_table=str(path))
    this = replace(this, spec=spec, truth=table_of(dict.fromkeys(archs, 0.9), epochs=12))
    this.store.add_candidates(dict.fromkeys(archs, (1, 1)))
    given = oracles.of_run(this)
    assert given.short is not None
    assert given.short.accuracies(archs[:4]).tolist() == [0.5] * 4
    assert given.short.seconds(archs[:4]) == pytest.approx(4 * 10.0 * 3 / 12)
    assert given.whole.seconds(archs) == 0.0
    table = oracles.label_table(this)
    assert table is not None
    assert "3/12 of a whole" in oracles.costs_in_words(this, table)


def test_a_quarter_of_the_epochs_where_labels_are_trained_or_in_a_table(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    this = prepare_run(replace(small_spec, label=5, epochs=12), tmp_path, 1, Watcher())
    truth = table_of(dict.fromkeys(this.space, 0.9), epochs=12)
    table_of(dict.fromkeys(this.space, 0.5), epochs=2).write(tmp_path / "two.csv")

    def chosen(truth: TruthTable | None, **given: object) -> int | None:
        spec = settings.make(SearchSpec, settings.merge(settings.to_dict(this.spec), given))
        settled = oracles.settled(replace(this, spec=spec, truth=truth), [*this.space])
        return settled.spec.label_epochs

    assert chosen(None) == chosen(truth, oracle="none") == 3
    assert chosen(None, epochs=3) == chosen(None, label=0) == chosen(truth) == 0
    assert chosen(truth, label_table=str(tmp_path / "two.csv")) == 2
    few = [this.space.at(0), this.space.at(1)]
    assert chosen(table_of(dict.fromkeys(few, 0.9), epochs=12)) == 3  # it knows not all of them
    assert chosen(None, label_epochs=0) == 0
    (tmp_path / "spec.toml").write_text(settings.to_toml(replace(this.spec, label_epochs=5)))
    assert chosen(None) == chosen(truth) == 5  # of a run that was begun


def test_a_budget_too_short_for_whole_labels_gets_short_ones(digits: object) -> None:
    spec = SearchSpec(epochs=12)
    assert planning._short_labels(spec, {}, 3) is None
    short = planning._short_labels(spec, {}, 9)
    assert short is not None
    assert (short.label, short.label_epochs, short.verify, short.epochs) == (20, 1, 4, 12)
    more = planning._short_labels(spec, {}, 15)
    assert more is not None
    assert more.label_epochs == 3
    assert planning._short_labels(spec, {"label_epochs": 0}, 9) is None


def rows_of(path: Path, source: str) -> int:
    """How many rows of a source a run store has; 0 while it is not there."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            query = "SELECT count(*) FROM scores WHERE source = ?"
            return int(db.execute(query, (source,)).fetchone()[0])
    except sqlite3.Error:
        return 0


def small(spec: SearchSpec) -> SearchSpec:
    return replace(spec, truth="none", label=2, label_epochs=1, shortlist=2, verify=1, epochs=2)


def test_a_search_with_short_labels_says_what_they_are_of(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    result = flow.search(small(small_spec), tmp_path / "run", workers=1)
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    assert found["winner"]["verified"] == 1
    assert found["trust"]["label_epochs"] == 1
    assert "labels are accuracies after 1 epoch" in found["trust"]["note"]
    assert found["ledger"]["decision"]["shortlisted"] == 2
    assert found["ledger"]["decision"]["shortlist_s"] > 0
    assert result.ledger.decision_rows()[0][0] == "labels, 1 epoch"
    again = flow.rewrite(tmp_path / "run")
    assert again.summary == result.summary
    store = Store(tmp_path / "run" / "run.sqlite")
    rows = store.scores().set_index("source")
    updates = rows["losses"].map(len)
    assert updates[WHOLE] == 2 * updates[FEW_EPOCHS].iloc[0]


def test_interrupted_while_shortlisting(small_spec: SearchSpec, tmp_path: Path) -> None:
    spec = small(small_spec)
    flow.search(spec, tmp_path / "whole", workers=1)

    class Interrupting(Watcher):
        def labelling(self, done: int, total: int, arch: str) -> None:
            raise KeyboardInterrupt

    for _ in range(5):  # each start gets one training further
        with pytest.raises(KeyboardInterrupt):
            flow.search(spec, tmp_path / "cut", workers=1, watcher=Interrupting())
    flow.search(spec, tmp_path / "cut", workers=1)
    for name in ("scores.csv", "winner.safetensors", "winner.py"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


@pytest.mark.slow
def test_killed_while_shortlisting_and_resumed(small_spec: SearchSpec, tmp_path: Path) -> None:
    """Killed among the labels, among the shortlisted and after the last of them."""
    spec = replace(small(small_spec), label=3, shortlist=3, label_epochs=4, epochs=5)
    flow.search(spec, tmp_path / "whole", workers=1)
    config, folder = tmp_path / "spec.toml", tmp_path / "killed"
    config.write_text(settings.to_toml(spec))
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as here: threads change rounding
    search = [sys.executable, "-m", "proxynas", "search", "-c", str(config), "--workers", "1"]
    for rows in (1, 4, 6):
        process = subprocess.Popen(
            [*search, "--out", str(folder)], stdout=subprocess.DEVNULL, env=one_thread
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if rows_of(folder / "run.sqlite", FEW_EPOCHS) >= rows:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
        assert rows_of(folder / "run.sqlite", FEW_EPOCHS) >= rows
    flow.search(spec, folder, workers=1)
    for name in ("scores.csv", "winner.safetensors", "winner.py"):
        assert (tmp_path / "whole" / name).read_bytes() == (folder / name).read_bytes(), name
