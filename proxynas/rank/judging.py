"""What the figures say, in sentences: for the report and the terminal."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from ..search.sources import EARLY_STOPPING, KINDS, PROXY, RANDOM, WHOLE, ZERO_COST
from . import words
from .costs import Ledger
from .indicators import PREDICTED, VOTE, Key, resolve, untrained
from .ranking import PARAMETERS, Difference, Ranking, paired_difference

WORTH = "worth distilling"
NOT_WORTH = "not worth distilling"
NOT_SHOWN = "not shown to be worth distilling"
UNDECIDED = "undecided"
NO_TRUTH = "no ground truth"
NO_VERDICT = ""

FLOPS = ("flops", "flops")
SENTENCES = {
    # the first of the summary: what is ranked first, and what it reaches
    "nothing first": "No candidate could be ranked by {by}.",
    "first": "Ranked first is {arch}{tied}; {reached}.",
    "tied": " (tied with {others})",
    "not reached": "what it reaches on the whole data is not known",
    "reached": "trained on the whole data it reaches {truth} {measure}, and {regret}",
    "no regret": "no candidate with known truth reaches more",
    "regret": "the best candidate with known truth reaches {points} points more",
    # the second: how well the ranking agrees with truth, and what that says of the proxy set
    "no truth": (
        "There is no ground truth for these candidates, so how well this ranking agrees with "
        "training on the whole data is not known; labels (--label) estimate it."
    ),
    "no rho": "Its ρ with truth is not defined, for want of candidates or of differences{worth}.",
    "rho": "Over {n} candidates the ranking has ρ = {rho} with truth "
    "(95 % interval {interval}){worth}.",
    WORTH: "; this proxy set was worth distilling",
    NOT_WORTH: "; this proxy set was not worth distilling{behind}",
    NOT_SHOWN: "; this proxy set is not shown to be worth distilling{level}",
    UNDECIDED: "; whether this proxy set was worth distilling is not known",
    NO_VERDICT: "",
    "behind": ", as it ranks worse than {names}",
    "not ahead": ", as it does not rank significantly better than {names}",
    # the details
    "by": "Candidates are ranked by {by}{reason}.",
    "tie": "Ties go to the candidate with the fewest parameters, then to the first by name.",
    "distinct": "Over the {n} candidates that are not isomorphic to one another, ρ is {rho}.",
    "best": "Among the truly best {percent} % ({n} candidates) ρ is {rho} {interval}.",
    "ceiling": "One training run of the truth ranks another with ρ = {rho}{best}.",
    "ceiling, best": ", and {rho} among the best {percent} %",
    "better": "Significantly better than {rival} ({figures}).",
    "worse": "Significantly worse than {rival} ({figures}).",
    "level": "No significant difference from {rival} ({figures}).",
    "not comparable": "Not comparable with {rival}: one of the two correlations is not defined.",
    "figures": "ρ = {rho}; difference {difference}",
    "missing": "Not compared with {names}.",
    "no proxy": "This ranking takes no proxy set; with hindsight the best that does is {by} "
    "({figures}).",
    "hindsight": "With hindsight, {by} ranks best of all but the whole data (ρ = {rho}).",
    "no hindsight": "Nothing else but the whole data ranks with a higher ρ.",
    "cost": "It took {total}: {made} to {make} the proxy set{earlier}, and {search} to search.",
    "pays": "In core time this set pays for itself against {other} from {n} on.",
    "never pays": "In core time this set never pays for itself against {other}: it saves no time.",
}
"""Every sentence of a verdict, and its parts."""


@dataclass(frozen=True)
class Verdict:
    """One word for whether this proxy set was worth distilling, and the sentences that say why."""

    worth: str
    summary: tuple[str, str]  # what is ranked first; how far to trust that
    details: tuple[str, ...]  # by what and how, the rivals one by one, time

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them, in reading order."""
        return (*self.summary, *self.details)


