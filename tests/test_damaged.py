"""Files that lie in a run, or are handed to one, and are not what they should be: refused in one
line, and never taken for what they are not."""

import ctypes
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from proxynas import proxyset
from proxynas.core import files, tensorfile
from proxynas.core.errors import ProxyFileError, RunFolderError
from proxynas.core.progress import Progress
from proxynas.datasets import Dataset, Preprocessing
from proxynas.distill import loop
from proxynas.distill.loop import distill
from proxynas.pipeline import flow
from proxynas.proxyset import ProxySet
from proxynas.search.store import Store
from proxynas.specs import DistillSpec, SearchSpec
from proxynas.training.curriculum import Curriculum

from .test_store import a_score

TINY = SearchSpec(
    candidates=3, updates=2, seeds=1, label=0, verify=0, steps=2, truth="none", val_size=50
)

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def change(path: Path, edit: Change) -> None:
    """Edit a file of tensors, and seal it again with the right checksum."""
    about, tensors = tensorfile.read(path)
    edit(about, tensors)
    metadata = json.dumps({"about": about, "checksum": tensorfile.checksum(about, tensors)})
    save_file(tensors, path, {"proxynas": metadata})


def set_at(place: str, *at: int, to: float) -> Change:
    def edit(about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors[place] = tensors[place].clone()
        tensors[place][at] = to

    return edit


CRAFTED: dict[str, Change] = {
    "NaN images": set_at("x", 0, 0, 0, 0, to=float("nan")),
    "infinite images": set_at("x", 0, 0, 0, 0, to=float("inf")),
    "NaN rates": set_at("rates", 0, to=float("nan")),
    "a label out of range": set_at("y", 0, to=10),
    "a label below zero": set_at("y", 0, to=-1),
    "an order out of range": set_at("order", 0, 0, to=99),
    "a negative rate": set_at("rates", 0, to=-0.1),
    "infinite rates": set_at("rates", 0, to=float("inf")),
    "whole numbers for rates": lambda a, t: t.update(rates=t["rates"].long()),
    "fractions for an order": lambda a, t: t.update(order=t["order"].float()),
    "short whole numbers for labels": lambda a, t: t.update(y=t["y"].int()),
    "NaN soft labels": lambda a, t: t.update(y=torch.full((4, 2), torch.nan)),
    "infinite soft labels": lambda a, t: t.update(y=torch.full((4, 2), torch.inf)),
    "soft labels of other classes": lambda a, t: t.update(y=torch.zeros(4, 3)),
    "fewer labels than images": lambda a, t: t.update(y=t["y"][:-1].clone()),
    "fewer images than labels": lambda a, t: t.update(y=torch.tensor([0, 0, 1, 1, 1])),
    "no images": lambda a, t: t.update(x=t["x"][:0].clone(), y=t["y"][:0].clone()),
    "whole numbers for images": lambda a, t: t.update(x=t["x"].long()),
    "double images": lambda a, t: t.update(x=t["x"].double()),
    "half labels": lambda a, t: t.update(y=t["y"].half()),
    "a number for images": lambda a, t: t.update(x=torch.tensor(1.0)),
    "a number for labels": lambda a, t: t.update(y=torch.tensor(1)),
    "three dimensions": lambda a, t: t.update(x=t["x"][:, 0].clone()),
    "a number for an order": lambda a, t: t.update(order=torch.tensor(1)),
    "a number for rates": lambda a, t: t.update(rates=torch.tensor(1.0)),
    "rates without an order": lambda a, t: t.pop("order"),
    "no labels": lambda a, t: t.pop("y"),
    "no deviation": lambda a, t: a["preprocessing"].update(std=[0.0]),
    "NaN deviation": lambda a, t: a["preprocessing"].update(std=[float("nan")]),
    "two means": lambda a, t: a["preprocessing"].update(mean=[0.0, 0.0]),
    "text for a mean": lambda a, t: a["preprocessing"].update(mean="zero"),
    "preprocessing that is no table": lambda a, t: a.update(preprocessing=[1]),
    "whitening without a matrix": lambda a, t: a["preprocessing"].update(zca=0.1),
    "no class names": lambda a, t: a.update(class_names=[]),
    "class names that are numbers": lambda a, t: a.update(class_names=[1, 2]),
    "a recipe that is a list": lambda a, t: a.update(recipe=[]),
    "a recipe of 10^12 updates": lambda a, t: a["recipe"].update(updates=10**12),
    "seconds that are text": lambda a, t: a["provenance"].update(seconds="long"),
    "provenance that is a list": lambda a, t: a.update(provenance=[]),
    "a generator of no kind": lambda a, t: a.update(generator={"kind": "x", "k": 1, "batch": 1}),
    "a generator without tensors": lambda a, t: a.update(
        generator={"kind": "gtn-rnd", "k": 8, "batch": 1}
    ),
    "no format": lambda a, t: a.pop("format"),
}


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    path = tmp_path / "set.safetensors"
    steps = Curriculum(torch.tensor([[0, 1], [2, 3]]), torch.tensor([0.1, 0.1]))
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
    ProxySet(x, y, Preprocessing((0.0,), (1.0,)), ("a", "b"), curriculum=steps).save(path)
    return path


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_proxy_file_with_the_right_checksum(case: str, small_set: Path) -> None:
    change(small_set, CRAFTED[case])
    with pytest.raises(ProxyFileError) as error:
        proxyset.read(small_set)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(small_set))


