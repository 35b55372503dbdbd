"""Real data: what a user may hand over, and what they are told when it will not do."""

import gzip
import logging
import math
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from proxynas.core import settings
from proxynas.core.errors import DataError, SpecError
from proxynas.datasets import (
    Dataset,
    Preprocessing,
    cache,
    folder,
    load,
    names,
    pixels,
    split,
    vision,
)
from proxynas.specs import DataSpec, Regularisation, parse_whitening

SHARED = Path(__file__).parents[2] / "shared" / "data"
RUN_AS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_image(
    path: Path, seed: int = 0, *, mode: str = "RGB", size: tuple[int, int] = (6, 5)
) -> Path:
    """Write a random image of `size` (W, H) that differs with `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], *channels), dtype=np.uint8
    )
    Image.fromarray(pixels, mode=None).save(path)
    return path


def write_folder(root: Path, counts: dict[str, int], **options: Any) -> Path:
    """Write `counts` images below each of the subfolders."""
    for place, count in counts.items():
        for i in range(count):
            write_image(root / place / f"{i:03}.png", seed=hash_of(f"{place} {i}"), **options)
    return root


def hash_of(text: str) -> int:
    return int(md5(text.encode()).hexdigest()[:8], 16)


def same(a: Dataset, b: Dataset) -> bool:
    tensors = [
        (x.x, y.x, x.y, y.y)
        for x, y in zip((a.train, a.val, a.test), (b.train, b.val, b.test), strict=True)
    ]
    return a.fingerprint == b.fingerprint and all(
        torch.equal(*t[:2]) and torch.equal(*t[2:]) for t in tensors
    )


# -- digits
# ------------------------------------------------------------------------------------------------


def test_digits_has_the_promised_splits() -> None:
    data = load("digits")
    assert (len(data.train), len(data.val), len(data.test)) == (1000, 297, 500)
    assert data.shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.train.x.dtype == torch.float32
    assert data.train.y.dtype == torch.int64
    assert sum(data.class_counts()) == 1000
    assert max(data.class_counts()) - min(data.class_counts()) <= 5


def test_digits_splits_hold_each_image_once() -> None:
    data = load("digits")
    raw = torch.cat(
        [data.preprocessing.invert(part.x) for part in (data.train, data.val, data.test)]
    )
    got = sorted((raw * 16).round().flatten(1).to(torch.uint8).tolist())
    assert got == sorted(load_digits().data.astype(int).tolist())


def test_digits_never_changes() -> None:
    """The test images of every result ever reported hang on this: a change of it needs a new
    name."""
    assert load("digits").fingerprint == "3701aa98550a286c"


def test_digits_val_fraction_leaves_the_test_split_alone() -> None:
    data, other = load("digits"), load("digits", val_fraction=0.1)
    assert (len(other.train), len(other.val)) == (1167, 130)
    assert torch.equal(
        data.preprocessing.invert(data.test.x).round(decimals=3), undo(other).round(decimals=3)
    )
    assert data.fingerprint != other.fingerprint


def undo(data: Dataset) -> torch.Tensor:
    return data.preprocessing.invert(data.test.x)


def test_load_is_deterministic() -> None:
    assert same(load("digits"), load("digits"))


# -- preprocessing
# ------------------------------------------------------------------------------------------------


def test_train_split_is_normalised_and_the_others_by_its_statistics() -> None:
    data = load("digits")
    assert data.train.x.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert data.train.x.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert abs(data.test.x.mean().item()) > 1e-4


def test_statistics_agree_with_the_definition(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 9, "b": 9})
    data = load(root)
    raw = data.preprocessing.invert(data.train.x).double()
    assert data.preprocessing.mean == pytest.approx(raw.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.preprocessing.std == pytest.approx(
        raw.std((0, 2, 3), correction=0).tolist(), abs=1e-6
    )


def test_invert_undoes_apply_in_float64_and_does_not_clamp() -> None:
    pre = Preprocessing((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    torch.testing.assert_close(pre.invert(pre.apply(x)), x)
    assert torch.equal(x, before)
    assert pre.apply(torch.full((1, 3, 1, 1), 0.5))[0, 1, 0, 0] == 0


def test_whitening_is_its_definition_and_can_be_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path))
    plain, white = load("digits"), load("digits", whiten=0.1)
    assert white.fingerprint == plain.fingerprint
    x, flat = plain.train.x.double().flatten(1), white.train.x.double().flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    wanted = values / (values + 0.1 * values.mean())  # what is left of the variance along each axis
    torch.testing.assert_close(
        torch.cov((flat @ vectors).T, correction=0), wanted.diag(), rtol=1e-4, atol=1e-4
    )
    assert flat.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(
        white.preprocessing.invert(white.test.x),
        plain.preprocessing.invert(plain.test.x),
        rtol=0,
        atol=1e-4,
    )
    file = next(tmp_path.glob("datasets/zca-*-0.1.safetensors"))
    assert same(load("digits", whiten=0.1), white)  # out of the cache
    file.write_bytes(file.read_bytes()[:-9])
    assert same(load("digits", whiten=0.1), white)


def test_kornias_whitening_is_kornias_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kornia.enhance.zca_mean, written directly: pixels in [0, 1], covariance over N − 1, U (S +
    ε)^(−1/2) Uᵀ."""
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    root = write_folder(
        tmp_path / "set", {"a": 9, "b": 9}
    )  # colour images, so that channels differ in deviation
    plain, white = load(root), load(root, whiten="kornia:0.1")

    def flat(x: Tensor) -> Tensor:
        return plain.preprocessing.invert(x).double().flatten(1)

    train, test = flat(plain.train.x), flat(plain.test.x)
    mean = train.mean(0)
    covariance = (train - mean).T @ (train - mean) / (len(train) - 1)
    u, s, _ = torch.linalg.svd(covariance)
    transform = u @ torch.diag(torch.rsqrt(s + 0.1)) @ u.T
    for found, wanted in ((white.train.x, train), (white.test.x, test)):
        torch.testing.assert_close(
            found.double().flatten(1), (wanted - mean) @ transform, rtol=0, atol=2e-5
        )
    assert same(load(root, whiten="kornia:0.1"), white)  # out of the cache
    back = white.preprocessing.invert(white.test.x)
    torch.testing.assert_close(back, plain.preprocessing.invert(plain.test.x), rtol=0, atol=1e-4)
    relative = load(root, whiten=0.1)
    assert not torch.allclose(relative.train.x, white.train.x, rtol=0.1)
    assert len(list((tmp_path / "cache" / "datasets").glob("zca-*"))) == 2


