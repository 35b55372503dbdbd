"""Every kind of input, mutated by chance, against one oracle: the command ends with exit code 0 or
2, an error is one line under 400 characters, nothing but the output folder is touched, and it is
over in time.

``make fuzz ARGS="--cases 5000 --seed 7"`` draws as many cases as one likes (``tests/fuzz.py``).
Hypothesis shrinks what fails; what it found is in ``test_malformed.py`` and ``test_damaged.py``.
"""

import contextlib
import io
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from PIL import Image

from proxynas import cli, datasets
from proxynas.core import settings as toml
from proxynas.distill.loop import distill
from proxynas.pipeline import flow
from proxynas.specs import CompareSpec, DistillSpec, SearchSpec
from proxynas.specs.option import Option

from .mutations import SCALARS, VALUES, edit, mutate, mutate_text, put, reseal
from .test_cli import images
from .test_damaged import TINY, change
from .test_foreign_code import HEAD, SPACE
from .test_malformed import CHEAP

CASES = int(os.environ.get("PROXYNAS_FUZZ_CASES", "39"))
"""In all; every kind of input gets its share."""

SECONDS = 60
"""That one case may take."""


@dataclass(frozen=True)
class Place:
    """Where a case may read and write: a copy of a run, a set, a folder of images."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def run(self) -> Path:
        return self.folder / "out" / "run"

    @property
    def proxy(self) -> Path:
        return self.folder / "set.safetensors"

    @property
    def images(self) -> Path:
        return self.folder / "images"


Case = Callable[[DataObject, Place], list[str]]
KINDS: dict[str, Case] = {}


def kind(case: Case) -> Case:
    KINDS[case.__name__] = case
    return case


def evaluate(place: Place) -> list[str]:
    flags = "--runs 1 --updates 1 --arch D1-W32-relu-none-none"
    return ["evaluate", str(place.proxy), *flags.split()]


@kind
def proxy_file(data: DataObject, place: Place) -> list[str]:
    mutate(data, place.proxy)
    return evaluate(place)


@kind
def sealed_proxy_file(data: DataObject, place: Place) -> list[str]:
    reseal(data, place.proxy)
    if data.draw(st.integers(0, 3)) == 0:
        again = place.folder / "again.safetensors"
        shutil.copy(place.proxy, again)
        return ["merge", str(place.proxy), str(again), "--out", str(place.out / "m.safetensors")]
    return evaluate(place)


@kind
def checkpoint(data: DataObject, place: Place) -> list[str]:
    out = place.out / "a.safetensors"
    path = place.out / "a.safetensors.checkpoint"
    shutil.copy(place.folder / "checkpoint", path)
    if data.draw(st.booleans()):
        mutate(data, path)
    else:
        change(path, lambda about, tensors: edit(data, about))
    return ["distill", "--steps", "2", "--out", str(out)]


@kind
def run_store(data: DataObject, place: Place) -> list[str]:
    path = place.run / "run.sqlite"
    if data.draw(st.booleans()):
        mutate(data, path)
        return ["report", str(place.run)]
    table = data.draw(st.sampled_from(["scores", "candidates", "zero_cost", "stages", "sets"]))
    store = sqlite3.connect(path)
    columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
    value = data.draw(st.one_of(SCALARS, st.binary(max_size=9), st.none()))
    with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError), store:
        store.execute(f"UPDATE {table} SET {data.draw(st.sampled_from(columns))} = ?", (value,))
    store.close()
    return ["report", str(place.run)]


def keys(spec: type) -> list[str]:
    from typing import get_type_hints

    hints = get_type_hints(spec, include_extras=True)
    return [*hints, *(name.replace("_", "-") for name in hints), "x"]


def settings_file(data: DataObject, place: Place, spec: type, base: dict[str, Any]) -> str:
    """Some keys of a command with any values; or a text that is mutated on."""
    changed = data.draw(st.dictionaries(st.sampled_from(keys(spec)), VALUES, max_size=2))
    try:
        text = tomli_w.dumps({**base, **changed})
    except (ValueError, TypeError):
        text = tomli_w.dumps(base)
    text = mutate_text(data, text) if data.draw(st.booleans()) else text
    return str(put(place.folder / "spec.toml", text))


@kind
def toml_of_a_search(data: DataObject, place: Place) -> list[str]:
    path = settings_file(data, place, SearchSpec, {"method": "gm", "settings": {"lr": 0.1}})
    space = ["--space", str(place.folder / "space.toml")]
    return [*CHEAP, *space, "-c", path, "--out", str(place.out / "new")]


@kind
def toml_of_a_distillation(data: DataObject, place: Place) -> list[str]:
    path = settings_file(data, place, DistillSpec, {"settings": {"lr": 0.1}})
    method = data.draw(st.sampled_from(["gm", "random", "herding"]))
    steps = ["--steps", "1"] if method == "gm" else []
    out = str(place.out / "a.safetensors")
    return ["distill", "-c", path, "--method", method, *steps, "--out", out]


@kind
def toml_of_a_comparison(data: DataObject, place: Place) -> list[str]:
    row = {"name": "r", "method": "random", "updates": 1, "archs": ["D1-W32-relu-none-none"]}
    wrong = data.draw(st.dictionaries(st.sampled_from(keys(CompareSpec)), VALUES, min_size=1))
    rows = [row, {**row, **wrong}]  # a row that cannot be, so that nothing is distilled
    with contextlib.suppress(ValueError, TypeError):
        text = mutate_text(data, tomli_w.dumps({"rows": rows, "distillations": 0}))
        path = put(place.folder / "spec.toml", text)
        return ["compare", "-c", str(path), "--out", str(place.out / "new")]
    return ["compare", "-c", str(place.folder), "--out", str(place.out / "new")]


@kind
def toml_of_a_space(data: DataObject, place: Place) -> list[str]:
    path = place.folder / "space.toml"
    values = toml.read_toml(path)
    edit(data, values)
    with contextlib.suppress(ValueError, TypeError):
        put(path, mutate_text(data, tomli_w.dumps(values)))
    return [*evaluate(place)[:-1], data.draw(st.sampled_from(["W4", "W5", ""])) or "W4", "--space",
            str(path)]  # fmt: skip


def numbers() -> str:
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'ab'[i % 2]}" for i, (a, b) in enumerate(rng.normal(size=(30, 2)))]
    return "\n".join(["one,two,class", *rows]) + "\n"


@kind
def csv_of_data(data: DataObject, place: Place) -> list[str]:
    path = put(place.folder / "table.csv", mutate_text(data, numbers()))
    if data.draw(st.booleans()):
        mutate(data, path)
    return ["distill", "--data", str(path), "--method", "random", "--out", str(place.out / "a")]


@kind
def csv_of_truth(data: DataObject, place: Place) -> list[str]:
    head = '# accuracy = "val_accuracy"\narch,seed,val_accuracy,seconds,failed\n'
    rows = "".join(f"W{width},0,0.{width},1.0,\n" for width in (4, 5, 6))
    path = put(place.folder / "truth.csv", mutate_text(data, head + rows))
    if data.draw(st.booleans()):
        mutate(data, path)
    if data.draw(st.booleans()):
        more = ["--accuracy-column", "val_accuracy", "--space", str(place.folder / "space.toml")]
        out = ["--data", "digits", "--out", str(place.out / "t.csv")]
        return ["truth", "import", str(path), *more, *out]
    return ["report", str(place.run), "--truth", str(path)]


@kind
def folder_of_images(data: DataObject, place: Place) -> list[str]:
    for _ in range(data.draw(st.integers(1, 3))):
        files = sorted(p for p in place.images.rglob("*") if p.is_file() or p.is_dir())
        path = data.draw(st.sampled_from(files))
        how = data.draw(st.sampled_from(["bytes", "pipe", "link", "size", "rename", "remove"]))
        if how == "bytes" and path.is_file():
            mutate(data, path)
        elif how == "size":
            Image.new("RGB", (data.draw(st.integers(1, 9)), 8)).save(path.parent / "new.png")
        elif how == "remove":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            name = data.draw(st.sampled_from(["x.png", "caf\udce9", "\x1b[31m.png", "a" * 250]))
            with contextlib.suppress(OSError):
                if how == "pipe":
                    os.mkfifo(path.parent / name)
                elif how == "link":
                    (path.parent / name).symlink_to(place.images)
                else:
                    path.rename(path.parent / name)
    where = ["--data", str(place.images), "--method", "random"]
    return ["distill", *where, "--out", str(place.out / "a.safetensors")]


@kind
def flags(data: DataObject, place: Place) -> list[str]:
    """Flags of a command with any values, among those that keep it cheap where it is accepted."""
    known = [name for name in toml_options(SearchSpec) if name not in ("--data-root", "--download")]
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(known), SCALARS), min_size=1, max_size=2))
    arguments = [part for name, value in drawn for part in (name, str(value)[:400])]
    clean = [argument.replace("\0", "0") for argument in arguments]
    space = ["--space", str(place.folder / "space.toml")]
    return ["search", *space, *clean, *CHEAP[1:], "--out", str(place.out / "new")]


def toml_options(spec: type) -> Iterator[str]:
    from typing import get_type_hints

    for name, hint in get_type_hints(spec, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Option):
                yield extra.flag or "--" + name.replace("_", "-")


WRONG = [
    *("return y[:, :3]", "return y, y", "return y.double()", "return None", "return y * 0"),
    *("return y / 0", "raise ValueError('x' * 10**6)", "sys.exit(0)", "os._exit(0)", "1 / 0"),
    *("return y.detach()", "time.sleep(100)", "raise MemoryError", "return y[..., None]"),
    *("raise RecursionError", "return y + self.calls ** 99", "del self.all", "return y.sum()"),
    "torch.set_default_dtype(torch.float64)",
]


@kind
def networks(data: DataObject, place: Place) -> list[str]:
    when = data.draw(
        st.sampled_from(["1", "self.calls > 2", "self.calls > 5", "not self.training"])
    )
    code = HEAD.replace("{wrong}", data.draw(st.sampled_from(WRONG))).replace(
        "{kind}", "return arch"
    )
    early = data.draw(st.sampled_from(["pass", "pass", "pass", *WRONG[5:12]]))
    early = early.replace("return y", "return 1").replace("self.calls", "width")
    code = code.replace("{early}", early).replace("if self.width == 5:", f"if {when}:")
    (place.folder / "nets.py").write_text(code)
    flags = ["--space", str(place.folder / "space.toml"), "--time-limit", "3"]
    return [*CHEAP, *flags, "--out", str(place.out / "new")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case gets a copy of."""
    folder = tmp_path_factory.mktemp("template")
    code = HEAD.replace("{wrong}", "pass").replace("{early}", "pass")
    (folder / "nets.py").write_text(code.replace("{kind}", "return arch"))
    (folder / "space.toml").write_text(SPACE)
    spec, digits = DistillSpec(method="random"), datasets.load("digits")
    distill(spec, digits).save(folder / "set.safetensors")
    distill(DistillSpec(steps=2), digits, checkpoint=folder / "checkpoint")
    images(folder / "images", each=4)
    flow.search(
        toml.make(SearchSpec, {**toml.to_dict(TINY), "space": str(folder / "space.toml")}),
        folder / "out" / "run", workers=1,
    )  # fmt: skip
    return folder


