"""Searches on a Ray cluster of three nodes, all on this machine, against the same search here."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxynas import compare, truth
from proxynas.core import settings
from proxynas.core.errors import DataError, DeviceError, SpecError, WorkerError
from proxynas.core.progress import Watcher
from proxynas.engine import cluster as engine
from proxynas.engine.cluster import RayCluster
from proxynas.pipeline import flow
from proxynas.specs import CompareSpec, SearchSpec, TruthSpec
from proxynas.truth.measure import measure

from .test_cli import run
from .test_engine import add, die_of_two, lost, prepare

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.xdist_group("ray"),  # one Ray at a time
]


class Nodes:
    """Three nodes of one core each; the second and third are nobody's head."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={**small, "include_dashboard": False}
        )
        self.others = [self.cluster.add_node(**small) for _ in range(2)]
        self.engine = RayCluster(self.cluster.address)

    def lose_one(self) -> None:
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: other work would stop them
        nodes = Nodes()
        yield nodes
        ray.shutdown()
        nodes.cluster.shutdown()


def scores(folder: Path) -> bytes:
    return (folder / "scores.csv").read_bytes()


class Losing(Watcher):
    """Takes a node away when the third result is there."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    def searching(self, done: int, total: int, arch: str) -> None:
        if done == 3:
            self.nodes.lose_one()


def test_a_cluster_gives_the_scores_of_one_process(
    nodes: Nodes, small_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, candidates=4, label=0, verify=1, epochs=1, truth="none")
    flow.search(spec, tmp_path / "here", workers=1)
    assert nodes.engine.on("cpu").workers(None) == 3
    flow.search(spec, tmp_path / "cluster", workers=2, engine=nodes.engine)
    assert scores(tmp_path / "here") == scores(tmp_path / "cluster")


def test_users_errors_and_killed_tasks(nodes: Nodes, tmp_path: Path) -> None:
    on_ray = nodes.engine.on("cpu")
    with (
        on_ray.opened(partial(prepare, 0), 1) as mapped,
        pytest.raises(DataError, match="task 99"),
    ):
        list(mapped(add, [99], lost))
    with on_ray.opened(partial(Path, tmp_path), 1) as mapped:
        results = list(mapped(die_of_two, [2, 0], lost))
    assert results[0] == 0
    assert results[1][0] == 2
    assert "died 3 times (" in results[1][1]
    with pytest.raises(DeviceError, match="the Ray cluster has none"):
        replace(nodes.engine, gpus_per_task=0.25).on("cuda")


def test_a_table_and_a_truth(nodes: Nodes, small_space: Path, tmp_path: Path) -> None:
    rows = [{"name": "random", "method": "random"}]
    spec = settings.make(
        CompareSpec,
        {"rows": rows, "distillations": 1, "students": 1, "updates": 3, "archs": ["mlp"]},
    )
    compare.compare(spec, tmp_path / "ray", workers=1, engine=nodes.engine)
    compare.compare(spec, tmp_path / "here", workers=1)
    results = [
        json.loads((tmp_path / where / "results" / "random-0.json").read_text())["accuracies"]
        for where in ("ray", "here")
    ]
    assert results[0] == results[1] != {}
    truths = TruthSpec(space=str(small_space), candidates=2, seeds=1, epochs=1, batch_size=200)
    measured = [
        measure(truths, tmp_path / "ray.csv", workers=1, engine=nodes.engine),
        measure(truths, tmp_path / "here.csv", workers=1),
    ]
    columns = [c for c in truth.table.COLUMNS if c != "seconds"]
    assert measured[0].rows[columns].equals(measured[1].rows[columns])


def test_a_killed_driver_resumes(nodes: Nodes, small_spec: SearchSpec, tmp_path: Path) -> None:
    config, folder = tmp_path / "spec.toml", tmp_path / "run"
    spec = replace(small_spec, candidates=4)
    config.write_text(settings.to_toml(spec))
    command = [sys.executable, "-m", "proxynas", "search", "-c", str(config), "--out", str(folder)]
    command += ["--engine", "ray", "--ray-address", nodes.cluster.address, "--workers", "1"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # distils as this process does
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=one_thread)
    deadline = time.monotonic() + 200
    while rows(folder) < 2 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert 0 < rows(folder) < 4 * 3 * 2
    flow.search(spec, folder, workers=1, engine=nodes.engine)
    flow.search(spec, tmp_path / "here", workers=1)
    assert scores(folder) == scores(tmp_path / "here")


def rows(folder: Path) -> int:
    """How many training runs a run store has."""
    try:
        with sqlite3.connect(folder / "run.sqlite") as store:
            return int(store.execute("SELECT count(*) FROM scores").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_node_that_is_lost_changes_nothing(
    nodes: Nodes, small_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, candidates=6, seeds=1)
    flow.search(spec, tmp_path / "here", workers=1)
    flow.search(spec, tmp_path / "two", workers=3, engine=nodes.engine, watcher=Losing(nodes))
    assert scores(tmp_path / "here") == scores(tmp_path / "two")
    assert len(nodes.others) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--engine ray --ray-address nowhere", "must be HOST:PORT"),
        ("--engine ray --ray-address 127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("--engine ray --gpus-per-task 0.25", "is for work on GPUs; add --device cuda"),
        ("--gpus-per-task 0.25", "--gpus-per-task is for Ray; add --engine ray"),
        ("--ray-address auto", "--ray-address is for Ray; add --engine ray"),
        ("--engine ray --gpus-per-task 0", "greater than 0"),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    flags: str,
    message: str,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    code, _, err = run(
        monkeypatch, capsys, "search", "--out", str(tmp_path / "run"), *flags.split()
    )
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"pip install 'proxynas\[ray\]'"):
        RayCluster().on("cpu").workers(None)


def test_who_listens_but_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: Any) -> None:
        raise RuntimeError("version mismatch\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(engine, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"no Ray cluster answers at {address} .timed out"):
            RayCluster(address).on("cpu").workers(None)
        monkeypatch.setattr(engine, "_check_answer", lambda address: None)
        with pytest.raises(WorkerError, match=f"cannot use Ray at {address} .RuntimeError: "):
            RayCluster(address).on("cpu").workers(None)


def test_gpus_are_ressources(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"GPU": 3.0}

        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            return [
                {"Alive": True, "Resources": {"GPU": 2.0, "CPU": 8.0}},
                {"Alive": True, "Resources": {"GPU": 1.0, "CPU": 8.0}},
                {"Alive": False, "Resources": {"GPU": 8.0}},
                {"Alive": True, "Resources": {"CPU": 4.0}},
            ]

    monkeypatch.setattr(engine, "connected", lambda address: Fake)
    assert RayCluster(gpus_per_task=0.3).on("cuda").workers(None) == 6 + 3
    assert RayCluster().on("cuda").workers(None) == 3
    assert RayCluster().on("cpu").workers(None) == 20
    assert RayCluster().on("cpu").workers(7) == 7
    with pytest.raises(SpecError, match="Ray chooses the GPU"):
        RayCluster().on("cuda:1")
