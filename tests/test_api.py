"""What ``import proxynas`` gives."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proxynas as pn
from proxynas import api
from proxynas.core import resources
from proxynas.core.errors import DeviceError, RunFolderError, SpecError, TruthError
from proxynas.datasets import Dataset
from proxynas.engine import LOCAL
from proxynas.specs import Recipe


def test_importing_it_is_instant() -> None:
    """Nothing of PyTorch or pandas is loaded before a name is used; nor is Optuna or Ray by all
    names."""
    code = (
        "import sys, proxynas\n"
        "assert not {'torch', 'pandas', 'numpy', 'pydantic'} & set(sys.modules), sys.modules\n"
        "assert 'load_data' in dir(proxynas)\n"
        "from proxynas import *\n"
        "assert load_data.__name__ == 'load_data' and Evaluator is proxynas.Evaluator\n"
        "import proxynas.optuna, proxynas.tune\n"
        "assert not {'optuna', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names() -> None:
    assert sorted({*pn.__all__} - {"__version__"}) == sorted(api.__all__)
    assert len(api.__all__) <= 14
    for name in api.__all__:
        assert getattr(pn, name) is getattr(api, name)
    missing: Any = pn
    with pytest.raises(AttributeError, match="has no attribute 'load_dataset'"):
        _ = missing.load_dataset


def test_a_set_is_made_once(digits: Dataset, tmp_path: Path) -> None:
    out = f"{tmp_path}/a.safetensors"
    made = pn.make_proxy(digits, "gm", steps=1, settings={"real_batch": 10}, out=out)
    again = pn.make_proxy(digits, "gm", steps=1, settings={"real_batch": 10}, out=Path(out))
    assert (again.x == made.x).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(RunFolderError, match="holds a proxy set of other settings"):
        pn.make_proxy(digits, "gm", steps=2, out=out)
    assert (
        pn.make_proxy(digits, "random", ipc=2).y == pn.make_proxy(digits, "random", ipc=2).y
    ).all()


def test_what_is_out_of_range_is_one_of_its_own_errors(digits: Dataset) -> None:
    with pytest.raises(SpecError, match="ipc"):
        pn.make_proxy(digits, "random", ipc=0)
    with pytest.raises(DeviceError, match="cuda or cuda:N, but got 'gpu'"):
        pn.load_data("digits", device="gpu")
    assert pn.load_data("moons", device="auto").train.x.device.type in ("cpu", "cuda")


def test_the_command_makes_the_same_set(digits: Dataset, tmp_path: Path) -> None:
    """Also of whitened images."""
    from proxynas.cli import app

    out = tmp_path / "a.safetensors"
    arguments = ["distill", "--method", "random", "--ipc", "2", "--zca", "0.1", "--out", str(out)]
    app(arguments, standalone_mode=False)
    white = pn.load_data("digits", zca=0.1)
    proxy = pn.make_proxy(white, "random", ipc=2, out=out)
    assert proxy.provenance["spec"] == pn.make_proxy(white, "random", ipc=2).provenance["spec"]


def test_ranking_evaluations(digits: Dataset) -> None:
    space = pn.load_space("convnet-grid")
    evaluator = pn.Evaluator(
        pn.read_proxy("digits-gm-ipc1"), digits, recipe=Recipe(updates=5), val_size=50
    )
    archs = [f"D{d}-W32-{a}-none-avgpooling" for d in (1, 2) for a in ("relu", "sigmoid")]
    evaluations = {arch: evaluator.evaluate(space.build(arch, digits.shape, 10)) for arch in archs}
    accuracies = {arch: place / 10 for place, arch in enumerate(archs)}
    ranking = pn.rank_networks(evaluations, accuracies, combine=["sotl+parameters"])
    assert ranking.row(("proxy", "sotl+parameters"))["n"] == 4
    for name in ("val_accuracy", "val_loss", "sotl"):
        sign = 1 if name == "val_accuracy" else -1
        values = [sign * evaluations[arch][name] for arch in archs]
        expected = np.corrcoef(np.argsort(np.argsort(values)), range(4))[0, 1]
        if len(set(values)) == 4:
            assert ranking.row(("proxy", name))["rho"] == pytest.approx(expected)
    assert pn.rank_networks(evaluations).truth is None
    with pytest.raises(SpecError, match="there are no evaluations to rank"):
        pn.rank_networks({})
    assert pn.rank_networks(evaluations, {}).truth is None
    for wrong in (93.0, math.nan, -0.1):
        with pytest.raises(SpecError, match=r"truth must be accuracies in \[0, 1\], but D1"):
            pn.rank_networks(evaluations, {archs[0]: wrong})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"ray_address": "auto"}, "--ray-address is for Ray"),
        ({"engine": "ray", "ray_address": "nowhere"}, "must be HOST:PORT"),
        ({"engine": "dask"}, "engine: input should be 'local' or 'ray'"),
        ({"engine": LOCAL, "ray_address": "auto"}, "ray_address goes with engine='ray'"),
        ({"engine": LOCAL, "gpus_per_task": 0.5}, "gpus_per_task goes with engine='ray'"),
    ],
)
def test_a_search_on_an_engine_that_is_not_there(
    where: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spec = pn.SearchSpec(proxy="digits-gm-ipc1", candidates=3, label=0, verify=0)
    with pytest.raises(SpecError, match=message):
        pn.run_search(spec, tmp_path / "run", **where)
    assert not (tmp_path / "run").exists()


def test_truth(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="no truth table of 'chain' on 'digits'"):
        pn.load_truth(pn.load_space("chain"), digits)
    path = resources.folder("search_spaces") / "convnet-grid.digits.csv"
    with pytest.raises(TruthError, match="measured on space 'convnet-grid', but this is 'chain'"):
        pn.load_truth(pn.load_space("chain"), digits, path)


def test_a_space_with_another_fixed_setting() -> None:
    assert pn.load_space("nasbench201", channels=4).fixed["channels"] == 4
