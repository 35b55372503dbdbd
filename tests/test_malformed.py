"""What a determined user, an unusual file or a script with an unset variable hands over: one line
and exit code 2, and nothing is written but where it was asked for."""

import gzip
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from proxynas import proxyset
from proxynas.core import hardware, settings
from proxynas.core.errors import DeviceError, ProxynasError, SpaceError, SpecError
from proxynas.core.text import cell, markdown, quoted, visible
from proxynas.pipeline import flow
from proxynas.spaces import load
from proxynas.specs import CompareSpec, SearchSpec

from .test_cli import run
from .test_foreign_code import TINY, space

FLAGS_OF_CHEAP = (
    "--candidates 3 --updates 2 --seeds 1 --label 0 --verify 0 --steps 2 --val-size 50 "
    "--workers 1 --baseline random"
)
CHEAP = ["search", *FLAGS_OF_CHEAP.split()]
"""A search that ends soon, should it start."""

LINE = 400
"""Characters of an error, with its newline."""


def refused(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 2, (out, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert len(err) <= LINE
    assert err.strip().isprintable()
    assert "Traceback" not in out + err
    return err


def pipe(folder: Path) -> Path:
    path = folder / "pipe.csv"
    os.mkfifo(path)
    return path


def write(name: str, data: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return make


def channel(folder: Path) -> Path:
    path = folder / "socket.csv"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def itself(folder: Path) -> Path:
    path = folder / "link.csv"
    path.symlink_to(path)
    return path


def bomb(folder: Path) -> Path:
    path = folder / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(2**20))
    return path


def two_in_one(folder: Path) -> Path:
    path = folder / "two.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "arch,accuracy\n")
        archive.writestr("b.csv", "arch,accuracy\n")
    return path


ARCH = "D1-W32-relu-none-none"
NO_FILES: dict[str, Callable[[Path], Path]] = {
    "a pipe": pipe,
    "a socket": channel,
    "a device without end": lambda folder: Path("/dev/zero"),
    "a link to itself": itself,
    "a directory": lambda folder: folder,
    "a name of 300 bytes": lambda folder: folder / ("a" * 300 + ".csv"),
    "nothing": lambda folder: folder / "nothing.csv",
    "no text": write("latin.csv", b"arch,test_accuracy\n\xff,0.5\n"),
    "an empty file": write("empty.csv", ""),
    "nulls": write("null.csv", b"\0" * 5000),
    "a column twice": write("t.csv", "arch,test_accuracy,arch\na,0.5,b\n"),
    "a header that is nested": write("t.csv", f"# a = {'[' * 5000}\narch,test_accuracy\n"),
    "a header of other types": write("t.csv", "# made_on = 3\narch,test_accuracy\na,0.5\n"),
    "a command that is no table": write("t.csv", '# command = "x"\narch,test_accuracy\na,0.5\n'),
    "true for an accuracy": write("t.csv", f"arch,test_accuracy\n{ARCH},True\n"),
    "a seed of 1e30": write("t.csv", f"arch,test_accuracy,seed\n{ARCH},0.5,1e30\n"),
    "a seed of a half": write("t.csv", f"arch,test_accuracy,seed\n{ARCH},0.5,0.5\n"),
    "infinite seconds": write("t.csv", f"arch,test_accuracy,seconds\n{ARCH},0.5,inf\n"),
    "a cell of a megabyte": write("t.csv", f"arch,test_accuracy\n{ARCH},{'x' * 10**6}\n"),
    "a number of 5,000 digits": write("t.csv", f"arch,test_accuracy\n{ARCH},{'9' * 5000}\n"),
    "an escape code": write("t.csv", f"arch,test_accuracy\n{ARCH},\x1b[31mred\n"),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_a_truth_table_that_is_none(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = NO_FILES[case](tmp_path)
    arguments = [*CHEAP, "--truth", str(path), "--out", str(tmp_path / "out")]
    refused(run(monkeypatch, capsys, *arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", NO_FILES)
def test_a_data_table_or_a_settings_file_that_is_none(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = NO_FILES[case](tmp_path)
    out = ["--out", str(tmp_path / "out")]
    for flag in ("--data", "--config", "--space", "--proxy"):
        if (case, flag) == ("an empty file", "--config"):  # it sets nothing
            continue
        refused(run(monkeypatch, capsys, *CHEAP, flag, str(path), *out))
    assert not (tmp_path / "out").exists()


IMPORTED = {
    "a bomb": (bomb, "unpacks to more than 256 MiB"),
    "a broken zip": (write("t.csv.zip", b"PK\x03\x04broken"), "cannot be unpacked"),
    "a zip of two": (two_in_one, "must hold one file, but holds 2"),
    "a socket": (channel, "no regular file"),
    "a broken xz": (write("t.csv.xz", b"\xfd7zXZ\0broken"), "cannot be unpacked"),
    "half a gzip": (write("t.csv.gz", gzip.compress(b"arch,accuracy\n")[:-9]), "be unpacked"),
    "a column twice": (write("t.csv", "arch,accuracy,arch\na,1,b\n"), "'arch' comes twice"),
    "true": (write("t.csv", f"arch,accuracy\n{ARCH},True\n"), "an accuracy must be between"),
    "seeds": (write("t.csv", f"arch,accuracy,seed\n{ARCH},0.5,1e30\n"), "must be whole numbers"),
    "a pipe": (pipe, "no regular file"),
}


@pytest.mark.parametrize("case", IMPORTED)
def test_measurements_that_are_none(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make, message = IMPORTED[case]
    arguments = ["truth", "import", str(make(tmp_path)), "--data", "mine", "--out"]
    more = ["--space", "convnet-grid", "--seed-column", "seed"] if case == "seeds" else []
    more = more or ["--space", "convnet-grid"]
    err = refused(run(monkeypatch, capsys, *arguments, str(tmp_path / "out.csv"), *more))
    assert message in err
    assert not (tmp_path / "out.csv").exists()


FLAGS = {
    "10^12 updates": (["--updates", "1000000000000"], "updates: input should be less than"),
    "10^12 seeds": (["--seeds", "1000000000000"], "seeds: input should be less than"),
    "10^9 epochs": (["--epochs", "1000000000", "--label", "1"], "epochs of 1,000 images: updates"),
    "an image of 10^9": (["--image-size", "1000000000"], "image_size: input should be less"),
    "images larger than memory": (["--image-size", "10000"], "GiB of memory"),
    "a rate of 1e300": (["--lr", "1e300"], "lr: expected a number up to 1e+30"),
    "a recipe's rate of 1e300": (["--recipe", "lr=1e300"], "expected a number up to 1e+30"),
    "a method's rate of 1e300": (["--set", "lr=1e300"], "expected a number up to 1e+30"),
    "a device of superscripts": (["--device", "cuda:²"], "device must be auto, cpu, cuda or"),
    "a nested setting": (["--set", f"lr={'[' * 3000}"], "lr"),
    "a number of digits": (["--set", f"lr={'9' * 5000}"], "lr"),
    "yes for true": (["--recipe", 'nesterov="yes"'], "nesterov: expected true or false"),
    "true for a number": (["--recipe", "warmup=true"], "warmup: expected a number, but got true"),
    "empty truth": (["--truth", ""], "an argument is empty, after '--truth'"),
    "empty truth, glued": (["--truth="], "an argument is empty, after '--truth'"),
    "rounds without rounds": (["--round-size", "3"], "has no rounds, so round_size"),
    "kinds without kinds": (["--distinct"], "does not say which networks are isomorphic"),
    "a name for no truth": (["--truth", "none", "--truth-data", "x"], "truth_data would change"),
    "a name with an escape code": (["--space", "\x1b[31mred"], "'\\x1b[31mred'"),
    "a long name": (["--space", "x" * 5000], "there is no search space"),
    "a space in a long folder": (["--space", "x" * 5000 + ".toml"], "x"),
    "a folder of a long name": (["--data", "./" + "x" * 300], "does not exist"),
    "an output of a long name": (["--out", "x" * 300], "File name too long"),
    "a recipe nested deep": (
        ["--recipe", f"lr={'[' * 3000}"],
        "lr: input should be a valid number",
    ),
    "the system's folder": (["--data", "/proc"], "is a part of the system"),
    "a name that is not UTF-8": (["--data", "./caf\udce9"], "data: expected text in UTF-8"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments, message = FLAGS[case]
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert message in refused(run(monkeypatch, capsys, *CHEAP, *arguments, *out))
    assert not (tmp_path / "out").exists()


def test_an_empty_output_is_not_this_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["--out", ""], ["--out="]):
        assert "--out" in refused(run(monkeypatch, capsys, *CHEAP, *arguments))
    assert not list(tmp_path.iterdir())
    assert run(monkeypatch, capsys, "evaluate", "digits-gm-ipc1", "--augment", "", "--runs", "0")[0]


TOMLS = {
    "true for a number": ("ipc = true", "ipc: expected a number, but got true"),
    "yes for true": ('download = "yes"', "download: expected true or false, but got 'yes'"),
    "one for true": ("download = 1", "download: expected true or false"),
    "nested lists": (f"a = {'[' * 3000}{']' * 3000}", "nested too deep"),
    "nested tables": (f"[{'.'.join('a' * 3000)}]", "nested too deep"),
    "lists that still can be read": (f"a = {'[' * 90}{']' * 90}", "nested too deep"),
    "5,000 digits": (f"seed = {'9' * 5000}", "is not valid TOML"),
    "a seed over 64 bits": (f"seed = {2**70}", "seed"),
    "NUL in a name": ('data = "a\\u0000b"', "data: expected text in UTF-8"),
    "half a character in a setting": ('[settings]\ninit = "\\u0000"', "expected text in UTF-8"),
    "an escape code": ('data = "\\u001b[31m"', "unknown dataset"),
    "an empty name": ('proxy = ""', "proxy: string should have at least 1 character"),
    "a list of 100,000 numbers": (
        f"ipc = [{'1, ' * 100_000}]",
        "ipc: input should be a valid integer",
    ),
    "a rate of 1e300": ("lr = 1e300", "lr: expected a number up to 1e+30"),
    "a list for a name": ("space = [1]", "space: input should be a valid string"),
    "a megabyte": (f'method = "{"x" * 10**6}"', "there is no method"),
}


@pytest.mark.parametrize("case", TOMLS)
def test_settings_files(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, message = TOMLS[case]
    path = write("spec.toml", text)(tmp_path)
    out = ["--out", str(tmp_path / "out")]
    assert message in refused(run(monkeypatch, capsys, *CHEAP, "-c", str(path), *out))
    assert not (tmp_path / "out").exists()


SPACES = {
    "a brace left open": ({"arch": "D{width"}, "arch"),
    "braces in braces": ({"arch": "{{{width}}}-{{x}}"}, ""),
    "a part of an axis": ({"arch": "D{width[0]}"}, "arch must name every axis once"),
    "an attribute of an axis": ({"arch": "D{width.real}"}, "arch must name every axis once"),
    "a format": ({"arch": "D{width:>99999999}"}, "arch must name every axis once"),
    "a conversion": ({"arch": "D{width!r}"}, "arch must name every axis once"),
    "an axis without a name": ({"arch": "D{}", "axis": '""'}, "cannot be its name"),
    "an axis of another name": ({"arch": "D{a-b}", "axis": '"a-b"'}, "cannot be its name"),
    "an axis that is a number": ({"arch": "D{0}", "axis": '"0"'}, "cannot be its name"),
    "the factory's own argument": ({"arch": "D{shape}", "axis": "shape"}, "multiple values"),
    "no values": ({"values": "[]"}, "at least one value"),
    "values of lists": ({"values": "[[1]]"}, "axes.width"),
    "a line break": ({"values": '["a\\nb"]'}, "printable characters"),
    "an escape code": ({"arch": "\\u001b[31m{width}"}, "printable characters"),
    "a formula": ({"arch": "={width}"}, "must not begin with '='"),
    "a negative number first": ({"arch": "{width}", "values": "[-1, 1]"}, "must not begin"),
    "a megabyte": ({"values": f'["{"x" * 10**6}"]'}, "may have 1000 characters"),
    "an infinite value": ({"values": "[inf]"}, "axes"),
    "a headline that is none": (
        {"more": '[headline]\nindicator = "luck"\nwithout_zero_cost = "sotl"\nreason = "x"'},
        "space.toml, indicator: there is no indicator 'luck'",
    ),
    "a headline that lacks a key": ({"more": "[headline]"}, "space.toml: headline.indicator"),
    "a factory that is no function": ({"factory": "math:pi"}, "factory"),
    "a factory of nowhere": ({"factory": ":"}, "cannot import"),
    "a factory file of nowhere": ({"factory": "nowhere.py:make"}, "cannot import"),
}


@pytest.mark.parametrize("case", SPACES)
def test_spaces(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    change, message = SPACES[case]
    space(tmp_path)
    path = write(
        "space.toml",
        f'name = "mine"\nfactory = "{change.get("factory", "nets.py:make")}"\n'
        f'arch = "{change.get("arch", "W{width}")}"\n'
        f"[axes]\n{change.get('axis', 'width')} = {change.get('values', '[4, 5]')}\n"
        f"{change.get('more', '')}\n",
    )(tmp_path)
    arguments = [*CHEAP, "--space", str(path), "--out", str(tmp_path / "out")]
    if case == "braces in braces":  # that is how a brace is written
        assert load(str(path)).at(0) == "{4}-{x}"
        return
    assert message in refused(run(monkeypatch, capsys, *arguments))
    assert not (tmp_path / "out").exists()


def test_a_space_of_10_to_the_20(tmp_path: Path) -> None:
    space(tmp_path)
    axes = "\n".join(f"a{i} = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for i in range(20))
    arch = "-".join(f"{{a{i}}}" for i in range(20))
    path = write(
        "space.toml", f'name = "m"\nfactory = "nets.py:make"\narch = "W{arch}"\n[axes]\n{axes}\n'
    )(tmp_path)
    large = load(str(path))
    assert large.size == 10**20
    assert large.at(10**20 - 1) in large
    with pytest.raises(SpecError, match="would list 100,000"):
        flow.search(SearchSpec(space=str(path), strategy="all"), tmp_path / "out", workers=1)
    with pytest.raises(SpaceError, match="the factory of 'm' failed"):
        flow.search(SearchSpec(space=str(path), candidates=2), tmp_path / "out", workers=1)


def test_names_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Rich markup, mathtext, tags and formulas in names of networks, tables and sets."""
    text = space(tmp_path).read_text().replace('"W{width}"', '"[/bold]$x_{{$-<b>{width}"')
    path = write("space.toml", text)(tmp_path)
    archs = [f"[/bold]$x_{{$-<b>{width}" for width in (4, 5, 6)]
    rows = "".join(f"{arch},0.{width}\n" for width, arch in enumerate(archs, 3))
    table = write("t.csv", f"arch,val_accuracy\n{rows}".replace("arch,", "# accuracy = "
                  '"val_accuracy"\narch,', 1))(tmp_path)  # fmt: skip
    proxyset.read("digits-gm-ipc1").save(tmp_path / "[i]$z_{$<b>5.safetensors")
    code, out, err = run(
        monkeypatch, capsys, *CHEAP, "--space", str(path), "--truth", str(table),
        "--table", f"+1[red]$y_{{$={table}", "--also", str(tmp_path / "[i]$z_{$<b>5.safetensors"),
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 0, err
    assert "[i]$z_{$<b>5" in out
    assert "[red]$y_{$" in out
    assert (tmp_path / "out" / "report.html").exists()
    assert ",'+1[red]$y_{$:" in (tmp_path / "out" / "indicators.csv").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert not {"<b>4", "<b>5"} & {page[at : at + 4] for at in range(len(page))}
    assert " ".join(out.split()).count("made by code that its file names") == 1


def test_texts() -> None:
    assert visible("a\x1b[31m\u202eb\udce9\n") == "a\\x1b[31m\\u202eb\\udce9\\n"
    assert visible("ρ = 0.5 – é") == "ρ = 0.5 – é"
    assert [cell(text) for text in ("=1", "+1", "-1", "@x", "a=1")] == [
        *("'=1", "'+1", "'-1", "'@x"),
        "a=1",
    ]
    assert markdown("<b>|[a](b)`c`*d*\ne") == "&lt;b&gt;\\|\\[a\\](b)\\`c\\`\\*d\\*\\\\ne"
    assert len(quoted("x" * 10**6)) == 200
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert quoted(deep) == "a value of type list"


@pytest.mark.parametrize("device", ["cuda:²", "cuda:", "cuda:-1", "cuda:0x0", "cudanord", "CPU"])
def test_devices(device: str) -> None:
    with pytest.raises(DeviceError, match="device"):
        hardware.check(device)


def test_a_result_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    from proxynas.compare import compare

    def spec(updates: int) -> CompareSpec:
        return settings.make(
            CompareSpec,
            {
                "rows": [{"name": "r", "method": "random", "updates": updates}],
                "distillations": 1, "students": 1, "archs": ["D1-W32-relu-none-none"],
            },
        )  # fmt: skip

    compare(spec(1), tmp_path, workers=1)
    compare(spec(1), tmp_path, workers=1)
    (tmp_path / "spec.toml").unlink()
    with pytest.raises(ProxynasError, match="of other settings than row 'r' has now"):
        compare(spec(2), tmp_path, workers=1)


def test_a_tiny_search_still_works(tmp_path: Path) -> None:
    assert flow.search(TINY, tmp_path / "out", workers=1).report.exists()
