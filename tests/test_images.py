"""Image files of every kind, and the cache of decoded ones."""

import logging
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from proxynas.core.errors import DataError
from proxynas.datasets import (
    cache,
    folder,
    load,
    pixels,
)

from .image_files import empty, replace_by_text, same, write_folder, write_image

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- kinds of images


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    assert load(write_folder(tmp_path / "set", {"a": 3, "b": 3}, mode="L")).shape == (1, 5, 6)


@pytest.mark.parametrize("first", [True, False])
def test_one_image_in_colour_makes_all_rgb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    monkeypatch.setattr(pixels, "BATCH", 2)
    grey = [write_image(tmp_path / f"{i}.png", i, mode="L") for i in range(4)]
    colour = write_image(tmp_path / "colour.png", 9)
    x = pixels.decode_all([colour, *grey] if first else [*grey, colour], None, None)
    x = x.roll(-1, 0) if first else x
    assert x.shape == (5, 3, 5, 6)
    for i, path in enumerate(grey):
        assert all(
            np.array_equal(x[i, channel], np.asarray(Image.open(path))) for channel in range(3)
        )
    assert np.array_equal(x[4].permute(1, 2, 0), np.asarray(Image.open(colour)))


def as_palette(path: Path) -> np.ndarray[Any, Any]:
    image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6) % 3, mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(path, transparency=bytes([0, 128, 255]))
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    return np.asarray(colours[np.arange(30).reshape(5, 6) % 3])


def as_sixteen_bits(path: Path) -> np.ndarray[Any, Any]:
    values = np.linspace(0, 65535, 30).astype(np.uint16).reshape(5, 6)
    Image.fromarray(values).save(path)
    return (values // 256).astype(np.uint8)


def as_bilevel(path: Path) -> np.ndarray[Any, Any]:
    values = np.arange(30).reshape(5, 6) % 2 == 0
    Image.fromarray(values).save(path)
    return np.asarray(values * 255, dtype=np.uint8)


def as_rgba(path: Path) -> np.ndarray[Any, Any]:
    write_image(path, mode="RGBA")
    return np.array(Image.open(path))[:, :, :3]


def as_grey_with_alpha(path: Path) -> np.ndarray[Any, Any]:
    write_image(path, mode="LA")
    return np.array(Image.open(path).getchannel("L"))


@pytest.mark.parametrize(
    "write", [as_palette, as_sixteen_bits, as_bilevel, as_rgba, as_grey_with_alpha]
)
def test_decode_other_modes(tmp_path: Path, write: Callable[[Path], np.ndarray[Any, Any]]) -> None:
    expected = write(tmp_path / "image.png")
    assert np.array_equal(pixels.decode(tmp_path / "image.png"), expected)


def test_a_grey_map_of_sixteen_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 30).astype(">u2").reshape(5, 6)
    (tmp_path / "image.pgm").write_bytes(b"P5 6 5 65535\n" + values.tobytes())
    assert np.array_equal(pixels.decode(tmp_path / "image.pgm"), values // 256)


def test_whole_numbers_of_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(30, dtype=np.int32).reshape(5, 6)).save(tmp_path / "depth.tiff")
    with pytest.raises(DataError, match="pixels are of mode I, expected 8 or 16 bits"):
        pixels.decode(tmp_path / "depth.tiff")


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(DataError, match=r"depth\.tiff cannot be decoded \(pixels are of mode F"):
        pixels.decode(tmp_path / "depth.tiff")