def test_kornias_whitening_of_one_channel_is_a_relative_one_in_another_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """λ = 0.1 of pixels is 0.1 over their mean variance in the relative unit; N − 1 for N scales
    what comes out."""
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path))
    plain, kornia = load("digits"), load("digits", whiten="kornia:0.1")
    std, n = plain.preprocessing.std[0], len(plain.train)
    unit = std**2 * torch.cov(plain.train.x.double().flatten(1).T).diagonal().mean().item()
    relative = load("digits", whiten=0.1 / unit)
    torch.testing.assert_close(
        kornia.train.x, relative.train.x * math.sqrt((n - 1) / n), rtol=1e-3, atol=1e-4
    )


def test_how_a_whitening_is_named() -> None:
    assert [parse_whitening(setting) for setting in (0.1, "0.1", "kornia:0.1")] == [
        Regularisation(0.1),
        Regularisation(0.1),
        Regularisation(0.1, "kornia"),
    ]
    assert [str(parse_whitening(setting)) for setting in (0.1, "kornia:0.10")] == [
        "0.1",
        "kornia:0.1",
    ]
    assert settings.make(DataSpec, {"zca": "0.1"}) == DataSpec(zca=0.1)
    spec = settings.make(DataSpec, {"zca": "kornia:0.1"})
    assert settings.make(DataSpec, settings.to_dict(spec)) == spec
    for wrong in (0, -1, "nan", "inf", "kornia:", "kornia:-1", "zca", True):
        with pytest.raises(
            SpecError, match=r"zca: expected a strength above 0, such as 0\.1, or .* kornia:0\.1"
        ):
            settings.make(DataSpec, {"zca": wrong})


def test_what_cannot_be_whitened() -> None:
    assert (
        refusal("moons", whiten=0.1) == "zca is for images, but the data are a table; leave it out"
    )
    assert "expected a strength above 0" in refusal("digits", whiten=0)
    assert "up to 12,288 values, but got (1, 120, 120)" in refusal(
        "digits", image_size=120, whiten=0.1
    )


def test_preprocessing_refuses_other_channels() -> None:
    with pytest.raises(
        DataError,
        match=r"expected images of shape \(N, 1, H, W\) or rows \(N, 1\), but got \(2, 3, 4, 4\)",
    ):
        Preprocessing((0.0,), (1.0,)).apply(torch.zeros(2, 3, 4, 4))


def test_a_constant_channel_becomes_zero_not_nan(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(4):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (7, 7, 10 * i)).save(tmp_path / "set" / name / f"{i}.png")
    data = load(tmp_path / "set")
    assert data.preprocessing.std[:2] == (1.0, 1.0)
    assert data.train.x[:, :2].abs().max() < 1e-6


