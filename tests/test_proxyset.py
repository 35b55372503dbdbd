import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from proxynas import datasets, proxyset
from proxynas.core import tensorfile
from proxynas.core.errors import ProxyFileError, RunFolderError
from proxynas.datasets import Dataset, Preprocessing
from proxynas.distill.loop import distill
from proxynas.proxyset import ProxySet
from proxynas.specs import DistillSpec
from proxynas.training import Recipe


@pytest.fixture
def proxy(digits: Dataset) -> ProxySet:
    return distill(DistillSpec(method="random", ipc=2), digits, Recipe(updates=5))


def test_round_trip(proxy: ProxySet, tmp_path: Path) -> None:
    proxy.save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert torch.equal(read.x, proxy.x)
    assert torch.equal(read.y, proxy.y)
    assert (read.recipe, read.preprocessing, read.class_names) == (
        proxy.recipe,
        proxy.preprocessing,
        proxy.class_names,
    )
    assert read.provenance == json.loads(json.dumps(proxy.provenance))


def test_a_file_from_before_augmentation_generators_and_curricula(
    proxy: ProxySet, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    proxy.save(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["proxynas"])["about"]
    del about["recipe"]["augment"]
    tensors = {"x": proxy.x, "y": proxy.y}
    metadata = {"about": about, "checksum": tensorfile.checksum(about, tensors)}
    save_file(tensors, path, {"proxynas": json.dumps(metadata)})
    read = proxyset.read(path)
    assert read.recipe == proxy.recipe
    assert torch.equal(read.x, proxy.x)
    assert (read.curriculum, read.generator) == (None, None)


def test_soft_labels_and_any_preprocessing_survive(tmp_path: Path) -> None:
    soft = ProxySet(
        torch.randn(4, 3, 5, 6),
        torch.rand(4, 2),
        Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
        ("a", "b"),
    )
    soft.save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert torch.equal(read.y, soft.y)
    assert torch.equal(read.hard_labels(), soft.y.argmax(1))
    assert read.preprocessing == soft.preprocessing


def test_whitening_survives_and_must_fit(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path))
    spec = DistillSpec(method="random", ipc=2, zca=0.1)
    white = datasets.load_for(spec)
    distill(spec, white).save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    assert read.preprocessing == white.preprocessing
    usual = distill(DistillSpec(method="random", ipc=2), digits)
    assert read.preprocessing != usual.preprocessing
    torch.testing.assert_close(
        read.images(), usual.images(), rtol=0, atol=1e-4
    )  # the same images, whitened
    proxyset.check(read, white)
    with pytest.raises(
        ProxyFileError,
        match=r"by --zca 0\.1, but the data are images that are not whitened; give --zca 0\.1",
    ):
        proxyset.check(read, digits)
    with pytest.raises(ProxyFileError, match="leave --zca out"):
        proxyset.check(usual, white)


def test_whitening_by_kornias_convention_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path))
    spec = DistillSpec(method="random", ipc=2, zca="kornia:0.1")
    distill(spec, datasets.load_for(spec)).save(tmp_path / "a.safetensors")
    read = proxyset.read(tmp_path / "a.safetensors")
    proxyset.check(read, datasets.load_for(spec))
    with pytest.raises(
        ProxyFileError,
        match=r"whitened by --zca kornia:0\.1, but .* by --zca 0\.1; give --zca kornia",
    ):
        proxyset.check(read, datasets.load_for(DistillSpec(zca=0.1)))


def test_it_is_a_torch_dataset(proxy: ProxySet) -> None:
    x, y = next(iter(DataLoader(proxy, batch_size=20)))
    assert torch.equal(x, proxy.x)
    assert y.tolist() == [c for c in range(10) for _ in range(2)]
    assert proxy.images().min() >= 0
    assert proxy.images().max() <= 1


def test_a_path_is_text_or_a_path(proxy: ProxySet, tmp_path: Path) -> None:
    proxy.save(f"{tmp_path}/a.safetensors")
    assert len(proxyset.read(f"{tmp_path}/a.safetensors")) == len(proxy)
    assert proxyset.read("digits-gm-ipc1").provenance["method"] == "gm"


def test_truncated(proxy: ProxySet, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    proxy.save(path)
    for size in (0, 5, 300, path.stat().st_size - 1):
        cut = tmp_path / f"cut{size}.safetensors"
        cut.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ProxyFileError, match="not a readable"):
            proxyset.read(cut)


def test_foreign(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ProxyFileError, match="not one that proxynas wrote"):
        proxyset.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("place", [-1, -200, 400])
def test_tampered(proxy: ProxySet, place: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    proxy.save(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ProxyFileError):
        proxyset.read(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ProxyFileError, match="there is no proxy-set file"):
        proxyset.read(tmp_path / "nothing.safetensors")


def test_a_set_of_other_data_is_refused(proxy: ProxySet, digits: Dataset) -> None:
    proxyset.check(proxy, digits)
    with pytest.raises(ProxyFileError, match="made for data"):
        proxyset.check(proxy, replace(digits, fingerprint="another"))
    with pytest.raises(ProxyFileError, match="made for classes"):
        proxyset.check(proxy, replace(digits, class_names=tuple("abcdefghij")))
    with pytest.raises(ProxyFileError, match="made for image shape"):
        proxyset.check(replace(proxy, x=torch.zeros(20, 3, 8, 8)), digits)


def test_an_unwritable_place_leaves_nothing(proxy: ProxySet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFolderError, match="cannot write"):
        proxy.save(tmp_path / "file" / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
