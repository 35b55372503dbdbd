import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proxynas.core.errors import DataError, WorkerError
from proxynas.engine import LOCAL, devices, sharing
from proxynas.engine.dispatch import RETRIES, Died, Dispatcher, Done, Event, Raised, Ready
from proxynas.engine.local import LocalProcesses, Processes


def prepare(number: int) -> int:
    if number < 0:
        raise DataError("a negative number")
    return number


def add(context: int, task: int) -> tuple[int, int, int]:
    if task == 99:
        raise DataError("task 99")
    return context + task, torch.get_num_threads(), os.getpid()


def lost(task: Any, reason: str) -> tuple[Any, str]:
    return task, reason


def mapped(
    work: Any, tasks: Iterable[Any], prepare: Any, workers: int, *, apart: bool = False
) -> list[Any]:
    with LOCAL.opened(prepare, workers, apart=apart) as mapped:
        return list(mapped(work, tasks, lost))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_once_on_one_thread(workers: int) -> None:
    threads = torch.get_num_threads()
    results = mapped(add, range(7), partial(prepare, 10), workers)
    assert sorted(value for value, _, _ in results) == list(range(10, 17))
    assert {used for _, used, _ in results} == {1}
    assert (os.getpid() in {pid for _, _, pid in results}) == (workers == 1)
    assert torch.get_num_threads() == threads


def test_workers_live_on_to_the_next_map_and_are_replaced_where_they_do_not() -> None:
    with LOCAL.opened(partial(prepare, 0), 2) as mapped:
        first = {pid for _, _, pid in mapped(add, range(2), lost)}
        again = {pid for _, _, pid in mapped(add, range(20), lost)}
        for process in active_children():
            os.kill(process.pid or 0, signal.SIGKILL)
        after = {pid for _, _, pid in mapped(add, range(3), lost)}
    assert first <= again
    assert len(again) <= 2
    assert not again & after


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_user_come_out_as_they_are(workers: int) -> None:
    with pytest.raises(DataError, match="a negative number"):
        mapped(add, [1], partial(prepare, -1), workers)
    with pytest.raises(DataError, match="task 99"):
        mapped(add, [99], partial(prepare, 0), workers)


