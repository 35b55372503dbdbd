"""What ``import proxynas`` gives: a proxy set in a loop of one's own.

evaluator    networks scored on a proxy set, one at a time
steps        the stages as functions: load, distil, search, rank, report
undisturbed  a training that leaves the process as it was
"""

from ..core.errors import ProxynasError
from ..specs import Recipe, SearchSpec
from .evaluator import Evaluation, Evaluator
from .steps import (
    load_data,
    load_space,
    load_truth,
    make_proxy,
    rank_networks,
    read_proxy,
    run_search,
    write_report,
)

__all__ = [
    "Evaluation",
    "Evaluator",
    "ProxynasError",
    "Recipe",
    "SearchSpec",
    "load_data",
    "load_space",
    "load_truth",
    "make_proxy",
    "rank_networks",
    "read_proxy",
    "run_search",
    "write_report",
]
