"""A search from the data to the report, in parts: a function takes the part that it needs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass as checked

from ..core import settings
from ..core.errors import SpecError
from .constraint import ConstraintText
from .data import DataSpec
from .decision import DecisionSpec
from .distill import DistillSpec, Ipc, Method, Seed, Settings
from .option import (
    DISTILLATION,
    RANKING,
    SPACE,
    TRAINING,
    NotNegative,
    Option,
    Positive,
    PositiveNumber,
    Repeats,
    Text,
    Updates,
)
from .recipe import Recipe

Baseline = Literal["random", "early-stopping", "zero-cost"]
StrategyName = Literal["random", "all", "tpe", "nsga2", "cmaes", "evolution"]
Objective = Literal["indicator", "parameters", "flops"]


def _check_objectives(objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
    if "indicator" not in objectives or len(set(objectives)) < len(objectives):
        raise ValueError(
            "indicator is expected, and parameters or flops at most once each beside it"
        )
    return objectives


TimeLimit = Annotated[
    PositiveNumber | None,
    Option(
        "Wall-clock seconds that a candidate may take on one source, all its seeds together; one "
        "that takes longer fails, and the others go on. Default: none.",
        TRAINING,
        metavar="SECONDS",
    ),
]
Space = Annotated[
    Text, Option("A search space: see 'proxynas list', or the path of a TOML file.", SPACE)
]
SpaceOptions = Annotated[
    dict[str, Any],
    Option(
        "Replace a fixed setting of the space, such as --space-option channels=8. Repeatable.",
        SPACE,
        flag="--space-option",
    ),
]


@checked(frozen=True, config=settings.CONFIG)
class SpaceSpec:
    """Where candidates come from. A space may be shrunk for training alone
    (``zero_cost_options``)."""

    space: Space = "convnet-grid"
    space_options: SpaceOptions = Field(default_factory=dict)
    zero_cost_options: Annotated[
        dict[str, Any],
        Option(
            "As --space-option, for the networks that zero-cost indicators see, which can be "
            "larger. Repeatable.",
            SPACE,
            flag="--zero-cost-option",
        ),
    ] = Field(default_factory=dict)
    time_limit: TimeLimit = None


Constraints = Annotated[
    tuple[ConstraintText, ...],
    Option(
        "Only networks with these costs, such as --constraint 'parameters<1e6' or "
        "'flops<=2e7'. Repeatable.",
        SPACE,
        flag="--constraint",
        metavar="LIMIT",
    ),
]


@checked(frozen=True, config=settings.CONFIG)
class CandidateSpec:
    """Which candidates of the space are scored.

    Strategies but ``random`` and ``all`` ask for ``round_size`` candidates at a time, given what
    those before them turned out to be worth.
    """

    strategy: Annotated[
        StrategyName,
        Option(
            "How candidates are chosen: random; all of the space; or by what earlier ones are "
            "worth, with tpe, nsga2 or cmaes (Optuna's: pip install 'proxynas\\[optuna]') or "
            "evolution (regularised: Real et al. 2019).",
            SPACE,
            metavar="NAME",
        ),
    ] = "random"
    candidates: Annotated[
        Positive,
        Option("How many networks to score; all of a space that has fewer.", SPACE),
    ] = 50
    round_size: Annotated[
        Positive,
        Option(
            "Candidates that tpe, nsga2, cmaes and evolution choose at a time, before they learn "
            "what these are worth.",
            SPACE,
        ),
    ] = 10
    constraints: Constraints = ()
    objectives: Annotated[
        tuple[Objective, ...],
        AfterValidator(_check_objectives),
        Option(
            "What the strategy optimises: indicator (what picks the best network), and beside it "
            "parameters or flops, as few as possible; tpe and nsga2 then look for a Pareto front. "
            "Repeatable. Default: indicator.",
            SPACE,
            flag="--objective",
            metavar="NAME",
        ),
    ] = ("indicator",)
    distinct: Annotated[bool, Option("Sample no two isomorphic networks.", SPACE)] = False


@checked(frozen=True, config=settings.CONFIG)
class ProxySpec:
    """The proxy set (a file or a shipped one, or how it is distilled) and what it is compared with.

    Without ``steps`` a search distils for 200 steps, or the method's own number if that is smaller.
    """

    proxy: Annotated[
        Text | None,
        Option(
            "Use this proxy set (a file, or the name of a shipped one) instead of distilling.",
            DISTILLATION,
        ),
    ] = None
    method: Method = "gm"
    ipc: Ipc = 1
    steps: Annotated[
        NotNegative | None,
        Option("Distillation steps. Default: the method's own number, at most 200.", DISTILLATION),
    ] = None
    settings: Settings = Field(default_factory=dict)
    also: Annotated[
        tuple[str, ...],
        Option(
            "A further proxy set to compare in the same run. Repeatable.",
            DISTILLATION,
            metavar="SET",
        ),
    ] = ()
    baselines: Annotated[
        tuple[Baseline, ...],
        Option(
            "Compare with these baselines only: random, early-stopping or zero-cost. Repeatable. "
            "Default: all three.",
            RANKING,
            flag="--baseline",
            metavar="NAME",
        ),
    ] = ("random", "early-stopping", "zero-cost")

    def __post_init__(self) -> None:
        """Refuse a proxy set that exists already together with settings to make one.

        Raises:
            SpecError: names the first setting of the distillation that is not its default.
        """
        if self.proxy is None:
            return
        defaults = {"method": "gm", "ipc": 1, "steps": None, "settings": {}}
        for key, default in defaults.items():
            if getattr(self, key) != default:
                raise SpecError(
                    f"proxy takes a set that exists already, so {key} would change nothing; "
                    "leave one out"
                )


@checked(frozen=True, config=settings.CONFIG)
class RunSpec:
    """How a candidate is trained and scored: SGD with momentum 0.9 and weight decay 5e-4 (Zhao
    2021).

    It is scored on ``val_size`` validation images, ``val_points`` times per run, after its batch
    norms have seen ``calibrate`` real training images.
    """

    seeds: Annotated[Repeats, Option("Training runs per candidate and source.", TRAINING)] = 1
    updates: Annotated[Updates, Option("Optimiser updates of each training run.", TRAINING)] = 100
    batch_size: Annotated[
        Positive, Option("Batch size, at most the size of the proxy set.", TRAINING)
    ] = 256
    lr: Annotated[PositiveNumber, Option("Learning rate.", TRAINING)] = 0.01
    recipe: Annotated[
        dict[str, Any],
        Option(
            "Any other setting of the training, such as --recipe schedule=cosine. Repeatable.",
            TRAINING,
        ),
    ] = Field(default_factory=dict)
    val_size: Annotated[Positive, Option("Validation images that score a run.", TRAINING)] = 1000
    val_points: Annotated[
        Positive, Option("Validations during each run; 2 or more give val_auc.", TRAINING)
    ] = 1
    calibrate: Annotated[
        NotNegative,
        Option("Real training images that batch norms see before scoring; 0: none.", TRAINING),
    ] = 256

    def candidate_recipe(self) -> Recipe:
        """How a candidate is trained on a proxy set.

        Raises:
            SpecError: ``recipe`` has an unknown field or a wrong value.
        """
        values = {
            "updates": self.updates,
            "batch_size": self.batch_size,
            "lr": self.lr,
            **self.recipe,
        }
        return settings.make(Recipe, values, where="recipe")


@checked(frozen=True, config=settings.CONFIG)
class IndicatorSpec:
    """What candidates are ranked by."""

    indicator: Annotated[
        Text,
        Option(
            "What picks the best network: val_accuracy, val_loss, val_auc, sotl, sotl_late, "
            "synflow, naswot, jacob_cov, snip, grad_norm, vote, parameters, flops, or several "
            "joined by + (mean rank); auto: a predictor fitted on labels, or without one what the "
            "space's file names.",
            RANKING,
        ),
    ] = "auto"
    combine: Annotated[
        tuple[str, ...],
        Option("Rank by the mean rank of these as well. Repeatable.", RANKING, metavar="A+B"),
    ] = ()


@checked(frozen=True, config=settings.CONFIG)
class TruthTableSpec:
    """What rankings are compared with, and accuracies measured elsewhere that are ranked beside
    ours.

    Nothing is picked by ``tables``, so that test accuracies may stand there as a yardstick.
    """

    truth: Annotated[
        Text,
        Option("A truth table (CSV), none, or auto: one that ships or is installed.", RANKING),
    ] = "auto"
    truth_data: Annotated[
        Text | None,
        Option(
            "Name of the data in the truth table, as in --data ./my-cifar --truth-data cifar10.",
            RANKING,
        ),
    ] = None
    tables: Annotated[
        dict[str, str],
        Option(
            "Accuracies measured elsewhere, such as --table '12 epochs=early.csv' (see 'proxynas "
            "truth import'). They are ranked beside the others; nothing is picked by them. "
            "Repeatable.",
            RANKING,
            flag="--table",
            metavar="NAME=FILE",
        ),
    ] = Field(default_factory=dict)


@checked(frozen=True, config=settings.CONFIG)
class SearchSpec(
    DecisionSpec,
    TruthTableSpec,
    IndicatorSpec,
    RunSpec,
    ProxySpec,
    CandidateSpec,
    SpaceSpec,
    DataSpec,
):
    """``proxynas search``: the data, the candidates, the proxy set, how candidates are trained and
    ranked."""

    seed: Seed = 0

    def whole_options(self) -> dict[str, Any]:
        """The space's settings for training on the whole data: of the larger networks, where there
        are two."""
        return self.zero_cost_options or self.space_options

    def distillation(self) -> DistillSpec:
        """The settings of the distillation that this search starts with."""
        return settings.part(DistillSpec, self)
