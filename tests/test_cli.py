"""The command as a user meets it: what it prints, its exit code, and that bad input leaves nothing
behind."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from proxynas import cli, datasets, proxyset
from proxynas.core import settings, tensorfile
from proxynas.core.errors import ProxyFileError
from proxynas.specs import SearchSpec


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["proxynas", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def images(folder: Path, classes: int = 2, each: int = 20, size: int = 8) -> Path:
    for part in ("train", "test"):
        for c in range(classes):
            (folder / part / f"class{c}").mkdir(parents=True)
            for i in range(each):
                Image.new("L", (size, size), 10 * i + c).save(
                    folder / part / f"class{c}" / f"{i}.png"
                )
    return folder


def corrupt(folder: Path) -> Path:
    (images(folder) / "train" / "class0" / "3.png").write_bytes(b"\x89PNG not really")
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


BAD = {
    "unknown dataset": (["search", "--data", "digitz"], "did you mean digits?"),
    "unknown space": (["search", "--space", "convnet-gird"], "did you mean 'convnet-grid'"),
    "unknown method": (["search", "--method", "gmm"], "there is no method 'gmm'"),
    "unknown method to distil": (
        ["distill", "--method", "gmm", "--out", "{out}/a.safetensors"],
        "there is no method 'gmm'",
    ),
    "unknown arch": (["evaluate", "{proxy}", "--arch", "D9-W9"], "is not in the space"),
    "unknown indicator": (["search", "--indicator", "luck"], "there is no indicator 'luck'"),
    "a negative seed": (["search", "--seed", "-1"], "should be greater than or equal to 0"),
    "an infinite rate": (["search", "--lr", "inf"], "lr: input should be a finite number"),
    "truth under another name that is not there": (
        ["search", "--truth-data", "digitz"],
        "there is no truth of",
    ),
    "truth over a file of one's own": (
        ["truth", "--data", "digits", "--out", "{table}"],
        "exists already",
    ),
    "truth that is no table": (
        ["truth", "--data", "digits", "--out", "{out}/a.sqlite"],
        "--out must be a .csv file",
    ),
    "a student for other shapes": (
        [
            "distill",
            "--set",
            "student=evaluation-nets:lenet",
            "--data",
            "moons",
            "--out",
            "{out}/a.safetensors",
        ],
        "LeNet needs images",
    ),
    "a set in place of a folder": (["distill", "--out", "{folder}"], "is a directory"),
    "unknown space setting": (
        ["search", "--space-option", "width=3"],
        "has no fixed setting 'width'; it has none",
    ),
    "unknown baseline": (
        ["search", "--baseline", "luck"],
        "baselines.0: input should be 'random', 'early-stopping'",
    ),
    "further set missing": (["search", "--also", "nowhere.safetensors"], "nowhere.safetensors"),
    "ipc 0": (
        ["search", "--ipc", "0"],
        "ipc: input should be greater than or equal to 1, but got 0",
    ),
    "ipc too large": (["search", "--ipc", "101"], "ipc must be at most"),
    "candidates 0": (
        ["search", "--candidates", "0"],
        "candidates: input should be greater than or equal to 1",
    ),
    "not a number": (["search", "--ipc", "many"], "'--ipc'"),
    "unknown flag": (["search", "--ipcs", "1"], "No such option"),
    "unknown command": (["serach"], "No such command"),
    "unknown setting": (
        ["search", "--set", "lrr=1"],
        "settings of gm: unknown key 'lrr'; did you mean 'lr'",
    ),
    "unknown synthetic set": (
        ["search", "--set", "synthetic=gan"],
        "synthetic: input should be 'pixels', 'gtn-lrn'",
    ),
    "settings that do not fit": (
        ["search", "--method", "unroll", "--set", "ic=3"],
        "ic must divide ipc",
    ),
    "unknown augmentation": (["search", "--recipe", "augment=spin"], "there is no 'spin'"),
    "a whitening of no known unit": (
        ["search", "--zca", "strong"],
        "zca: expected a strength above 0, such as 0.1",
    ),
    "unknown augmentation to evaluate": (
        ["evaluate", "{proxy}", "--augment", "spin"],
        "there is no 'spin'",
    ),
    "a clock without seconds": (["distill", "--clock", "core", "--out", "{out}"], "give --seconds"),
    "a seed below 0": (
        ["evaluate", "{proxy}", "--seed", "-1"],
        "should be greater than or equal to 0",
    ),
    "malformed setting": (["search", "--set", "lr"], "--set takes KEY=VALUE"),
    "no CUDA": (["search", "--device", "cuda:77"], "use --device cpu"),
    "no such device": (["search", "--device", "tpu"], "device must be auto, cpu, cuda or cuda:N"),
    "budget not a time": (["search", "--budget", "soon"], "--budget must be a time"),
    "budget too short": (["search", "--budget", "3s"], "at least 30s"),
    "no such proxy": (["search", "--proxy", "nothing.safetensors"], "there is no proxy-set file"),
    "a proxy and how to make one": (
        ["search", "--proxy", "{proxy}", "--ipc", "2"],
        "so ipc would change nothing",
    ),
    "a space without an architecture": (["evaluate", "{proxy}", "--space", "mlp-grid"], "(--arch)"),
    "a table that is not there": (
        ["search", "--table", "early=nothing.csv"],
        "cannot read the truth table",
    ),
    "a table twice": (
        ["search", "--table", "a=1.csv", "--table", "a=2.csv"],
        "--table has 'a' twice",
    ),
    "no such truth": (["search", "--truth", "nothing.csv"], "cannot read the truth table"),
    "no such config": (["search", "-c", "nothing.toml"], "cannot read nothing.toml"),
    "not a run directory": (["report", "{out}"], "is not a run directory"),
    "merge of one": (["merge", "{proxy}", "--out", "{out}"], "takes two sets or more, but got 1"),
    "merge of nothing": (
        ["merge", "{proxy}", "nothing.safetensors", "--out", "{out}"],
        "there is no proxy-set file",
    ),
    "merge onto a file": (["merge", "{proxy}", "{proxy}", "--out", "{proxy}"], "exists already"),
    "no such folder of images": (["search", "--data", "./nothing-here"], "nothing-here"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    a_proxy: Path,
) -> None:
    arguments, message = BAD[case]
    out = tmp_path / "out"
    (tmp_path / "mine.csv").write_text("precious")
    names = {"out": out, "proxy": a_proxy, "table": tmp_path / "mine.csv", "folder": tmp_path}
    arguments = [part.format(**names) for part in arguments]
    if arguments[0] == "search":
        arguments += ["--out", str(out)]
    code, printed, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in printed + err
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
    assert (tmp_path / "mine.csv").read_text() == "precious"


FOLDERS = {
    "empty folder": (empty, ""),
    "one class only": (lambda folder: images(folder, classes=1), "class"),
    "corrupt image": (corrupt, "3.png"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_image_folders(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make, message = FOLDERS[case]
    folder = make(tmp_path / "images")
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))
    code, _, err = run(
        monkeypatch, capsys, "search", "--data", str(folder), "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


TOMLS = {
    "malformed": ("ipc = = 1", "is not valid TOML"),
    "wrong type": ('ipc = "one"', "ipc: input should be a valid integer"),
    "unknown key": ("ipcc = 1", "unknown key 'ipcc'; did you mean 'ipc'"),
}


@pytest.mark.parametrize("case", TOMLS)
def test_bad_toml(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, message = TOMLS[case]
    (tmp_path / "spec.toml").write_text(text)
    code, _, err = run(
        monkeypatch, capsys, *f"search -c {tmp_path / 'spec.toml'} --out {tmp_path / 'out'}".split()
    )
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="session")
def a_proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from proxynas.distill.loop import distill
    from proxynas.specs import DistillSpec

    path = tmp_path_factory.mktemp("proxy") / "random.safetensors"
    spec = DistillSpec(method="random")
    distill(spec, datasets.load_for(spec)).save(path)
    return path


@pytest.mark.parametrize("damage", ["truncated", "foreign", "tampered"])
def test_damaged_proxy_files(
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    a_proxy: Path,
) -> None:
    data = bytearray(a_proxy.read_bytes())
    if damage == "tampered":
        data[-3] ^= 255
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(
        {"truncated": bytes(data[:200]), "foreign": b"PK\x03\x04" * 50}.get(damage, bytes(data))
    )
    code, _, err = run(
        monkeypatch, capsys, "search", "--proxy", str(path), "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert "damaged.safetensors" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "run.sqlite").exists()


@pytest.mark.parametrize("lost", ["recipe", "preprocessing", "format"])
def test_a_proxy_file_that_lacks_something(lost: str, tmp_path: Path, a_proxy: Path) -> None:
    with safe_open(a_proxy, "pt") as file:
        contents = json.loads(file.metadata()["proxynas"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    del contents["about"][lost]
    contents["checksum"] = tensorfile.checksum(contents["about"], tensors)
    path = tmp_path / "partial.safetensors"
    save_file(tensors, path, {"proxynas": json.dumps(contents)})
    with pytest.raises(
        ProxyFileError, match=r"partial.safetensors (is not a whole proxy set|has format None)"
    ):
        proxyset.read(path)


def test_a_full_or_unwritable_output_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if Path("/dev/full").exists():  # every write to it says "No space left on device"
        code, _, err = run(monkeypatch, capsys, "search", "--out", "/dev/full/run")
        assert (code, err.count("\n")) == (2, 1)
    (tmp_path / "file").write_text("mine")
    code, _, err = run(monkeypatch, capsys, "search", "--out", str(tmp_path / "file"))
    assert code == 2
    assert "cannot write" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_directory_of_another_spec(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spec.toml").write_text(
        settings.to_toml(SearchSpec(seed=5, label_epochs=0))
    )
    code, _, err = run(monkeypatch, capsys, "search", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "its seed is 5, but this one asks for 0" in err


@pytest.mark.parametrize(
    "command", ["search", "distill", "merge", "evaluate", "truth", "report", "list"]
)
def test_help_teaches(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, command, "--help")
    assert code == 0
    assert len(out.splitlines()) > 5
    assert command == "list" or "Example" in out


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "list")
    assert code == 0
    for word in ("digits", "convnet-grid", "720", "gm", "random", "herding"):
        assert word in out


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "--version")
    assert code == 0
    assert out.startswith("proxynas ")