def test_image_size_crops_about_the_centre_and_resizes(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert np.array_equal(pixels.decode(tmp_path / "wide.png", 4), np.full((4, 4), 200))
    larger = pixels.decode(tmp_path / "wide.png", 8)
    assert larger.shape == (8, 8)
    assert (larger[:, 1:-1] == 200).all()
    assert np.array_equal(
        pixels.resize(torch.from_numpy(wide).expand(2, 3, 4, 12), 8)[1, 2], larger
    )


def test_image_size_makes_one_of_many_sizes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    write_image(root / "a" / "large.png", size=(20, 30))
    assert load(root, image_size=8).shape == (3, 8, 8)


def test_image_size_resizes_named_datasets_too() -> None:
    data = load("digits", image_size=12)
    assert data.shape == (1, 12, 12)
    assert data.fingerprint != load("digits").fingerprint
    assert torch.equal(data.test.y, load("digits").test.y)
    assert same(load("digits", image_size=8), load("digits"))


# --- the cache


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many images each call decodes."""
    calls: list[int] = []
    original = pixels.decode_all

    def counting(paths: Any, image_size: Any, progress: Any) -> torch.Tensor:
        calls.append(len(paths))
        return original(paths, image_size, progress)

    monkeypatch.setattr(folder, "decode_all", counting)
    return calls


def test_a_folder_is_decoded_once(tmp_path: Path, decoded: list[int], own_cache: Path) -> None:
    root = write_folder(tmp_path / "set", {"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 2})
    assert same(load(root), load(root))
    assert decoded == [14]
    assert [path.suffix for path in (own_cache / "datasets").iterdir()] == [".safetensors"]


def test_a_changed_file_is_noticed_and_the_old_cache_removed(
    tmp_path: Path, decoded: list[int], own_cache: Path
) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    before = load(root)
    write_image(root / "a" / "000.png", seed=99)
    os.utime(root / "a" / "000.png", ns=(1, 1))
    assert load(root).fingerprint != before.fingerprint
    assert decoded == [10, 10]
    assert len(list((own_cache / "datasets").iterdir())) == 1


def test_folders_and_sizes_do_not_share_a_cache(tmp_path: Path, decoded: list[int]) -> None:
    for name, value in (("one", 1), ("two", 2)):
        for i in range(6):  # alike in names, sizes and times
            path = tmp_path / name / "ab"[i % 2] / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), value).save(path)
            os.utime(path, ns=(0, 0))
    fingerprints = {
        load(tmp_path / name, image_size=size).fingerprint
        for name in ("one", "two")
        for size in (4, 5)
    }
    assert len(fingerprints) == 4
    assert len(decoded) == 4


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, replace_by_text, empty])
def test_a_damaged_cache_is_ignored_and_replaced(
    tmp_path: Path,
    decoded: list[int],
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    root = write_folder(tmp_path / "set", {"a": 5, "b": 5})
    before = load(root)
    damage(next((own_cache / "datasets").iterdir()))
    with caplog.at_level(logging.WARNING):
        assert same(load(root), before)
    assert "decoding the images again" in caplog.text
    assert same(load(root), before)
    assert decoded == [10, 10]


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "file"))
    root = write_folder(tmp_path / "set", {"a": 3, "b": 3})
    assert same(load(root), load(root))
    assert "cannot keep the decoded images" in caplog.text


def test_a_torn_write_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    load(write_folder(tmp_path / "set", {"a": 3, "b": 3}))
    assert list((own_cache / "datasets").iterdir()) == []
    assert "No space left on device" in caplog.text


def test_the_cache_lies_in_the_users_cache_folder_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "proxynas"


# --- real folders


def unpack_some(archive: Path, target: Path, per_class: int) -> None:
    """Unpack the first `per_class` images of each class folder, in the archive's order."""
    taken: Counter[str] = Counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            place = os.path.dirname(member.name)
            if member.isfile() and taken[place] < per_class:
                taken[place] += 1
                tar.extract(member, target, filter="data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "mean"), [("cifar10", (3, 32, 32), 0.47), ("mnist", (1, 28, 28), 0.13)]
)
def test_real_images(tmp_path: Path, name: str, shape: tuple[int, int, int], mean: float) -> None:
    archive = SHARED / f"{name}-images.tar.xz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    unpack_some(archive, tmp_path / name, per_class=50)
    data = load(tmp_path / name)
    assert (data.shape, data.num_classes) == (shape, 10)
    assert (len(data.train), len(data.val), len(data.test)) == (450, 50, 500)
    assert data.class_counts() == (45,) * 10
    assert sum(data.preprocessing.mean) / shape[0] == pytest.approx(mean, abs=0.02)
