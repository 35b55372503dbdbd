"""Folders, caches and outputs that are not what they should be: one line, or none is needed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from proxynas.core.errors import DataError
from proxynas.datasets import load as load_data

from .test_cli import images, run
from .test_malformed import CHEAP, refused

FOLDERS = {
    "a pipe among images": lambda folder: os.mkfifo(folder / "train" / "class0" / "x.png"),
    "a class that is not UTF-8": lambda folder: (folder / "train" / "class0").rename(
        folder / "train" / "caf\udce9"
    ),
    "a device among images": lambda folder: (folder / "train" / "class0" / "x.png").symlink_to(
        "/dev/zero"
    ),
    "a link to itself": lambda folder: (folder / "train" / "class0" / "x.png").symlink_to("x.png"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_of_images(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = images(tmp_path / "images")
    FOLDERS[case](folder)
    arguments = [*CHEAP, "--data", str(folder), "--out", str(tmp_path / "out")]
    refused(run(monkeypatch, capsys, *arguments))
    assert not (tmp_path / "out").exists()


def test_folders_within_folders_and_links_in_circles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = images(tmp_path / "images")
    (folder / "train" / "class0" / "again").symlink_to(folder / "train" / "class0")
    (folder / "train" / "class0" / "up").symlink_to(folder / "train")
    assert load_data(folder).num_classes == 2
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="cannot be reached"):
        load_data(tmp_path / "loop")
    monkeypatch.chdir(folder / "train" / "class1")
    for _ in range(2000):  # deeper than a path can be long
        os.mkdir("d")
        os.chdir("d")
    os.chdir(tmp_path)
    with pytest.raises(DataError, match="over 100 deep"):
        load_data(folder)
    subprocess.run(["rm", "-rf", folder], check=True)  # pytest's way of removing it is recursive


@pytest.mark.parametrize("place", ["/dev/null/x", "~nobody-here/x", "x" * 300, "/proc/x"])
def test_a_cache_that_cannot_be_used_costs_time_alone(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXYNAS_CACHE", place)
    assert load_data(images(tmp_path / "images")).num_classes == 2
    assert load_data("digits", whiten=0.1).num_classes == 10


def command(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxynas", *arguments],
        stderr=subprocess.PIPE, text=True, **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def test_a_full_and_a_closed_output() -> None:
    with open("/dev/full", "w") as full:
        process = command("list", stdout=full)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot" in err
    assert err.count("\n") == 1
    shell = f"{sys.executable} -m proxynas --version >&-"
    closed = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=120)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0.4, 1.2])
def test_ctrl_c_while_it_starts(seconds: float, tmp_path: Path) -> None:
    """The parser, pydantic and PyTorch are imported in these seconds."""
    process = command("distill", "--out", str(tmp_path / "a.safetensors"), stdout=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    if process.returncode == -signal.SIGINT:  # Python itself was still starting
        return
    assert process.returncode == 130, err
    assert err.strip().endswith("stopped; rerun the same command to resume")
    assert "Traceback" not in err


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    Image.new("L", (9, 9)).save(folder / "train" / "class0" / "odd.png")
    with pytest.raises(DataError, match=r"odd\.png"):
        load_data(folder)
