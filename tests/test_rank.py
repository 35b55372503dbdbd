"""The ranking's rules by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from proxynas.rank import Ranking, correlation, paired_difference, rank, verdict
from proxynas.search import zerocost
from proxynas.truth import COLUMNS, TruthTable

from .rankings import ARCHS, QUALITY, costs_of, ledger_of, scores_of, truth_of


def test_same_order_is_one_and_reversed_minus_one() -> None:
    scores = scores_of(
        {
            "proxy": {a: [q] for a, q in QUALITY.items()},
            "random": {a: [1 - q] for a, q in QUALITY.items()},
        }
    )
    rows = rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=50).rows.set_index(
        ["source", "indicator"]
    )
    statistics = ["rho", "rho_low", "rho_high", "tau", "tau_low", "tau_high"]
    for name in ("val_accuracy", "val_loss", "sotl"):
        assert rows.loc[("proxy", name), statistics].tolist() == pytest.approx([1.0] * 6)
        assert rows.loc[("random", name), statistics].tolist() == pytest.approx([-1.0] * 6)
    assert rows.loc[("parameters", "parameters"), "rho"] == pytest.approx(1.0)
    assert rows.loc[("flops", "flops"), "rho"] == pytest.approx(-1.0)
    assert rows.loc[("proxy", "sotl"), "regret"] == 0.0
    assert rows.loc[("random", "sotl"), "regret"] == pytest.approx(0.38)
    assert rows.loc[("random", "sotl"), "winner"] == "a00"
    assert rows.loc[("random", "sotl"), "winner_truth"] == pytest.approx(0.5)


def test_same_seed_same_ranking() -> None:
    scores = scores_of({"proxy": {a: [round(q, 1)] for a, q in QUALITY.items()}})
    one, two, other = (
        rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=30, seed=s) for s in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one.rows, two.rows)
    pd.testing.assert_frame_equal(one.draws, two.draws)
    assert not one.draws.equals(other.draws)


def tie(proxy: list[float], truth: list[float], parameters: list[int]) -> tuple[pd.Series, str]:
    """The row of the proxy's validation accuracy among candidates a0, a1, …, and the verdict on
    it."""
    archs = [f"a{i}" for i in range(len(proxy))]
    scores = scores_of({"proxy": {a: [v] for a, v in zip(archs, proxy, strict=True)}})
    table = truth_of(dict(zip(archs, truth, strict=True)))
    costs = costs_of(archs).assign(parameters=parameters)
    ranking = rank(scores, costs, table, resamples=5)
    key = ("proxy", "val_accuracy")
    return ranking.row(key), " ".join(verdict(ranking, ledger_of(scores, table), key, "").sentences)


@pytest.mark.parametrize(
    ("parameters", "winner", "reached", "regret"),
    [
        ([1, 1, 1, 1, 1, 1], "a0", 0.9, 0.0),  # ties in size go by name
        ([2, 1, 1, 1, 1, 1], "a1", 0.5, 0.4),  # the smaller one first
    ],
)
def test_winner_truth_and_regret_are_of_one_network(
    parameters: list[int], winner: str, reached: float, regret: float
) -> None:
    proxy, truth = [0.5, 0.5, 0.3, 0.2, 0.1, 0.1], [0.9, 0.5, 0.8, 0.7, 0.6, 0.4]
    row, text = tie(proxy, truth, parameters)
    assert (row["winner"], row["tied"]) == (winner, 1)
    assert (row["winner_truth"], row["regret"]) == (pytest.approx(reached), pytest.approx(regret))
    assert f"{winner} (tied with 1 other)" in text
    assert f"it reaches {100 * reached:.1f} % test accuracy" in text
    assert ("no candidate with known truth reaches more" in text) == (regret == 0)
    assert ("the best candidate with known truth reaches 40.0 points more" in text) == (regret > 0)


def test_without_a_tie_none_is_mentioned() -> None:
    row, text = tie([0.6, 0.5, 0.3], [0.9, 0.5, 0.8], [1, 1, 1])
    assert row["tied"] == 0
    assert "tied" not in text


def test_the_best_candidate_counts_where_another_indicator_lacks_it() -> None:
    """a19 is best and wins on the random set; on the proxy it was not run, and so a18 wins
    there."""
    scores = scores_of(
        {
            "proxy": {a: [QUALITY[a]] for a in ARCHS[:19]},
            "random": {a: [q] for a, q in QUALITY.items()},
        }
    )
    truth = truth_of(QUALITY)
    ranking = rank(scores, costs_of(ARCHS), truth, resamples=5)
    row, other = ranking.row(("proxy", "sotl")), ranking.row(("random", "sotl"))
    assert (row["winner"], row["n"]) == ("a18", 19)
    assert row["regret"] == pytest.approx(0.02)
    assert (other["winner"], other["regret"]) == ("a19", 0.0)
    text = " ".join(verdict(ranking, ledger_of(scores, truth), ("proxy", "sotl"), "").sentences)
    assert "the best candidate with known truth reaches 2.0 points more" in text


def test_a_winner_without_truth_has_no_regret() -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of({a: QUALITY[a] for a in ARCHS[:19]})
    ranking = rank(scores, costs_of(ARCHS), truth, resamples=5)
    row = ranking.row(("proxy", "sotl"))
    assert row["winner"] == "a19"
    assert math.isnan(row["winner_truth"])
    assert math.isnan(row["regret"])
    text = verdict(ranking, ledger_of(scores, truth), ("proxy", "sotl"), "").summary[0]
    assert "what it reaches on the whole data is not known" in text


def test_best_shows_the_winner_first() -> None:
    scores = scores_of({"proxy": {"a": [0.9], "b": [0.9], "c": [0.1]}})
    costs = costs_of(["a", "b", "c"]).assign(parameters=[2, 1, 1])
    ranking = rank(scores, costs, None)
    assert ranking.best(("proxy", "val_accuracy")).index.tolist() == ["b", "a", "c"]
    assert ranking.row(("proxy", "val_accuracy"))["winner"] == "b"


def test_cuts_of_the_best_have_ten_candidates_or_are_left_out() -> None:
    rng = np.random.default_rng(8)
    archs = [f"a{i:03d}" for i in range(250)]
    quality = dict(zip(archs, rng.random(250), strict=True))
    scores = scores_of({"proxy": {a: [q + 0.1 * rng.normal()] for a, q in quality.items()}})
    ranking = rank(scores, costs_of(archs), truth_of(quality), resamples=50)
    assert ranking.cuts == {5: 12, 10: 25, 20: 50}
    row = ranking.row(("proxy", "sotl"))
    assert math.isnan(row["rho_best1"])
    best = sorted(archs, key=lambda a: -quality[a])[:25]
    values = ranking.values.loc[best, ("proxy", "sotl")]
    assert row["rho_best10"] == pytest.approx(
        stats.spearmanr(values, [quality[a] for a in best]).statistic
    )
    assert row["rho_best10_low"] < row["rho_best10"] < row["rho_best10_high"]


def test_isomorphic_candidates_are_drawn_together() -> None:
    """Every candidate five times under other names: the interval is that of the candidates
    themselves."""
    rng = np.random.default_rng(9)
    quality = {a: q + 0.2 * rng.normal() for a, q in QUALITY.items()}
    single = scores_of({"proxy": {a: [q] for a, q in quality.items()}})
    copies = {f"{a}-{i}": a for a in ARCHS for i in range(5)}
    many = scores_of({"proxy": {c: [quality[a]] for c, a in copies.items()}})
    truth = truth_of({c: QUALITY[a] for c, a in copies.items()})

    def width(ranking: Ranking) -> float:
        row = ranking.row(("proxy", "sotl"))
        return float(row["rho_high"] - row["rho_low"])

    alone = width(rank(single, costs_of(ARCHS), truth_of(QUALITY), resamples=1000))
    together = width(rank(many, costs_of(list(copies)), truth, kinds=copies, resamples=1000))
    apart = width(rank(many, costs_of(list(copies)), truth, resamples=1000))
    assert together == pytest.approx(alone, rel=0.1)
    assert apart < 0.6 * alone  # √5 too narrow


def test_ranks_that_are_not_recomputed_within_a_resample_hardly_change_an_interval() -> None:
    """Mean rank and vote of three noisy indicators of 150 candidates: ends of intervals move by
    less than 0.02."""
    rng = np.random.default_rng(10)
    y = rng.normal(size=150)
    wide = pd.DataFrame(
        {name: y + d * rng.normal(size=150) for name, d in zip("abc", (0.7, 1, 1.5), strict=True)}
    )
    draws = correlation.resample(150, 400, rng)
    for combined in (zerocost.mean_rank, zerocost.vote):
        fixed = correlation.spearman_draws(combined(wide).to_numpy(), y, draws)
        anew = []
        for held in draws:
            row = np.repeat(np.arange(150), held)
            again = combined(wide.iloc[row].reset_index(drop=True))
            anew.append(stats.spearmanr(again, y[row]).statistic)
        assert correlation.interval(fixed) == pytest.approx(
            correlation.interval(np.array(anew)), abs=0.02
        )


def seeded(quality: dict[str, float], seeds: int, noise: float) -> TruthTable:
    rng = np.random.default_rng(11)
    rows = [
        {"arch": a, "seed": 777 + 111 * s, "test_accuracy": q + noise * rng.normal()}
        for a, q in quality.items()
        for s in range(seeds)
    ]
    return TruthTable(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {})


def test_noise_ceiling_is_seed_against_seed() -> None:
    archs = [f"a{i:03d}" for i in range(120)]
    quality = dict(zip(archs, np.linspace(0.4, 0.8, 120), strict=True))
    truth = seeded(quality, 3, 0.05)
    scores = scores_of({"proxy": {a: [q] for a, q in quality.items()}})
    found = rank(scores, costs_of(archs), truth, resamples=5).ceiling
    assert found is not None
    assert (found.seeds, found.n, list(found.rho_best)) == (3, 120, [10, 20])
    wide = truth.rows.pivot(index="arch", columns="seed", values="test_accuracy")
    by_hand = wide.corr(method="spearman").to_numpy()[np.triu_indices(3, 1)].mean()
    assert found.rho == pytest.approx(by_hand)
    best = wide.loc[wide.mean(axis=1).sort_values(ascending=False).index[:12]]
    by_hand = best.corr(method="spearman").to_numpy()[np.triu_indices(3, 1)].mean()
    assert found.rho_best[10] == pytest.approx(by_hand)


def test_noise_ceiling_takes_two_seeds_and_copes_with_a_missing_one() -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    assert rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=5).ceiling is None
    truth = seeded(QUALITY, 2, 0.0)
    rows = truth.rows.drop(index=[0, 3])  # a00 lost its first seed, a01 its second
    found = rank(scores, costs_of(ARCHS), TruthTable(rows, {}), resamples=5).ceiling
    assert found is not None
    assert (found.seeds, found.n, found.rho, found.rho_best) == (2, 18, pytest.approx(1.0), {})


def test_a_failed_seed_is_left_out_and_a_failed_candidate_ranks_last() -> None:
    scores = scores_of(
        {"proxy": {"a": [None, None], "b": [0.4, None], "c": [0.1, 0.3], "d": [0.9, 0.7]}}
    )
    truth = truth_of({"a": 0.1, "b": 0.7, "c": 0.5, "d": 0.9})
    ranking = rank(scores, costs_of(list("abcd")), truth, resamples=20)
    column = ranking.values["proxy", "val_accuracy"]
    assert column.tolist() == pytest.approx([-math.inf, 0.4, 0.2, 0.8])
    assert ranking.row(("proxy", "val_accuracy"))["rho"] == pytest.approx(1.0)
    assert ranking.agreement.loc[("proxy", "sotl"), ("proxy", "val_loss")] == pytest.approx(1.0)
    assert ranking.failed[["arch", "seed"]].to_numpy().tolist() == [["a", 0], ["a", 1], ["b", 1]]
    assert set(ranking.failed["reason"]) == {"diverged"}
    assert ranking.best(("proxy", "val_accuracy"), 2).index.tolist() == ["d", "b"]


def test_where_every_run_failed_nothing_wins() -> None:
    scores = scores_of(
        {"proxy": {a: [None] for a in ARCHS}, "random": {a: [q] for a, q in QUALITY.items()}}
    )
    truth = truth_of(QUALITY)
    ranking = rank(scores, costs_of(ARCHS), truth, resamples=20)
    assert pd.isna(ranking.row(("proxy", "val_loss"))["winner"])
    found = verdict(ranking, ledger_of(scores, truth), ("proxy", "val_loss"), "")
    assert found.worth == "undecided"
    assert "No candidate could be ranked" in found.sentences[0]
    assert ranking.row(("random", "val_loss"))["rho"] == pytest.approx(1.0)


def test_rows_share_the_candidates_that_have_everything() -> None:
    scores = scores_of(
        {"proxy": {a: [q] for a, q in QUALITY.items()}, "random": {a: [0.5] for a in ARCHS[:15]}}
    )
    ranking = rank(
        scores,
        costs_of(ARCHS),
        truth_of({a: QUALITY.get(a, 0.9) for a in [*ARCHS[5:], "stranger"]}),
        resamples=20,
    )
    assert set(ranking.rows["n"]) == {10}
    assert ranking.truth is not None
    assert "stranger" not in ranking.truth
    assert ranking.row(("proxy", "sotl"))["winner"] == "a19"


def test_constant_indicator_has_no_correlation_and_says_so() -> None:
    scores = scores_of({"proxy": {a: [0.5] for a in ARCHS}})
    ranking = rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=20)
    row = ranking.row(("proxy", "val_accuracy"))
    assert np.isnan(row[["rho", "rho_low", "tau", "tau_high", "rho_best10"]].astype(float)).all()
    assert (row["winner"], row["tied"]) == ("a00", 19)
    assert row["regret"] == pytest.approx(0.38)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_candidates_have_no_correlation(n: int) -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of({**{a: QUALITY[a] for a in ARCHS[:n]}, "stranger": 0.5})
    ranking = rank(scores, costs_of(ARCHS), truth, resamples=20)
    assert ranking.rows["n"].tolist() == [n] * len(ranking.rows)
    assert ranking.rows["rho"].isna().all()
    judged = verdict(ranking, ledger_of(scores, truth), ("proxy", "sotl"), "")
    assert judged.worth == ("no ground truth" if n == 0 else "undecided")


def test_whole_data_comes_from_the_table_where_it_is_complete() -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of(QUALITY, val_accuracy=0.5, sotl=3.0)
    truth.rows.loc[3, "sotl"] = math.nan
    keys = rank(scores, costs_of(ARCHS), truth, resamples=5).keys()
    assert [key for key in keys if key[0] == "whole-data"] == [("whole-data", "val_accuracy")]


def test_without_truth_there_are_winners_and_agreement() -> None:
    scores = scores_of(
        {
            "random": {a: [q] for a, q in QUALITY.items()},
            "proxy": {a: [1 - q] for a, q in QUALITY.items()},
        }
    )
    ranking = rank(scores, costs_of(ARCHS), None)
    assert ranking.truth is None
    known = ["source", "indicator", "n", "winner", "tied"]
    assert ranking.rows.drop(columns=known).isna().all().all()
    assert (ranking.cuts, ranking.ceiling) == ({}, None)
    assert ranking.row(("proxy", "val_loss"))["winner"] == "a00"
    assert ranking.keys()[0] == ("proxy", "val_accuracy")
    assert ranking.agreement.loc[("proxy", "sotl"), ("random", "sotl")] == pytest.approx(-1.0)
    judged = verdict(ranking, ledger_of(scores, None), ("proxy", "val_loss"), "it was asked for")
    assert judged.worth == "no ground truth"
    assert "There is no ground truth" in judged.summary[1]
    assert math.isnan(paired_difference(ranking, ("proxy", "sotl"), ("random", "sotl")).value)


def test_unknown_rows_are_named() -> None:
    ranking = rank(
        scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}}), costs_of(ARCHS), None
    )
    with pytest.raises(KeyError, match="no row"):
        ranking.row(("proxy", "nonsense"))


def test_paired_difference_uses_the_same_draws() -> None:
    rng = np.random.default_rng(3)
    proxy = {a: [q + 0.1 * rng.normal()] for a, q in QUALITY.items()}
    scores = scores_of({"proxy": proxy, "random": proxy})
    ranking = rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=200)
    same = paired_difference(ranking, ("proxy", "sotl"), ("random", "sotl"))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.better
    assert not same.worse
    against = paired_difference(ranking, ("proxy", "sotl"), ("flops", "flops"))
    assert against.better
    assert against.value == pytest.approx(ranking.row(("proxy", "sotl"))["rho"] + 1)
