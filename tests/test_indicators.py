import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from proxynas import rank
from proxynas.core.errors import SpecError
from proxynas.rank import indicators
from proxynas.truth import COLUMNS, TruthTable

ARCHS = list("abcdef")


def scores(rng: np.random.Generator, *sources: str) -> pd.DataFrame:
    rows = [
        {
            "source": source,
            "arch": arch,
            "seed": seed,
            "val_accuracy": rng.random(),
            "val_loss": rng.random(),
            "val_auc": math.nan,
            "sotl": rng.random(),
            "sotl_late": rng.random(),
            "seconds": 1.0,
            "failed": None,
        }
        for source in sources
        for arch in ARCHS
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def zero_cost(**columns: list[float]) -> pd.DataFrame:
    rows = [
        {"arch": arch, "indicator": name, "value": value, "seconds": 0.1}
        for name, values in columns.items()
        for arch, value in zip(ARCHS, values, strict=True)
    ]
    return pd.DataFrame(rows)


COSTS = pd.DataFrame(
    {"parameters": range(6), "flops": range(6)}, index=pd.Index(ARCHS, name="arch")
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("val_loss", ("proxy", "val_loss")),
        ("parameters", ("parameters", "parameters")),
        ("synflow", ("zero-cost", "synflow")),
        ("vote", ("zero-cost", "vote")),
        ("synflow + flops", ("zero-cost", "synflow+flops")),
        ("sotl+parameters", ("proxy", "sotl+parameters")),
    ],
)
def test_what_a_name_means(name: str, key: tuple[str, str]) -> None:
    assert indicators.resolve(name) == key


@pytest.mark.parametrize(
    ("name", "hint"), [("synflo", "did you mean 'synflow'"), ("luck", "known: "), ("sotl+", "''")]
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(SpecError, match=hint):
        indicators.resolve(name)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("sotl+vote", "vote"),
        ("vote+sotl+flops", "vote+flops"),
        ("sotl", None),
        ("vote+flops", None),
    ],
)
def test_what_is_left_without_training(name: str, left: str | None) -> None:
    assert indicators.untrained(name) == left


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("sotl+vote", ["vote"]),
        ("vote+flops", ["sotl_late+vote+flops"]),
        ("sotl+val_loss", []),
        ("vote", ["sotl_late+vote"]),
    ],
)
def test_what_training_adds_is_seen_against(name: str, others: list[str]) -> None:
    assert indicators.counterparts(name) == others


def test_a_combination_is_the_mean_rank_for_every_source() -> None:
    found = scores(np.random.default_rng(0), "proxy", "random")
    values = indicators.columns(found, None, COSTS, None, ["sotl+parameters", "parameters+flops"])
    for source in ("proxy", "random"):
        sotl = found[found["source"] == source].groupby("arch")["sotl"].mean().to_numpy()
        expected = (rankdata(-sotl) + rankdata(COSTS["parameters"])) / 2
        np.testing.assert_allclose(values[source, "sotl+parameters"], expected)
    np.testing.assert_allclose(values["zero-cost", "parameters+flops"], np.arange(1, 7))
    assert ("proxy", "val_auc") not in values  # not measured


def test_a_zero_cost_indicator_that_cannot_be_had_ranks_last_and_excludes_nobody() -> None:
    zero = zero_cost(
        synflow=[1, 2, 3, 4, 5, math.nan], jacob_cov=[1, 2, 3, 4, 5, 6], snip=[1, 2, 3, 4, 5, 6]
    )
    values = indicators.columns(scores(np.random.default_rng(0), "proxy"), zero, COSTS, None, [])
    assert np.isneginf(values.loc["f", ("zero-cost", "synflow")])
    assert values["zero-cost", "vote"].rank().tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]  # two of three rank f first
    rows = pd.DataFrame({"arch": ARCHS, "val_accuracy": np.linspace(0.5, 0.9, 6)}).reindex(
        columns=list(COLUMNS)
    )
    truth = TruthTable(rows, {"accuracy": "val_accuracy"})
    ranking = rank.rank(scores(np.random.default_rng(0), "proxy"), COSTS, truth, zero_cost=zero)
    assert (ranking.rows["n"] == 6).all()
    assert ("whole-data", "val_accuracy") not in ranking.keys()  # noqa: SIM118  # it is the truth itself
    assert ranking.row(("parameters", "parameters"))["rho"] == pytest.approx(1)


def test_isomorphic_candidates_count_once() -> None:
    rows = pd.DataFrame({"arch": ARCHS, "test_accuracy": np.linspace(0.5, 0.9, 6)}).reindex(
        columns=list(COLUMNS)
    )
    costs = COSTS.assign(
        parameters=[1, 2, 3, 4, 0, 0]
    )  # wrong for e and f only, which are of d's kind
    kinds = dict(zip(ARCHS, "abcddd", strict=True))
    found = rank.rank(
        scores(np.random.default_rng(0), "proxy"), costs, TruthTable(rows, {}), kinds=kinds
    )
    row = found.row(("parameters", "parameters"))
    assert row["rho"] < 0.5
    assert (row["rho_distinct"], row["n_distinct"]) == (pytest.approx(1), 4)


@pytest.mark.parametrize("measure", ["val_accuracy", "test_accuracy"])
def test_tables_measured_elsewhere_are_rows_of_their_own(measure: str) -> None:
    truth = TruthTable(pd.DataFrame({"arch": ARCHS, "test_accuracy": np.linspace(0.5, 0.9, 6)}), {})
    accuracies = pd.DataFrame({"arch": ARCHS[1:], measure: [0.1, 0.2, 0.3, 0.4, 0.5]})
    early = TruthTable(accuracies, {"accuracy": measure})
    rows = truth.rows.reindex(columns=list(COLUMNS))
    found = rank.rank(
        scores(np.random.default_rng(0), "proxy"),
        COSTS,
        TruthTable(rows, {}),
        tables={"12 epochs": early},
    )
    row = found.row(("12 epochs", measure))
    assert (row["rho"], row["n"]) == (
        pytest.approx(1),
        5,
    )  # a is not in that table, so no row counts it
    assert found.tables == ("12 epochs",)
    assert found.measure == "test_accuracy"


def test_every_row_is_measured_against_parameters_and_the_vote() -> None:
    zero = zero_cost(
        synflow=[1, 2, 3, 4, 6, 5], jacob_cov=[1, 2, 3, 4, 6, 5], snip=[1, 2, 3, 4, 6, 5]
    )
    rows = pd.DataFrame({"arch": ARCHS, "test_accuracy": np.linspace(0.5, 0.9, 6)}).reindex(
        columns=list(COLUMNS)
    )
    found = rank.rank(
        scores(np.random.default_rng(0), "proxy"), COSTS, TruthTable(rows, {}), zero_cost=zero
    )
    counting, vote = found.row(("parameters", "parameters")), found.row(("zero-cost", "vote"))
    assert counting["over_vote"] == pytest.approx(1 - vote["rho"])
    assert counting["over_vote_low"] <= counting["over_vote"] <= counting["over_vote_high"]
    assert vote["over_parameters"] == pytest.approx(-counting["over_vote"])
    assert math.isnan(counting["over_parameters"])
    assert math.isnan(vote["over_vote"])
