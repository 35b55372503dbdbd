"""The tables that a search is compared with: truth, and accuracies that were measured elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import truth
from ..core.errors import TruthError
from ..datasets import Dataset
from ..spaces import SearchSpace
from ..specs import SearchSpec
from ..truth import TruthTable, importing


def find_truth(spec: SearchSpec, dataset: Dataset, space: SearchSpace) -> TruthTable | None:
    """The truth table the spec asks for, checked against the data and the space.

    Raises:
        TruthError: there is no such table, or it is of other data.
    """
    if spec.truth == "none":
        if spec.truth_data is not None:
            raise TruthError("truth is none, so truth_data would change nothing; leave it out")
        return None
    data = spec.truth_data or dataset.name
    if spec.truth == "auto":
        table = truth.find(space.name, data) or importing.find(space.name, data)
        if table is None and spec.truth_data is not None:
            raise TruthError(
                f"there is no truth of {space.name!r} on {data!r} here, which truth_data asks for; "
                "'proxynas list' "
                "shows what there is"
            )
    else:
        table = truth.read(Path(spec.truth))
    return None if table is None else of_space(table, dataset, space, data, spec.truth)


def find_tables(spec: SearchSpec, dataset: Dataset, space: SearchSpace) -> dict[str, TruthTable]:
    """The tables that were measured elsewhere, by the name of their row, checked as truth is.

    Raises:
        TruthError: there is no such table, or it is of other data.
    """
    data = spec.truth_data or dataset.name
    return {
        name: of_space(truth.read(Path(p)), dataset, space, data, p)
        for name, p in spec.tables.items()
    }


def check_covered(tables: Mapping[str, TruthTable], archs: Sequence[str]) -> None:
    """Refuse a table that has few of the candidates: all rows are compared on those that every row
    has.

    Raises:
        TruthError: it has fewer than three of them, and fewer than all.
    """
    for name, table in tables.items():
        there = len(set(archs) & set(table.rows["arch"]))
        if there < min(3, len(archs)):
            raise TruthError(
                f"the table {name!r} has {there} of the {len(archs)} candidates, and rows are "
                "compared on what all "
                "have; leave it out, or give one of the whole space"
            )


def of_space(
    table: TruthTable, dataset: Dataset, space: SearchSpace, data: str, name: str
) -> TruthTable:
    """The table itself.

    Raises:
        TruthError: it is of other data, or of another space.
    """
    table.check(dataset, space.name, data)
    classes = importing.CLASSES.get(data)
    if classes is not None and classes != dataset.num_classes:
        raise TruthError(
            f"the truth table {name} is of {data}, which has {classes} classes, but {dataset.name} "
            "has "
            f"{dataset.num_classes}; give --truth-data the name of the data that these are, or "
            "--truth none"
        )
    if not any(arch in space for arch in table.rows["arch"]):
        raise TruthError(
            f"the truth table {name} has no architecture of the space {space.name!r}; give its own"
        )
    return table
