"""Folders of images: their layouts, and what a user hears when one will not do."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from proxynas.core.errors import DataError
from proxynas.datasets import (
    folder,
    load,
    pixels,
)

from .image_files import empty, refusal, replace_by_text, same, undo, write_folder, write_image

RUN_AS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- folders


def test_folder_with_its_own_test_split(tmp_path: Path) -> None:
    counts = {"train/cat": 20, "train/dog": 30, "test/cat": 3, "test/dog": 4}
    data = load(str(write_folder(tmp_path / "pets", counts)))
    assert (data.name, data.class_names, data.shape) == ("pets", ("cat", "dog"), (3, 5, 6))
    assert (len(data.train), len(data.val), len(data.test)) == (45, 5, 7)
    assert data.class_counts() == (18, 27)
    assert torch.bincount(data.test.y).tolist() == [3, 4]


def test_folder_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 2})
    data = load(root)
    got = {tuple((image * 255).round().flatten().int().tolist()) for image in undo(data)}
    files = (root / "test").rglob("*.png")
    assert got == {
        tuple(np.asarray(Image.open(file)).transpose(2, 0, 1).flatten().tolist()) for file in files
    }


def test_classes_at_the_top_are_split_by_us(tmp_path: Path) -> None:
    data = load(write_folder(tmp_path / "set", {"a": 50, "b": 50}))
    assert (len(data.train), len(data.val), len(data.test)) == (72, 8, 20)
    for part in (data.train, data.val, data.test):
        assert torch.bincount(part.y).tolist() == [len(part) // 2] * 2


def test_train_folder_alone_is_split_as_classes_at_the_top_are(tmp_path: Path) -> None:
    data = load(write_folder(tmp_path / "set", {"train/a": 10, "train/b": 10}))
    assert (len(data.train), len(data.val), len(data.test)) == (14, 2, 4)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folder_with_its_own_val_split(tmp_path: Path, name: str) -> None:
    counts = {f"{part}/{label}": 3 for part in ("train", name, "test") for label in "ab"}
    root = write_folder(tmp_path / "set", counts)
    data = load(root)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 6, 6)
    with pytest.raises(DataError, match="has a validation split already"):
        load(root, val_fraction=0.2)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("Train", "Test"), ("train", "TEST")])
def test_splits_by_other_names(tmp_path: Path, names: tuple[str, str]) -> None:
    counts = {f"{part}/{label}": 10 for part in names for label in ("cat", "dog")}
    data = load(write_folder(tmp_path / "set", counts))
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 20)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    counts = {f"{part}/{label}": 5 for part in ("Train", "training") for label in "ab"}
    root = write_folder(tmp_path / "set", counts)
    assert refusal(root) == (
        f"expected one folder to train from, but got {root / 'Train'} and {root / 'training'}; "
        "rename or merge them"
    )


def test_a_folder_of_the_system(tmp_path: Path) -> None:
    assert "is a part of the system" in refusal("/proc/self")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert len(load(write_folder(Path(folder) / "set", {"a": 5, "b": 5})).train) > 0


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load(write_folder(tmp_path / "vehicles", {"car": 4, "plane": 4, "train": 4}))
    assert data.class_names == ("car", "plane", "train")


def test_the_smallest_folder_that_can_be_split(tmp_path: Path) -> None:
    data = load(write_folder(tmp_path / "set", {"a": 3, "b": 3, "c": 40}))
    for part in (data.train, data.val, data.test):
        assert torch.bincount(part.y, minlength=3).min() >= 1


def test_images_come_mixed(tmp_path: Path) -> None:
    data = load(
        write_folder(tmp_path / "set", {"train/a": 30, "train/b": 30, "test/a": 30, "test/b": 30})
    )
    for part in (data.train, data.test):
        assert len(set(part.y[:10].tolist())) == 2


def test_same_folder_same_result_in_whatever_order_it_was_written(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", {"a": 12, "b": 12})
    two = tmp_path / "two"
    for path in sorted(one.rglob("*.png"), reverse=True):
        (two / path.relative_to(one)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, two / path.relative_to(one))
    assert same(load(one), load(two))


def test_same_folder_same_result_in_another_process(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 12, "b": 12})
    code = "import sys; from proxynas.datasets import load; print(load(sys.argv[1]).fingerprint)"
    env = {**os.environ, "PROXYNAS_CACHE": str(tmp_path / "other cache"), "PYTHONHASHSEED": "7"}
    out = subprocess.run(
        [sys.executable, "-c", code, root], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == load(root).fingerprint


def test_folders_within_classes_are_searched_and_links_back_are_not_followed(
    tmp_path: Path,
) -> None:
    root = write_folder(tmp_path / "set", {"a/x": 2, "a/y/z": 2, "b": 4})
    (root / "a" / "x" / "loop").symlink_to(root / "a", target_is_directory=True)
    assert sum(len(part) for part in folder.scan(root).parts.values()) == 8


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 4, "b": 4})
    (root / "a" / "labels.txt").write_text("not an image")
    (root / "a" / "._001.png").write_bytes(b"resource fork")
    (root / ".git").mkdir()
    (root / "LICENSE").write_text("free")
    assert len(folder.scan(root).parts["train"]) == 8


def test_extensions_in_capitals_count(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 3, "b": 3})
    (root / "a" / "000.png").rename(root / "a" / "000.PNG")
    assert len(folder.scan(root).parts["train"]) == 6


def test_a_folder_is_not_taken_for_the_dataset_of_its_name(tmp_path: Path) -> None:
    assert load(write_folder(tmp_path / "cifar10", {"a": 3, "b": 3})).name == "cifar10-folder"


def test_relative_path_with_a_root(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "mine", {"a": 3, "b": 3})
    assert load("mine", root=tmp_path / "data").name == "mine"


def test_progress_counts_images_up_to_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "BATCH", 4)
    calls: list[tuple[int, int]] = []
    load(
        write_folder(tmp_path / "set", {"a": 5, "b": 5}),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(4, 10), (8, 10), (10, 10)]


# --- what a user is told


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar-10", "did you mean cifar10"),
        ("FashionMNIST", "fashion-mnist"),
        ("imagenet21k", "choose from digits, moons, mnist, fashion-mnist, svhn, cifar10, cifar100"),
        ("", "choose from digits"),
    ],
)
def test_unknown_name(name: str, hint: str) -> None:
    message = refusal(name)
    assert f"unknown dataset {name!r}" in message
    assert hint in message


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~nobody-by-this-name/x", "x" * 300 + "/y"]
)
def test_folder_that_does_not_exist(name: str) -> None:
    assert "expected a folder of images, but" in refusal(name)


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    assert refusal(write_image(tmp_path / "x.png")).endswith("x.png is a file")


def test_empty_folder(tmp_path: Path) -> None:
    assert f"expected a subfolder for each class in {tmp_path}" in refusal(tmp_path / "")


def test_images_side_by_side(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {".": 3})
    assert "its 3 images lie side by side: lay images out as" in refusal(tmp_path / "set")


def test_only_one_class(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"train/cat": 5})
    assert (
        refusal(root)
        == f"expected at least 2 classes in {root / 'train'}, but it has only one, 'cat'"
    )


def test_test_folder_without_train(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"test/a": 3, "test/b": 3})
    assert "<class>/* beside" in refusal(root)


def test_too_few_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 9, "b": 2})
    message = refusal(root)
    assert (
        "at least 3 images of each class to cut val and test from, but class 'b' has 2" in message
    )
    (root / "train").mkdir()
    root = write_folder(tmp_path / "set2", {"train/a": 9, "train/b": 1, "test/a": 1, "test/b": 1})
    assert "at least 2 images of each class to cut val from, but class 'b' has 1" in refusal(root)


def test_class_without_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 3})
    (root / "b").mkdir()
    assert f"in {root / 'b'}, but it holds no files at all" in refusal(root)
    (root / "b" / "notes.txt").write_text("text")
    assert "but it holds only 1 files of other kinds" in refusal(root)


def test_classes_that_differ_between_train_and_test(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 3})
    assert "but it lacks b and adds c" in refusal(root)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    write_image(root / "b" / "odd.png", size=(7, 9))
    message = refusal(root)
    assert "is 6×5" in message
    assert "odd.png is 7×9" in message or "odd.png is 7×9" in message.replace("and ", "")
    assert "--image-size N" in message


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def break_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    path.write_bytes(content)


def claim_a_bomb(path: Path) -> None:
    Image.new("1", (20000, 20000)).save(path)


@pytest.mark.parametrize("damage", [cut_short, replace_by_text, empty, break_header, claim_a_bomb])
def test_a_corrupt_image_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    damage(root / "b" / "003.png")
    assert f"expected an image, but {root / 'b' / '003.png'} cannot be decoded (" in refusal(root)


def test_broken_link(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "gone.png cannot be read (No such file or directory)" in refusal(root)


@pytest.mark.skipif(RUN_AS_ROOT, reason="root may read everything")
def test_permissions(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "000.png").chmod(0)
    assert "000.png may not be read: change its permissions" in refusal(root)
    (root / "a").chmod(0)
    try:
        assert f"{root / 'a'} cannot be listed (Permission denied)" in refusal(root)
    finally:
        (root / "a").chmod(0o755)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    assert f"{tmp_path} cannot be listed (Permission denied)" in refusal(tmp_path)


def test_more_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "BYTES_PER_PIXEL", 2**50)
    assert "10 images of 6×5 need about" in refusal(
        write_folder(tmp_path / "set", {"a": 5, "b": 5})
    )


def test_more_than_memory_holds_in_colour_or_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is grey, and then is not, takes three times as much."""
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5}, mode="L")
    write_image(root / "b" / "9.png", mode="RGB")
    need = 11 * 30 * pixels.BYTES_PER_PIXEL
    memory = SimpleNamespace(available=2 * need)
    with monkeypatch.context() as patch:
        patch.setattr(pixels.psutil, "virtual_memory", lambda: memory)
        assert "11 images of 6×5 need about" in refusal(root)
        memory.available = 3 * need
        load(root)
        memory.available = 2 * need
        assert "11 images of 6×5 need about" in refusal(root)


def test_images_of_another_size_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    Image.new("RGB", (500, 400)).save(root / "a" / "000.png")
    monkeypatch.setattr(
        pixels, "_eight_bits", lambda image: image if image.size == (6, 5) else pytest.fail("size")
    )
    assert "500×400" in refusal(root)


def test_a_program_under_the_name_of_an_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "000.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n")
    assert "cannot be decoded (cannot identify image file" in refusal(root)


def test_image_size_out_of_range() -> None:
    assert refusal("digits", image_size=0) == "the image size must be at least 1, but got 0"
