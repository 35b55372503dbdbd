"""Searches that choose their candidates in rounds."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from proxynas import spaces
from proxynas.core import settings
from proxynas.core.errors import SpecError
from proxynas.pipeline import flow, rounds
from proxynas.search import strategies, zerocost
from proxynas.search.store import Score, Store, ZeroCost
from proxynas.specs import SearchSpec

from .test_cli import run as command_line

STRATEGIES = strategies.ADAPTIVE


@pytest.fixture
def chain_spec(small_spec: SearchSpec) -> SearchSpec:
    """Few updates of few networks out of 10^12."""
    spec = replace(
        small_spec, space="chain", method="random", steps=None, settings={}, baselines=("random",)
    )
    spec = replace(spec, candidates=8, round_size=3, seeds=1, updates=2, val_size=50)
    return replace(spec, indicator="sotl", constraints=("parameters<2e4",))


def scores_of(folder: Path) -> bytes:
    return (folder / "scores.csv").read_bytes()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_number_of_workers_and_of_starts_gives_the_same(
    strategy: str, chain_spec: SearchSpec, tmp_path: Path
) -> None:
    spec = replace(chain_spec, strategy=strategy)  # type: ignore[arg-type]
    flow.search(spec, tmp_path / "1", workers=1)
    scores = pd.read_csv(tmp_path / "1" / "scores.csv")
    assert scores["arch"].nunique() == 8
    assert set(scores["source"]) == {"proxy", "random"}
    assert (scores["parameters"] < 2e4).all()
    store = Store(tmp_path / "1" / "run.sqlite")
    store._db.execute(
        "DELETE FROM scores WHERE source = 'random' OR arch > (SELECT min(arch) FROM scores)"
    )
    store._db.execute("DELETE FROM candidates")
    store._db.commit()
    store.close()
    before = scores_of(tmp_path / "1")
    (tmp_path / "1" / "scores.csv").unlink()
    flow.search(spec, tmp_path / "1", workers=1)
    assert scores_of(tmp_path / "1") == before


@pytest.mark.slow
def test_two_workers_give_the_scores_of_one(chain_spec: SearchSpec, tmp_path: Path) -> None:
    spec = replace(
        chain_spec,
        strategy="tpe",
        round_size=4,
        indicator="sotl+vote",
        baselines=("random", "zero-cost"),
    )
    for workers in (1, 2):
        flow.search(spec, tmp_path / str(workers), workers=workers)
    assert scores_of(tmp_path / "1") == scores_of(tmp_path / "2")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_killed_between_rounds_and_resumed(chain_spec: SearchSpec, tmp_path: Path) -> None:
    spec = replace(
        chain_spec, strategy="evolution", candidates=15, updates=40, indicator="sotl+vote"
    )
    spec = replace(spec, baselines=("random", "zero-cost"))
    flow.search(spec, tmp_path / "whole", workers=1)
    config, folder, moments = tmp_path / "spec.toml", tmp_path / "killed", random.Random(1)
    config.write_text(settings.to_toml(spec))
    command = [
        sys.executable,
        "-m",
        "proxynas",
        "search",
        "-c",
        str(config),
        "--out",
        str(folder),
        "--workers",
        "1",
    ]
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        deadline = time.monotonic() + 60
        while not (folder / "run.sqlite").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.5, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    flow.search(spec, folder, workers=1)
    assert scores_of(folder) == scores_of(tmp_path / "whole")


def test_random_is_not_touched_by_the_rest(small_spec: SearchSpec, tmp_path: Path) -> None:
    """The candidates are the sample that every search before had, in one round."""
    spec = small_spec
    flow.search(spec, tmp_path / "run", workers=1)
    archs = set(pd.read_csv(tmp_path / "run" / "scores.csv")["arch"])
    space = spaces.load(spec.space)
    strategy = rounds.make_strategy(spec, space, lambda arch: (0, 0))
    assert archs == set(rounds.first_candidates(spec, space, strategy))
    assert archs == set(space.sample(6, np.random.default_rng(flow_seed(spec))))


def flow_seed(spec: SearchSpec) -> int:
    from proxynas.core import seeds

    return seeds.derive(spec.seed, "candidates")


def test_all_of_a_space_within_its_limits(small_spec: SearchSpec, tmp_path: Path) -> None:
    spec = replace(
        small_spec,
        strategy="all",
        candidates=SearchSpec().candidates,
        constraints=("parameters<800",),
        seeds=1,
        updates=1,
        baselines=(),
    )
    flow.search(spec, tmp_path / "run", workers=1)
    space = spaces.load(spec.space)
    expected = [arch for arch in space if space.cost(arch, (1, 8, 8), 10)[0] < 800]
    assert sorted(expected) == sorted(pd.read_csv(tmp_path / "run" / "scores.csv")["arch"])
    with pytest.raises(SpecError, match="takes every network, so candidates would change nothing"):
        flow.search(replace(spec, candidates=5), tmp_path / "other")
    with pytest.raises(SpecError, match="none is within parameters<3; loosen that"):
        flow.search(replace(spec, constraints=("parameters<3",)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"strategy": "cmaes", "space": "nasbench201"},
            "cmaes takes two axes or more of numbers in order",
        ),
        (
            {"strategy": "evolution", "objectives": ("indicator", "flops")},
            "evolution takes one objective",
        ),
        (
            {"strategy": "all", "space": "chain", "candidates": SearchSpec().candidates},
            "would list 1,000,000,000,000 networks",
        ),
        ({"strategy": "tpe", "constraints": ("parameters<1",)}, "within parameters<1"),
        ({"constraints": ("parameters<1",)}, "within parameters<1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changed: dict[str, object], message: str, small_spec: SearchSpec, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message):
        flow.search(replace(small_spec, **changed), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "annealing"}, "strategy: input should be 'random'"),
        ({"constraints": ["parameters>"]}, "a constraint is written as in parameters<1e6"),
        ({"constraints": ["params<3"]}, "did you mean 'parameters'"),
        ({"objectives": ["flops"]}, "objectives: indicator is expected"),
        ({"objectives": ["indicator", "flops", "flops"]}, "at most once each"),
        ({"objectives": ["latency"]}, "objectives.0"),
        ({"round_size": 0}, "round_size"),
    ],
)
def test_settings_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settings.make(SearchSpec, values)


def a_store(tmp_path: Path, archs: list[str]) -> Store:
    """Losses that fall with the place in ``archs``, zero-cost indicators that rise with it; more
    than is asked for."""
    store = Store(tmp_path / "run.sqlite")
    store.add_candidates({arch: (10 * i, 100 - i) for i, arch in enumerate(archs)})
    for i, arch in enumerate(archs):
        for source in ("proxy", "random"):
            losses = np.full(4, 9.0 - i if source == "proxy" else i, dtype="float32")
            failed = "it did" if i == 0 else None
            known = None if failed else float(losses.sum())
            score = Score(
                source, arch, 0, None, known, None, None, None, known, losses, 1.0, failed
            )
            store.add([score])
        store.add_zero_cost(
            [ZeroCost(arch, name, float(i % 3), 0.1) for name in zerocost.INDICATORS]
        )
    return store


def test_what_a_strategy_is_told(small_spec: SearchSpec, tmp_path: Path) -> None:
    archs = list("abcdef")
    store = a_store(
        tmp_path, [*archs, "z"]
    )  # z: of a round that was begun, and is no part of any rank
    alone = rounds.objective_values(small_spec, ("proxy", "sotl"), store, archs)
    assert alone == {
        "a": (-np.inf,),
        **{arch: (-4 * (9.0 - i),) for i, arch in enumerate(archs) if i},
    }
    rank = rounds.objective_values(small_spec, ("proxy", "sotl+naswot"), store, archs)
    naswot = {
        "a": 1.5,
        "d": 1.5,
        "b": 3.5,
        "e": 3.5,
        "c": 5.5,
        "f": 5.5,
    }  # 0, 0, 1, 1, 2, 2: ties share their ranks
    assert rank == {arch: ((i + 1 + naswot[arch]) / 2,) for i, arch in enumerate(archs)}
    fewer = rounds.objective_values(small_spec, ("proxy", "sotl+naswot"), store, ["f", "b"])
    assert fewer == {"b": (1.0,), "f": (2.0,)}
    two = rounds.objective_values(
        replace(small_spec, objectives=("indicator", "flops", "parameters")),
        ("zero-cost", "snip"),
        store,
        archs,
    )
    assert two["e"] == (1.0, -96.0, -40.0)
    untrained = rounds.objective_values(
        small_spec, ("zero-cost", "naswot+parameters"), store, archs
    )
    assert untrained["f"] == (5.75,)
    store.close()


def test_only_what_the_objective_needs_is_scored_in_rounds() -> None:
    assert rounds.objective_sources(("proxy", "sotl")) == ["proxy"]
    assert rounds.objective_sources(("proxy", "sotl+val_loss+vote")) == ["proxy", "zero-cost"]
    assert rounds.objective_sources(("zero-cost", "vote+jacob_cov+parameters")) == ["zero-cost"]
    assert rounds.objective_sources(("flops", "flops")) == []


def test_an_objective_without_training_is_searched_without_it(
    chain_spec: SearchSpec, tmp_path: Path
) -> None:
    """The largest networks within the limit, by evolution: no proxy set is trained on before the
    last round."""
    spec = replace(
        chain_spec, strategy="evolution", indicator="parameters", candidates=40, round_size=10
    )
    seen: list[str] = []

    class Listening(flow.Watcher):
        def searching(self, done: int, total: int, arch: str) -> None:
            seen.append(arch)

    flow.search(spec, tmp_path / "run", workers=1, watcher=Listening())
    assert len(seen) == 40 * 2  # proxy and random, after the last round
    parameters = pd.read_csv(tmp_path / "run" / "scores.csv").drop_duplicates("arch")["parameters"]
    assert parameters.max() < 2e4
    assert parameters.nlargest(10).mean() > 1.2e4


def test_a_pareto_front_is_reported(
    chain_spec: SearchSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "spec.toml"
    config.write_text(settings.to_toml(replace(chain_spec, strategy="nsga2", constraints=())))
    flags = [
        "--objective",
        "indicator",
        "--objective",
        "flops",
        "--constraint",
        "flops<1e6",
        "--workers",
        "1",
    ]
    code, out, _ = command_line(
        monkeypatch, capsys, "search", "-c", str(config), *flags, "--out", str(tmp_path / "run")
    )
    assert code == 0
    assert "Pareto front by proxy set" in out
    front = pd.read_csv(tmp_path / "run" / "pareto.csv")
    told = json.loads((tmp_path / "run" / "report.json").read_text())["pareto"]
    assert {arch for arch, best in zip(told["archs"], told["front"], strict=True) if best} == set(
        front["arch"]
    )
    values = pd.read_csv(tmp_path / "run" / "indicators.csv").set_index("arch")
    scores = pd.read_csv(tmp_path / "run" / "scores.csv").drop_duplicates("arch").set_index("arch")
    both = pd.DataFrame({"indicator": values["proxy:sotl"], "flops": -scores["flops"]})
    assert set(front["arch"]) == set(both.index[strategies.front(both.to_numpy(dtype=float))])
    assert (front["flops"] < 1e6).all()
    assert front["indicator"].is_monotonic_decreasing
    assert front["flops"].is_monotonic_decreasing


def test_budgets_plan_adaptive_searches(small_space: Path, tmp_path: Path) -> None:
    from proxynas.pipeline import planning

    flags = {
        "space": "chain",
        "strategy": "evolution",
        "constraints": ["parameters<1e4"],
        "method": "random",
    }
    plan = planning.plan("10m", None, flags, tmp_path / "run")
    assert plan.spec.candidates >= planning.FEWEST
    assert (plan.spec.strategy, plan.spec.constraints) == ("evolution", ("parameters<1e4",))
    with pytest.raises(
        SpecError,
        match="--budget plans the number of candidates, and the strategy all takes every one",
    ):
        planning.plan("10m", None, {"space": str(small_space), "strategy": "all"}, tmp_path / "run")


@pytest.mark.slow
def test_a_space_of_ten_to_the_twelfth(chain_spec: SearchSpec, tmp_path: Path) -> None:
    """The short version of experiments/chain-search.toml: chosen networks train faster than drawn
    ones."""
    spec = replace(
        chain_spec,
        candidates=40,
        round_size=10,
        updates=20,
        constraints=("parameters<5e4",),
        baselines=(),
        lr=0.05,
    )
    found = {}
    for strategy in ("random", "tpe", "evolution"):
        flow.search(replace(spec, strategy=strategy), tmp_path / strategy, workers=1)  # type: ignore[arg-type]
        found[strategy] = pd.read_csv(tmp_path / strategy / "scores.csv").set_index("arch")
        assert len(found[strategy]) == 40
        assert (found[strategy]["parameters"] < 5e4).all()
    best = {strategy: rows["sotl"].nsmallest(10).mean() for strategy, rows in found.items()}
    assert max(best["tpe"], best["evolution"]) < best["random"]
