"""Ranking candidates, comparing the ranking with truth, and adding up what it cost."""

from .indicators import Key
from .ledger import DecisionCost, Ledger, SourceCost, ledger
from .ranking import Difference, Ranking, paired_difference, rank
from .verdict import Verdict, verdict

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