def test_to_keeps_everything_but_the_device() -> None:
    data = load("digits")
    moved = data.to("meta")
    assert moved.test.y.device.type == "meta"
    assert (moved.fingerprint, moved.class_names) == (data.fingerprint, data.class_names)
    assert data.test.y.device.type == "cpu"


# -- splits
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_stratified_draws_each_class_its_share(seed: int) -> None:
    rng = random.Random(seed)
    counts = [rng.randint(2, 60) for _ in range(rng.randint(2, 12))]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    rng.shuffle(labels)
    y, n = torch.tensor(labels), round(rng.random() * sum(counts))
    rest, drawn = split.stratified(y, n)
    assert sorted([*rest.tolist(), *drawn.tolist()]) == list(range(len(y)))
    for count, got in zip(
        counts, torch.bincount(y[drawn], minlength=len(counts)).tolist(), strict=True
    ):
        share = count * n / len(y)
        assert 1 <= got <= count - 1
        assert share - 1 < got < share + 1 or got in (1, count - 1)


def test_stratified_is_exact_where_classes_are_large() -> None:
    _, drawn = split.stratified(torch.arange(1797) % 10, 500)
    assert len(drawn) == 500


def test_stratified_needs_two_of_each() -> None:
    with pytest.raises(
        DataError, match="at least 2 images of each class to split, but class 1 has 1"
    ):
        split.stratified(torch.tensor([0, 0, 1]), 1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_val_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError, match="validation fraction must be between 0 and 1"):
        load("digits", val_fraction=fraction)


# -- folders
# ------------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match="brings its own validation split"):
        load(root, val_fraction=0.2)


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


# -- kinds of images
# ------------------------------------------------------------------------------------------------


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


# -- the cache
# ------------------------------------------------------------------------------------------------


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


def replace_by_text(path: Path) -> None:
    path.write_text("hello")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, replace_by_text, empty])
def test_a_damaged_cache_is_ignored_and_mended(
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


# -- what a user is told
# ------------------------------------------------------------------------------------------------


def refusal(*args: Any, **options: Any) -> str:
    """Return the one line that loading is refused with."""
    with pytest.raises(DataError) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


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


def test_image_size_out_of_range() -> None:
    assert refusal("digits", image_size=0) == "the image size must be at least 1, but got 0"


# -- torchvision's datasets
# ------------------------------------------------------------------------------------------------


def write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, folder_name: str = "MNIST") -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 25, (count, 28, 28)) + labels[:, None, None] * 20
        write_idx(root / folder_name / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / folder_name / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return root


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, *, hundred: bool) -> Path:
    """Write ten images of each of two classes, as python pickled them when the sets were made."""
    from proxynas.core.torchvision import datasets as tv

    factory = tv.CIFAR100 if hundred else tv.CIFAR10
    rng, where = np.random.default_rng(1), root / factory.base_folder
    where.mkdir(parents=True)

    def dump(name: str, content: dict[str, Any]) -> str:
        with open(where / name, "wb") as file:
            pickler = pickle.Pickler(file, protocol=2)
            pickler.dispatch_table = {
                type(np.dtype("u1")): lambda d: (np.dtype, ("u1", 0, 1), d.__reduce__()[2])
            }
            pickler.dump(content)
        return md5((where / name).read_bytes()).hexdigest()

    def batch(count: int) -> dict[str, Any]:
        labels = [i % 2 for i in range(count)]
        return {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), factory_key: labels}

    factory_key = "fine_labels" if hundred else "labels"
    monkeypatch.setattr(factory, "train_list", [["one", dump("one", batch(20))]])
    monkeypatch.setattr(factory, "test_list", [["two", dump("two", batch(6))]])
    meta = dict(factory.meta)
    meta["md5"] = dump(meta["filename"], {meta["key"]: ["cat", "dog"]})
    monkeypatch.setattr(factory, "meta", meta)
    return root


def test_mnist(tmp_path: Path) -> None:
    data = load("mnist", root=write_mnist(tmp_path))
    assert (data.name, data.shape, data.class_names) == ("mnist", (1, 28, 28), tuple("0123456789"))
    assert (len(data.train), len(data.val), len(data.test)) == (50, 10, 20)
    assert torch.equal(data.test.y, torch.arange(20) % 10)
    level = (undo(data) * 255).mean((1, 2, 3)) // 20
    assert torch.equal(level.long(), data.test.y)


def test_fashion_mnist_from_a_root(tmp_path: Path) -> None:
    data = load("fashion-mnist", root=write_mnist(tmp_path, "FashionMNIST"))
    assert data.class_names[9] == "Ankle boot"
    assert len(data.test) == 20