def verdict(ranking: Ranking, ledger: Ledger, headline: Key, reason: str) -> Verdict:
    """Judge the ``headline`` (source, indicator), which was chosen for ``reason``, against its
    rivals.

    The rivals are a random coreset, early stopping on the real data (each with the same indicator),
    parameters, FLOPs, the vote of zero-cost indicators and, where the headline is a mean rank, what
    is left of it without training. It ranks better than one where the whole 95 % interval of the
    difference in ρ is above zero, and worse where it is below.

    A set was worth distilling only if it ranks better than all of them but FLOPs, a random coreset
    and early stopping among them. It was not worth it where it ranks worse than any; otherwise it
    is not shown to be. Of a coreset, which is not distilled, nothing of the kind is said.

    Raises:
        KeyError: the ranking has no such row.
    """
    first, chosen = _first(ranking, headline), list(_chosen(ranking, headline, reason))
    if ranking.truth is None or ranking.truth.empty:
        details = (*chosen, *_costs(ledger))
        return Verdict(NO_TRUTH, (first, SENTENCES["no truth"]), details)
    differences = {
        key: paired_difference(ranking, headline, key) for key in _rivals(ranking, headline)
    }
    compared = [_compared(ranking, key, d) for key, d in differences.items()]
    if not ledger.distilled:
        worth, clause, why = NO_VERDICT, "", []
    elif headline[0] == PROXY:
        worth, clause, why = _worth(differences), _clause(differences), _missing(differences)
    else:
        worth, why = _needless(ranking, headline)
        clause = SENTENCES[worth].format(behind="", level="")
    details = (
        *chosen,
        *_agreement(ranking, headline),
        *compared,
        *why,
        *_hindsight(ranking, headline),
        *_costs(ledger),
    )
    return Verdict(worth, (first, _trust(ranking, headline, clause)), details)


def _first(ranking: Ranking, headline: Key) -> str:
    row = ranking.row(headline)
    if not isinstance(row["winner"], str):
        return SENTENCES["nothing first"].format(by=words.phrase(headline))
    others = "1 other" if row["tied"] == 1 else f"{row['tied']:,} others"
    tied = SENTENCES["tied"].format(others=others) if row["tied"] else ""
    reached = SENTENCES["not reached"]
    if math.isfinite(row["winner_truth"]):
        points = words.number(100 * row["regret"], 1)
        regret = SENTENCES["regret" if row["regret"] > 0 else "no regret"].format(points=points)
        truth, measure = words.percent(row["winner_truth"]), words.indicator(ranking.measure)
        reached = SENTENCES["reached"].format(truth=truth, measure=measure, regret=regret)
    return SENTENCES["first"].format(arch=row["winner"], tied=tied, reached=reached)


def _trust(ranking: Ranking, headline: Key, worth: str) -> str:
    row = ranking.row(headline)
    form = SENTENCES["rho" if math.isfinite(row["rho"]) else "no rho"]
    interval = words.span(row["rho_low"], row["rho_high"])
    rho = words.number(row["rho"])
    return form.format(n=f"{row['n']:,}", rho=rho, interval=interval, worth=worth)


def _chosen(ranking: Ranking, headline: Key, reason: str) -> Iterator[str]:
    because = f" ({reason.rstrip('.')})" if reason else ""
    yield SENTENCES["by"].format(by=words.phrase(headline), reason=because)
    if ranking.row(headline)["tied"]:
        yield SENTENCES["tie"]


def _agreement(ranking: Ranking, headline: Key) -> Iterator[str]:
    """ρ over distinct candidates and among the best, and how well truth agrees with itself."""
    row = ranking.row(headline)
    if row["n_distinct"] < row["n"]:
        rho = words.number(row["rho_distinct"])
        yield SENTENCES["distinct"].format(n=f"{row['n_distinct']:,.0f}", rho=rho)
    percent = ranking.cut
    if percent is not None:
        name = f"rho_best{percent}"
        yield SENTENCES["best"].format(
            percent=percent,
            n=f"{ranking.cuts[percent]:,}",
            rho=words.number(row[name]),
            interval=words.span(row[f"{name}_low"], row[f"{name}_high"]),
        )
    if ranking.ceiling is not None:
        rho_best = ranking.ceiling.rho_best.get(percent or 0, math.nan)
        best = SENTENCES["ceiling, best"].format(rho=words.number(rho_best), percent=percent)
        yield SENTENCES["ceiling"].format(
            rho=words.number(ranking.ceiling.rho), best=best if math.isfinite(rho_best) else ""
        )


def _rivals(ranking: Ranking, headline: Key) -> list[Key]:
    left = untrained(headline[1])
    wanted = [
        (RANDOM, headline[1]),
        (EARLY_STOPPING, headline[1]),
        PARAMETERS,
        FLOPS,
        (ZERO_COST, VOTE),
    ]
    wanted += [resolve(left)] if left is not None else []
    wanted += [(ZERO_COST, PREDICTED)] if headline[1] == PREDICTED else []
    there = set(ranking.keys())
    return [key for key in dict.fromkeys(wanted) if key in there and key != headline]


