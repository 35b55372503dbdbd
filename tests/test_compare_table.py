"""The table of a comparison, and the directory that it belongs to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from proxynas import compare, proxyset
from proxynas.cli import console
from proxynas.compare import worker
from proxynas.compare.jobs import Job, all_jobs
from proxynas.compare.table import tabulate
from proxynas.compare.worker import Result
from proxynas.core.errors import DivergedError, RunFolderError, SpaceError
from proxynas.core.rundir import open_folder
from proxynas.datasets import Dataset
from proxynas.engine.contract import Mapper
from proxynas.engine.local import LocalProcesses, alone

from .test_compare import ARCH, make, one


def test_the_table_of_known_results(digits: Dataset, tmp_path: Path) -> None:
    spec = make(
        {"name": "a", "paper": {ARCH: "50.0"}},
        {"name": "b", "archs": ["mlp"]},
        distillations=3,
        points=1,
    )
    jobs = all_jobs(spec, digits, tmp_path)
    points = [{"part": 1.0, "seconds": s, "steps": 2, "accuracy": 0.5} for s in (1.0, 3.0)]
    usual = Result(
        "a",
        0,
        "f",
        seconds=2.0,
        core_seconds=1.0,
        peak_mib=300.0,
        base_mib=250.0,
        steps=4,
        made_on="cpu",
    )
    results = [
        replace(usual, accuracies={ARCH: [0.4, 0.6]}, curve=[points[0]]),
        replace(
            usual, accuracies={ARCH: [0.7, 0.7]}, curve=[points[1]], peak_mib=320.0, seconds=4.0
        ),
        replace(usual, failed="diverged", reason="its loss is nan"),
        *([replace(usual, failed="failed", reason="too few seconds")] * 3),
    ]
    table = tabulate(spec, jobs, results, {"name": digits.name})
    a, b = table.lines
    cell = a.cells[ARCH]
    assert (cell.mean, cell.sd, cell.n) == pytest.approx((0.6, stdev([0.4, 0.6, 0.7, 0.7]), 4))
    assert cell.sd_sets == pytest.approx(stdev([0.5, 0.7]))
    assert (a.seconds, a.steps, a.peak_mib, a.memory_mib) == (3.0, 4, 320.0, 70.0)
    assert a.curve == ({"part": 1.0, "seconds": 2.0, "steps": 2, "accuracy": 0.5, "sets": 2},)
    assert (b.cells, b.seconds, b.failed) == ({}, None, ("failed",) * 3)
    head, _, first, second, *notes = table.markdown().splitlines()
    assert head == f"| row | {ARCH} | paper | mlp | steps | seconds | memory MiB |"
    assert first == "| a | 60.0 ± 14.1 (1 of 3 diverged) | 50.0 | – | 4 | 3.0 | 70 |"
    assert second == "| b | – |  | failed | – | – | – |"
    assert "a: 1 of 3 diverged: its loss is nan  " in notes
    assert "b: 3 of 3 failed: too few seconds  " in notes
    assert table.rich().row_count == 2
    assert json.loads(table.json())["rows"][1]["reasons"] == ["too few seconds"] * 3


def test_names_of_rows_are_shown_as_they_are(digits: Dataset, tmp_path: Path) -> None:
    name = "=a <b>[/red] | $x_{$\n\x1b[31m"
    spec = make({"name": name}, points=1)
    known = Result(
        "a", 0, "f", seconds=2.0, core_seconds=1.0, peak_mib=300.0, base_mib=250.0, steps=4,
        made_on="cpu", accuracies={ARCH: [0.5]},
    )  # fmt: skip
    table = tabulate(spec, all_jobs(spec, digits, tmp_path), [known], {"name": digits.name})
    _, _, row, *_ = table.markdown().splitlines()
    assert row.startswith("| =a &lt;b&gt;\\[/red\\] \\| $x_{$\\\\n\\\\x1b\\[31m | 50.0")
    assert row.isprintable()
    with console.out.capture() as printed:
        console.out.print(table.rich())
    assert "[/red]" in printed.get()
    assert "\x1b" not in printed.get()


def test_other_rows_take_another_folder(tmp_path: Path) -> None:
    open_folder(make({"name": "a"}), tmp_path)
    open_folder(make({"name": "a"}), tmp_path)
    with pytest.raises(RunFolderError, match=r"its rows is \[.*'a'.*asks for \[.*'b'"):
        open_folder(make({"name": "b"}), tmp_path)
    with pytest.raises(
        RunFolderError, match=r"its rows differs from what this one asks for \(see .*spec.toml\);"
    ):
        open_folder(make({"name": "b" * 100}, {"name": "a" * 100}), tmp_path)


def test_a_damaged_or_foreign_result_is_refused(digits: Dataset, tmp_path: Path) -> None:
    spec = make({"name": "a", "method": "random"})
    job, result = one(spec, digits, tmp_path)
    job.result.parent.mkdir()
    for text, message in (
        ("{", "not a readable result"),
        (json.dumps({**result.to_dict(), "accuracies": 3}), "not a readable result"),
        (json.dumps({**result.to_dict(), "fingerprint": "x"}), "other"),
    ):
        job.result.write_text(text)
        with pytest.raises(RunFolderError, match=message):
            compare.compare(spec, tmp_path)


def test_a_set_that_was_changed_is_no_result(digits: Dataset, tmp_path: Path) -> None:
    spec = make({"name": "a", "method": "random"})
    job, _ = one(spec, digits, tmp_path)
    proxy = proxyset.read(job.set())
    assert proxy.provenance["base_mib"] > 0
    job.set().write_bytes(b"nothing")
    with pytest.raises(Exception, match=r"not a readable .safetensors"):
        one(spec, digits, tmp_path)


class Here(LocalProcesses):
    """Every task in this process."""

    @contextmanager
    def opened(self, prepare: Any, workers: int, *, apart: bool = False) -> Iterator[Mapper]:
        yield alone(prepare)


def test_a_set_that_cannot_be_made_is_not_tried_again_for_rows_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def diverges(dataset: Dataset, job: Job) -> None:
        tried.append(job.row)
        raise DivergedError("it grew")

    monkeypatch.setattr(worker, "distilled", diverges)
    rows = ({"name": "a"}, {"name": "b", "updates": 6}, {"name": "c", "method": "random"})
    table = compare.compare(make(*rows), tmp_path, engine=Here())
    assert tried == ["a", "c"]
    assert [(line.failed, line.reasons) for line in table.lines] == [
        (("diverged",), ("it grew",))
    ] * 3
    tried.clear()
    assert compare.compare(make(*rows), tmp_path, engine=Here()) == table
    assert tried == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_memory_did_not_suffice_for_is_tried_again(
    wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(dataset: Dataset, job: Job) -> None:
        full = MemoryError("memory is full")
        if not wrapped:
            raise full
        raise SpaceError("building failed: memory is full") from full

    spec = make({"name": "a", "method": "random"})
    with monkeypatch.context() as patch:
        patch.setattr(worker, "distilled", too_large)
        (line,) = compare.compare(spec, tmp_path, engine=Here()).lines
        assert line.failed == ("lost",)
        assert line.reasons[0].endswith(f"memory is full; {worker.AGAIN}")
    assert not [*(tmp_path / "results").glob("*")]
    (line,) = compare.compare(spec, tmp_path, engine=Here()).lines
    assert line.failed == ()


def test_other_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(dataset: Dataset, job: Job) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(worker, "distilled", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        compare.compare(make({"name": "a", "method": "random"}), tmp_path, engine=Here())
