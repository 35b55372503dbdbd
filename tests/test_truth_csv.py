"""Truth tables from a CSV of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from proxynas.core.errors import TruthError
from proxynas.truth import COLUMNS, TruthTable, importing
from proxynas.truth.importing import Columns

from .test_truth_import import EARLY, GRID, SPACE, by_run, stored


def csv(tmp_path: Path, text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    pd.read_csv(pd.io.common.StringIO(text), dtype=str).to_csv(
        path, index=False
    )  # packed as the name says
    return path


GOOD = f"net,run,top1,note\n{GRID.at(3)},1,71.5,a\n{GRID.at(3)},0,70.5,b\n{GRID.at(5)},0,10,c\n"


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz", "mine.csv.xz"])
def test_csv_with_columns_named_by_its_owner(tmp_path: Path, name: str) -> None:
    table = importing.from_csv(
        csv(tmp_path, GOOD, name),
        space=GRID,
        data="my-photos",
        split="test",
        epochs=30,
        columns=Columns("net", "top1", "run", percent=True),
    )
    assert by_run(table, "test_accuracy") == {
        (GRID.at(3), 0): 0.705,
        (GRID.at(3), 1): 0.715,
        (GRID.at(5), 0): 0.1,
    }
    assert table.accuracy().to_dict() == pytest.approx({GRID.at(3): 0.71, GRID.at(5): 0.1})
    assert table.header["source"] == name
    assert (table.header["space"], table.header["data"], table.header["epochs"]) == (
        "convnet-grid",
        "my-photos",
        30,
    )
    assert tuple(table.rows.columns) == COLUMNS


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        (GOOD, {"arch": "name"}, "lacks the column 'name'; it has net, run, top1, note"),
        (GOOD, {"accuracy": "acc"}, "lacks the column 'acc'"),
        (GOOD, {"seed": "seed"}, "lacks the column 'seed'"),
        (
            GOOD,
            {"seed": None},
            "with seed 0 comes twice, again in row 2; name the column of the seeds",
        ),
        (GOOD, {"seed": "note"}, "the seeds in 'note' must be whole numbers, but row 1 is not"),
        (
            GOOD,
            {"percent": False},
            "must be between 0 and 1, but row 1 has 71.5; if they are percent, say so",
        ),
        (GOOD, {"space": SPACE}, "is not in the space 'nasbench201'; name the right space"),
        (GOOD, {"epochs": 0}, "epochs must be at least 1, but got 0"),
        (GOOD.replace("70.5", "?"), {}, "row 2 has nan; leave rows without one out"),
        (GOOD.replace("70.5", "-1"), {}, "row 2 has -0.01; leave"),
        (GOOD.replace(",0,10", ",0.5,10"), {}, "must be whole numbers, but row 3 is not"),
        ("net,run,top1\n", {}, "has no rows"),
    ],
)
def test_csv_that_cannot_be_it_is_said(
    tmp_path: Path, text: str, how: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"space": GRID, "data": "d", "split": "test", "epochs": 1}
    columns = Columns("net", "top1", "run", percent=True)
    changed = {key: value for key, value in how.items() if hasattr(columns, key)}
    settings |= {key: value for key, value in how.items() if key not in changed}
    settings["columns"] = replace(columns, **changed)
    with pytest.raises(TruthError, match=message):
        importing.from_csv(csv(tmp_path, text), **settings)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"\x1f\x8b\x08cut"])
@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz"])
def test_unreadable_csv_is_said(tmp_path: Path, content: bytes | None, name: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TruthError, match=r"cannot read|is not a CSV file|lacks the column"):
        importing.from_csv(path, space=GRID, data="d", split="test", epochs=1)


@pytest.mark.skipif(not EARLY.is_file(), reason=f"{EARLY.name} is not there")
@pytest.mark.parametrize(
    ("split", "column", "best"),
    [("val", "c10valid_val_12ep", 0.85), ("test", "c10_test_12ep", 0.89)],
)
def test_twelve_epochs_on_the_real_data_come_in_as_a_csv(
    split: Any, column: str, best: float
) -> None:
    table = importing.from_csv(
        EARLY,
        space=SPACE,
        data="cifar10",
        split=split,
        epochs=12,
        columns=Columns(accuracy=column, percent=True),
    )
    assert set(table.rows["arch"]) == set(SPACE)
    assert table.rows[f"{split}_accuracy"].max() == pytest.approx(best, abs=0.01)


def test_table_is_written_with_its_header(tmp_path: Path) -> None:
    table = importing.from_nasbench201(
        stored(), data="cifar10", split="test", epochs=200, seeds=None
    )
    path = tmp_path / "truth.csv"
    table.write(path)
    text = path.read_text().splitlines()
    assert '# accuracy = "test_accuracy"' in text
    assert '# data = "cifar10"' in text
    assert "# epochs = 200" in text


def test_runs_of_some_seeds_only(tmp_path: Path) -> None:
    def imported(columns: Columns) -> TruthTable:
        return importing.from_csv(
            csv(tmp_path, GOOD, "mine.csv"),
            space=GRID,
            data="my-photos",
            split="test",
            epochs=30,
            columns=columns,
        )

    columns = Columns("net", "top1", "run", percent=True)
    table = imported(replace(columns, seeds=(1,)))
    assert by_run(table, "test_accuracy") == {(GRID.at(3), 1): 0.715}
    with pytest.raises(TruthError, match=r"has no runs with seed 5, 6; name other seeds, or none"):
        imported(replace(columns, seeds=(5, 6)))
    with pytest.raises(TruthError, match=r"with the seeds \(--seed-column\)"):
        imported(replace(columns, seed=None, seeds=(1,)))
