"""Digits, preprocessing and splits."""

import math
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from proxynas.core import settings
from proxynas.core.errors import DataError, SpecError
from proxynas.datasets import (
    Preprocessing,
    load,
    split,
)
from proxynas.specs import DataSpec, Regularisation, parse_whitening

from .image_files import refusal, same, undo, write_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- digits


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


def test_load_is_deterministic() -> None:
    assert same(load("digits"), load("digits"))


# --- preprocessing


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
    for whitened, wanted in ((white.train.x, train), (white.test.x, test)):
        torch.testing.assert_close(
            whitened.double().flatten(1), (wanted - mean) @ transform, rtol=0, atol=2e-5
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


# --- splits


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