class TooSlowError(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_any_input_ends_in_a_result_or_one_line(name: str, template: Path) -> None:
    @settings(
        max_examples=max(1, CASES // len(KINDS)),
        deadline=None,
        database=None,
        derandomize="PROXYNAS_FUZZ_CASES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def holds(data: DataObject) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            place = Place(Path(shutil.copytree(template, Path(folder) / "case")))
            arguments = KINDS[name](data, place)
            before = contents(place)
            problem = ends_well(arguments)
            assert problem is None, f"{problem}\nproxynas {arguments}"
            assert contents(place) == before, f"files were touched by proxynas {arguments}"

    holds()


def contents(place: Place) -> dict[str, tuple[int, int]]:
    """Size and time of all files that are not for the command to write."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in place.folder.rglob("*")
        if place.out not in (path, *path.parents) and "__pycache__" not in path.parts
        and not path.is_dir()
    }  # fmt: skip


def ends_well(arguments: list[str]) -> str | None:
    """What is wrong with how a command ended, if anything."""

    def slow(number: int, frame: object) -> None:
        raise TooSlowError

    out, err = io.StringIO(), io.StringIO()
    usual, argv, code = signal.signal(signal.SIGALRM, slow), sys.argv, None
    interrupts = signal.getsignal(signal.SIGINT)
    dtype = torch.get_default_dtype()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        sys.argv = ["proxynas", *arguments]
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main()
    except SystemExit as left:
        code = left.code
    except TooSlowError:
        return f"it took longer than {SECONDS} s"
    except BaseException as error:
        return f"it raised {type(error).__name__}: {str(error)[:500]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
        signal.signal(signal.SIGINT, interrupts)
        torch.set_default_dtype(dtype)
        sys.argv = argv
    printed = err.getvalue()
    if code in (0, None):
        return None
    line = printed.startswith("error: ") and printed.count("\n") == 1 and len(printed) < 400
    if code == 2 and line and printed.strip().isprintable():
        return None
    return f"exit code {code}, and it said {printed[:500]!r}"
