"""``make chaos``: commands are killed at random moments in every way there is, and run again.

``python -m tests.chaos --kills 100 --seed 7`` takes each pair of a command (search, distill,
compare, truth) and a way to be stopped in turn: the whole process group, one worker, the parent
alone, Ctrl-C once and twice, a disk that is full (a limit on the size of files), a folder that is
read-only. What was stopped says nothing but a line, the same command ends well after it, and its
results are those of a run that nothing disturbed, byte for byte.
"""

import argparse
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from proxynas import proxyset
from proxynas.truth import read as read_truth

from .test_foreign_code import HEAD, SPACE

TRIES = 4
"""Starts after which a command must have ended well."""
PATIENCE = 300.0
"""Seconds that one start may take."""

COMPARISON = """
distillations = 2
students = 1
updates = 2
archs = ["D1-W32-relu-none-none"]
steps = 3
[[rows]]
name = "random"
method = "random"
[[rows]]
name = "gm"
method = "gm"
"""


@dataclass(frozen=True)
class Command:
    """A command in a folder, and what of its results must never differ."""

    arguments: Callable[[Path], list[str]]
    outcome: Callable[[Path], str]


def space(folder: Path) -> list[str]:
    return ["--space", str(folder / "space.toml")]


def search(folder: Path) -> list[str]:
    flags = (
        "--candidates 3 --updates 10 --seeds 2 --label 2 --verify 1 --epochs 1 --steps 20 "
        "--val-size 50 --truth none --baseline random --workers 2"
    )
    return ["search", *space(folder), *flags.split(), "--out", str(folder / "out")]


def searched(folder: Path) -> str:
    sets = [proxyset.read(folder / "out" / f"{name}.safetensors") for name in ("proxy", "random")]
    scores = (folder / "out" / "scores.csv").read_text()
    return "\n".join([*(one.fingerprint for one in sets), scores])


def truth(folder: Path) -> list[str]:
    flags = ["--seeds", "2", "--epochs", "1", "--workers", "2"]
    return ["truth", *space(folder), *flags, "--out", str(folder / "out" / "t.csv")]


def measured(folder: Path) -> str:
    table = read_truth(folder / "out" / "t.csv")
    rows: str = table.rows.drop(columns="seconds").to_csv()
    return rows


def compare(folder: Path) -> list[str]:
    where = ["-c", str(folder / "table.toml"), "--out", str(folder / "out")]
    return ["compare", *where, "--workers", "2"]


def compared(folder: Path) -> str:
    rows = json.loads((folder / "out" / "table.json").read_text())["rows"]
    return json.dumps([[row["name"], row["cells"]] for row in rows])


COMMANDS = {
    "search": Command(search, searched),
    "distill": Command(
        lambda folder: ["distill", "--steps", "20", "--out", str(folder / "out" / "a.safetensors")],
        lambda folder: proxyset.read(folder / "out" / "a.safetensors").fingerprint,
    ),
    "compare": Command(compare, compared),
    "truth": Command(truth, measured),
}


