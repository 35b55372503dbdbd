"""Correlations against SciPy, closed cases and a known Gaussian; the ranking's rules by hand."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from proxynas.rank import (
    Ledger,
    Ranking,
    Verdict,
    correlation,
    ledger,
    paired_difference,
    rank,
    verdict,
)
from proxynas.search import zerocost
from proxynas.truth import COLUMNS, TruthTable

Rows = list[dict[str, object]]
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


def scores_of(
    sources: dict[str, dict[str, list[float | None]]], seconds: float = 1.0
) -> pd.DataFrame:
    """Rows whose validation accuracy is given by source, architecture and seed; ``None`` is a
    failed run."""
    rows: Rows = [
        {
            "source": source,
            "arch": arch,
            "seed": seed,
            "val_accuracy": value,
            "val_loss": None if value is None else 1 - value,
            "sotl": None if value is None else 10 - value,
            "losses": np.ones(3, "f4"),
            "seconds": seconds,
            "failed": "diverged" if value is None else None,
        }
        for source, archs in sources.items()
        for arch, values in archs.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows).astype(
        dict.fromkeys(["val_accuracy", "val_loss", "sotl", "seconds"], "float64")
    )


def costs_of(archs: list[str]) -> pd.DataFrame:
    index = pd.Index(archs, name="arch")
    return pd.DataFrame(
        {"parameters": range(1, len(archs) + 1), "flops": range(len(archs), 0, -1)}, index=index
    )


def truth_of(accuracy: dict[str, float], **columns: float) -> TruthTable:
    rows = [
        {"arch": arch, "seed": 0, "test_accuracy": value, **columns}
        for arch, value in accuracy.items()
    ]
    return TruthTable(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {})


def gaussian(n: int, r: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, r * x + math.sqrt(1 - r * r) * rng.normal(size=n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0, 1_500])
def test_draws_are_what_scipy_says_of_each_resample(
    ties: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correlation, "PAIRS_LIMIT", limit)
    monkeypatch.setattr(correlation, "CELLS", 100)  # several parts
    rng = np.random.default_rng(0)
    x, y = gaussian(23, 0.5, rng)
    if ties:
        x, y = np.round(x), np.round(2 * y)
    draws = correlation.resample(23, 40, rng)
    rho, tau = correlation.spearman_draws(x, y, draws), correlation.kendall_draws(x, y, draws)
    for i, held in enumerate(draws):
        row = np.repeat(np.arange(23), held)
        assert rho[i] == pytest.approx(stats.spearmanr(x[row], y[row]).statistic)
        assert tau[i] == pytest.approx(stats.kendalltau(x[row], y[row]).statistic)


def test_a_resample_draws_as_many_candidates_as_there_are() -> None:
    draws = correlation.resample(30, 50, np.random.default_rng(1))
    assert draws.shape == (50, 30)
    assert (draws.sum(axis=1) == 30).all()
    assert correlation.resample(0, 50, np.random.default_rng(1)).shape == (0, 0)


def test_a_resample_of_kinds_draws_all_candidates_of_a_kind_together() -> None:
    kinds = np.array(["b", "a", "b", "c", "b"])
    draws = correlation.resample(5, 4000, np.random.default_rng(1), kinds)
    assert (draws[:, [0, 2, 4]] == draws[:, [0]]).all()
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()  # three kinds are drawn
    assert draws[:, :4].mean(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.06)  # sd 0.82 / √4000
    every = correlation.resample(
        5, 20, np.random.default_rng(1), np.array(["a", "b", "c", "d", "e"])
    )
    np.testing.assert_array_equal(every, correlation.resample(5, 20, np.random.default_rng(1)))


def test_constant_and_tiny_arrays_have_no_correlation() -> None:
    x = np.arange(5.0)
    for a, b in ((np.ones(5), x), (x, np.ones(5)), (x[:2], x[:2])):
        assert math.isnan(correlation.spearman(a, b))
        assert math.isnan(correlation.kendall(a, b))
    draws = np.zeros((4, 5), dtype=np.int64)
    draws[:, 0] = 5  # every resample holds one candidate five times
    assert np.isnan(correlation.spearman_draws(x, x, draws)).all()
    assert np.isnan(correlation.kendall_draws(x, x, draws)).all()
    assert np.isnan(correlation.interval(correlation.spearman_draws(x, x, draws))).all()
    assert np.isnan(
        correlation.spearman_draws(x, x, np.array([[1, 1, 0, 0, 0]]))
    ).all()  # two candidates


def test_interval_drops_degenerate_resamples() -> None:
    assert correlation.interval(np.array([math.nan, *np.linspace(0, 1, 101)])) == pytest.approx(
        (0.025, 0.975)
    )


def test_infinities_rank_last() -> None:
    x = np.array([-math.inf, 2.0, 3.0, -math.inf])
    assert correlation.spearman(x, np.array([0.0, 2.0, 3.0, 0.0])) == pytest.approx(1.0)
    assert correlation.kendall(x, np.array([0.0, 2.0, 3.0, 0.0])) == pytest.approx(1.0)
    assert np.isfinite(
        correlation.kendall_draws(x, np.arange(4.0), np.ones((1, 4), dtype=np.int64))
    ).all()


def test_interval_covers_the_known_rho_of_a_gaussian() -> None:
    r = 0.6
    known = 6 / math.pi * math.asin(r / 2)  # Pearson 1907: Spearman's ρ of a bivariate normal
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(150):
        x, y = gaussian(80, r, rng)
        low, high = correlation.interval(
            correlation.spearman_draws(x, y, correlation.resample(80, 300, rng))
        )
        covered += low <= known <= high
    assert 0.88 <= covered / 150 <= 0.99  # nominally 0.95; three standard errors are 0.05


def coverage(draw: Draw, known: float, repetitions: int) -> float:
    """How often the interval of ρ, as :func:`rank` makes it, holds the known one."""
    rng, covered = np.random.default_rng(5), 0
    for _ in range(repetitions):
        x, y, kinds = draw(rng)
        draws = correlation.resample(len(x), 300, rng, kinds)
        low, high = correlation.interval(correlation.spearman_draws(x, y, draws))
        covered += low <= known <= high
    return covered / repetitions


@pytest.mark.parametrize(("n", "percent"), [(400, 5), (200, 20), (1000, 10)])
def test_interval_among_the_truly_best_covers_what_it_estimates(n: int, percent: int) -> None:
    """ρ among the best fifth, tenth, … of all there are, which a sample of a million tells to
    0.003."""
    r, rng = 0.8, np.random.default_rng(6)
    x, y = gaussian(1_000_000, r, rng)
    best = y >= np.quantile(y, 1 - percent / 100)
    known = correlation.spearman(x[best], y[best])

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        x, y = gaussian(n, r, rng)
        part = np.argsort(-y)[: n * percent // 100]  # 20, 40 and 100 candidates
        return x[part], y[part], None

    assert (
        0.88 <= coverage(draw, known, 200) <= 0.99
    )  # nominally 0.95; three standard errors are 0.046


def test_interval_over_kinds_covers_where_one_over_candidates_is_too_narrow() -> None:
    """60 kinds of one to nine candidates each, which differ by little: a kind is one
    observation."""
    r = 0.6
    known = 6 / math.pi * math.asin(r / 2)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = gaussian(60, r, rng)
        kind = np.repeat(np.arange(60), rng.integers(1, 10, 60))
        noise = 0.01 * rng.normal(size=(2, len(kind)))
        return x[kind] + noise[0], y[kind] + noise[1], kind.astype(np.str_)

    def alone(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
        return *draw(rng)[:2], None

    assert 0.88 <= coverage(draw, known, 200) <= 0.99
    assert coverage(alone, known, 200) < 0.8


ARCHS = [f"a{i:02d}" for i in range(20)]
QUALITY = {arch: 0.5 + 0.02 * i for i, arch in enumerate(ARCHS)}


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


def ledger_of(scores: pd.DataFrame, truth: TruthTable | None, distilled: bool = True) -> Ledger:
    stages = {"search": {"seconds": 5.0, "peak_mib": 9.0}}
    distill = {"seconds": 2.0, "core_seconds": 3.0, "distilled": distilled}
    return ledger(
        scores, stages, truth, distill=distill, device="cpu", proxy_bytes=10, real_bytes=1000
    )


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
