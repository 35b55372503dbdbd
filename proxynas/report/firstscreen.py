"""The first screen: which network, how good, how sure, at what cost, and what to do next."""

import math
import shlex
from dataclasses import dataclass

from ..rank import Key, Verdict, paired_difference, words
from ..rank.judging import WORTH
from .inputs import ReportInputs, Winner


@dataclass(frozen=True)
class Tile:
    """One answer: a figure, what it is, and a remark."""

    question: str
    figure: str
    note: str
    mono: bool = False


@dataclass(frozen=True)
class Next:
    """What to do with this report, and the command for it, if there is one."""

    text: str
    command: str = ""


NEXT = {
    "winner": "{arch} is trained on the whole data; its weights are in {files}.",
    "winner, no files": "{arch} is trained on the whole data: use it.",
    "nothing": (
        "No candidate finished training. Read why under “Runs that failed”, and change how they "
        "train."
    ),
    "no truth": (
        "Let the search train some candidates on the whole data: it then picks a verified winner "
        "and says how sure this ranking is."
    ),
    "unsure": (
        "This ranking may be no better than chance. Do not decide by it: rank more candidates, or "
        "train longer."
    ),
    "worth": "Train {arch} on the whole data. The same proxy set can rank more candidates.",
    "cheaper": (
        "Train {arch} on the whole data. Next time rank by “{rival}”: that needs no distillation, "
        "and this ranking is not significantly better."
    ),
    "train": (
        "Train {arch} on the whole data, and the next few as well: a ranking does not find the "
        "best for certain."
    ),
}
"""What to do next, by case."""

COMMANDS = {
    "no truth": (
        "proxynas search --config {run}/spec.toml --label 20 --verify 5 --out {run}-decided"
    ),
    "worth": (
        "proxynas search --data {data} --space {space} --proxy {run}/proxy.safetensors "
        "--candidates {more}"
    ),
}


def tiles(inputs: ReportInputs) -> list[Tile]:
    """The four answers."""
    return [_which(inputs), _how_good(inputs), _how_sure(inputs), _cost(inputs)]


def summary(inputs: ReportInputs, judged: Verdict) -> tuple[str, ...]:
    """Two sentences: the winner, or the candidate that is ranked first; and how far to trust the
    ranking."""
    winner, trust = inputs.winner, inputs.trust
    if winner is None:
        return judged.summary
    accuracy, measure = words.percent(winner.accuracy), words.indicator(winner.measure)
    first = (
        f"The winner is {winner.arch}, the best of {winner.verified} candidates trained on the "
        "whole data: "
        f"{accuracy} {measure} ({winner.training})."
    )
    if trust is None or _has_rho(inputs):
        return first, *judged.summary[1:]
    if not math.isfinite(trust.rho):
        return first, f"Of {trust.labels} labels nothing can be said of the ranking."
    interval = words.span(trust.low, trust.high)
    few = words.times(trust.label_epochs, "epoch")
    reach = f"would reach after {few}" if trust.label_epochs else "reach"
    return first, (
        f"By {trust.labels} labels the ranking of the others has ρ ≈ {words.number(trust.rho)} "
        f"with what they {reach} (95 % interval {interval})."
    )


def _which(inputs: ReportInputs) -> Tile:
    if inputs.winner is not None:
        note = f"the best of {inputs.winner.verified} trained on the whole data"
        return Tile("Which network", inputs.winner.arch, note, mono=True)
    row = inputs.ranking.row(inputs.headline)
    name = row["winner"] if isinstance(row["winner"], str) else "none"
    tied = f", tied with {row['tied']:,}" if row["tied"] else ""
    return Tile(
        "Which network", name, f"ranked first by {words.phrase(inputs.headline)}{tied}", mono=True
    )


def _how_good(inputs: ReportInputs) -> Tile:
    if inputs.winner is not None:
        return _verified(inputs.winner)
    row = inputs.ranking.row(inputs.headline)
    if not math.isfinite(row["winner_truth"]):
        return Tile("How good", "not known", "it was not trained on the whole data")
    measure, points = words.indicator(inputs.ranking.measure), 100 * row["regret"]
    note = f"{measure} after training on the whole data; "
    note += (
        "no candidate with known truth has more"
        if points <= 0
        else f"regret {words.number(points, 1)} points"
    )
    return Tile("How good", words.percent(row["winner_truth"]), note)