NO_TABLES = {
    "a list": "[1]",
    "nothing": "null",
    "text": '"text"',
    "a number": "3",
    "nested lists": "[" * 100_000,
    "5,000 digits": "1" * 5000,
}


@pytest.mark.parametrize("case", NO_TABLES)
def test_a_description_that_is_no_table(case: str, small_set: Path) -> None:
    """With the right checksum, where it can be read at all."""
    _, tensors = tensorfile.read(small_set)
    about, checksum = NO_TABLES[case], ""
    with suppress(ValueError, RecursionError):
        checksum = tensorfile.checksum(json.loads(about), tensors)
    save_file(tensors, small_set, {"proxynas": f'{{"about": {about}, "checksum": "{checksum}"}}'})
    with pytest.raises(ProxyFileError, match="checksum differs"):
        proxyset.read(small_set)


def test_a_set_of_fewer_images_than_classes_is_compared_with_one_image_a_class(
    digits: Dataset, tmp_path: Path
) -> None:
    x, y = digits.train.x[:4], torch.full((4, 10), 0.1)
    few = ProxySet(x, y, digits.preprocessing, digits.class_names)
    few.save(tmp_path / "few.safetensors")
    result = flow.search(
        replace(TINY, steps=None, proxy=str(tmp_path / "few.safetensors")), tmp_path / "run",
        workers=1,
    )  # fmt: skip
    assert result.report.exists()
    assert len(proxyset.read(tmp_path / "run" / "random.safetensors")) == 10


def test_one_flipped_bit_in_a_checkpoint_is_noticed(digits: Dataset, tmp_path: Path) -> None:
    path, spec = tmp_path / "distill.checkpoint", DistillSpec(steps=2)
    distill(spec, digits, checkpoint=path)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunFolderError, match=r"checksum differs.*remove it to start"):
        distill(spec, digits, checkpoint=path)


@pytest.mark.parametrize("progress", [None, [], {"step": "one"}])
def test_a_checkpoint_of_another_version(progress: object, digits: Dataset, tmp_path: Path) -> None:
    path, spec = tmp_path / "distill.checkpoint", DistillSpec(steps=2)
    distill(spec, digits, checkpoint=path)
    change(path, lambda about, tensors: about.update(progress=progress))
    with pytest.raises(RunFolderError, match=r"of another version.*remove it to start"):
        distill(spec, digits, checkpoint=path)


