"""What a report shows: the ranking and its cost, and parts that only some runs have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor

from ..rank import Key, Ledger, Ranking


@dataclass(frozen=True)
class Winner:
    """The network that verification ended with: the best of those trained on the whole data."""

    arch: str
    accuracy: float  # in [0, 1]
    measure: str  # what accuracy is: test_accuracy or val_accuracy
    training: str  # how it was trained, in words: "12 epochs on all 1,198 images, 3 seeds"
    verified: int  # candidates trained on the whole data
    files: tuple[str, ...] = ()  # weights and code that load it, as paths from the run directory
    unverified_better: float | None = (
        None  # probability that a candidate that was not trained is better
    )
    unverified_gain: float = (
        0.0  # by how much the best of them is better at most, with probability 0.95
    )
    label_epochs: int = (
        0  # both of these are of accuracies after so few epochs; 0: of whole trainings
    )


@dataclass(frozen=True)
class Trust:
    """Agreement of a ranking with the labels that the search paid for, estimated out of fold."""

    rho: float
    low: float  # 95 %
    high: float
    labels: int
    note: str = ""  # how it was estimated, in a sentence
    label_epochs: int = 0  # it is agreement with accuracies after so few; 0: of whole trainings


@dataclass(frozen=True)
class RegretCurve:
    """Regret of the best network found against the cost paid, for one way of searching.

    All four have one entry a cost; regrets are in [0, 1] (rendered as percentage points).

    Raises:
        ValueError: they differ in length, or are empty.
    """

    name: str
    costs: Sequence[float]  # core seconds, increasing, above zero
    regret: Sequence[float]  # median over replicates
    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        sizes = {len(values) for values in (self.costs, self.regret, self.low, self.high)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"{self.name}: costs, regret, low and high must be as many, and not none"
            )


@dataclass(frozen=True)
class Pareto:
    """Two objectives at once: what the candidates reach, and what they cost to run.

    All four have one entry a candidate.

    Raises:
        ValueError: they differ in length.
    """

    x_label: str  # such as "FLOPs", lower is better
    y_label: str  # such as "test accuracy (%)", higher is better
    archs: Sequence[str]
    x: Sequence[float]
    y: Sequence[float]
    front: Sequence[bool]  # no other candidate is better in both

    def __post_init__(self) -> None:
        if len({len(values) for values in (self.archs, self.x, self.y, self.front)}) != 1:
            raise ValueError("archs, x, y and front must be as many")


@dataclass(frozen=True)
class ReportInputs:
    """All that a report shows."""

    title: str
    spec: Mapping[str, Any]  # the settings of the run
    dataset: Mapping[str, Any]  # name, shape, classes, sizes of the splits
    images: (
        Tensor | None
    )  # the proxy set in its original colours, (n, C, H, W) in [0, 1]; None: not images
    labels: Tensor | None  # int64 (n,) or soft (n, K)
    class_names: Sequence[str]
    ranking: Ranking
    ledger: Ledger
    scores: pd.DataFrame  # the run store's rows
    costs: pd.DataFrame  # parameters and FLOPs by architecture
    headline: Key  # the selection indicator: the (source, indicator) that picks the best network
    headline_reason: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    winner: Winner | None = None
    trust: Trust | None = None
    regret_curve: Sequence[RegretCurve] = ()  # proxynas first
    pareto: Pareto | None = None

    @property
    def has_truth(self) -> bool:
        """Some candidates have a known truth."""
        return self.ranking.truth is not None and not self.ranking.truth.empty

    @property
    def shown(self) -> tuple[Tensor, Tensor] | None:
        """The images of the proxy set and their labels; ``None`` where there are none to show."""
        if (
            self.images is None
            or self.labels is None
            or self.images.ndim != 4
            or not len(self.images)
        ):
            return None
        return self.images, self.labels