def _verified(winner: Winner) -> Tile:
    note = f"{words.indicator(winner.measure)}, {winner.training}"
    if winner.unverified_better is not None:
        chance, high = 100 * winner.unverified_better, words.number(100 * winner.unverified_gain, 1)
        what = "an untrained candidate is better"
        if winner.label_epochs:
            few = words.times(winner.label_epochs, "epoch")
            what = f"after {few} an untrained candidate would be better than all that had these"
        note += f"; {what} with probability {chance:.0f} %"
        note += f", by {high} points at most (95 %)" if winner.unverified_gain >= 0.0005 else ""
    return Tile("How good", words.percent(winner.accuracy), note)


def _how_sure(inputs: ReportInputs) -> Tile:
    row = inputs.ranking.row(inputs.headline)
    if _has_rho(inputs):
        interval = words.span(row["rho_low"], row["rho_high"])
        note = f"95 % interval {interval}, {row['n']:,} candidates with known truth"
        return Tile("How sure", f"ρ = {words.number(row['rho'])}", note)
    if inputs.trust is not None:
        trust = inputs.trust
        interval = words.span(trust.low, trust.high)
        note = f"95 % interval {interval}, estimated from {trust.labels} labels"
        if trust.label_epochs:
            few = words.times(trust.label_epochs, "epoch")
            note += f" of {few}: agreement with the accuracy after {few}, not after all"
        return Tile("How sure", f"ρ ≈ {words.number(trust.rho)}", note)
    why = (
        "too few candidates with known truth"
        if inputs.has_truth
        else "no candidate has a known truth"
    )
    return Tile("How sure", "not known", why)


def _has_rho(inputs: ReportInputs) -> bool:
    return inputs.has_truth and math.isfinite(inputs.ranking.row(inputs.headline)["rho"])


def _cost(inputs: ReportInputs) -> Tile:
    ledger = inputs.ledger
    earlier = ", part of it in an earlier run" if ledger.reused else ""
    spent = ledger.distill_core_s + sum(cost.core_s for cost in ledger.sources.values())
    decided = [seconds for _, seconds, _ in ledger.decision_rows() if math.isfinite(seconds)]
    trained = ", labels and verification" if decided else ""
    note = f"wall-clock, {words.making(ledger.distilled)}{trained} and all baselines included"
    note += f"{earlier}; {words.seconds(spent + sum(decided))} of core time"
    whole = ledger.truth_core_s_per_candidate
    if whole is not None and ledger.sources:
        number = max(cost.candidates for cost in ledger.sources.values())
        note += (
            f", against {words.seconds(number * whole)} to train all {number:,} on the whole data"
        )
    return Tile("At what cost", words.seconds(ledger.total_s), note)


def next_step(inputs: ReportInputs, judged: Verdict, run: str = "RUN") -> Next:
    """What to do with the result; ``run`` is the run directory."""
    if inputs.winner is not None:
        files = " and ".join(inputs.winner.files)
        case = "winner" if files else "winner, no files"
        return Next(NEXT[case].format(arch=inputs.winner.arch, files=files))
    row = inputs.ranking.row(inputs.headline)
    if not isinstance(row["winner"], str):
        return Next(NEXT["nothing"])
    case, rival = _case(inputs, judged)
    name = "" if rival is None else words.label(rival)
    places = {
        "data": shlex.quote(inputs.spec.get("data", "DATA")),
        "space": shlex.quote(inputs.spec.get("space", "SPACE")),
        "run": shlex.quote(run),
        "more": 10 * len(inputs.ranking.values),
    }
    text = NEXT[case].format(arch=row["winner"], rival=name)
    return Next(text, COMMANDS.get(case, "").format(**places))


def _case(inputs: ReportInputs, judged: Verdict) -> tuple[str, Key | None]:
    """Which of :data:`NEXT` holds, and the rival that it names."""
    if not inputs.has_truth:
        return ("no truth" if inputs.trust is None else "train"), None
    if not inputs.ranking.row(inputs.headline)["rho_low"] > 0:
        return "unsure", None
    if judged.worth == WORTH:
        return "worth", None
    rival = _cheaper(inputs)
    return ("train", None) if rival is None else ("cheaper", rival)


def _cheaper(inputs: ReportInputs) -> Key | None:
    """The best ranking without a distilled set that ours is not significantly better than."""
    ranking, (source, name) = inputs.ranking, inputs.headline
    if source != "proxy" or not inputs.ledger.distilled:
        return None
    free = [
        ("parameters", "parameters"),
        ("zero-cost", "vote"),
        ("random", name),
        ("early-stopping", name),
    ]
    known = ranking.keys()
    differences = {
        key: paired_difference(ranking, inputs.headline, key) for key in free if key in known
    }
    level = [key for key, d in differences.items() if math.isfinite(d.value) and not d.better]
    return max(level, key=lambda key: float(ranking.row(key)["rho"]), default=None)
