import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from proxynas.core.errors import DataError, WorkerError
from proxynas.search.pool import map_apart, map_unordered


def prepare(number: int) -> int:
    if number < 0:
        raise DataError("a negative number")
    return number


def add(context: int, task: int) -> tuple[int, int, int]:
    if task == 99:
        raise DataError("task 99")
    return context + task, torch.get_num_threads(), os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_once_on_one_thread(workers: int) -> None:
    threads = torch.get_num_threads()
    results = list(map_unordered(add, range(7), partial(prepare, 10), workers))
    assert sorted(value for value, _, _ in results) == list(range(10, 17))
    assert {used for _, used, _ in results} == {1}
    assert (os.getpid() in {pid for _, _, pid in results}) == (workers == 1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_user_come_out_as_they_are(workers: int) -> None:
    with pytest.raises(DataError, match="a negative number"):
        list(map_unordered(add, range(3), partial(prepare, -1), workers))
    with pytest.raises(DataError, match="task 99"):
        list(map_unordered(add, [1, 99], partial(prepare, 0), workers))


def test_a_process_of_its_own_for_every_task() -> None:
    results = list(map_apart(add, range(3), partial(prepare, 10), 1))
    assert [(value, used) for value, used, _ in results] == [(10, 1), (11, 1), (12, 1)]
    assert len({os.getpid(), *(pid for _, _, pid in results)}) == 4
    with pytest.raises(DataError, match="task 99"):
        list(map_apart(add, [99, 1], partial(prepare, 0), 2))
    with pytest.raises(WorkerError, match="a worker process died"):
        list(map_apart(die, range(2), partial(prepare, 1), 1))
    assert list(map_apart(add, [], partial(prepare, 0), 1)) == []


def nap(context: int, task: int) -> None:
    time.sleep(60)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent() -> None:
    work = "list(map_unordered(nap, range(4), partial(prepare, 1), 2))"
    code = f"from tests.test_pool import *\nif __name__ == '__main__': {work}"
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(workers := children(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) >= 2
    time.sleep(4)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def die(context: int, task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_said() -> None:
    with pytest.raises(WorkerError, match="a worker process died"):
        list(map_unordered(die, range(3), partial(prepare, 1), 2))


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []
