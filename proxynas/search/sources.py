"""The sources that rank candidates: what each is called, drawn in, and compared as.

A source is a set that candidates are trained on, or what ranks them without training. A row of the
run store, of a table and of a figure names its source by :attr:`SourceKind.name`. Sets of the
user's own (``also``) have no kind: they are called as their files.
"""

from dataclasses import dataclass

PROXY = "proxy"
RANDOM = "random"
EARLY_STOPPING = "early-stopping"
ZERO_COST = "zero-cost"
"""The source that trains nothing: a candidate's zero-cost indicators."""
PARAMETERS = "parameters"
FLOPS = "flops"
WHOLE = "whole-data"
"""The source of a run on the whole training split: a truth, or a label."""
FEW_EPOCHS = "few-epochs"
"""The source of a run on the whole training split for few epochs: a short label."""
WINNER = "winner"
"""The source of the winner's last training in a run store."""

TRAINED = (PROXY, RANDOM, EARLY_STOPPING)
"""What candidates are trained on unless ``baselines`` says otherwise, in the order of tables."""


@dataclass(frozen=True)
class SourceKind:
    """A source that every report knows.

    colours: on white, and on a dark ground; ``None`` where it is never drawn.
    rival: how a sentence calls it that compares the proxy set with it; empty where none does.
    decisive: a proxy set must rank better than it to be worth distilling.
    """

    name: str
    label: str
    colours: tuple[str, str] | None = None
    rival: str = ""
    decisive: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        SourceKind(PROXY, "proxy set", ("#0b62a4", "#6cb2ee")),
        SourceKind(
            RANDOM,
            "random coreset",
            ("#77777c", "#a6a8ae"),
            rival="a random coreset of the same size",
            decisive=True,
        ),
        SourceKind(
            EARLY_STOPPING,
            "early stopping",
            ("#c05e16", "#e79a5e"),
            rival="early stopping after as many updates",
            decisive=True,
        ),
        SourceKind(ZERO_COST, "zero-cost", ("#1b7a87", "#5dbfcb"), decisive=True),
        SourceKind(
            PARAMETERS,
            "parameters",
            ("#3f7f4c", "#83c08f"),
            rival="counting parameters",
            decisive=True,
        ),
        SourceKind(FLOPS, "FLOPs", ("#7a58a6", "#b99be0"), rival="counting FLOPs"),
        SourceKind(WHOLE, "whole data", ("#2b2b2e", "#e4e4e7")),
        SourceKind(FEW_EPOCHS, "few epochs"),
        SourceKind(WINNER, "winner"),
    )
}
"""All of them by name, in the order of a legend."""

DECISION_SOURCES = (WHOLE, FEW_EPOCHS, WINNER)
"""Sources of a decision: they rank no candidates and are charged by themselves."""
