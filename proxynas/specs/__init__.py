"""Every setting there is, in plain frozen dataclasses: flags, TOML keys, defaults and help all come
from here.

A field that is annotated with an :class:`Option` is a flag of the commands that take its class, and
a TOML key of the same meaning. Nothing here imports PyTorch, so that ``--help`` is quick.

>>> from proxynas.specs import SearchSpec
>>> SearchSpec(ipc=10).candidate_recipe().updates
100
"""

from .compare import CompareSpec, EvaluationSpec, Extension, Protocol, Row
from .constraint import Constraint, Cost
from .data import DataSpec
from .decision import DecisionSpec
from .distill import Clock, DistillSpec
from .engine import EngineSpec
from .option import NotNegative, Option, Positive, PositiveNumber
from .recipe import (
    OPERATIONS,
    ZHAO2021,
    Loss,
    Recipe,
    Strategy,
    check_operations,
    whole_data_recipe,
)
from .search import (
    Baseline,
    CandidateSpec,
    IndicatorSpec,
    Objective,
    ProxySpec,
    RunSpec,
    SearchSpec,
    SpaceSpec,
    StrategyName,
    TruthTableSpec,
)
from .truth import ImportSpec, TruthSpec
from .whitening import Regularisation, WhiteningSetting, parse_whitening

__all__ = [
    "OPERATIONS",
    "ZHAO2021",
    "Baseline",
    "CandidateSpec",
    "Clock",
    "CompareSpec",
    "Constraint",
    "Cost",
    "DataSpec",
    "DecisionSpec",
    "DistillSpec",
    "EngineSpec",
    "EvaluationSpec",
    "Extension",
    "ImportSpec",
    "IndicatorSpec",
    "Loss",
    "NotNegative",
    "Objective",
    "Option",
    "Positive",
    "PositiveNumber",
    "Protocol",
    "ProxySpec",
    "Recipe",
    "Regularisation",
    "Row",
    "RunSpec",
    "SearchSpec",
    "SpaceSpec",
    "Strategy",
    "StrategyName",
    "TruthSpec",
    "TruthTableSpec",
    "WhiteningSetting",
    "check_operations",
    "parse_whitening",
    "whole_data_recipe",
]
