"""Who gives a search its labels: training in the run, or tables that are charged for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from .. import truth
from ..core import settings
from ..core.errors import SpecError, TruthError
from ..rank import words
from ..search.sources import FEW_EPOCHS
from ..spaces import SearchSpace
from ..specs import SearchSpec
from ..truth import TruthTable
from .labelling import Charged, Labeller, Recorded, Trained, first_runs
from .run import Run
from .truth_tables import of_space


@dataclass(frozen=True)
class Oracles:
    """Where accuracies come from.

    whole: those of whole trainings.
    short: those of few epochs; ``None`` where labels are whole trainings.
    """

    whole: Labeller
    short: Labeller | None = None


def settled(this: Run, archs: Sequence[str] | None) -> Run:
    """The run with its ``label_epochs`` chosen, where the spec leaves them open: a quarter of a
    whole training's, which pays (experiments/README.md), or 0, whole trainings, where a truth table
    that knows all candidates is charged and there is no label table. A run that was begun keeps its
    number. ``archs`` are the candidates, ``None`` where they may be any of the space.

    Raises:
        TruthError: the label table cannot be read.
    """
    spec = this.spec
    if spec.label_epochs is not None:
        return this
    begun = this.folder / "spec.toml"
    if begun.is_file():
        return replace(this, spec=replace(spec, label_epochs=_begun_with(begun)))
    few = spec.epochs // QUARTER if spec.label else 0
    if few and spec.oracle == "auto" and knows_all(this.truth, this.space, archs):
        table = None if spec.label_table is None else truth.read(Path(spec.label_table))
        table = table or _shipped(this, few)
        few = 0 if table is None else table.epochs or few
    return replace(this, spec=replace(spec, label_epochs=few))


def knows_all(table: TruthTable | None, space: SearchSpace, archs: Sequence[str] | None) -> bool:
    """Whether a truth table knows the candidates ``archs``, or all of the space."""
    known = set() if table is None else set(table.rows["arch"])
    return len(known) >= space.size if archs is None else known.issuperset(archs)


def _begun_with(spec: Path) -> int | None:
    return settings.make(SearchSpec, settings.read_toml(spec), where=str(spec)).label_epochs


QUARTER = 4
"""A whole training has as many times the epochs of a label, by default."""


def _shipped(this: Run, epochs: int) -> TruthTable | None:
    data = this.spec.truth_data or this.dataset.name
    return truth.find(this.space.name, f"{data}.{epochs}-epochs")


def check(this: Run, archs: Sequence[str] | None) -> None:
    """Refuse what cannot give labels, before anything is trained; :func:`of_run` has the last word
    where the candidates (``archs``) are not known before.

    Raises:
        SpecError: names the setting that would change nothing, or cannot be.
    """
    check_settings(this.spec)
    table = this.truth if this.spec.oracle == "auto" else None
    if table is None:
        _check_label_table(this, charged=False)
    elif knows_all(table, this.space, archs):
        _check_label_table(this, charged=True)


def check_settings(spec: SearchSpec) -> None:
    """Refuse settings of labels that do not go together.

    Raises:
        SpecError: names the setting that would change nothing, or cannot be.
    """
    if spec.label_epochs is not None and spec.label_epochs > spec.epochs:
        raise SpecError(
            f"label_epochs must be at most the {spec.epochs} epochs of a whole training, but got "
            f"{spec.label_epochs}"
        )
    for name in ("shortlist", "label_table"):
        if not spec.label_epochs and getattr(spec, name) is not None:
            raise SpecError(
                f"{name} is for labels of few epochs, so it would change nothing; give "
                "label_epochs as well, or leave it out"
            )


def of_run(this: Run) -> Oracles:
    """The truth table that knows all candidates and, for few epochs, the label table; else
    training.

    Raises:
        SpecError: a truth table is charged, but there is no label table for labels of few epochs;
            or the other way round.
        TruthError: the label table is of other data or epochs, or lacks a candidate.
    """
    few = bool(this.spec.label_epochs)
    _check_label_table(this, charged=charges(this))
    if this.truth is None or not charges(this):
        return Oracles(Trained(this), Trained(this, FEW_EPOCHS) if few else None)
    whole = Charged(this.store, this.truth)
    if not few:
        return Oracles(whole)
    table = label_table(this)
    assert table is not None
    this.watcher.say(f"a label costs {costs_in_words(this, table)}")
    return Oracles(whole, Charged(this.store, table, FEW_EPOCHS, _share(this, table)))


def _check_label_table(this: Run, *, charged: bool) -> None:
    spec = this.spec
    if spec.label_table is not None and not charged:
        raise SpecError(
            "label_table is for searches whose whole trainings are charged to a truth table, but "
            "none is that knows all candidates; leave it out"
        )
    few = spec.label_epochs or 0
    if few and charged and spec.label_table is None and _shipped(this, few) is None:
        raise SpecError(
            f"labels of {words.times(few, 'epoch')} are not in the truth table that "
            "is charged for whole trainings; give --label-table a table of them, or train with "
            "--oracle none, in another --out where this one was begun"
        )


def recorded(this: Run) -> Oracles:
    """What the run store has, for a report."""
    few = Recorded(this.store, FEW_EPOCHS) if this.spec.label_epochs else None
    return Oracles(Recorded(this.store), few)


def charges(this: Run) -> bool:
    """Whether the truth table knows all candidates, and is asked instead of training them."""
    table = this.truth
    if table is None or this.spec.oracle != "auto":
        return False
    return set(table.rows["arch"]).issuperset(this.store.candidates().index)


def label_table(this: Run) -> TruthTable | None:
    """The table of accuracies after few epochs, checked: the spec's, or one that ships; ``None``
    where labels are whole trainings, or there is none.

    Raises:
        TruthError: it cannot be read, is of other data or of other epochs, or lacks a candidate.
    """
    spec = this.spec
    few, name = spec.label_epochs or 0, spec.label_table or "that ships"
    table = _shipped(this, few) if few else None
    if few and spec.label_table is not None:
        table = truth.read(Path(spec.label_table))
    if table is None:
        return None
    data = spec.truth_data or this.dataset.name
    table = of_space(table, this.dataset, this.space, data, name)
    epochs = table.epochs
    if epochs is not None and epochs != few:
        raise TruthError(
            f"the label table {name} has accuracies after "
            f"{words.times(epochs, 'epoch')}, but label_epochs is {few}; give "
            "one number to both"
        )
    missing = this.store.candidates().index.difference(pd.Index(table.rows["arch"]))
    if len(missing):
        raise TruthError(
            f"the label table {name} must have every candidate, but lacks "
            f"{missing[0]}; give one of the whole space"
        )
    return table


def short_seconds(this: Run, table: TruthTable) -> pd.Series:
    """What one training of few epochs costs, by candidate: the label table's seconds, else the
    share of a whole training's; NaN: not known."""
    known = first_runs(table).set_index("arch")["seconds"].astype("float64")
    return known.fillna(pd.Series(_share(this, table)))


def costs_in_words(this: Run, table: TruthTable) -> str:
    """What a training of few epochs is charged, for reports."""
    if table.rows["seconds"].notna().all():
        return "the seconds of the label table"
    epochs = None if this.truth is None else this.truth.epochs
    if epochs is None:
        return (
            "what is not known: the label table has no seconds, the truth table no number of epochs"
        )
    return (
        f"{this.spec.label_epochs or 0}/{epochs} of a whole training's seconds, since the label "
        "table has none"
    )


def _share(this: Run, table: TruthTable) -> dict[str, float]:
    """What a run of few epochs costs where its table does not say: its share of a whole one's."""
    whole = this.truth
    epochs = None if whole is None else whole.epochs
    if whole is None or epochs is None or table.rows["seconds"].notna().all():
        return {}
    share = (this.spec.label_epochs or 0) / epochs
    seconds = first_runs(whole).set_index("arch")["seconds"].astype("float64")
    return {
        str(arch): share * float(value) for arch, value in seconds.items() if not math.isnan(value)
    }
