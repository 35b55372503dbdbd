"""Adaptive search: candidates are chosen in rounds, by what those of earlier rounds are worth on
the proxy set.

In a round ``round_size`` candidates are asked of the strategy and scored on what the objective
needs: on the proxy set where the indicator is read off training, for zero-cost indicators where it
has one. Then the strategy is told the objective of every candidate so far. For a single indicator
that is its value; for a mean rank, or a vote, it is that among all candidates so far, so it is told
anew after each round. Baselines come after the last round, on the same candidates.

How many are asked for at a time is a setting and not the number of workers, and what is told is
read off the run store: the candidates are the same with any number of workers, and in a run that
was interrupted.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..core.errors import SpecError
from ..core.progress import Watcher
from ..rank import Key, indicators
from ..search import strategies
from ..search.run import Wanted, pending, runs, scorer
from ..search.sources import PROXY, ZERO_COST
from ..search.store import Score, Store, ZeroCost
from ..search.strategies import Strategy, Untried
from ..spaces import SearchSpace
from ..spaces.limits import Limits
from ..specs import Cost, SearchSpec
from ..specs.constraint import parse
from .run import Run
from .sources import prepared

Costs = Callable[[str], Cost]


class Tally:
    """Counts what is done of ``total`` results and tells a watcher."""

    def __init__(self, watcher: Watcher, done: int, total: int) -> None:
        self.watcher, self.done, self.total = watcher, done, total

    def __call__(self, score: Score | ZeroCost) -> None:
        """One more."""
        self.done += 1
        self.watcher.searching(self.done, self.total, score.arch)


def make_strategy(spec: SearchSpec, space: SearchSpace, cost: Costs) -> Strategy:
    """The strategy that the spec asks for.

    Raises:
        SpecError: it cannot do that, or what it needs is not installed; or the constraints admit
            almost nothing.
    """
    if spec.strategy == "all" and spec.candidates != SearchSpec().candidates:
        raise SpecError(
            "the strategy all takes every network, so candidates would change nothing; leave it out"
        )
    if spec.strategy not in strategies.ADAPTIVE and spec.round_size != SearchSpec().round_size:
        raise SpecError(
            f"the strategy {spec.strategy} has no rounds, so round_size would change nothing; "
            "leave it out"
        )
    if spec.distinct and space.kind is None:
        raise SpecError(
            f"the space {space.name!r} does not say which networks are isomorphic (kind), so "
            "distinct would change nothing; leave it out"
        )
    return strategies.make(
        spec.strategy,
        Untried(space, Limits([parse(text) for text in spec.constraints], cost), spec.distinct),
        seed=spec.seed,
        candidates=spec.candidates,
        together=spec.round_size,
        objectives=len(spec.objectives),
    )


def first_candidates(spec: SearchSpec, space: SearchSpace, strategy: Strategy) -> list[str]:
    """The candidates of the first round, and all of them where the strategy does not listen.

    Raises:
        SpecError: there are none within the constraints.
    """
    wanted = space.size if spec.strategy == "all" else spec.candidates
    adaptive = spec.strategy in strategies.ADAPTIVE
    archs = strategy.ask(min(wanted, spec.round_size) if adaptive else wanted)
    if not archs:
        limits = " and ".join(spec.constraints)
        raise SpecError(
            f"of the {space.size:,} networks of {space.name!r} none is within {limits}; loosen that"
        )
    return archs


def choose_in_rounds(this: Run, strategy: Strategy, first: list[str]) -> list[str]:
    """All candidates, scored on what the objective needs; ``first`` is what the strategy was asked
    for already."""
    spec, store, replicas = this.spec, this.store, range(this.spec.seeds)
    sources = objective_sources(this.headline)
    each = sum(1 if source == ZERO_COST else spec.seeds for source in sources)
    tally = Tally(this.watcher, 0, spec.candidates * each)
    this.watcher.say(
        f"choosing {spec.candidates} of {this.space.size:,} candidates by {spec.strategy}, "
        f"{spec.round_size} at a "
        f"time, {this.workers} worker(s)"
    )
    archs: list[str] = []
    asked = first
    work = prepared(spec, this.folder, this.dataset)
    scoring = scorer(store, replicas, work, workers=this.workers, engine=this.engine, on_done=tally)
    with this.stage("search"), scoring as score_missing:
        while asked:
            add_costs(store, asked, this.cost)
            missing = runs(pending(store, Wanted(asked, sources, replicas)))
            tally.done += len(asked) * each - missing
            score_missing(asked, sources)
            archs += asked
            for arch, values in objective_values(spec, this.headline, store, archs).items():
                strategy.tell(arch, values)
            left = spec.candidates - len(archs)
            asked = strategy.ask(min(spec.round_size, left)) if left else []
    this.watcher.ended()
    return archs


def add_costs(store: Store, archs: Sequence[str], cost: Costs) -> None:
    """Parameters and FLOPs of the candidates that the store does not have."""
    known = set(store.candidates().index)
    for arch in archs:
        if arch not in known:
            store.add_candidates({arch: cost(arch)})


def objective_sources(headline: Key) -> list[str]:
    """What candidates are scored on to know an indicator."""
    terms = headline[1].split("+")
    sources = [PROXY] if any(term in indicators.TRAINING for term in terms) else []
    return sources + (
        [ZERO_COST] if any(indicators.resolve(term)[0] == ZERO_COST for term in terms) else []
    )


def objective_values(
    spec: SearchSpec, headline: Key, store: Store, archs: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """What ``archs`` are worth, one value an objective, higher is better; ranks are among ``archs``
    alone."""
    costs, scores, zero_cost = (
        store.candidates().loc[list(archs)],
        store.scores(),
        store.zero_cost(),
    )
    columns = indicators.columns(
        scores[(scores["source"] == PROXY) & scores["arch"].isin(archs)],
        zero_cost[zero_cost["arch"].isin(archs)],
        costs,
        None,
        [headline[1]] if "+" in headline[1] else [],
    )
    objectives = [
        columns[headline] if name == "indicator" else -costs[name].astype("float64")
        for name in spec.objectives
    ]
    values = np.stack(
        [column.loc[list(archs)].to_numpy(dtype="float64") for column in objectives], 1
    )
    return {arch: tuple(map(float, row)) for arch, row in zip(archs, values, strict=True)}