STATES: dict[str, Change] = {
    "a tensor that is missing": lambda a, t: t.pop("synthetic.x"),
    "a tensor of no dimension": lambda a, t: t.update({"synthetic.x": torch.tensor(1.0)}),
    "a tensor of another dtype": lambda a, t: t.update({"synthetic.x": t["synthetic.x"].double()}),
    "images of another size": lambda a, t: t.update(
        {"synthetic.x": t["synthetic.x"][..., :7].clone()}
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_a_checkpoint_with_the_right_checksum_and_other_tensors(
    case: str, digits: Dataset, tmp_path: Path
) -> None:
    path, spec = tmp_path / "distill.checkpoint", DistillSpec(steps=2)
    distill(spec, digits, checkpoint=path)
    change(path, STATES[case])
    with pytest.raises(RunFolderError, match=r"of another version.*remove it to start"):
        distill(spec, digits, checkpoint=path)


def test_a_checkpoint_without_what_its_next_step_reads(digits: Dataset, tmp_path: Path) -> None:
    """The momentum of APM's images, which its set has no use for."""
    path = tmp_path / "distill.checkpoint"
    quick = {"experts": 1, "expert_epochs": 1, "epochs": 1, "checkpoints": 1}
    spec = DistillSpec(method="apm", steps=2, settings=quick)

    def stop(progress: Progress) -> None:
        if progress.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(spec, digits, checkpoint=path, on_step=stop)
    change(path, lambda about, tensors: tensors.pop("velocity"))
    with pytest.raises(RunFolderError, match=r"of another version.*remove it to start"):
        distill(spec, digits, checkpoint=path)


def test_lack_of_memory_is_not_the_fault_of_a_checkpoint(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spec = tmp_path / "distill.checkpoint", DistillSpec(steps=2)
    distill(spec, digits, checkpoint=path)

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    starved = replace(loop.find(spec.method), finish=full)
    monkeypatch.setattr(loop, "find", lambda name: starved)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        distill(spec, digits, checkpoint=path)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    flow.search(TINY, folder, workers=1)
    return folder


@pytest.fixture
def run_folder(a_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(a_run, tmp_path / "run"))


def test_a_run_does_not_resume_from_a_checkpoint_with_a_flipped_bit(run_folder: Path) -> None:
    """Its set and rows are gone, so that it would be distilled from there."""
    path = run_folder / "distill.checkpoint"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    for name in ("proxy.safetensors", "run.sqlite"):
        (run_folder / name).unlink()
    with pytest.raises(RunFolderError, match=r"checksum differs.*remove it to start"):
        flow.search(TINY, run_folder, workers=1)
    assert not (run_folder / "proxy.safetensors").exists()


def test_rows_of_two_sets_are_not_mixed(run_folder: Path) -> None:
    change(run_folder / "proxy.safetensors", set_at("x", 0, 0, 0, 0, to=0.5))
    with sqlite3.connect(run_folder / "run.sqlite") as store:
        store.execute("DELETE FROM scores WHERE arch = (SELECT min(arch) FROM scores)")
    for again in (
        lambda: flow.search(TINY, run_folder, workers=1),
        lambda: flow.rewrite(run_folder),
    ):
        with pytest.raises(RunFolderError, match="made with another set"):
            again()


DAMAGE = {
    "a blob of odd length": "UPDATE scores SET losses = x'00112233445566'",
    "an infinite sum of losses": "UPDATE scores SET sotl = 9e999",
    "infinite losses": "UPDATE scores SET losses = x'0000807f0000807f'",
    "an accuracy of 7": "UPDATE scores SET val_accuracy = 7.0",
    "a column that is not there": "ALTER TABLE scores DROP COLUMN val_auc",
    "a column of another name": "ALTER TABLE zero_cost RENAME COLUMN value TO score",
    "no table of owners": "DROP TABLE owner",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_store_or_one_of_an_older_version(case: str, run_folder: Path) -> None:
    with sqlite3.connect(run_folder / "run.sqlite") as store:
        store.execute(DAMAGE[case])
    with pytest.raises(RunFolderError, match=r"is damaged|of another version|not a run store"):
        flow.rewrite(run_folder)


def test_a_store_from_before_fingerprints_of_sets_goes_on(run_folder: Path) -> None:
    with sqlite3.connect(run_folder / "run.sqlite") as store:
        store.execute("DROP TABLE sets")
    assert flow.search(TINY, run_folder, workers=1).report.exists()


def test_a_folder_that_may_not_be_written_is_not_called_damage() -> None:
    """Root may write everywhere, so that its rights to files are put down for a moment."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        store = Store(folder / "run.sqlite")
        store.add([a_score()])
        store.close()
        (folder / "run.sqlite").chmod(0o444)
        folder.chmod(0o555)
        rights = ctypes.CDLL(None).setfsuid if os.geteuid() == 0 else lambda user: None
        try:
            rights(65534)
            with pytest.raises(RunFolderError) as error:
                Store(folder / "run.sqlite").scores()
        finally:
            rights(0)
            folder.chmod(0o755)
    assert "damaged" not in str(error.value)
    assert "that can be written" in str(error.value)


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_text(tmp_path / "mine", "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600
    files.write_text(tmp_path / "theirs", "public")
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o666 & ~before


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())
