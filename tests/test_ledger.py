"""The ledger's sums by hand."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from proxynas import distill
from proxynas.rank import Ledger, ledger
from proxynas.truth import COLUMNS, TruthTable


def scores(**seconds: float) -> pd.DataFrame:
    """Four candidates, two seeds, each run taking the source's seconds."""
    rows = [
        {
            "source": source.replace("_", "-"),
            "arch": arch,
            "seed": seed,
            "seconds": s,
            "losses": np.ones(1),
            "failed": None,
        }
        for source, s in seconds.items()
        for arch in "abcd"
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def truth(seconds: float | None, **made: object) -> TruthTable:
    rows = [
        {"arch": arch, "seed": s, "test_accuracy": 0.5, "seconds": seconds}
        for arch in "abcd"
        for s in range(3)
    ]
    header = {"made_on": "a machine, 1 threads", "fingerprint": "data", **made}
    return TruthTable(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), header)


def book(
    rows: pd.DataFrame,
    table: TruthTable | None,
    device: str = "a machine, 2 threads",
    space_options: dict[str, object] | None = None,
    **distill: object,
) -> Ledger:
    stages = {
        "search": {"seconds": 7.0, "peak_mib": 100.0},
        "report": {"seconds": 1.0, "peak_mib": 50.0},
    }
    settings = {
        "seconds": 20.0,
        "core_seconds": 36.0,
        "peak_mib": 300.0,
        "reused": False,
        **distill,
    }
    return ledger(
        rows,
        stages,
        table,
        distill=settings,
        device=device,
        proxy_bytes=10,
        real_bytes=1000,
        fingerprint="data",
        space_options=space_options,
    )


def test_sums_and_break_even_by_hand() -> None:
    found = book(scores(proxy=1.0, early_stopping=1.5), truth(10.0))
    assert (found.distill_s, found.search_s, found.total_s) == (20.0, 7.0, 27.0)
    proxy = found.sources["proxy"]
    assert (proxy.runs, proxy.candidates) == (8, 4)
    assert (proxy.core_s, proxy.core_s_per_candidate, proxy.core_s_per_run) == (8.0, 2.0, 1.0)
    assert (
        found.truth_core_s_per_candidate == 20.0
    )  # two seeds, as on the proxy, though the table has three
    assert found.break_even == pytest.approx(36 / (20 - 2))
    assert found.break_even_early_stopping == pytest.approx(36 / (3 - 2))
    assert found.peak_mib == 300.0
    assert found.truth_made_on == "a machine, 1 threads"
    assert found.distilled


def test_a_reused_proxy_is_paid_for_all_the_same() -> None:
    found = book(scores(proxy=1.0), None, reused=True)
    assert found.reused
    assert found.total_s == 27.0


def test_break_even_is_never_where_the_proxy_costs_no_less() -> None:
    found = book(scores(proxy=1.5, early_stopping=1.5), truth(1.0))
    assert found.break_even is None
    assert found.break_even_early_stopping is None


@pytest.mark.parametrize("table", [None, truth(None)])
def test_what_is_not_known_stays_unknown(table: TruthTable | None) -> None:
    found = book(scores(random=1.0), table)
    assert found.truth_core_s_per_candidate is None
    assert found.break_even is None
    assert found.break_even_early_stopping is None


@pytest.mark.parametrize(
    ("made", "here"),
    [
        ({}, {"device": "NVIDIA H100"}),  # seconds of one machine beside those of another
        ({"made_on": None}, {}),  # a table that others measured
        ({"fingerprint": "other"}, {}),
        ({}, {"space_options": {"channels": 8}}),  # the search shrinks the networks
        ({"command": {"space_options": {"channels": 8}}}, {}),
    ],
)
def test_break_even_compares_like_with_like_or_says_nothing(
    made: dict[str, object], here: dict[str, Any]
) -> None:
    found = book(scores(proxy=1.0, early_stopping=1.5), truth(10.0, **made), **here)
    assert found.truth_core_s_per_candidate is None
    assert found.break_even is None
    assert found.to_dict()["break_even"] is None
    assert found.break_even_early_stopping == pytest.approx(36 / (3 - 2))  # measured in this run


def test_break_even_where_both_trained_the_same_shrunken_networks() -> None:
    table = truth(10.0, command={"space_options": {"channels": 8}})
    found = book(scores(proxy=1.0), table, space_options={"channels": 8})
    assert found.break_even == pytest.approx(36 / (20 - 2))


def test_what_was_not_distilled_has_nothing_to_pay_back() -> None:
    found = book(scores(proxy=1.0, early_stopping=1.5), truth(10.0), distilled=False)
    assert not found.distilled
    assert found.truth_core_s_per_candidate == 20.0
    assert (found.break_even, found.break_even_early_stopping) == (None, None)


@pytest.mark.parametrize(
    ("method", "learns"),
    [
        ("gm", True),
        ("random", False),
        ("herding", False),
        ("random+herding", False),
        ("gm+random", True),
    ],
)
def test_coresets_are_not_distilled(method: str, learns: bool) -> None:
    assert distill.learns(method) is learns


def test_sources_come_in_table_order() -> None:
    assert list(book(scores(early_stopping=1, apple=1, random=1, proxy=1), None).sources) == [
        "proxy", "random", "early-stopping", "apple",
    ]  # fmt: skip


def test_to_dict_is_json() -> None:
    plain = json.loads(json.dumps(book(scores(proxy=1.0), truth(10.0)).to_dict()))
    assert {"distill_s", "search_s", "total_s"} <= plain.keys()
    assert plain["sources"]["proxy"]["core_s"] == 8.0
