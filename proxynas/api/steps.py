"""The stages as functions, from the data to the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import datasets, proxyset, rank, spaces, truth
from ..core import hardware
from ..core.errors import SpecError, TruthError
from ..core.progress import Watcher
from ..core.settings import make as settings_of
from ..datasets import Dataset
from ..distill.loop import distill
from ..distill.reuse import Destination, reuse_or_distill
from ..engine import Engine
from ..engine.choice import make_engine
from ..pipeline import flow
from ..pipeline.reporting import Result
from ..proxyset import ProxySet
from ..rank import Ranking
from ..search.sources import PROXY
from ..spaces import SearchSpace
from ..specs import DistillSpec, EngineSpec, SearchSpec
from ..truth import TruthTable, importing
from .evaluator import COSTS, TRAINED, Evaluation


def load_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    download: bool = False,
    image_size: int | None = None,
    zca: float | str | None = None,
    device: str = "cpu",
) -> Dataset:
    """Load real data: a name such as ``digits`` or ``cifar10``, a folder of images, or a CSV table.

    Args:
        name: see ``proxynas list``; a folder has ``train/<class>/*``, a table ends in ``.csv``.
        root: where torchvision's datasets are.
        download: fetch what is not there.
        image_size: resize every image to a square of that size.
        zca: whiten images, such as 0.1 (:mod:`proxynas.datasets.zca`).
        device: where its tensors lie: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``.

    Raises:
        DataError: it is missing, damaged, or an argument is out of range.
        DeviceError: no such device.

    >>> import proxynas as pn
    >>> data = pn.load_data("digits")
    >>> data.shape, data.num_classes, len(data.train), len(data.val), len(data.test)
    ((1, 8, 8), 10, 1000, 297, 500)
    """
    return datasets.load(
        name,
        None if root is None else Path(root),
        download=download,
        image_size=image_size,
        whiten=zca,
        device=hardware.check(str(device)),
    )


def load_space(name: str | Path, **fixed: Any) -> SearchSpace:
    """Load a search space: a shipped one by name, or a TOML file; ``fixed`` replaces its fixed
    settings.

    A file names a function that makes networks, and loading it runs that function's module.

    Raises:
        SpaceError: no such space or setting, or its function cannot be imported.
        SpecError: the file is not valid.

    >>> import proxynas as pn
    >>> space = pn.load_space("convnet-grid")
    >>> space.size, space.describe("D1-W32-relu-none-avgpooling")["width"]
    (720, 32)
    """
    return spaces.load(str(name), fixed)


def load_truth(space: SearchSpace, data: Dataset, path: str | Path | None = None) -> TruthTable:
    """Load what networks of ``space`` reach after training on all of ``data``: a table that ships
    or is installed, or the CSV file ``path``.

    Raises:
        TruthError: there is none, or it is of other data or another space.

    >>> import proxynas as pn
    >>> table = pn.load_truth(pn.load_space("convnet-grid"), pn.load_data("digits"))
    >>> round(float(table.accuracy()["D1-W32-relu-none-avgpooling"]), 3)
    0.956
    """
    if path is not None:
        table: TruthTable | None = truth.read(Path(path))
    else:
        table = truth.find(space.name, data.name) or importing.find(space.name, data.name)
    if table is None:
        raise TruthError(
            f"there is no truth table of {space.name!r} on {data.name!r}; 'proxynas list' shows "
            "what there is, and 'proxynas truth' measures one"
        )
    table.check(data, space.name)
    return table


# reason: the one way to make a set; all arguments but the first have defaults
def make_proxy(
    data: Dataset,
    method: str = "gm",
    *,
    ipc: int = 1,
    steps: int | None = None,
    seconds: float | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> ProxySet:
    """Distil a proxy set of ``data``, or select one.

    Args:
        data: the real data; only its train and validation splits are used.
        method: ``gm``, ``unroll``, ``ift``, ``rcig``, ``apm``, ``dm`` or ``mtt`` distil;
            ``random``, ``herding`` and others select. See ``proxynas list``.
        ipc: images, or rows of a table, per class.
        steps: distillation steps; by default the method's own number.
        seconds: end it after this much wall-clock time.
        settings: the method's, such as ``{"init": "real"}``.
        seed: of every random choice.
        out: the file to write. It is read instead where the same set is there already, and an
            interrupted distillation goes on from the checkpoint beside it.

    Raises:
        SpecError: an unknown method or setting, or a number out of range.
        RunFolderError: ``out`` has a set of other settings.
        DivergedError: the loss stopped being finite.

    >>> import proxynas as pn
    >>> proxy = pn.make_proxy(pn.load_data("digits"), "gm", ipc=1, steps=1)
    >>> tuple(proxy.x.shape), proxy.provenance["method"]
    ((10, 1, 8, 8), 'gm')
    """
    whitening = data.preprocessing.zca
    values = {
        "data": data.name,
        "device": str(data.train.x.device),
        "zca": None if whitening is None else whitening.regularisation.setting,
        "method": method,
        "ipc": ipc,
        "steps": steps,
        "seconds": seconds,
        "settings": dict(settings or {}),
        "seed": seed,
    }
    spec = settings_of(DistillSpec, values)
    if out is None:
        return distill(spec, data)
    checkpoint = Path(f"{out}.checkpoint")
    proxy = reuse_or_distill(Destination(Path(out), checkpoint), spec, data)
    checkpoint.unlink(missing_ok=True)
    return proxy


def read_proxy(name: str | Path) -> ProxySet:
    """Read a proxy set: a file, or a shipped one by its name. It is a torch ``Dataset``.

    Raises:
        ProxyFileError: missing, damaged or changed.

    >>> import proxynas as pn
    >>> proxy = pn.read_proxy("digits-gm-ipc1")
    >>> len(proxy), tuple(proxy[0][0].shape), proxy.recipe.updates
    (10, (1, 8, 8), 100)
    """
    return proxyset.read(name)


# reason: how and where to run, none of which changes the result; all but the spec have defaults
def run_search(
    spec: SearchSpec,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    engine: str | Engine = "local",
    ray_address: str | None = None,
    gpus_per_task: float | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """Do what ``proxynas search`` does: distil, score, rank, train the winner, write the report.

    Args:
        spec: every setting of the command, under its flag's name.
        out: the run directory; a search that is there is gone on with. By default
            ``runs/<data>-<space>-<proxy>-<digits>``.
        workers: tasks at a time; by default one per core.
        engine: ``local``, processes of this machine, ``ray``, or one of your own.
        ray_address: of a Ray cluster; by default RAY_ADDRESS, or Ray on this machine.
        gpus_per_task: what a task takes on Ray, such as 0.25; by default 1 where ``spec.device``
            is a GPU.
        watcher: its methods are called as the search goes on; by default it is silent.

    Raises:
        ProxynasError: any of its kinds.

    >>> import tempfile
    >>> import proxynas as pn
    >>> spec = pn.SearchSpec(
    ...     proxy="digits-gm-ipc1", candidates=5, seeds=1, updates=2, label=0, verify=0
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = pn.run_search(spec, folder, workers=1)
    ...     again = pn.write_report(folder, indicator="sotl")
    >>> result.report.name, again.headline
    ('report.html', ('proxy', 'sotl'))
    """
    folder = flow.default_folder(spec) if out is None else Path(out)
    of_ray = {"ray_address": ray_address, "gpus_per_task": gpus_per_task}
    if isinstance(engine, str):
        engine = make_engine(settings_of(EngineSpec, {"engine": engine, **of_ray}))
    elif given := [name for name, value in of_ray.items() if value is not None]:
        raise SpecError(
            f"{given[0]} goes with engine='ray'; leave it out, or give it to the engine you made"
        )
    return flow.search(spec, folder, workers=workers, engine=engine, watcher=watcher)


def write_report(
    folder: str | Path,
    *,
    truth: str | None = None,
    indicator: str | None = None,
    combine: Sequence[str] = (),
    tables: Mapping[str, str] | None = None,
) -> Result:
    """Write a run's report again from what is stored, without training: see :func:`run_search`.

    Args:
        folder: the run directory.
        truth: another truth table: a CSV file, ``auto`` or ``none``.
        indicator: another indicator to pick the best network by.
        combine: indicators joined by ``+``, ranked by their mean rank as well.
        tables: accuracies measured elsewhere to rank as well, by name: CSV files.

    Raises:
        RunFolderError: it is not a run directory, or nothing in it is scored yet.
    """
    return flow.rewrite(
        Path(folder), truth_table=truth, indicator=indicator, combine=combine, tables=tables
    )


def rank_networks(
    evaluations: Mapping[str, Evaluation],
    truth: TruthTable | Mapping[str, float] | None = None,
    *,
    combine: Sequence[str] = (),
) -> Ranking:
    """Rank networks by every indicator of their evaluations, and compare each ranking with truth.

    Args:
        evaluations: by the networks' names.
        truth: what they reach on the whole data: a table, or accuracies in [0, 1] by name.
        combine: indicators joined by ``+``, ranked by their mean rank as well.

    Returns:
        ``rows`` has ρ and τ with 95 % intervals, ``best(key)`` the networks in order.

    Raises:
        SpecError: no evaluations, an unknown indicator, or accuracies outside [0, 1].

    >>> import proxynas as pn
    >>> data, space = pn.load_data("digits"), pn.load_space("convnet-grid")
    >>> evaluator = pn.Evaluator(pn.read_proxy("digits-gm-ipc1"), data, recipe=pn.Recipe(updates=5))
    >>> archs = [f"D1-W{width}-relu-none-avgpooling" for width in (32, 64, 128)]
    >>> nets = {arch: space.build(arch, data.shape, data.num_classes) for arch in archs}
    >>> evaluations = {arch: evaluator.evaluate(net) for arch, net in nets.items()}
    >>> ranking = pn.rank_networks(evaluations, pn.load_truth(space, data))
    >>> list(ranking.best(("parameters", "parameters")).index)[0]
    'D1-W128-relu-none-avgpooling'
    """
    if not evaluations:
        raise SpecError("there are no evaluations to rank; give one or more, by name")
    rows = [
        {"source": PROXY, "arch": arch, "seed": 0, "failed": evaluation.failed}
        | {name: evaluation[name] for name in TRAINED}
        for arch, evaluation in evaluations.items()
    ]
    costs = pd.DataFrame(
        [{name: evaluation[name] for name in COSTS} for evaluation in evaluations.values()],
        index=pd.Index(list(evaluations), name="arch"),
    )
    table = truth if isinstance(truth, TruthTable) else _table(truth) if truth else None
    return rank.rank(pd.DataFrame(rows), costs, table, combine=combine)


def _table(accuracies: Mapping[str, float]) -> TruthTable:
    for arch, accuracy in accuracies.items():
        if not 0 <= accuracy <= 1:
            raise SpecError(f"truth must be accuracies in [0, 1], but {arch} has {accuracy:g}")
    rows = [
        {"arch": arch, "seed": 0, "test_accuracy": accuracy, "failed": None}
        for arch, accuracy in accuracies.items()
    ]
    return TruthTable(pd.DataFrame(rows), {})
