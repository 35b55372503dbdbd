"""Correlations against SciPy, closed cases and a known Gaussian; the ranking's rules by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from proxynas.rank import Ledger, correlation, ledger, paired_difference, rank, verdict
from proxynas.truth import COLUMNS, TruthTable

Rows = list[dict[str, object]]


def scores_of(sources: dict[str, dict[str, list[float | None]]], seconds: float = 1.0) -> pd.DataFrame:
    """Rows whose validation accuracy is given by source, architecture and seed; ``None`` is a failed run."""
    rows: Rows = [
        {
            "source": source, "arch": arch, "seed": seed, "val_accuracy": value,
            "val_loss": None if value is None else 1 - value,
            "sotl": None if value is None else 10 - value, "losses": np.ones(3, "f4"), "seconds": seconds,
            "failed": "diverged" if value is None else None,
        }
        for source, archs in sources.items() for arch, values in archs.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys(["val_accuracy", "val_loss", "sotl", "seconds"], "float64"))


def costs_of(archs: list[str]) -> pd.DataFrame:
    index = pd.Index(archs, name="arch")
    return pd.DataFrame({"parameters": range(1, len(archs) + 1), "flops": range(len(archs), 0, -1)}, index=index)


def truth_of(accuracy: dict[str, float], **columns: float) -> TruthTable:
    rows = [{"arch": arch, "seed": 0, "test_accuracy": value, **columns} for arch, value in accuracy.items()]
    return TruthTable(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), {})


def gaussian(n: int, r: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, r * x + math.sqrt(1 - r * r) * rng.normal(size=n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0, 1_500])
def test_draws_are_what_scipy_says_of_each_resample(ties: bool, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "PAIRS_LIMIT", limit)
    monkeypatch.setattr(correlation, "CELLS", 100)  # several parts
    rng = np.random.default_rng(0)
    x, y = gaussian(23, 0.5, rng)
    if ties:
        x, y = np.round(x), np.round(2 * y)
    draws = correlation.resample(23, 40, rng)
    rho, tau = correlation.spearman_draws(x, y, draws), correlation.kendall_draws(x, y, draws)
    for i, row in enumerate(draws):
        assert rho[i] == pytest.approx(stats.spearmanr(x[row], y[row]).statistic)
        assert tau[i] == pytest.approx(stats.kendalltau(x[row], y[row]).statistic)


def test_top_draws_take_the_best_of_each_resample() -> None:
    rng = np.random.default_rng(1)
    x, y = gaussian(30, 0.7, rng)
    draws = correlation.resample(30, 20, rng)
    for row, rho in zip(draws, correlation.top_draws(x, y, draws, 10), strict=True):
        best = sorted(row, key=lambda i: -x[i])[:10]
        assert rho == pytest.approx(stats.spearmanr(x[best], y[best]).statistic)


def test_constant_and_tiny_arrays_have_no_correlation() -> None:
    x = np.arange(5.0)
    for a, b in ((np.ones(5), x), (x, np.ones(5)), (x[:2], x[:2])):
        assert math.isnan(correlation.spearman(a, b))
        assert math.isnan(correlation.kendall(a, b))
    draws = np.zeros((4, 5), dtype=np.int64)  # every resample holds one candidate five times
    assert np.isnan(correlation.spearman_draws(x, x, draws)).all()
    assert np.isnan(correlation.kendall_draws(x, x, draws)).all()
    assert np.isnan(correlation.interval(correlation.spearman_draws(x, x, draws))).all()


def test_interval_drops_degenerate_resamples() -> None:
    assert correlation.interval(np.array([math.nan, *np.linspace(0, 1, 101)])) == pytest.approx((0.025, 0.975))


def test_infinities_rank_last() -> None:
    x = np.array([-math.inf, 2.0, 3.0, -math.inf])
    assert correlation.spearman(x, np.array([0.0, 2.0, 3.0, 0.0])) == pytest.approx(1.0)
    assert correlation.kendall(x, np.array([0.0, 2.0, 3.0, 0.0])) == pytest.approx(1.0)
    assert np.isfinite(correlation.kendall_draws(x, np.arange(4.0), np.arange(4)[None])).all()


def test_interval_covers_the_known_rho_of_a_gaussian() -> None:
    r = 0.6
    known = 6 / math.pi * math.asin(r / 2)  # Pearson 1907: Spearman's ρ of a bivariate normal
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(150):
        x, y = gaussian(80, r, rng)
        low, high = correlation.interval(correlation.spearman_draws(x, y, correlation.resample(80, 300, rng)))
        covered += low <= known <= high
    assert 0.88 <= covered / 150 <= 0.99  # nominally 0.95; three standard errors are 0.05


ARCHS = [f"a{i:02d}" for i in range(20)]
QUALITY = {arch: 0.5 + 0.02 * i for i, arch in enumerate(ARCHS)}


def test_same_order_is_one_and_reversed_minus_one() -> None:
    scores = scores_of(
        {"proxy": {a: [q] for a, q in QUALITY.items()}, "random": {a: [1 - q] for a, q in QUALITY.items()}}
    )
    rows = rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=50).rows.set_index(["source", "indicator"])
    statistics = ["rho", "rho_low", "rho_high", "tau", "tau_low", "tau_high", "rho_top10"]
    for name in ("val_accuracy", "val_loss", "sotl"):
        assert rows.loc[("proxy", name), statistics].tolist() == pytest.approx([1.0] * 7)
        assert rows.loc[("random", name), statistics].tolist() == pytest.approx([-1.0] * 7)
    assert rows.loc[("parameters", "parameters"), "rho"] == pytest.approx(1.0)
    assert rows.loc[("flops", "flops"), "rho"] == pytest.approx(-1.0)
    assert rows.loc[("proxy", "sotl"), "regret"] == 0.0
    assert rows.loc[("random", "sotl"), "regret"] == pytest.approx(0.38)
    assert rows.loc[("random", "sotl"), "winner"] == "a00"
    assert rows.loc[("random", "sotl"), "winner_truth"] == pytest.approx(0.5)


def test_same_seed_same_ranking() -> None:
    scores = scores_of({"proxy": {a: [round(q, 1)] for a, q in QUALITY.items()}})
    one, two, other = (rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=30, seed=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one.rows, two.rows)
    pd.testing.assert_frame_equal(one.draws, two.draws)
    assert not one.draws.equals(other.draws)


def test_regret_of_tied_winners_is_by_their_mean() -> None:
    scores = scores_of({"proxy": {"a": [0.9], "b": [0.9], "c": [0.1]}})
    row = rank(scores, costs_of(["a", "b", "c"]), truth_of({"a": 0.5, "b": 0.7, "c": 0.8}), resamples=5).row(
        ("proxy", "val_accuracy")
    )
    assert row["regret"] == pytest.approx(0.8 - 0.6)
    assert (row["winner"], row["winner_truth"]) == ("a", 0.5)


def test_a_failed_seed_is_left_out_and_a_failed_candidate_ranks_last() -> None:
    scores = scores_of({"proxy": {"a": [None, None], "b": [0.4, None], "c": [0.1, 0.3], "d": [0.9, 0.7]}})
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
    scores = scores_of({"proxy": {a: [None] for a in ARCHS}, "random": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of(QUALITY)
    ranking = rank(scores, costs_of(ARCHS), truth, resamples=20)
    assert pd.isna(ranking.row(("proxy", "val_loss"))["winner"])
    found = verdict(ranking, ledger_of(scores, truth), ("proxy", "val_loss"), "")
    assert found.worth == "undecided"
    assert "No candidate could be ranked" in found.sentences[0]
    assert ranking.row(("random", "val_loss"))["rho"] == pytest.approx(1.0)


def test_rows_share_the_candidates_that_have_everything() -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}, "random": {a: [0.5] for a in ARCHS[:15]}})
    ranking = rank(
        scores, costs_of(ARCHS), truth_of({a: QUALITY.get(a, 0.9) for a in [*ARCHS[5:], "stranger"]}), resamples=20
    )
    assert set(ranking.rows["n"]) == {10}
    assert ranking.truth is not None
    assert "stranger" not in ranking.truth
    assert ranking.row(("proxy", "sotl"))["winner"] == "a19"


def test_constant_indicator_has_no_correlation_and_says_so() -> None:
    scores = scores_of({"proxy": {a: [0.5] for a in ARCHS}})
    ranking = rank(scores, costs_of(ARCHS), truth_of(QUALITY), resamples=20)
    row = ranking.row(("proxy", "val_accuracy"))
    assert np.isnan(row[["rho", "rho_low", "tau", "tau_high", "rho_top10"]].astype(float)).all()
    assert row["regret"] == pytest.approx(max(QUALITY.values()) - sum(QUALITY.values()) / 20)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_candidates_have_no_correlation(n: int) -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of({**{a: QUALITY[a] for a in ARCHS[:n]}, "stranger": 0.5})
    ranking = rank(scores, costs_of(ARCHS), truth, resamples=20)
    assert ranking.rows["n"].tolist() == [n] * len(ranking.rows)
    assert ranking.rows["rho"].isna().all()
    judged = verdict(ranking, ledger_of(scores, truth), ("proxy", "sotl"), "")
    assert judged.worth == ("unverified" if n == 0 else "undecided")


def test_whole_data_comes_from_the_table_where_it_is_complete() -> None:
    scores = scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}})
    truth = truth_of(QUALITY, val_accuracy=0.5, sotl=3.0)
    truth.rows.loc[3, "sotl"] = math.nan
    keys = rank(scores, costs_of(ARCHS), truth, resamples=5).keys()
    assert [key for key in keys if key[0] == "whole-data"] == [("whole-data", "val_accuracy")]


def test_without_truth_there_are_winners_and_agreement() -> None:
    scores = scores_of(
        {"random": {a: [q] for a, q in QUALITY.items()}, "proxy": {a: [1 - q] for a, q in QUALITY.items()}}
    )
    ranking = rank(scores, costs_of(ARCHS), None)
    assert ranking.truth is None
    assert ranking.rows.loc[:, "rho":"regret"].isna().all().all()  # type: ignore[misc]  # label slices
    assert ranking.row(("proxy", "val_loss"))["winner"] == "a00"
    assert ranking.keys()[0] == ("proxy", "val_accuracy")
    assert ranking.agreement.loc[("proxy", "sotl"), ("random", "sotl")] == pytest.approx(-1.0)
    judged = verdict(ranking, ledger_of(scores, None), ("proxy", "val_loss"), "it was asked for")
    assert judged.worth == "unverified"
    assert "Nothing was verified" in " ".join(judged.sentences)
    assert math.isnan(paired_difference(ranking, ("proxy", "sotl"), ("random", "sotl")).value)


def test_unknown_rows_are_named() -> None:
    ranking = rank(scores_of({"proxy": {a: [q] for a, q in QUALITY.items()}}), costs_of(ARCHS), None)
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


def ledger_of(scores: pd.DataFrame, truth: TruthTable | None) -> Ledger:
    stages = {"search": {"seconds": 5.0, "peak_mib": 9.0}}
    distill = {"seconds": 2.0, "core_seconds": 3.0}
    return ledger(scores, stages, truth, distill=distill, device="cpu", proxy_bytes=10, real_bytes=1000)


def judged(proxy: float, random: float, early: float, parameters: str = "worse") -> tuple[str, str]:
    """The verdict where each source ranks with so much noise."""
    rng = np.random.default_rng(4)
    archs = [f"a{i:02d}" for i in range(60)]
    quality = dict(zip(archs, 0.3 + 0.01 * rng.permutation(60), strict=True))
    noise = {"proxy": proxy, "random": random, "early-stopping": early}
    scores = scores_of({s: {a: [q + d * rng.normal()] for a, q in quality.items()} for s, d in noise.items()})
    costs = costs_of(archs)
    if parameters == "perfect":
        costs["parameters"] = [round(1000 * quality[a]) for a in archs]
    truth = truth_of(quality, seconds=8.0)
    found = verdict(
        rank(scores, costs, truth, resamples=200), ledger_of(scores, truth), ("proxy", "val_loss"), "fixed before."
    )
    return found.worth, " ".join(found.sentences)


def test_verdict_praises_only_what_beats_every_rival() -> None:
    worth, text = judged(0.01, 1.0, 1.0)
    assert worth == "worth distilling"
    assert "It beats the random coreset" in text
    assert "It beats early stopping" in text
    assert "(fixed before)" in text


def test_verdict_praises_nothing_that_was_not_compared_with_a_random_coreset() -> None:
    proxy = {a: [q] for a, q in QUALITY.items()}
    scores, truth = (
        scores_of({"proxy": proxy, "early-stopping": {a: [1 - q] for a, q in QUALITY.items()}}),
        truth_of(QUALITY),
    )
    found = verdict(rank(scores, costs_of(ARCHS[::-1]), truth), ledger_of(scores, truth), ("proxy", "val_loss"), "")
    assert found.worth == "undecided"
    assert "is not known: it was not compared with the random coreset." in " ".join(found.sentences)


@pytest.mark.parametrize(("better", "worth"), [(False, "not worth distilling"), (True, "undecided")])
def test_verdict_on_a_proxy_set_that_is_not_needed(better: bool, worth: str) -> None:
    rng = np.random.default_rng(0)
    noise = {a: [q if better else rng.random()] for a, q in QUALITY.items()}
    scores, truth = scores_of({"proxy": noise}), truth_of(QUALITY)
    costs = costs_of(ARCHS).assign(parameters=rng.permutation(len(ARCHS)) if better else range(len(ARCHS)))
    found = verdict(rank(scores, costs, truth), ledger_of(scores, truth), ("parameters", "parameters"), "")
    assert found.worth == worth
    assert "This ranking takes no proxy set" in " ".join(found.summary)


def test_verdict_says_what_training_adds_to_a_mean_rank() -> None:
    proxy = {a: [q] for a, q in QUALITY.items()}
    scores, truth, costs = scores_of({"proxy": proxy, "random": proxy}), truth_of(QUALITY), costs_of(ARCHS)
    costs["flops"] = costs["parameters"]
    combine = ["sotl+parameters+flops", "parameters+flops"]
    found = verdict(
        rank(scores, costs, truth, combine=combine), ledger_of(scores, truth), ("proxy", "sotl+parameters+flops"), ""
    )
    assert "the mean rank of parameters and FLOPs, before any training (" in " ".join(found.comparisons)


@pytest.mark.parametrize(
    ("noise", "parameters", "blamed"),
    [
        ((0.1, 0.1, 2.0), "worse", "a random coreset"),
        ((0.1, 2.0, 0.001), "worse", "early stopping"),
        ((0.2, 2.0, 2.0), "perfect", "counting parameters"),
    ],
)
def test_verdict_says_when_distilling_was_not_worth_it(
    noise: tuple[float, float, float], parameters: str, blamed: str
) -> None:
    worth, text = judged(*noise, parameters)
    assert worth == "not worth distilling"
    conclusion = text[text.index("On this evidence") :].split(".")[0]
    assert "not worth distilling" in conclusion
    assert blamed in conclusion


def test_verdict_says_when_an_interval_includes_zero() -> None:
    assert "the interval of the difference includes zero" in judged(0.1, 0.1, 2.0)[1]
