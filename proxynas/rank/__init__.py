"""Ranking candidates, comparing the ranking with truth, and adding up what it cost."""

from .costs import DecisionCost, Ledger, SourceCost, ledger
from .indicators import Key
from .judging import Verdict, verdict
from .ranking import Difference, Ranking, paired_difference, rank

__all__ = [
    "DecisionCost",
    "Difference",
    "Key",
    "Ledger",
    "Ranking",
    "SourceCost",
    "Verdict",
    "ledger",
    "paired_difference",
    "rank",
    "verdict",
]
