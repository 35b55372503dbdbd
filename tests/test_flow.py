import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from proxynas import datasets, proxyset, spaces
from proxynas.core import progress, rundir, settings
from proxynas.core.errors import ProxyFileError, RunFolderError, SpaceError, SpecError, TruthError
from proxynas.datasets import Dataset
from proxynas.distill import loop
from proxynas.pipeline import flow, sources
from proxynas.search import zerocost
from proxynas.search.sources import TRAINED
from proxynas.specs import SearchSpec


def a_truth_table(spec: SearchSpec, digits: Dataset, path: Path, **changed: str) -> Path:
    archs = list(spaces.load(spec.space))
    made = {"space": "small", "data": "digits", "fingerprint": digits.fingerprint, **changed}
    rows = pd.DataFrame({"arch": archs, "test_accuracy": np.linspace(0.5, 0.9, len(archs))})
    path.write_text(
        "".join(f'# {key} = "{value}"\n' for key, value in made.items()) + rows.to_csv(index=False)
    )
    return path


def test_the_whole_flow(small_spec: SearchSpec, digits: Dataset, tmp_path: Path) -> None:
    truth = a_truth_table(small_spec, digits, tmp_path / "truth.csv")
    result = flow.search(replace(small_spec, truth=str(truth)), tmp_path / "run", workers=1)
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = {(row["source"], row["indicator"]) for row in told["rank"]}
    trained = ("val_accuracy", "val_loss", "sotl", "sotl_late")
    assert {(source, name) for source in TRAINED for name in trained} <= rows
    assert {("zero-cost", name) for name in (*zerocost.INDICATORS, "vote")} <= rows
    assert {("parameters", "parameters"), ("flops", "flops")} <= rows
    for row in told["rank"]:
        assert {
            "source",
            "indicator",
            "n",
            "rho",
            "rho_low",
            "rho_high",
            "tau",
            "rho_best10",
            "regret",
        } <= set(row)
        assert row["n"] == 6
    assert told["ledger"]["distill_s"] > 0
    assert told["ledger"]["search_s"] > 0
    assert told["ledger"]["total_s"] == pytest.approx(
        told["ledger"]["distill_s"] + told["ledger"]["search_s"]
    )
    assert told["best"]["arch"] in spaces.load(small_spec.space)
    assert told["provenance"]["proxy"]["method"] == "gm"
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert len(scores) == 6 * 3 * 2
    assert (
        result.report.read_text().startswith("<!doctype html>")
        or "<html" in result.report.read_text()
    )


def test_the_same_command_again_reuses_everything(small_spec: SearchSpec, tmp_path: Path) -> None:
    flow.search(small_spec, tmp_path / "run", workers=1)
    before = {
        path.name: path.read_bytes()
        for path in (tmp_path / "run").glob("*")
        if path.suffix in (".csv", ".safetensors")
    }
    seen: list[object] = []

    class Listening(progress.Watcher):
        def searching(self, done: int, total: int, arch: str) -> None:
            seen.append(arch)

        def distilling(self, progress: object) -> None:
            seen.append(progress)

    flow.search(small_spec, tmp_path / "run", workers=1, watcher=Listening())
    after = {
        path.name: path.read_bytes()
        for path in (tmp_path / "run").glob("*")
        if path.suffix in (".csv", ".safetensors")
    }
    assert seen == []
    assert before == after


