"""Datasets that torchvision reads."""

import gzip
import pickle
import struct
import subprocess
import sys
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch

from proxynas.datasets import (
    load,
    names,
    vision,
)

from .image_files import refusal, same, undo, write_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- torchvision's datasets


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