def started(command: list[str], folder: Path, **options: object) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a terminal starts it."""
    environment = {**os.environ, "PROXYNAS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with open(folder / "errors", "w") as errors:
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, text=True, env=environment,
            start_new_session=True, **options,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def proxynas(name: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "proxynas", *COMMANDS[name].arguments(folder)]


def whole(name: str, folder: Path) -> tuple[int, float]:
    """Exit code and seconds of a start that nothing disturbs."""
    began = time.monotonic()
    process = started(proxynas(name, folder), folder)
    return process.wait(PATIENCE), time.monotonic() - began


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def ended(process: subprocess.Popen[str], workers: list[psutil.Process]) -> int:
    """Its exit code, once all of its workers are gone too."""
    code = process.wait(PATIENCE)
    _, alive = psutil.wait_procs(workers, timeout=30)
    if alive:
        raise AssertionError(f"{len(alive)} workers live on after their parent")
    return code


def killed(name: str, folder: Path, way: str, moment: float, rng: random.Random) -> int:
    """Start the command and stop it so at that moment; its exit code."""
    process = started(proxynas(name, folder), folder)
    try:
        return process.wait(moment)
    except subprocess.TimeoutExpired:
        workers = children(process)
    if way == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif way == "parent":
        process.kill()
    elif way == "worker":
        busy = [worker for worker in workers if worker.is_running()][-1:]
        for worker in busy[:1]:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
        if way == "ctrl-c twice":
            time.sleep(rng.uniform(0, 0.5))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
    return ended(process, workers)


def full(name: str, folder: Path, way: str, moment: float, rng: random.Random) -> int:
    """No file may grow over some size, as if there were no room."""
    size = round(2 ** rng.uniform(10, 18))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    process = started(proxynas(name, folder), folder, preexec_fn=limit)
    return ended(process, [])


def read_only(name: str, folder: Path, way: str, moment: float, rng: random.Random) -> int:
    """Stop it first, so that there is something, and start it where it may not write."""
    killed(name, folder, "group", moment, rng)
    (folder / "out").mkdir(exist_ok=True)
    run, out = shlex.join(proxynas(name, folder)), shlex.quote(str(folder / "out"))
    if os.geteuid() == 0:  # who may write everywhere but on a read-only mount
        mount = f"mount --bind {out} {out} && mount -o remount,ro,bind {out}"
        process = started(["unshare", "-m", "sh", "-c", f"{mount} && exec {run}"], folder)
        return ended(process, [])
    (folder / "out").chmod(0o555)
    try:
        return ended(started(proxynas(name, folder), folder), [])
    finally:
        (folder / "out").chmod(0o755)


WAYS = {
    "group": (killed, {-9}),
    "worker": (killed, {0, 2}),
    "parent": (killed, {-9}),
    "ctrl-c": (killed, {130, -2}),
    "ctrl-c twice": (killed, {130, -2}),
    "full": (full, {2}),
    "read-only": (read_only, {2}),
}
"""How a command is stopped, and the exit codes that it may then have; 0 is always one: it had ended
before."""


def problem(name: str, way: str, folder: Path, expected: str, moment: float, seed: str) -> str:
    """What is wrong with how the command was stopped and went on; empty: nothing."""
    stop, codes = WAYS[way]
    try:
        code = stop(name, folder, way, moment, random.Random(seed))
        said = (folder / "errors").read_text()
        if code not in {0, *codes}:
            return f"exit code {code}: {said[-300:]}"
        if "Traceback" in said and "in main" in said:  # Python itself has none of our frames
            return said[-1500:]
        for _ in range(TRIES):
            code, _ = whole(name, folder)
            if code == 0:
                break
        else:
            return f"it does not resume: {(folder / 'errors').read_text()[-500:]}"
        came = COMMANDS[name].outcome(folder)
        return "" if came == expected else f"other results: {came[:300]} for {expected[:300]}"
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return str(error)


def prepared(folder: Path) -> Path:
    """A fresh folder with what the commands need."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    code = HEAD.replace("{wrong}", "pass").replace("{early}", "pass")
    (folder / "nets.py").write_text(code.replace("{kind}", "return arch"))
    (folder / "space.toml").write_text(SPACE)
    (folder / "table.toml").write_text(COMPARISON)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=28, help="how many, over all pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--command", choices=COMMANDS, action="append", help="this one alone")
    parser.add_argument("--way", choices=WAYS, action="append", help="this one alone")
    given = parser.parse_args()
    names, ways = given.command or list(COMMANDS), given.way or list(WAYS)
    pairs = [(name, way) for way in ways for name in names]
    before, failures = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, expected, seconds = Path(place) / "run", {}, {}
        for name in names:  # in the same folder, so that no path differs
            code, seconds[name] = whole(name, prepared(folder))
            if code != 0:
                sys.exit(f"{name} does not even work ({code}): {(folder / 'errors').read_text()}")
            expected[name] = COMMANDS[name].outcome(folder)
        for number in range(given.kills):
            name, way = pairs[number % len(pairs)]
            seed = f"{given.seed} {number}"
            moment = random.Random(seed).uniform(0.2, 0.95 * seconds[name])
            wrong = problem(name, way, prepared(folder), expected[name], moment, seed)
            failures += bool(wrong)
            print(f"{name}, {way} after {moment:.1f} s: {wrong or 'the same bytes'}", flush=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{given.kills} kills with seed {given.seed}: {failures} failures; "
        f"{spent / given.kills:.1f} core seconds each"
    )
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