def test_two_workers_give_the_scores_of_one(small_spec: SearchSpec, tmp_path: Path) -> None:
    for workers in (1, 2):
        flow.search(small_spec, tmp_path / str(workers), workers=workers)
    assert (tmp_path / "1" / "scores.csv").read_bytes() == (
        tmp_path / "2" / "scores.csv"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_killed_at_random_moments_and_resumed(small_spec: SearchSpec, tmp_path: Path) -> None:
    """Both halves of the flow are hit: five kills in one folder, the last start runs to the end."""
    spec = replace(small_spec, steps=60, candidates=8, updates=40)
    flow.search(spec, tmp_path / "whole", workers=1)
    config = tmp_path / "spec.toml"
    config.write_text(settings.to_toml(spec))
    folder, moments = tmp_path / "killed", random.Random(0)
    one_thread = os.environ | {
        "OMP_NUM_THREADS": "1"
    }  # as in this process: the number of threads changes rounding
    command = [
        sys.executable,
        "-m",
        "proxynas",
        "search",
        "-c",
        str(config),
        "--out",
        str(folder),
        "--workers",
        "1",
    ]
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=one_thread)
        deadline = time.monotonic() + 60
        while not folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.2, 3.0) + 2.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    flow.search(spec, folder, workers=1)
    assert (folder / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()


def test_a_run_folder_of_another_spec(small_spec: SearchSpec, tmp_path: Path) -> None:
    rundir.open_folder(small_spec, tmp_path / "run")
    with pytest.raises(
        RunFolderError, match="holds another run: its updates is 5, but this one asks for 6"
    ):
        rundir.open_folder(replace(small_spec, updates=6), tmp_path / "run")
    assert settings.read_toml(tmp_path / "run" / "spec.toml") == settings.to_dict(small_spec)


def test_a_shipped_or_given_proxy_is_copied_and_billed(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    flow.search(small_spec, tmp_path / "one", workers=1)
    proxy = tmp_path / "one" / "proxy.safetensors"
    given = replace(small_spec, steps=None, settings={}, proxy=str(proxy))
    result = flow.search(given, tmp_path / "two", workers=1)
    assert (tmp_path / "two" / "proxy.safetensors").read_bytes() == proxy.read_bytes()
    assert result.ledger.reused
    assert result.ledger.distill_s == proxyset.read(proxy).provenance["seconds"]
    assert not (tmp_path / "two" / "distill.checkpoint").exists()
    one, two = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_a_proxy_of_other_data_is_refused_before_anything_is_trained(
    small_spec: SearchSpec, digits: Dataset, tmp_path: Path
) -> None:
    distill = loop.distill

    other = distill(
        replace(small_spec.distillation(), method="random", steps=0, settings={}), digits
    )
    replace(other, provenance={"fingerprint": "another"}).save(tmp_path / "other.safetensors")
    given = replace(small_spec, steps=None, settings={}, proxy=str(tmp_path / "other.safetensors"))
    with pytest.raises(ProxyFileError, match="made for data 'another'"):
        flow.search(given, tmp_path / "run")
    assert not (tmp_path / "run" / "run.sqlite").exists()


@pytest.mark.parametrize("key", ["space", "data", "fingerprint"])
def test_truth_of_something_else_is_refused(
    key: str, small_spec: SearchSpec, digits: Dataset, tmp_path: Path
) -> None:
    path = a_truth_table(small_spec, digits, tmp_path / "truth.csv", **{key: "another"})
    with pytest.raises(TruthError, match=f"measured on {key} 'another'"):
        flow.search(replace(small_spec, truth=str(path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_truth_the_report_says_so(small_spec: SearchSpec, tmp_path: Path) -> None:
    result = flow.search(small_spec, tmp_path / "run", workers=1)
    assert result.verdict.worth == "no ground truth"
    assert "There is no ground truth" in (tmp_path / "run" / "report.html").read_text()


def test_a_candidate_that_explodes_is_marked_and_the_run_goes_on(
    small_spec: SearchSpec, digits: Dataset, tmp_path: Path
) -> None:
    result = flow.search(replace(small_spec, lr=1e30), tmp_path / "run", workers=1)
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert len(scores) == 6 * 3 * 2
    assert scores["failed"].str.startswith("the training loss stopped being finite at update").any()
    assert result.report.exists()


def test_rewrite_needs_a_run(small_spec: SearchSpec, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run directory"):
        flow.rewrite(tmp_path)
    flow.search(small_spec, tmp_path / "run", workers=1)
    assert flow.rewrite(tmp_path / "run", indicator="sotl").headline == ("proxy", "sotl")
    with pytest.raises(SpecError, match="there is no indicator 'luck'"):
        flow.rewrite(tmp_path / "run", indicator="luck")


def test_an_unwritable_folder(small_spec: SearchSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        flow.search(small_spec, tmp_path / "file" / "run")


def test_unknown_space(small_spec: SearchSpec, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="there is no search space 'grid'"):
        flow.search(replace(small_spec, space="grid"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_further_sets_are_compared_in_the_same_run(
    small_spec: SearchSpec, digits: Dataset, tmp_path: Path
) -> None:
    drawn = replace(small_spec.distillation(), method="random", ipc=2, steps=0, settings={})
    loop.distill(drawn, digits).save(tmp_path / "two.safetensors")
    spec = replace(
        small_spec,
        also=(str(tmp_path / "two.safetensors"),),
        baselines=("early-stopping",),
        val_points=2,
        indicator="sotl+parameters",
    )
    result = flow.search(spec, tmp_path / "run", workers=1)
    assert result.headline == ("proxy", "sotl+parameters")
    assert set(result.ledger.sources) == {"proxy", "early-stopping", "two"}
    assert ("two", "val_auc") in result.ranking.keys()  # noqa: SIM118
    (tmp_path / "two.safetensors").unlink()
    assert flow.rewrite(tmp_path / "run", indicator="val_auc").headline == ("proxy", "val_auc")
    with pytest.raises(SpecError, match="two sources called 'two'"):
        sources.also_names(replace(spec, also=("a/two.safetensors", "b/two.safetensors")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"indicator": "val_auc"}, "takes val_points of 2 or more, but got 1"),
        ({"indicator": "vote", "baselines": ("random",)}, "takes 'zero-cost' among the baselines"),
        ({"combine": ("sotl+lucky",)}, "there is no indicator 'lucky'"),
        ({"combine": ("sotl",)}, "combine takes two indicators or more"),
        (
            {"combine": ("sotl+vote",), "baselines": ("random",)},
            "takes 'zero-cost' among the baselines",
        ),
        (
            {"indicator": "sotl+vote", "baselines": ("random",)},
            "takes 'zero-cost' among the baselines",
        ),
        ({"val_points": 6}, "val_points must be at most the 5 updates, but got 6"),
        (
            {"recipe": {"nesterov": True, "momentum": 0}},
            "nesterov takes sgd with a momentum above 0",
        ),
        ({"recipe": {"momentun": 0.5}}, "recipe: unknown key 'momentun'; did you mean 'momentum'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    changed: dict[str, object], message: str, small_spec: SearchSpec, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message):
        flow.search(replace(small_spec, **changed), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_data_that_go_by_another_name(
    small_spec: SearchSpec, digits: Dataset, tmp_path: Path
) -> None:
    path = a_truth_table(small_spec, digits, tmp_path / "truth.csv", data="mine", fingerprint="")
    spec = replace(small_spec, truth=str(path))
    with pytest.raises(TruthError, match="--truth-data if only the name differs"):
        flow.search(spec, tmp_path / "run")
    a_truth_table(small_spec, digits, path, data="cifar100", fingerprint="")
    with pytest.raises(TruthError, match="which has 100 classes, but digits has 10"):
        flow.search(replace(spec, truth_data="cifar100"), tmp_path / "run")
    a_truth_table(small_spec, digits, path, data="mine", fingerprint="")
    assert (
        flow.search(replace(spec, truth_data="mine"), tmp_path / "run", workers=1).verdict.worth
        != "no ground truth"
    )


def test_a_table_measured_elsewhere_is_a_row(
    small_spec: SearchSpec, digits: Dataset, tmp_path: Path
) -> None:
    truth = a_truth_table(small_spec, digits, tmp_path / "truth.csv")
    spec = replace(small_spec, truth=str(truth), tables={"fewer epochs": str(truth)})
    ranking = flow.search(spec, tmp_path / "run", workers=1).ranking
    assert ranking.row(("fewer epochs", "test_accuracy"))["rho"] == pytest.approx(1)
    again = flow.rewrite(
        tmp_path / "run", combine=["sotl+parameters"], tables={"more": str(truth)}
    ).ranking
    assert {("more", "test_accuracy"), ("proxy", "sotl+parameters")} <= set(again.keys())
    with pytest.raises(SpecError, match="a source called 'proxy' already"):
        flow.rewrite(tmp_path / "run", tables={"proxy": str(truth)})
    few = tmp_path / "few.csv"
    few.write_text("\n".join(truth.read_text().splitlines()[:5]) + "\n")
    with pytest.raises(TruthError, match="of the 6 candidates"):
        flow.rewrite(tmp_path / "run", tables={"few": str(few)})
    other = a_truth_table(small_spec, digits, tmp_path / "other.csv", space="another")
    with pytest.raises(TruthError, match="measured on space 'another'"):
        flow.search(replace(spec, tables={"fewer epochs": str(other)}), tmp_path / "other")
    with pytest.raises(SpecError, match="a source called 'random' already"):
        flow.search(replace(spec, tables={"random": str(truth)}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_zero_cost_indicators_may_see_other_networks(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    found = spaces.load("nasbench201", {"channels": 4, "cells": 1})
    spec = replace(
        small_spec,
        space="nasbench201",
        space_options={"channels": 4, "cells": 1},
        candidates=2,
        seeds=1,
        truth="none",
    )
    same = flow.search(spec, tmp_path / "a", workers=1).ranking.values
    wider = replace(spec, zero_cost_options={"channels": 8, "cells": 1})
    other = flow.search(wider, tmp_path / "b", workers=1).ranking.values
    assert list(same.index) == list(other.index)
    assert all(arch in found for arch in same.index)
    pd.testing.assert_series_equal(same["proxy", "sotl"], other["proxy", "sotl"])
    assert not np.allclose(same["zero-cost", "grad_norm"], other["zero-cost", "grad_norm"])
    with pytest.raises(SpaceError, match="no fixed setting 'width'"):
        flow.search(replace(spec, zero_cost_options={"width": 1}), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_set_with_learned_rates_is_searched_with_them(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    """The candidates' first losses on the proxy are those of its curriculum's batches, with its
    momentum."""
    own = {
        "students": ["D1-W32-relu-none-avgpooling"],
        "real_batch": 10,
        "inner": 2,
        "ic": 2,
        "learn_rates": True,
    }
    spec = replace(
        small_spec,
        method="unroll",
        ipc=2,
        steps=1,
        settings=own,
        candidates=5,
        seeds=1,
        recipe={"augment": "crop+rotate"},
    )
    result = flow.search(spec, tmp_path / "run", workers=1)
    assert result.report.is_file()
    source = sources.sources_of(spec, tmp_path / "run", datasets.load_for(spec))["proxy"]
    assert source.curriculum is not None
    assert source.curriculum.rates is not None
    assert (source.recipe.momentum, source.recipe.weight_decay) == (0.5, 0.0)
    assert (source.recipe.updates, source.recipe.augment) == (spec.updates, "crop+rotate")


def test_a_run_directory_whose_data_or_sets_have_changed(
    small_spec: SearchSpec, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{i % 7},{i % 3},{'ab'[i % 2]}" for i in range(60)]
    table.write_text("x,y,label\n" + "\n".join(rows))
    spec = replace(small_spec, data=str(table), space="mlp-grid", settings={"real_batch": 8})
    flow.search(spec, tmp_path / "run", workers=1)
    table.write_text("x,y,label\n" + "\n".join(rows[:-1]))
    with pytest.raises(ProxyFileError, match="made for data"):
        flow.search(spec, tmp_path / "run", workers=1)
    for name in ("proxy.safetensors", "random.safetensors", "distill.checkpoint"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(RunFolderError, match="holds runs of other settings"):
        flow.search(spec, tmp_path / "run", workers=1)
