"""What a search says of its proxy set, and when it says nothing."""

import numpy as np
import pytest

from proxynas.rank import Verdict, rank, verdict

from .rankings import ARCHS, QUALITY, costs_of, ledger_of, scores_of, truth_of


def judged(
    proxy: float, random: float, early: float, parameters: str = "worse", distilled: bool = True
) -> Verdict:
    """The verdict where each source ranks with so much noise."""
    rng = np.random.default_rng(4)
    archs = [f"a{i:02d}" for i in range(60)]
    quality = dict(zip(archs, 0.3 + 0.01 * rng.permutation(60), strict=True))
    noise = {"proxy": proxy, "random": random, "early-stopping": early}
    scores = scores_of(
        {s: {a: [q + d * rng.normal()] for a, q in quality.items()} for s, d in noise.items()}
    )
    costs = costs_of(archs)
    if parameters == "perfect":
        costs["parameters"] = [round(1000 * quality[a]) for a in archs]
    truth = truth_of(quality, seconds=8.0)
    truth.header["made_on"] = "cpu"
    ranking, paid = rank(scores, costs, truth, resamples=200), ledger_of(scores, truth, distilled)
    return verdict(ranking, paid, ("proxy", "val_loss"), "fixed before.")


def test_verdict_praises_only_what_beats_every_rival() -> None:
    found = judged(0.01, 1.0, 1.0)
    text = " ".join(found.sentences)
    assert found.worth == "worth distilling"
    assert found.summary[1].endswith("; this proxy set was worth distilling.")
    assert "Significantly better than a random coreset of the same size (" in text
    assert "Significantly better than early stopping after as many updates (" in text
    assert "(fixed before)" in text
    assert "against training on the whole data from 1 candidate on" in text


def test_verdict_has_a_summary_of_two_sentences_and_details() -> None:
    found = judged(0.1, 0.1, 2.0)
    assert len(found.summary) == 2
    assert all(sentence.count(". ") == 0 and sentence.endswith(".") for sentence in found.summary)
    assert found.sentences == (*found.summary, *found.details)
    assert not [
        s for s in found.sentences if "told from" in s or "verified" in s or "distilling was" in s
    ]


def test_verdict_praises_nothing_that_was_not_compared_with_a_random_coreset() -> None:
    proxy = {a: [q] for a, q in QUALITY.items()}
    scores, truth = (
        scores_of({"proxy": proxy, "early-stopping": {a: [1 - q] for a, q in QUALITY.items()}}),
        truth_of(QUALITY),
    )
    found = verdict(
        rank(scores, costs_of(ARCHS[::-1]), truth),
        ledger_of(scores, truth),
        ("proxy", "val_loss"),
        "",
    )
    assert found.worth == "undecided"
    assert "whether this proxy set was worth distilling is not known." in found.summary[1]
    assert "Not compared with a random coreset of the same size." in found.details


@pytest.mark.parametrize(
    ("noise", "worth"),
    [(5.0, "not worth distilling"), (0.1, "not shown to be worth distilling"), (0.0, "undecided")],
)
def test_verdict_on_a_proxy_set_that_is_not_needed(noise: float, worth: str) -> None:
    """Parameters rank with noise 0.1; the set ranks far worse, about as well, or perfectly."""
    rng = np.random.default_rng(0)
    archs = [f"a{i:02d}" for i in range(60)]
    quality = {a: 0.01 * i for i, a in enumerate(archs)}
    scores = scores_of({"proxy": {a: [q + noise * rng.normal()] for a, q in quality.items()}})
    truth = truth_of(quality)
    costs = costs_of(archs).assign(parameters=[q + 0.1 * rng.normal() for q in quality.values()])
    found = verdict(
        rank(scores, costs, truth), ledger_of(scores, truth), ("parameters", "parameters"), ""
    )
    assert found.worth == worth
    assert "This ranking takes no proxy set; with hindsight the best that does is" in " ".join(
        found.details
    )


def test_verdict_says_what_training_adds_to_a_mean_rank() -> None:
    proxy = {a: [q] for a, q in QUALITY.items()}
    scores, truth, costs = (
        scores_of({"proxy": proxy, "random": proxy}),
        truth_of(QUALITY),
        costs_of(ARCHS),
    )
    costs["flops"] = costs["parameters"]
    combine = ["sotl+parameters+flops", "parameters+flops"]
    found = verdict(
        rank(scores, costs, truth, combine=combine),
        ledger_of(scores, truth),
        ("proxy", "sotl+parameters+flops"),
        "",
    )
    assert "the mean rank of parameters and FLOPs, before any training (" in " ".join(found.details)


@pytest.mark.parametrize(
    ("noise", "parameters", "blamed"),
    [
        ((2.0, 0.1, 2.0), "worse", "a random coreset"),
        ((0.1, 2.0, 0.001), "worse", "early stopping"),
        ((0.2, 2.0, 2.0), "perfect", "counting parameters"),
    ],
)
def test_verdict_says_when_a_set_was_not_worth_distilling(
    noise: tuple[float, float, float], parameters: str, blamed: str
) -> None:
    found = judged(*noise, parameters)
    assert found.worth == "not worth distilling"
    conclusion = found.summary[1].partition("; ")[2]
    assert conclusion.startswith("this proxy set was not worth distilling, as it ranks worse than ")
    assert blamed in conclusion


def test_verdict_condemns_nothing_whose_interval_includes_zero() -> None:
    found = judged(0.1, 0.1, 2.0)
    assert found.worth == "not shown to be worth distilling"
    assert found.summary[1].endswith(
        "; this proxy set is not shown to be worth distilling, as it does not rank significantly "
        "better than a "
        "random coreset of the same size."
    )
    assert "No significant difference from a random coreset of the same size (" in " ".join(
        found.details
    )


@pytest.mark.parametrize("noise", [(0.01, 1.0, 1.0), (2.0, 0.1, 2.0), (0.1, 0.1, 2.0)])
def test_of_a_coreset_no_verdict_on_distilling_is_given(noise: tuple[float, float, float]) -> None:
    found = judged(*noise, distilled=False)
    assert found.worth == ""
    assert not [
        sentence for sentence in found.sentences if "distil" in sentence or "pays" in sentence
    ]
    assert [
        sentence for sentence in found.details if "a random coreset of the same size (" in sentence
    ]
    assert "2.00 s to select the proxy set" in " ".join(found.details)


def test_without_a_truth_made_here_nothing_is_said_of_the_whole_datas_time() -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of(QUALITY, seconds=1000.0)  # GPU seconds of others, say
    found = verdict(
        rank(scores, costs_of(ARCHS), truth), ledger_of(scores, truth), ("proxy", "sotl"), ""
    )
    assert "pays" not in " ".join(found.sentences)