def _compared(ranking: Ranking, rival: Key, d: Difference) -> str:
    outcome = "better" if d.better else "worse" if d.worse else "level"
    form = SENTENCES[outcome if math.isfinite(d.value) else "not comparable"]
    return form.format(rival=words.rival(rival), figures=_figures(ranking, rival, d))


def _figures(ranking: Ranking, key: Key, d: Difference) -> str:
    rho = words.number(ranking.row(key)["rho"])
    return SENTENCES["figures"].format(rho=rho, difference=words.difference(d))


def _worth(differences: dict[Key, Difference]) -> str:
    decisive = [d for key, d in differences.items() if KINDS[key[0]].decisive]
    if any(d.worse for d in decisive):
        return NOT_WORTH
    if not decisive or not all(math.isfinite(d.value) for d in decisive):
        return UNDECIDED
    if not all(d.better for d in decisive):
        return NOT_SHOWN
    return UNDECIDED if _missing(differences) else WORTH


def _clause(differences: dict[Key, Difference]) -> str:
    """The verdict as it ends the summary, with what the set would have to rank better than."""
    decisive = {key: d for key, d in differences.items() if KINDS[key[0]].decisive}
    behind = _named("behind", [key for key, d in decisive.items() if d.worse])
    level = _named("not ahead", [key for key, d in decisive.items() if not d.better])
    return SENTENCES[_worth(differences)].format(behind=behind, level=level)


def _named(sentence: str, rivals: list[Key]) -> str:
    names = " or ".join(map(words.rival, rivals))
    return SENTENCES[sentence].format(names=names) if names else ""


def _missing(differences: Iterable[Key]) -> list[str]:
    """That a set was not compared with what distilling has to rank better than."""
    there = {key[0] for key in differences}
    needed = (source for source in (RANDOM, EARLY_STOPPING) if source not in there)
    names = [KINDS[source].rival for source in needed]
    return [SENTENCES["missing"].format(names=" or ".join(names))] if names else []


def _needless(ranking: Ranking, headline: Key) -> tuple[str, list[str]]:
    """On a proxy set that the headline does without: its best row, by hindsight, against it."""
    best_key = _highest(ranking, ranking.rows["source"] == PROXY)
    if best_key is None or not math.isfinite(ranking.row(headline)["rho"]):
        return NO_VERDICT, []
    d = paired_difference(ranking, best_key, headline)
    worth = UNDECIDED if d.better else NOT_WORTH if d.worse else NOT_SHOWN
    figures = _figures(ranking, best_key, d)
    return worth, [SENTENCES["no proxy"].format(by=words.phrase(best_key), figures=figures)]


def _hindsight(ranking: Ranking, headline: Key) -> list[str]:
    """What would have ranked best, the whole data aside: no rule to follow, as truth picked it."""
    best_key = _highest(ranking, ~ranking.rows["source"].isin((WHOLE, *ranking.tables)))
    if best_key is None:
        return []
    if best_key == headline:
        return [SENTENCES["no hindsight"]]
    rho = words.number(ranking.row(best_key)["rho"])
    return [SENTENCES["hindsight"].format(by=words.phrase(best_key), rho=rho)]


def _highest(ranking: Ranking, among: pd.Series) -> Key | None:
    rows = ranking.rows[among].dropna(subset=["rho"])
    if rows.empty:
        return None
    first = rows.iloc[int(rows["rho"].to_numpy().argmax())]
    return str(first["source"]), str(first["indicator"])


def _costs(ledger: Ledger) -> Iterator[str]:
    yield SENTENCES["cost"].format(
        total=words.seconds(ledger.total_s),
        made=words.seconds(ledger.distill_s),
        make="distil" if ledger.distilled else "select",
        earlier=" (in an earlier run, counted all the same)" if ledger.reused else "",
        search=words.seconds(ledger.search_s),
    )
    if not ledger.distilled or PROXY not in ledger.sources or ledger.distill_core_s == 0:
        return
    if ledger.truth_core_s_per_candidate is not None:
        yield _pays("training on the whole data", ledger.break_even)
    if EARLY_STOPPING in ledger.sources:
        yield _pays("early stopping", ledger.break_even_early_stopping)


def _pays(other: str, break_even: float | None) -> str:
    if break_even is None:
        return SENTENCES["never pays"].format(other=other)
    n = words.candidates(break_even)
    return SENTENCES["pays"].format(other=other, n=f"{n} candidate{'' if n == '1' else 's'}")
