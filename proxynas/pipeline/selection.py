"""Which indicator picks the best network, and why."""

from ..core.errors import SpecError
from ..rank import Key, indicators
from ..search.sources import ZERO_COST
from ..spaces import Headline, SearchSpace
from ..specs import SearchSpec

UNKNOWN = Headline(
    "sotl+val_loss+vote",
    "sotl+val_loss",
    "the default for a space that has not been studied: what ranked the ConvNet grid best, "
    "experiments/README.md",
)


def choose_indicator(spec: SearchSpec, space: SearchSpace) -> tuple[Key, str]:
    """The (source, indicator) that picks the best network, and why: the user's, or what the space's
    file names.

    Raises:
        SpecError: an unknown indicator.
    """
    for name in spec.combine:
        if "+" not in name:
            raise SpecError(f"combine takes two indicators or more, joined by +, but got {name!r}")
        _check_indicator(spec, name)
    if spec.indicator == "auto":
        default = _named_by(spec, space)
        name = default.indicator if ZERO_COST in spec.baselines else default.without_zero_cost
        return _check_indicator(spec, name), default.reason
    return _check_indicator(spec, spec.indicator), "asked for with --indicator"


def _named_by(spec: SearchSpec, space: SearchSpace) -> Headline:
    """What the space's file names, both of its indicators looked up."""
    headline = space.headline or UNKNOWN
    for key in ("indicator", "without_zero_cost"):
        try:
            indicators.resolve(getattr(headline, key))
        except SpecError as error:
            raise SpecError(
                f"[headline] of the search space {spec.space}, {key}: {error}"
            ) from None
    return headline


def _check_indicator(spec: SearchSpec, name: str) -> Key:
    key = indicators.resolve(name)
    terms = key[1].split("+")
    if "val_auc" in terms and spec.val_points < 2:
        raise SpecError(
            f"the indicator val_auc takes val_points of 2 or more, but got {spec.val_points}"
        )
    if ZERO_COST not in spec.baselines and any(
        indicators.resolve(term)[0] == ZERO_COST for term in terms
    ):
        raise SpecError(f"the indicator {name} takes {ZERO_COST!r} among the baselines; add it")
    return key
