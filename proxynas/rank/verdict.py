"""What the figures say, in sentences: for the report and the terminal."""

import math
from dataclasses import dataclass

from ..truth import WHOLE
from . import words
from .indicators import VOTE, Key, resolve, untrained
from .ledger import EARLY, PROXY, ZERO_COST, Ledger
from .ranking import Difference, Ranking, paired_difference

WORTH, NOT_WORTH, UNDECIDED, UNVERIFIED, NO_PROXY = (
    "worth distilling",
    "not worth distilling",
    "undecided",
    "unverified",
    "",
)


DECISIVE = frozenset({"random", EARLY, "parameters", ZERO_COST})
NAMES = {
    "parameters": "counting parameters",
    "flops": "counting FLOPs",
    "random": "the random coreset",
    ZERO_COST: "the vote of zero-cost indicators",
}
RIVALS = {
    "random": "a random coreset of the same size, which costs nothing to make",
    EARLY: "early stopping, the same number of updates on the real data",
    "parameters": "counting parameters, which takes no training",
    ZERO_COST: "the vote of zero-cost indicators, which takes no training",
}


@dataclass(frozen=True)
class Verdict:
    """One word for whether distilling paid, and the sentences that say why."""

    worth: str
    summary: tuple[str, ...]  # the best network, how well the headline ranks, whether distilling paid
    comparisons: tuple[str, ...]  # the headline against each rival
    costs: tuple[str, ...]  # time, and from how many candidates on distilling pays

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them, in reading order."""
        return self.summary + self.comparisons + self.costs


def verdict(ranking: Ranking, ledger: Ledger, headline: Key, reason: str) -> Verdict:
    """Judge the ``headline`` (source, indicator), which was chosen for ``reason``, against its rivals.

    The rivals are a random coreset, early stopping on the real data (each with the same indicator), parameters, FLOPs,
    the vote of zero-cost indicators and, where the headline is a mean rank, what is left of it without training. It
    beats a rival when the whole 95 % interval of the difference in ρ is above zero. The proxy was worth distilling only
    if it beats all of them but FLOPs; without a random coreset and early stopping among them that is not known.

    Raises:
        KeyError: the ranking has no such row.
    """
    best = _best(ranking, headline, reason)
    if ranking.truth is None or ranking.truth.empty:
        nothing = (
            "Nothing was verified: there is no ground truth for these candidates, so how well this ranking agrees with "
            "training on the whole data is not known. Measure some of them with “proxynas truth” to find out."
        )
        return Verdict(UNVERIFIED, (best, nothing), (), _cost(ledger))
    differences = {key: paired_difference(ranking, headline, key) for key in _rivals(ranking, headline)}
    compared = [_compared(ranking, headline, key, d) for key, d in differences.items()]
    if headline[0] == PROXY:
        worth = _worth(differences)
        conclusion = _conclusion(worth, differences)
    else:
        worth, conclusion = _needless(ranking, headline)
    return Verdict(
        worth,
        (best, _trust(ranking, headline), *conclusion),
        (*compared, *_hindsight(ranking, headline)),
        _cost(ledger),
    )


def _best(ranking: Ranking, headline: Key, reason: str) -> str:
    row = ranking.row(headline)
    chosen = f"by {words.phrase(headline)}" + (f" ({reason.rstrip('.')})" if reason else "")
    if not isinstance(row["winner"], str):
        return f"No candidate could be ranked {chosen}."
    text = f"The best network {chosen} is {row['winner']}"
    if not math.isfinite(row["winner_truth"]):
        return text + "; what it reaches on the whole data was not measured."
    reached = f"{words.percent(row['winner_truth'])} {words.indicator(ranking.measure)}"
    text += f", which reaches {reached} when trained on the whole data"
    if row["regret"] <= 0:
        return text + "; no verified candidate reaches more."
    return text + f"; the best verified candidate reaches {words.number(100 * row['regret'], 1)} points more."


def _trust(ranking: Ranking, headline: Key) -> str:
    row = ranking.row(headline)
    over = f"Over {row['n']} candidates with known truth,"
    if not math.isfinite(row["rho"]):
        why = "it takes three candidates, and values that differ"
        return f"{over} the rank correlation of {words.phrase(headline)} is not defined: {why}."
    interval = words.span(row["rho_low"], row["rho_high"])
    text = f"{over} {words.phrase(headline)} ranks them with ρ = {words.number(row['rho'])} (95 % interval {interval})."
    if row["n_distinct"] < row["n"]:
        rho = words.number(row["rho_distinct"])
        text += f" Over the {row['n_distinct']:.0f} that are not isomorphic to one another it is {rho}."
    return text


def _rivals(ranking: Ranking, headline: Key) -> list[Key]:
    left = untrained(headline[1])
    wanted = [("random", headline[1]), (EARLY, headline[1]), ("parameters", "parameters"), ("flops", "flops")]
    wanted += [(ZERO_COST, VOTE), *([resolve(left)] if left is not None else [])]
    return [key for key in dict.fromkeys(wanted) if key in ranking.keys() and key != headline]  # noqa: SIM118  # keys() is a method here


def _compared(ranking: Ranking, headline: Key, rival: Key, d: Difference) -> str:
    figures = f"ρ = {words.number(ranking.row(rival)['rho'])}; difference {words.difference(d)}"
    name = _name(rival)
    if not math.isfinite(d.value):
        return f"It cannot be compared with {name}: one of the two correlations is not defined."
    if d.better:
        return f"It beats {name} ({figures})."
    if d.worse:
        return f"It is worse than {name} ({figures})."
    return f"It cannot be told from {name} ({figures}; the interval of the difference includes zero)."


def _hindsight(ranking: Ranking, headline: Key) -> list[str]:
    """The row that would have ranked best, the whole data aside; picked with truth in hand, so no rule to follow."""
    cheap = ranking.rows[~ranking.rows["source"].isin((WHOLE, *ranking.tables))].dropna(subset=["rho"])
    if cheap.empty:
        return []
    first = cheap.iloc[int(cheap["rho"].to_numpy().argmax())]
    key = (str(first["source"]), str(first["indicator"]))
    if key == headline:
        return ["No other row but the whole data ranks with a higher ρ."]
    rho = words.number(first["rho"])
    return [f"With hindsight, {words.phrase(key)} ranks best of all rows but the whole data (ρ = {rho})."]


def _needless(ranking: Ranking, headline: Key) -> tuple[str, list[str]]:
    """The verdict on a proxy set that the headline does without: even its best row, by hindsight, has to beat it."""
    trained = ranking.rows[ranking.rows["source"] == PROXY].dropna(subset=["rho"])
    if trained.empty or not math.isfinite(ranking.row(headline)["rho"]):
        return NO_PROXY, []
    first = trained.iloc[int(trained["rho"].to_numpy().argmax())]
    key = (PROXY, str(first["indicator"]))
    d = paired_difference(ranking, key, headline)
    figures = f"(ρ = {words.number(first['rho'])}; difference {words.difference(d)})"
    row = f"the best row that takes the proxy set, with hindsight, is {words.phrase(key)} {figures}"
    if d.better:
        return UNDECIDED, [f"This ranking takes no proxy set; {row}, which ranks better on these candidates."]
    return NOT_WORTH, [f"This ranking takes no proxy set, and distilling one was not worth it: {row}."]


def _worth(differences: dict[Key, Difference]) -> str:
    decisive = [d for key, d in differences.items() if key[0] in DECISIVE]
    if not decisive or not all(math.isfinite(d.value) for d in decisive):
        return UNDECIDED
    if not all(d.better for d in decisive):
        return NOT_WORTH
    return UNDECIDED if _missing(differences) else WORTH


def _missing(differences: dict[Key, Difference]) -> list[str]:
    """What distilling has to beat and was not compared with."""
    there = {key[0] for key in differences}
    return [NAMES.get(name, words.source(name)) for name in ("random", EARLY) if name not in there]


def _name(rival: Key) -> str:
    return (
        words.phrase(rival)
        if rival[1] != VOTE and rival[0] == ZERO_COST
        else NAMES.get(rival[0], words.source(rival[0]))
    )


def _rival(key: Key) -> str:
    if key[0] == ZERO_COST and key[1] != VOTE:
        return f"{words.indicator(key[1])}, which takes no training"
    return RIVALS[key[0]]


def _conclusion(worth: str, differences: dict[Key, Difference]) -> list[str]:
    if worth == WORTH:
        return [
            "On this evidence the proxy set was worth distilling: it ranks better than every cheaper way compared here."
        ]
    if worth == NOT_WORTH:
        behind = [_rival(key) for key, d in differences.items() if d.worse and key[0] in DECISIVE]
        level = [_rival(key) for key, d in differences.items() if not d.better | d.worse and key[0] in DECISIVE]
        why = [f"it ranks worse than {_list(behind, 'and')}"] if behind else []
        why += [f"it is not shown to beat {_list(level, 'or')}"] if level else []
        return [f"On this evidence the proxy set was not worth distilling: {'; and '.join(why)}."]
    if worth == UNDECIDED:
        missing = _missing(differences)
        reason = f": it was not compared with {_list(missing, 'or')}" if missing else " from these candidates"
        return [f"Whether the proxy set was worth distilling is not known{reason}."]
    return []


def _list(names: list[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{'; '.join(names[:-1])}; {word} {names[-1]}"


def _cost(ledger: Ledger) -> tuple[str, ...]:
    before = " in an earlier run, counted here all the same" if ledger.reused else ""
    text = (
        f"It took {words.seconds(ledger.total_s)} in all: {words.seconds(ledger.distill_s)} to distil{before}, "
        f"{words.seconds(ledger.search_s)} to search."
    )
    if PROXY not in ledger.sources or ledger.distill_core_s == 0:
        return (text,)
    whole = _against(ledger.truth_core_s_per_candidate, ledger.break_even, "training on the whole data")
    early = _against(_per_candidate(ledger, EARLY), ledger.break_even_early_stopping, "early stopping")
    return (text, *whole, *early)


def _per_candidate(ledger: Ledger, source: str) -> float | None:
    return ledger.sources[source].core_s_per_candidate if source in ledger.sources else None


def _against(other: float | None, break_even: float | None, name: str) -> list[str]:
    if other is None:
        return []
    if break_even is None:
        return [f"In time alone distilling never pays against {name}: a candidate costs no less on the proxy set."]
    return [f"In time alone distilling pays against {name} from {words.candidates(break_even)} candidates on."]