class AwkwardError(Exception):
    """Pickle cannot make it anew."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def be_awkward(context: int, task: int) -> None:
    raise AwkwardError(task, task)


def test_errors_of_the_program_come_out_with_their_place() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)be_awkward.*AwkwardError: 3 and 3"):
        mapped(be_awkward, [3], partial(prepare, 0), 2)


def test_tasks_are_taken_as_workers_become_free() -> None:
    taken = []

    def tasks() -> Iterable[int]:
        for task in range(50):
            taken.append(task)
            yield task

    with LOCAL.opened(partial(prepare, 0), 2) as mapped:
        results = mapped(add, tasks(), lost)
        next(results)
        assert len(taken) <= 6
        assert len(list(results)) == 49


def test_a_process_of_its_own_for_every_task() -> None:
    results = mapped(add, range(2), partial(prepare, 10), 1, apart=True)
    assert [(value, used) for value, used, _ in results] == [(10, 1), (11, 1)]
    assert len({os.getpid(), *(pid for _, _, pid in results)}) == 3
    assert mapped(add, [], partial(prepare, 0), 1, apart=True) == []


def nap(context: int, task: int) -> None:
    time.sleep(60)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent() -> None:
    work = "mapped(nap, range(4), partial(prepare, 1), 2)"
    code = f"from tests.test_engine import *\nif __name__ == '__main__': {work}"
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


def die_once(folder: Path, task: int) -> int:
    """Task 3 takes its worker with it, the first time."""
    mark = folder / "died"
    if task == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_task_whose_worker_dies_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results = mapped(die_once, [3, 4], partial(Path, tmp_path), 1, apart=True)
    assert sorted(results) == [3, 4]
    assert caplog.messages == ["a worker died (killed by SIGKILL); its task is tried again"]


def die_of_two(folder: Path, task: int) -> int:
    with (folder / str(task)).open("a") as file:
        file.write("x")
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_task_that_kills_is_given_up_and_the_others_are_done_once(tmp_path: Path) -> None:
    results = mapped(die_of_two, range(4), partial(Path, tmp_path), 2)
    reason = "the worker that did it died 3 times (killed by SIGKILL)"
    assert sorted(results, key=str) == [(2, reason), 0, 1, 3]
    tried = {int(path.name): len(path.read_text()) for path in tmp_path.iterdir()}
    assert tried == {0: 1, 1: 1, 2: 1 + RETRIES, 3: 1}


def leave(number: int) -> None:
    os._exit(number)


def test_workers_that_never_start_end_the_map() -> None:
    with pytest.raises(WorkerError, match=r"before they do anything \(exit code 7\)"):
        mapped(add, range(3), partial(leave, 7), 1, apart=True)


def sums(context: dict[str, Tensor], task: int) -> list[tuple[float, bool]]:
    return [(tensor.sum().item(), tensor.is_shared()) for tensor in context.values()]


def test_tensors_are_shared_and_keep_their_bits() -> None:
    x = torch.randn(1000, 3)
    before = x.clone()
    results = mapped(sums, [0], partial(dict, x=x, part=x[:10]), 2)
    assert results == [[(before.sum().item(), True), (before[:10].sum().item(), True)]]
    assert x.is_shared()
    assert torch.equal(x, before)


def test_without_room_in_shared_memory_every_process_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "fits", lambda tensors: False)
    x = torch.randn(1000, 3)
    assert mapped(sums, [0], partial(dict, x=x), 2) == [[(x.sum().item(), False)]]
    assert not x.is_shared()


def test_where_the_system_gives_no_shared_memory_every_process_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to resize file </torch_1_0> to the right size: File too large")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refused)
    x = torch.randn(1000, 3)
    assert mapped(sums, [0], partial(dict, x=x), 2) == [[(x.sum().item(), False)]]


def test_room_is_needed_for_what_is_not_shared_yet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Usage:
        free = 4000

    monkeypatch.setattr(sharing, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(sharing.shutil, "disk_usage", lambda path: Usage)
    x = torch.zeros(1000)  # 4,000 bytes, and a tenth stays free
    assert sharing.fits([x[:800]]) is False
    assert sharing.fits([torch.zeros(800)])
    assert sharing.fits([x.share_memory_()])
    assert sharing.fits([torch.zeros(10, device="meta")]) is False


def test_one_tensor_travels_once() -> None:
    x, y = torch.randn(3), torch.randn(2, requires_grad=True)
    rest, tensors = sharing.take_apart({"a": x, "b": [x, 1], "y": y.detach()})
    assert [tensor.shape for tensor in tensors] == [(3,), (2,)]
    value = sharing.put_together(rest, tensors)
    assert value["a"] is value["b"][0] is x
    assert sharing.put_together(*sharing.take_apart(partial(add, 1)))(2)[0] == 3


def test_which_gpu_each_worker_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.usual_workers("cpu", [], 8) == 8
    assert devices.usual_workers("cuda", ["0", "1", "2"], 8) == 3
    assert devices.usual_workers("cuda:1", ["0", "1", "2"], 8) == 1
    seen = [place.get(devices.VISIBLE) for place in devices.assign("cuda", 5, ["2", "5"])]
    assert seen == ["2", "5", "2", "5", "2"]
    assert devices.assign("cuda", 2, ["0"]) == devices.assign("cpu", 2, []) == [{}, {}]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    assert devices.gpus() == ["0", "1"]
    monkeypatch.setenv(devices.VISIBLE, "GPU-8f,GPU-9a")
    assert devices.gpus() == ["GPU-8f", "GPU-9a"]
    assert LocalProcesses("cuda").workers(None) == 2
    assert LocalProcesses("cuda").workers(6) == 6


def visible(context: int, task: int) -> tuple[str | None, int]:
    time.sleep(0.2)
    return os.environ.get(devices.VISIBLE), os.getpid()


def test_workers_find_their_gpu_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ["4", "7"])
    with LocalProcesses("cuda").opened(partial(prepare, 0), 2) as mapped:
        results = set(mapped(visible, range(6), lost))
    assert sorted(gpu or "" for gpu, _ in results) == ["4", "7"]
    assert devices.VISIBLE not in os.environ


def test_workers_can_be_used_outside_the_main_thread() -> None:
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.extend(mapped(add, [1], partial(prepare, 0), 2))
    )
    thread.start()
    thread.join()
    assert [value for value, _, _ in results] == [1]


def test_a_process_that_is_gone_is_no_error() -> None:
    team = Processes(partial(prepare, 0), [{}])
    team.stop(0)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def send_much(context: int, task: int) -> bytes:
    return bytes(50_000_000)


def test_a_worker_that_dies_while_it_writes_is_dead() -> None:
    team = Processes(partial(prepare, 0), [{}])
    team.start(0)
    assert team.wait() == [Ready(0)]
    team.send(0, send_much, 1)
    pipe = team._workers[0].pipe
    assert pipe.poll(30)  # the rest waits until somebody reads
    os.kill(team._workers[0].process.pid or 0, signal.SIGKILL)
    assert team.wait() == [Died(0, "killed by SIGKILL")]


class Scripted:
    """A team whose events are given."""

    def __init__(self, *events: list[Event]) -> None:
        self.events = list(events)

    def start(self, place: int) -> None:
        pass

    def send(self, place: int, work: Any, task: Any) -> None:
        pass

    def wait(self) -> list[Event]:
        return self.events.pop(0)

    def stop(self, place: int) -> None:
        pass


def test_what_is_done_together_with_an_error_is_kept() -> None:
    error = DataError("task 2")
    team = Scripted([Ready(0), Ready(1)], [Done(0, "one"), Raised(1, error)])
    results = Dispatcher(team, 2, apart=False)(add, [1, 2], lost)
    assert next(results) == "one"
    with pytest.raises(DataError, match="task 2"):
        next(results)
