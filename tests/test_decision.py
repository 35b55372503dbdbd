"""Labels, the predictor on them, verification and the winner, on a small space with and without
truth."""

import json
import os
import runpy
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

from proxynas import datasets, training
from proxynas.core import settings
from proxynas.core.progress import Watcher
from proxynas.pipeline import flow, winner
from proxynas.pipeline.decision import decide, feature_sources, features
from proxynas.pipeline.labelling import Charged, Recorded, Trained
from proxynas.pipeline.run import prepare_run
from proxynas.search.sources import WHOLE, WINNER
from proxynas.search.store import Score, Store
from proxynas.specs import SearchSpec
from proxynas.truth import COLUMNS, TruthTable


def table_of(
    accuracies: dict[str, float], seconds: float = 2.0, failed: str | None = None
) -> TruthTable:
    rows = [
        {
            "arch": arch,
            "seed": seed,
            "val_accuracy": value,
            "test_accuracy": value - 0.01,
            "seconds": seconds,
        }
        for arch, value in accuracies.items()
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    frame["failed"] = frame["failed"].astype(object)
    if failed is not None:
        frame.loc[frame["arch"] == failed, "failed"] = "diverged"
    return TruthTable(frame, {})


def values_of(n: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Indicators of ``n`` made-up candidates, of which SoTL says most, and what they reach."""
    rng = np.random.default_rng(0)
    quality = rng.normal(size=n)
    archs = pd.Index([f"a{i:02}" for i in range(n)], name="arch")
    columns = {
        ("proxy", "sotl"): quality + 0.3 * rng.normal(size=n),
        ("random", "sotl"): quality + rng.normal(size=n),
        ("zero-cost", "synflow"): quality + rng.normal(size=n),
        ("parameters", "parameters"): rng.normal(size=n),
    }
    accuracies = dict(zip(archs, 0.9 + 0.02 * quality, strict=True))
    return pd.DataFrame(columns, index=archs), accuracies


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run.sqlite")


def test_a_table_is_charged_for_what_is_asked_of_it_and_no_more(store: Store) -> None:
    values, accuracies = values_of(60)
    spec = SearchSpec(label=20, verify=5)
    decision = decide(spec, Charged(store, table_of(accuracies)), values, ("proxy", "sotl"))
    assert (len(decision.labels), len(decision.verified), decision.charged) == (20, 5, True)
    assert (decision.label_s, decision.verify_s) == (40.0, 10.0)
    assert len(store.scores()) == 25
    trained = decision.trained
    assert decision.winner == trained.idxmax()
    assert trained.to_dict() == {arch: accuracies[arch] for arch in trained.index}
    assert decision.trust is not None
    assert 0.5 < decision.trust.rho <= 1
    assert decision.headroom is not None
    assert decision.headroom.untrained == 35


def test_the_same_store_gives_the_same_decision(store: Store) -> None:
    values, accuracies = values_of(60)
    spec = SearchSpec(label=16, verify=4)
    first = decide(spec, Charged(store, table_of(accuracies)), values, ("proxy", "sotl"))
    again = decide(spec, Recorded(store), values, ("proxy", "sotl"))
    assert first.labels.equals(again.labels)
    assert first.verified.equals(again.verified)
    assert (first.winner, first.trust, first.headroom, first.charged) == (
        again.winner, again.trust, again.headroom, again.charged,
    )  # fmt: skip


def test_labels_do_not_show_in_the_column_that_is_compared_with_truth(store: Store) -> None:
    values, accuracies = values_of(60)
    decision = decide(
        SearchSpec(label=20), Charged(store, table_of(accuracies)), values, ("proxy", "sotl")
    )
    column, prediction = decision.columns()["proxy", "predicted"], decision.predictions["proxy"]
    labelled = decision.labels.index
    assert (column[labelled] == prediction.out_of_fold.reindex(labelled)).all()
    rest = column.index.difference(decision.labels.index)
    assert column[rest].equals(prediction.scores[rest])


def test_a_failed_label_is_marked_and_does_not_spoil_the_fit(store: Store) -> None:
    values, accuracies = values_of(60)
    spec = SearchSpec(label=20, verify=3)
    whole = decide(spec, Charged(store, table_of(accuracies)), values, ("proxy", "sotl"))
    broken = whole.labels.index[0]
    other = Store(store.path.with_name("other.sqlite"))
    decision = decide(
        spec, Charged(other, table_of(accuracies, failed=broken)), values, ("proxy", "sotl")
    )
    assert np.isnan(decision.labels[broken])
    assert decision.labels.notna().sum() == 19
    assert decision.trust is not None
    assert decision.trust.labels == 19
    assert decision.winner is not None


def test_few_labels_leave_the_mean_rank(store: Store) -> None:
    values, accuracies = values_of(30)
    decision = decide(
        SearchSpec(label=6, verify=2),
        Charged(store, table_of(accuracies)),
        values,
        ("proxy", "sotl"),
    )
    assert decision.columns() == {}
    left = values["proxy", "sotl"].drop(decision.labels.index)
    assert list(decision.verified.index) == list(left.sort_values(ascending=False).index[:2])


def test_nothing_asked_for_is_nothing_decided(store: Store) -> None:
    values, accuracies = values_of(20)
    decision = decide(
        SearchSpec(label=0, verify=0),
        Charged(store, table_of(accuracies)),
        values,
        ("proxy", "sotl"),
    )
    assert (decision.winner, decision.trust, len(decision.trained)) == (None, None, 0)


def test_features_are_those_of_one_source_beside_what_takes_no_training() -> None:
    values, _ = values_of(5)
    assert feature_sources(values) == ["proxy", "random", "zero-cost"]
    assert list(features(values, "random")) == [
        "random:sotl",
        "zero-cost:synflow",
        "parameters:parameters",
    ]
    seen = values.copy()
    seen["random", "predicted"] = seen["zero-cost", "predicted"] = 1.0  # fitted to labels
    assert list(features(seen, "random")) == list(features(values, "random"))
    assert list(features(values, "zero-cost")) == ["zero-cost:synflow", "parameters:parameters"]


def test_a_search_without_truth_ends_with_a_winner_that_loads(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, truth="none", label=2, verify=1, epochs=1)
    result = flow.search(spec, tmp_path / "run", workers=1)
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    assert found["winner"]["files"] == ["winner.safetensors", "winner.py"]
    assert found["winner"]["verified"] == 3
    assert found["trust"]["labels"] == 2
    assert result.summary[0].startswith(f"The winner is {found['winner']['arch']}")
    loaded = runpy.run_path(str(tmp_path / "run" / "winner.py"))
    data = datasets.load_for(spec)
    accuracy = training.evaluate(loaded["net"], data.test.x, data.test.y)[0]
    assert accuracy == pytest.approx(found["winner"]["accuracy"])


def test_a_report_by_another_indicator_decides_nothing_anew(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, truth="none", label=2, verify=1, epochs=1)
    flow.search(spec, tmp_path / "run", workers=1)
    before = json.loads((tmp_path / "run" / "report.json").read_text())
    flow.rewrite(tmp_path / "run", indicator="parameters")
    after = json.loads((tmp_path / "run" / "report.json").read_text())
    assert after["winner"] == before["winner"]
    assert after["best"] != before["best"]
    assert after["ledger"]["total_s"] == before["ledger"]["total_s"]
    assert after["ledger"]["decision"] == before["ledger"]["decision"]


def test_an_interrupted_decision_resumes_to_the_same_scores(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, truth="none", label=3, verify=1, epochs=1)
    flow.search(spec, tmp_path / "whole", workers=1)

    class Interrupting(Watcher):
        def labelling(self, done: int, total: int, arch: str) -> None:
            raise KeyboardInterrupt

    for _ in range(4):  # each start gets one training further
        with pytest.raises(KeyboardInterrupt):
            flow.search(spec, tmp_path / "cut", workers=1, watcher=Interrupting())
    flow.search(spec, tmp_path / "cut", workers=1)
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    for name in ("scores.csv", "winner.safetensors", "winner.py"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name


def test_a_winner_whose_weights_are_gone_is_trained_again(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, truth="none", label=2, verify=1, epochs=1)
    flow.search(spec, tmp_path, workers=1)
    weights = (tmp_path / winner.WEIGHTS).read_bytes()
    (tmp_path / winner.WEIGHTS).unlink()
    flow.search(spec, tmp_path, workers=1)
    assert (tmp_path / winner.WEIGHTS).read_bytes() == weights


def test_labels_are_validation_accuracies_and_the_test_split_is_for_the_winner(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    flow.search(replace(small_spec, truth="none", label=2, verify=1, epochs=1), tmp_path, workers=1)
    store = Store(tmp_path / "run.sqlite")
    scores = store.scores()
    assert scores[scores["source"] == WHOLE]["test_accuracy"].isna().all()
    assert scores[scores["source"] == WINNER]["test_accuracy"].notna().all()


def test_a_trained_failure_is_kept(small_spec: SearchSpec, tmp_path: Path) -> None:
    nothing = np.empty(0, dtype=np.float32)
    run = prepare_run(small_spec, tmp_path, 1, Watcher())
    failed = Score(WHOLE, "a", 0, None, None, None, None, None, None, nothing, 1.0, "diverged")
    run.store.add([failed])
    labeller = Trained(run)
    assert labeller.accuracies(["a"]).isna().all()
    assert labeller.seconds(["a"]) == 1.0


def rows_of(path: Path, source: str) -> int:
    """How many rows of a source a run store has; 0 while it is not there."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            query = "SELECT count(*) FROM scores WHERE source = ?"
            return int(db.execute(query, (source,)).fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.slow
def test_killed_while_labelling_and_verifying_and_resumed(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    """Killed after the first label, in the middle of them, and while the winner's turn is near."""
    spec = replace(small_spec, truth="none", label=4, verify=2, epochs=4, train_winner="always")
    spec = replace(spec, label_epochs=0)
    flow.search(spec, tmp_path / "whole", workers=1)
    config, folder = tmp_path / "spec.toml", tmp_path / "killed"
    config.write_text(settings.to_toml(spec))
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as here: threads change rounding
    search = [sys.executable, "-m", "proxynas", "search", "-c", str(config), "--workers", "1"]
    for labels in (1, 3, 6):
        process = subprocess.Popen(
            [*search, "--out", str(folder)], stdout=subprocess.DEVNULL, env=one_thread
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if rows_of(folder / "run.sqlite", WHOLE) >= labels:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
        assert rows_of(folder / "run.sqlite", WHOLE) >= labels
    flow.search(spec, folder, workers=1)
    for name in ("scores.csv", "winner.safetensors", "winner.py"):
        assert (tmp_path / "whole" / name).read_bytes() == (folder / name).read_bytes(), name
