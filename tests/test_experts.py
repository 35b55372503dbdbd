"""Pools of experts: complete after an interruption, checked, chosen by validation."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxynas import testing, training
from proxynas.core import files
from proxynas.core.errors import DivergedError, RunFolderError
from proxynas.datasets import Dataset, Split
from proxynas.distill.experts import Pool, Training
from proxynas.distill.loop import distill
from proxynas.specs import DistillSpec

STUDENT = "D1-W32-relu-instancenorm-avgpooling"
SMALL: dict[str, Any] = {
    "student": STUDENT,
    "epochs": 6,
    "checkpoints": 3,
    "experts": 2,
    "expert_epochs": 3,
}


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toy() -> Dataset:
    return testing.toy()


def pools(dataset: Dataset, size: int = 2, **config: Any) -> Pool:
    return Pool(dataset, Training(STUDENT, epochs=2, **config), size)


def weights(pool: Pool, i: int) -> dict[str, Tensor]:
    return pool.network(i).state_dict()


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(value, two[name]) for name, value in one.items()
    )


def test_a_pool_resumes_after_an_interruption_bit_for_bit(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = pools(toy, 3)
    wanted = [weights(whole, i) for i in range(3)]
    monkeypatch.setenv("PROXYNAS_CACHE", str(tmp_path / "other"))
    fit, calls = training.fit, []

    def dies(*arguments: Any, **options: Any) -> training.Trained:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        pools(toy, 3).complete()
    kept = list((tmp_path / "other" / "experts").rglob("*"))
    assert [path.name for path in kept if path.suffix == ".safetensors"] == ["000.safetensors"]
    progress: list[tuple[int, int]] = []
    resumed = pools(toy, 3)
    resumed.complete(lambda done, total: progress.append((done, total)))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert len(calls) == 4  # the first, the one that died, and two more
    assert all(same(weights(resumed, i), wanted[i]) for i in range(3))


def test_a_pool_is_not_trained_twice(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pools(toy, 2)
    cost, one = first.complete(), weights(first, 0)
    monkeypatch.setattr(training, "fit", lambda *a, **kw: pytest.fail("trained again"))
    assert pools(toy, 2).complete() == cost
    assert pools(replace(toy), 1).complete() == cost[:1]  # a smaller pool is a part of it
    assert same(weights(pools(toy, 2), 0), one)


def test_an_expert_that_another_job_trains_is_waited_for(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pools(toy, 1)
    cost = one.complete()
    path = one.path(0)
    path.rename(path.with_suffix(".made"))
    monkeypatch.setattr(training, "fit", lambda *a, **kw: pytest.fail("trained twice"))
    with ThreadPoolExecutor(1) as executor:
        with files.locked(path.with_suffix(".lock")):  # the other job is training
            waiting = executor.submit(pools(toy, 1).complete)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            path.with_suffix(".made").rename(path)
        assert waiting.result(30) == cost


def test_a_cache_that_cannot_be_written_is_said_before_training(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "fit", lambda *a, **kw: pytest.fail("trained for nothing"))
    monkeypatch.setenv("PROXYNAS_CACHE", "/dev/null/x")
    with pytest.raises(RunFolderError, match="cannot write /dev/null/x"):
        pools(toy, 1).complete()


def test_pools_of_other_data_or_training_are_others(toy: Dataset) -> None:
    shifted = replace(toy, train=Split(toy.train.x + 1, toy.train.y))
    keys = {
        pools(toy).key,
        pools(shifted).key,
        pools(replace(toy, fingerprint="another")).key,
        pools(testing.toy(dtype=torch.float64)).key,
        pools(toy, lr=0.1).key,
        pools(toy, seed=1).key,
    }
    assert len(keys) == 6
    assert pools(toy, 5).key in keys


def test_a_damaged_expert_is_trained_again(toy: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    pool = pools(toy, 1)
    wanted = weights(pool, 0)
    data = bytearray(pool.path(0).read_bytes())
    for damaged in (data[:100], data[:-3] + b"abc", b"", data[:-1]):
        pool.path(0).write_bytes(bytes(damaged))
        assert same(weights(pool, 0), wanted)
        assert "is damaged" in caplog.text
        caplog.clear()


def test_an_expert_keeps_what_validates_best(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made to peak in the middle, it keeps the weights it had then."""
    accuracies, seen, evaluate = iter([0.1, 0.9, 0.9, 0.2]), [], training.evaluate

    def fake_evaluate(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
        assert x is toy.val.x
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return next(accuracies), 1.0

    monkeypatch.setattr(training, "evaluate", fake_evaluate)
    pool = Pool(toy, Training(STUDENT, epochs=8, batch_size=60, validations=4), 1)
    (expert,) = pool.complete()
    monkeypatch.setattr(training, "evaluate", evaluate)
    assert (expert.val_accuracy, expert.update) == (
        0.9,
        12,
    )  # 16 updates, looked at after 4, 8, 12 and 16
    assert same(weights(pool, 0), seen[2])


def test_an_expert_that_diverges_is_said(toy: Dataset) -> None:
    with pytest.raises(DivergedError, match=r"expert 0: .* lower its learning rate \(expert_lr\)"):
        Pool(toy, Training("D1-W32-relu-none-none", epochs=60, lr=1e30), 1).complete()


def test_nothing_is_chosen_on_the_test_split(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoiled = replace(toy, test=Split(torch.full_like(toy.test.x, math.nan), toy.test.y.flip(0)))
    sets = []
    for place, dataset in enumerate((toy, spoiled)):
        monkeypatch.setenv(
            "PROXYNAS_CACHE", str(tmp_path / f"cache-{place}")
        )  # each trains its own experts
        sets.append(distill(DistillSpec(method="apm", ipc=2, steps=2, settings=SMALL), dataset))
    assert torch.equal(sets[0].x, sets[1].x)
    assert torch.equal(sets[0].y, sets[1].y)
