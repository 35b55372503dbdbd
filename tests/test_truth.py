import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from proxynas import datasets, spaces, truth
from proxynas.core.errors import RunFolderError, SpaceError, SpecError, TruthError
from proxynas.core.settings import to_dict
from proxynas.datasets import Dataset
from proxynas.pipeline.rounds import make_strategy
from proxynas.search.store import Store
from proxynas.specs import SearchSpec, TruthSpec
from proxynas.truth.measure import candidates, measure


def test_measured_tables_round_trip(small_space: Path, digits: Dataset, tmp_path: Path) -> None:
    spec = TruthSpec(space=str(small_space), seeds=2, epochs=1, batch_size=200, candidates=3)
    measured = measure(spec, tmp_path / "truth.csv", workers=1)
    read = truth.read(tmp_path / "truth.csv")
    assert len(read.rows) == 6
    pd.testing.assert_series_equal(read.accuracy(), measured.accuracy(), atol=1e-6)
    assert read.header["fingerprint"] == digits.fingerprint
    assert read.header["recipe"]["updates"] == 5
    read.check(digits, "small")


def test_an_interrupted_measurement_is_a_sample_and_goes_on(
    small_space: Path, tmp_path: Path
) -> None:
    spec = TruthSpec(space=str(small_space), seeds=1, epochs=1, batch_size=500)

    def stop(done: int, total: int, score: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(spec, tmp_path / "truth.csv", workers=1, on_done=stop)
    assert len(truth.read(tmp_path / "truth.csv").rows) == 3
    resumed = measure(spec, tmp_path / "truth.csv", workers=1).rows
    whole = measure(spec, tmp_path / "whole.csv", workers=1).rows
    columns = ["arch", "seed", "val_accuracy", "test_accuracy", "test_loss", "sotl"]
    pd.testing.assert_frame_equal(resumed[columns], whole[columns])


def test_constraints_hold_and_a_store_from_before_them_goes_on(
    small_space: Path, digits: Dataset, tmp_path: Path
) -> None:
    spec = TruthSpec(space=str(small_space), seeds=1, epochs=1, batch_size=500)
    space = spaces.load(str(small_space))
    archs = candidates(spec, space, digits)
    cost = {arch: space.cost(arch, digits.shape, 10)[1] for arch in archs}
    median = sorted(cost.values())[len(cost) // 2]
    limited = replace(spec, constraints=(f"flops<{median}",))
    cheap = candidates(limited, space, digits)
    assert set(cheap) == {arch for arch in archs if cost[arch] < median}
    assert set(measure(limited, tmp_path / "cheap.csv", workers=1).rows["arch"]) == set(cheap)
    with pytest.raises(RunFolderError, match="constraints"):
        measure(spec, tmp_path / "cheap.csv", workers=1)
    with pytest.raises(SpecError, match="none is within flops<1"):
        candidates(replace(spec, constraints=("flops<1",)), space, digits)
    moons = datasets.load("moons")
    spec = TruthSpec(data="moons", space="mlp-grid", seeds=1, epochs=1, batch_size=1000)
    store = Store(tmp_path / "old.sqlite")
    old = {name: value for name, value in to_dict(spec).items() if name != "constraints"}
    store.claim(json.dumps({**old, "fingerprint": moons.fingerprint}, sort_keys=True))
    store.close()
    assert len(measure(spec, tmp_path / "old.csv", workers=1).rows) == 44


def test_the_shipped_table_is_whole(digits: Dataset) -> None:
    table = truth.find("convnet-grid", "digits")
    assert table is not None
    table.check(digits, "convnet-grid")
    assert len(table.accuracy()) == 720
    assert table.rows.groupby("arch")["seed"].nunique().eq(3).all()
    assert table.accuracy().between(0, 1).all()


def test_a_table_of_ones_own_needs_two_columns(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "arch,test_accuracy,failed\na,0.5,\na,0.7,\nc,,it exploded\n"
    )
    assert truth.read(tmp_path / "mine.csv").accuracy().to_dict() == {
        "a": pytest.approx(0.6),
        "c": 0.0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch,accuracy\na,0.5\n", "lacks the column 'test_accuracy'"),
        ("arch,test_accuracy\na,93.5\n", "must be between 0 and 1"),
        ("arch,test_accuracy\na,good\n", "test_accuracy must be a number, but row 1 has 'good'"),
        ("arch,test_accuracy\na,0.5\nb,\n", "row 2 has no test_accuracy"),
        (
            "arch,test_accuracy,seconds\na,0.5,12s\n",
            "seconds must be a number, but row 1 has '12s'",
        ),
        ("", "is not a truth table"),
        ("arch,test_accuracy\na,0.5\n,0.6\n", "row 2 has no architecture"),
        ('# epochs = "twelve"\narch,test_accuracy\na,0.5\n', "its header: epochs"),
        ('# command.epochs = "twelve"\narch,test_accuracy\na,0.5\n', "command.epochs"),
        ("# = broken\narch,test_accuracy\na,0.5\n", "is not a truth table"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TruthError, match=message):
        truth.read(tmp_path / "bad.csv")


def test_a_space_that_has_changed_is_another_measurement(
    small_space: Path, digits: Dataset, tmp_path: Path
) -> None:
    spec = TruthSpec(space=str(small_space), candidates=1, seeds=1, epochs=1, batch_size=500)
    measure(spec, tmp_path / "a.csv", workers=1)
    text = small_space.read_text()
    assert "[axes]" in text
    small_space.write_text(text.replace("[axes]", "[input]\nchannels = 3\n[axes]"))
    with pytest.raises(RunFolderError, match="other settings"):
        measure(spec, tmp_path / "a.csv", workers=1)


def test_images_networks_do_not_take_tables(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"NAS-Bench-201 needs images .* 'mlp-grid' is for tables"):
        measure(TruthSpec(data="moons", space="nasbench201"), tmp_path / "a.csv", workers=1)


def test_a_byte_order_mark_and_a_network_called_na(tmp_path: Path) -> None:
    text = '\ufeff# accuracy = "val_accuracy"\narch,val_accuracy\nNA,0.5\nb,0.6\n'
    (tmp_path / "a.csv").write_text(text)
    assert truth.read(tmp_path / "a.csv").accuracy().to_dict() == {"NA": 0.5, "b": 0.6}


def test_truth_of_a_sample_is_of_a_searchs_candidates(digits: Dataset) -> None:
    space = spaces.load("convnet-grid")
    spec = SearchSpec(candidates=7, seed=3)
    searched = make_strategy(spec, space, lambda arch: (1, 1)).ask(7)
    assert candidates(TruthSpec(candidates=7, seed=3), space, digits) == searched
