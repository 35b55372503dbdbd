"""Tables: the moons, CSV files of a user's own with all that can be wrong in them, and the whole
flow on rows."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from proxynas import cli, datasets, proxyset, spaces, truth
from proxynas.core.errors import DataError, SpaceError
from proxynas.datasets import Dataset, Preprocessing
from proxynas.distill import students
from proxynas.distill.loop import distill
from proxynas.pipeline import flow
from proxynas.search.zerocost import INDICATORS, zero_cost
from proxynas.specs import DistillSpec, SearchSpec

HEADER = "width,height,kind\n"


@pytest.fixture(scope="module")
def moons() -> Dataset:
    return datasets.load("moons")


def write_csv(path: Path, rows: int = 60, header: str = HEADER) -> Path:
    """Two classes of random points, far apart, sorted by class."""
    x = np.random.default_rng(0).normal(size=(rows, 2)) + np.repeat(
        [[0.0, 100.0], [9.0, 90.0]], rows // 2, axis=0
    )
    lines = [
        f"{a:.3f},{b:.3f},{'round' if i < rows // 2 else 'flat'}" for i, (a, b) in enumerate(x)
    ]
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def test_moons_are_the_papers_task(moons: Dataset) -> None:
    """1,000 to train on and 500 to test; a line gets 87 % right, a curve nearly all (Medvedev 2020,
    §4, Table 1)."""
    assert [len(part) for part in (moons.train, moons.val, moons.test)] == [1000, 300, 500]
    assert (moons.shape, moons.num_classes, moons.class_counts()) == ((2,), 2, (500, 500))
    assert moons.test.y.bincount().tolist() == [250, 250]
    train, test = (part.x.numpy() for part in (moons.train, moons.test))
    line = LogisticRegression().fit(train, moons.train.y.numpy()).score(test, moons.test.y.numpy())
    curve = (
        KNeighborsClassifier(5).fit(train, moons.train.y.numpy()).score(test, moons.test.y.numpy())
    )
    assert 0.86 < line < 0.89
    assert curve > 0.99


def test_moons_are_always_the_same(moons: Dataset) -> None:
    assert moons.fingerprint == "dc0b9750d334703e"
    assert torch.equal(datasets.load("moons").train.x, moons.train.x)
    more = datasets.load("moons", val_fraction=0.5)
    assert (len(more.train), len(more.val)) == (650, 650)
    assert torch.equal(more.test.y, moons.test.y)


def test_moons_by_their_own_account(moons: Dataset) -> None:
    """Every point lies near its half circle: 0.1 of noise, so within 0.5 of it."""
    points = moons.preprocessing.invert(moons.train.x)
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[moons.train.y]
    gaps = (points - centers).norm(dim=1) - 1
    assert gaps.abs().max() < 0.5
    assert gaps.std() == pytest.approx(0.1, abs=0.01)
    assert ((points - centers)[moons.train.y == 0, 1] > -0.5).all()
    assert ((points - centers)[moons.train.y == 1, 1] < 0.5).all()


def test_a_csv_file(tmp_path: Path) -> None:
    dataset = datasets.load(write_csv(tmp_path / "shapes.csv"))
    assert (dataset.name, dataset.shape, dataset.class_names) == ("shapes", (2,), ("flat", "round"))
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [43, 5, 12]
    assert dataset.train.x.dtype == torch.float32
    torch.testing.assert_close(dataset.train.x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(dataset.train.x.std(0, correction=0), torch.ones(2))
    back = dataset.preprocessing.invert(dataset.train.x)
    assert (back[dataset.train.y == 1, 1] > 95).all()
    assert (back[dataset.train.y == 0, 1] < 95).all()
    assert 0 < dataset.train.y[:10].sum() < 10  # shuffled, though the file is sorted
    assert {len(dataset.val.y.unique()), len(dataset.test.y.unique())} == {2}


def test_all_rows_are_somewhere_once(tmp_path: Path) -> None:
    dataset = datasets.load(write_csv(tmp_path / "shapes.csv"))
    rows = torch.cat(
        [
            dataset.preprocessing.invert(part.x.double())
            for part in (dataset.train, dataset.val, dataset.test)
        ]
    )
    written = np.loadtxt(tmp_path / "shapes.csv", delimiter=",", skiprows=1, usecols=(0, 1))
    ours, theirs = (x[x[:, 0].argsort()] for x in (rows.numpy(), written))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_with_or_without_header_spaces_blank_lines_and_bom(tmp_path: Path) -> None:
    plain = datasets.load(write_csv(tmp_path / "plain.csv"))
    text = (tmp_path / "plain.csv").read_text()
    for name, other in {
        "bare": text.removeprefix(HEADER),
        "spaced": text.replace(",", " , "),
        "blank": text.replace("\n", "\r\n\r\n"),
        "bom": "\ufeff" + text,
        "quoted": text.replace("round", '"round"'),
    }.items():
        (tmp_path / f"{name}.csv").write_text(other, encoding="utf-8", newline="")
        assert datasets.load(str(tmp_path / f"{name}.csv")).fingerprint == plain.fingerprint, name
    (tmp_path / "other.csv").write_text(text.replace("100", "101"))
    assert datasets.load(str(tmp_path / "other.csv")).fingerprint != plain.fingerprint


def test_numbers_as_classes_are_sorted_by_value(tmp_path: Path) -> None:
    lines = [f"{i},{label}" for label in (10, 9, -1) for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert datasets.load(str(tmp_path / "t.csv")).class_names == ("-1", "9", "10")


def test_numbers_of_one_value_are_one_class(tmp_path: Path) -> None:
    lines = [f"{i},{label}" for label in ("1", "2.0", "1.0", "02", "2") for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = datasets.load(str(tmp_path / "t.csv"))
    assert data.class_names == ("1", "2.0")
    assert data.class_counts() == (7, 11)


def test_classes_that_no_number_is(tmp_path: Path) -> None:
    huge = "1e9999999999999999999"
    (tmp_path / "t.csv").write_text("".join(f"{i},{c}\n" for i in range(5) for c in ("1", huge)))
    assert datasets.load(str(tmp_path / "t.csv")).class_names == ("1", huge)


def test_the_header_of_a_nameless_array(tmp_path: Path) -> None:
    frame = pd.DataFrame([[i, i * i, i % 3] for i in range(30)])
    frame.to_csv(tmp_path / "with.csv", index=False)
    frame.to_csv(tmp_path / "without.csv", index=False, header=False)
    ours, theirs = (datasets.load(str(tmp_path / f"{name}.csv")) for name in ("with", "without"))
    assert ours.fingerprint == theirs.fingerprint


def test_the_smallest_table_and_a_constant_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,5,a\n2,5,a\n3,5,a\n4,5,b\n5,5,b\n6,5,b\n")
    dataset = datasets.load(str(tmp_path / "t.csv"))
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [2, 2, 2]
    assert dataset.preprocessing.std[1] == 1
    assert not dataset.train.x[:, 1].any()


def test_a_table_is_told_apart_from_the_data_it_is_called_after(tmp_path: Path) -> None:
    assert datasets.load(write_csv(tmp_path / "digits.csv")).name == "digits-table"
    assert (
        datasets.load("shapes.csv", root=write_csv(tmp_path / "shapes.csv").parent).name == "shapes"
    )


def test_preprocessing_of_rows_is_invertible() -> None:
    pre, x = Preprocessing((1.0, -2.0), (3.0, 0.5)), torch.randn(5, 2)
    torch.testing.assert_close(
        pre.apply(x), (x - torch.tensor([1.0, -2.0])) / torch.tensor([3.0, 0.5])
    )
    torch.testing.assert_close(pre.invert(pre.apply(x)), x)
    with pytest.raises(DataError, match=r"or rows \(N, 2\), but got \(5, 3\)"):
        pre.apply(torch.zeros(5, 3))


GOOD = "1,2,a\n2,1,a\n3,3,a\n4,4,b\n5,4,b\n6,5,b\n"
BAD = {
    "empty": ("", "holds no rows"),
    "only a header": (HEADER, "holds no rows"),
    "only blank lines": ("\n\n  \n", "holds no rows"),
    "a word": (GOOD + "7,tall,b\n", "line 7: expected a finite number in column 2, but got 'tall'"),
    "a word in the first line": (
        "tall,2,a\n" + GOOD,
        "line 1: expected a finite number in column 1, but got 'tall'",
    ),
    "numbers as names": (
        "0,1,target\n" + GOOD,
        "but class 'target' has 1; the classes are those of the last column, and a header must",
    ),
    "a first row without values": ("NA,?,a\n" + GOOD, "line 1: the value of column 1 is missing"),
    "too large for float32": (GOOD * 20 + "1e300,4,b\n", "too large to be normalised"),
    "infinite": (GOOD + "inf,2,b\n", "line 7: expected a finite number in column 1, but got 'inf'"),
    "underscores": (
        GOOD + "1_000,2,b\n",
        "line 7: expected a finite number in column 1, but got '1_000'",
    ),
    "nothing": (GOOD + "7,,b\n", "line 7: the value of column 2 is missing"),
    "nan": (GOOD + "NaN,2,b\n", "line 7: the value of column 1 is missing"),
    "question mark": (HEADER + GOOD + "?,2,b\n", "line 8: the value of column 1 is missing"),
    "no target": (
        GOOD + "7,2,\n",
        "line 7: expected a target in the last column, but it is missing",
    ),
    "ragged": (GOOD + "7,2\n", "line 7: expected 3 columns like the first line, but got 2"),
    "one column": (
        "1\n2\n",
        "line 1: expected numbers and a target, separated by commas, but got one column",
    ),
    "semicolons": ("1;2;a\n2;1;b\n", "separated by commas, but got one column"),
    "row numbers": (",x,kind\n" + GOOD, "column 1 has no name; name it, or leave out row numbers"),
    "one class": ("1,a\n2,a\n3,a\n", "expected at least 2 classes in the last column of"),
    "a rare class": (GOOD + "7,2,c\n8,2,c\n", "but class 'c' has 2"),
    "a measured target": ("1,0.5\n2,0.7\n3,0.9\n", "expected at least 3 rows of each class"),
    "too large": (
        GOOD.replace("4,4,b", "1e200,4,b").replace("3,3,a", "-1e200,3,a"),
        "too large to be normalised",
    ),
    "not text": ("\udcff\udcfe,a\n", "is not a CSV file in UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_one_line_and_exit_code_2(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, message = BAD[case]
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert_refused(["--data", str(tmp_path / "t.csv")], message, monkeypatch, capsys, tmp_path)


OTHERS = {
    "no such file": (["--data", "{tmp}/none.csv"], "there is no file"),
    "a folder": (["--data", "{tmp}/folder.csv"], "cannot be read"),
    "a size": (
        ["--data", "moons", "--image-size", "8"],
        "an image size is for images, but moons is a table",
    ),
    "networks for images": (
        ["--data", "moons", "--space", "convnet-grid"],
        "'mlp-grid' is for tables",
    ),
    "nearly a name": (["--data", "moon"], "did you mean moons"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_does_not_go_with_tables(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()
    flags, message = OTHERS[case]
    assert_refused(
        [flag.format(tmp=tmp_path) for flag in flags], message, monkeypatch, capsys, tmp_path
    )


def assert_refused(
    flags: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["proxynas", "search", *flags, "--out", str(out)])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed, err = capsys.readouterr()
    assert left.value.code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in printed + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out.exists()


def test_gm_on_a_table(moons: Dataset) -> None:
    """The distance falls, the set is rows, and it can be read back."""
    assert students.default_student(moons.shape) == "evaluation-nets:mlp"
    proxy = distill(DistillSpec(data="moons", steps=40, settings={"real_batch": 64}), moons)
    assert proxy.x.shape == (2, 2)
    losses = proxy.provenance["losses"]
    assert sum(losses[-5:]) < sum(losses[:5])
    torch.testing.assert_close(proxy.images(), moons.preprocessing.invert(proxy.x))
    spec = DistillSpec(steps=1, settings={"student": "D1-W32-relu-none-none"})
    with pytest.raises(SpaceError, match="'mlp-grid' is for tables"):
        distill(spec, moons)


def test_the_shipped_truth_is_of_these_points(moons: Dataset) -> None:
    table, space = truth.find("mlp-grid", "moons"), spaces.load("mlp-grid")
    assert table is not None
    table.check(moons, "mlp-grid")
    accuracy = table.accuracy()
    assert set(accuracy.index) == set(space)
    assert accuracy["L1-relu"] < 0.89 < accuracy["L2x10-relu"] < accuracy["L4x10-relu"]


def test_zero_cost_indicators_on_rows(moons: Dataset) -> None:
    scores = zero_cost(
        spaces.load("mlp-grid"), "L4x10-relu", moons, list(INDICATORS), seed=0, batch=8
    )
    assert np.isfinite([scores[name] for name in INDICATORS]).all()


@pytest.mark.parametrize("method", ["gm", "herding"])
def test_the_whole_flow_on_a_table(method: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "shapes.csv", rows=200)
    method_settings = {"gm": {"real_batch": 20}, "herding": {"width": 4, "updates": 5}}[method]
    steps = 2 if method == "gm" else None
    spec = SearchSpec(
        data=str(path),
        space="mlp-grid",
        method=method,
        steps=steps,
        settings=method_settings,
        candidates=5,
        seeds=1,
        updates=5,
    )
    result = flow.search(spec, tmp_path / "run", workers=1)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["dataset"]["shape"] == [2]
    assert report["best"]["arch"].startswith("L")
    page = result.report.read_text()
    assert "proxy images" not in page
    assert not (tmp_path / "run" / "figures" / "proxy-images.png").exists()
    assert proxyset.read(tmp_path / "run" / "proxy.safetensors").x.shape == (2, 2)
    assert flow.rewrite(tmp_path / "run", indicator="sotl").report == result.report