def test_fashion_mnist_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_mnist(tmp_path / "plain", "FashionMNIST") / "FashionMNIST" / "raw"
    system = tmp_path / "system"
    system.mkdir()
    for path in raw.iterdir():
        (system / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(vision, "SYSTEM_FASHION_MNIST", system)
    assert {known.name: known.available for known in names()}["fashion-mnist"]
    assert same(load("fashion-mnist"), load("fashion-mnist", root=tmp_path / "plain"))
    (system / "t10k-images-idx3-ubyte.gz").write_bytes(b"rubbish")
    assert "t10k-images-idx3-ubyte.gz cannot be read" in refusal("fashion-mnist")


@pytest.mark.parametrize(("name", "hundred"), [("cifar10", False), ("cifar100", True)])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hundred: bool) -> None:
    data = load(name, root=write_cifar(tmp_path, monkeypatch, hundred=hundred))
    assert (data.shape, data.class_names) == ((3, 32, 32), ("cat", "dog"))
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)
    rng = np.random.default_rng(1)
    rng.integers(0, 256, (20, 3072), dtype=np.uint8)
    expected = torch.from_numpy(rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8))
    assert torch.equal((undo(data) * 255).round().to(torch.uint8), expected)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxynas.core.torchvision import datasets as tv

    rng, lists = np.random.default_rng(2), {}
    for part, count in (("train", 40), ("test", 10)):
        file = tmp_path / f"{part}_32x32.mat"
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        scipy.io.savemat(
            file, {"X": images, "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)}
        )
        lists[part] = ["", file.name, md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(tv.SVHN, "split_list", lists)
    data = load("svhn", root=tmp_path, val_fraction=0.25)
    assert (data.shape, data.num_classes) == ((3, 32, 32), 10)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 10)
    assert data.test.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    expected = torch.from_numpy(images).permute(3, 2, 0, 1)
    assert torch.equal((undo(data) * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize("name", list(vision.SOURCES))
def test_not_on_disk(tmp_path: Path, name: str) -> None:
    message = refusal(name, root=tmp_path)
    assert f"expected the files of {name} in {tmp_path}" in message
    assert "pass --data-root FOLDER if they are elsewhere, or --download" in message


def test_not_on_disk_but_a_folder_of_images_is(tmp_path: Path) -> None:
    write_folder(tmp_path / "mnist", {"train/0": 2, "train/1": 2})
    assert f"({tmp_path / 'mnist'} looks like a folder of images" in refusal("mnist", root=tmp_path)


def test_damaged_idx_file(tmp_path: Path) -> None:
    path = write_mnist(tmp_path) / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    assert "remove what is damaged there and pass --download" in refusal("mnist", root=tmp_path)
    path.write_bytes(b"")
    assert "remove what is damaged there" in refusal("mnist", root=tmp_path)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path) / "MNIST" / "raw"
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(60))
    assert "(60 images have 60 labels up to 59)" in refusal("mnist", root=tmp_path)
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(50) % 10)
    assert "(60 images have 50 labels up to 9)" in refusal("mnist", root=tmp_path)


def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxynas.core.torchvision import datasets as tv

    def unreachable(self: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(tv.CIFAR10, "download", unreachable)
    message = refusal("cifar10", root=tmp_path, download=True)
    assert f"cifar10 could not be fetched to {tmp_path}" in message
    assert "check the network" in message


def test_names_says_what_is_there(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    known = {entry.name: entry for entry in names(tmp_path)}
    assert list(known) == [
        "digits",
        "moons",
        "mnist",
        "fashion-mnist",
        "svhn",
        "cifar10",
        "cifar100",
    ]
    assert [name for name, entry in known.items() if entry.available] == [
        "digits",
        "moons",
        "mnist",
    ]
    assert all(entry.description and "\n" not in entry.description for entry in known.values())


def test_torchvision_is_imported_only_when_it_is_needed() -> None:
    code = (
        "import sys; from proxynas.datasets import load, names; load('digits'); names();"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


def test_torchvision_is_imported_without_its_operators_and_register_fake_is_put_back() -> None:
    code = (
        "import torch; before = torch.library.register_fake\n"
        "from proxynas.core.torchvision import datasets, models, transforms, utils\n"
        "assert torch.library.register_fake is before\n"
        "assert transforms.Normalize and datasets.MNIST and models.resnet18 and utils.make_grid"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_only_missing_operators_of_torchvision_are_passed_over() -> None:
    from proxynas.core.torchvision import _tolerant

    def fake(x: torch.Tensor) -> torch.Tensor:
        return x

    with _tolerant():
        assert torch.library.register_fake("torchvision::no_such_operator")(fake) is fake
        assert torch.library.register_fake("torchvision::no_such_operator", fake) is fake
        with pytest.raises(RuntimeError, match="does not exist"):
            torch.library.register_fake("elsewhere::no_such_operator")(fake)


# -- real folders
# ------------------------------------------------------------------------------------------------


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
