"""Training networks on a proxy set: which networks, what is reported, and what is refused."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from proxynas import cli, datasets, proxyset, training
from proxynas.compare import evaluation
from proxynas.core import seeds
from proxynas.core.errors import SpaceError, SpecError
from proxynas.datasets import Dataset, Split
from proxynas.distill.loop import distill
from proxynas.nets import published
from proxynas.specs import DistillSpec, EvaluationSpec, Extension
from proxynas.training.curriculum import Curriculum


@pytest.fixture(scope="module")
def a_set(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("evaluation") / "random.safetensors"
    distill(DistillSpec(method="random"), digits).save(path)
    return str(path)


@pytest.fixture(scope="module")
def a_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("evaluation") / "moons.safetensors"
    spec = DistillSpec(data="moons", method="random", ipc=5)
    distill(spec, datasets.load_for(spec)).save(path)
    return str(path)


def test_all_stands_for_the_six_published_networks(a_set: str, digits: Dataset) -> None:
    few = replace(digits, test=Split(digits.test.x[:20], digits.test.y[:20]))
    seen: list[tuple[int, int]] = []
    rows = evaluation.evaluate(
        a_set,
        few,
        EvaluationSpec(archs=("all",), students=1, updates=1),
        on_done=lambda done, total: seen.append((done, total)),
    )
    assert [row.arch for row in rows] == list(published.NETWORKS)
    assert seen == [(n, 6) for n in range(1, 7)]
    assert all(0 <= row.mean <= 1 and row.sd == 0 for row in rows)


def test_going_on_past_the_distilled_steps(
    a_table: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command trains for the strategy's steps; a set without any is refused."""
    proxy = replace(
        proxyset.read(Path(a_table)),
        curriculum=Curriculum(torch.arange(10).view(2, 5), torch.ones(2)),
    )
    longer, updates = evaluation.extended(proxy, Extension(2, times=3, decay=0.5), None)
    assert updates == 6
    assert longer.curriculum is not None
    assert longer.curriculum.rates is not None
    assert longer.curriculum.rates.tolist() == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert evaluation.extended(proxy, None, 7) == (proxy, 7)
    proxy.save(tmp_path / "steps.safetensors")
    seen: list[int] = []
    fit = training.fit
    monkeypatch.setattr(
        training, "fit", lambda *a, **kw: seen.append(a[3].updates) or fit(*a, **kw)
    )
    for path, said in (
        (tmp_path / "steps.safetensors", ""),
        (a_table, "extend is for sets that were distilled for"),
    ):
        arguments = [
            str(path),
            "--data",
            "moons",
            "--runs",
            "1",
            "--extend",
            "strategy=3",
            "--extend",
            "times=4",
        ]
        monkeypatch.setattr(sys, "argv", ["proxynas", "evaluate", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == (2 if said else 0)
        assert said in " ".join(capsys.readouterr().err.split())
    assert seen == [8]


def test_the_protocol_of_loo_2023(a_set: str, digits: Dataset) -> None:
    proxy = proxyset.read(Path(a_set))
    published = evaluation.recipe(proxy, EvaluationSpec(protocol="loo2023"))
    assert (
        published.updates,
        published.warmup,
        published.optimizer,
        published.lr,
        published.loss,
    ) == (
        1000,
        500,
        "adam",
        1e-4,
        "mse",
    )
    twice = replace(proxy, x=proxy.x.repeat(2, 1, 1, 1), y=proxy.y.repeat(2))
    assert evaluation.recipe(twice, EvaluationSpec(protocol="loo2023")).updates == 2000
    assert evaluation.recipe(twice, EvaluationSpec(protocol="loo2023", updates=10)).warmup == 5
    row = evaluation.evaluate(
        a_set, digits, EvaluationSpec(students=1, updates=2, protocol="loo2023")
    )[0]
    assert row.arch == "D2-W32-none-relu"


def test_mean_and_deviation_over_fresh_networks(a_set: str, digits: Dataset) -> None:
    row = evaluation.evaluate(
        a_set, digits, EvaluationSpec(archs=["mlp"], students=3, updates=30, seed=4)
    )[0]
    proxy = proxyset.read(Path(a_set))
    recipe = replace(proxy.recipe, updates=30, batch_size=256, schedule="step")
    accuracies = []
    for r in range(3):
        with seeds.seeded(seeds.derive(4, "evaluate", "mlp", r)):
            net = published.make((1, 8, 8), 10, net="mlp")
        training.fit([net], proxy.x, proxy.y, recipe, seed=4, replicas=[r])
        net.eval()
        with torch.no_grad():
            accuracies.append(
                (net(digits.test.x).argmax(1) == digits.test.y).double().mean().item()
            )
    assert (row.mean, row.sd) == pytest.approx((mean(accuracies), stdev(accuracies)))
    assert 0.2 < row.mean < 0.9


def test_networks_of_several_spaces_at_once(a_set: str, digits: Dataset) -> None:
    archs = ["lenet", "L2x5-relu", "convnet-grid:D1-W32-relu-none-none"]
    rows = evaluation.evaluate(
        a_set,
        digits,
        EvaluationSpec(archs=tuple(archs or ()), space="mlp-grid", students=1, updates=1),
    )
    assert [row.arch for row in rows] == ["lenet", "L2x5-relu", "D1-W32-relu-none-none"]
    with pytest.raises(SpecError, match="only where archs are looked up"):
        evaluation.evaluate(a_set, digits, EvaluationSpec(space="mlp-grid", students=1, updates=1))
    default = evaluation.evaluate(a_set, digits, EvaluationSpec(students=1, updates=1))
    assert [row.arch for row in default] == ["D2-W32-relu-instancenorm-avgpooling"]


def test_tables_have_the_mlp(a_table: str) -> None:
    dataset = datasets.load_for(DistillSpec(data="moons"))
    for archs in (None, ["all"], ["mlp"]):
        rows = evaluation.evaluate(
            a_table, dataset, EvaluationSpec(archs=tuple(archs or ()), students=2, updates=100)
        )
        assert [row.arch for row in rows] == ["mlp"]
        assert rows[0].mean > 0.7
    with pytest.raises(SpaceError, match="LeNet needs images"):
        evaluation.evaluate(
            a_table, dataset, EvaluationSpec(archs=["mlp", "lenet"], students=1, updates=1)
        )


def test_nothing_is_trained_when_one_name_is_wrong(a_set: str, digits: Dataset) -> None:
    trained: list[int] = []
    with pytest.raises(SpaceError, match="did you mean 'lenet'"):
        evaluation.evaluate(
            a_set,
            digits,
            EvaluationSpec(archs=("mlp", "lenett"), students=1, updates=1),
            on_done=lambda done, _: trained.append(done),
        )
    assert trained == []


def test_from_the_command_line(
    a_set: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flags = [
        "--runs",
        "2",
        "--updates",
        "2",
        "--arch",
        "lenet",
        "--arch",
        "mlp",
        "--arch",
        "D1-W32-relu-none-none",
    ]
    monkeypatch.setattr(sys, "argv", ["proxynas", "evaluate", a_set, *flags])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    assert (left.value.code, err) == (0, "")
    for name in ("lenet", "mlp", "D1-W32-relu-none-none"):
        assert name in out


def test_passes_are_of_the_batches_that_are_used(a_set: str) -> None:
    made = proxyset.read(a_set)  # digits, ten a class
    passes = {size: evaluation.recipe(made, EvaluationSpec(batch_size=size)) for size in (None, 10)}
    assert passes[None].updates == 300 * math.ceil(len(made) / 256)
    assert passes[10].updates == 300 * math.ceil(len(made) / 10)
    ordered = replace(made, curriculum=Curriculum(torch.arange(len(made)).view(-1, 2)))
    assert evaluation.recipe(ordered, EvaluationSpec()).updates == 300 * len(made) // 2
