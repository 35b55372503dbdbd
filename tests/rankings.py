"""Scores, costs and truth by hand: for the tests of rankings and verdicts."""

import numpy as np
import pandas as pd

from proxynas.rank import Ledger, ledger
from proxynas.truth import COLUMNS, TruthTable

Rows = list[dict[str, object]]

ARCHS = [f"a{i:02d}" for i in range(20)]
QUALITY = {arch: 0.5 + 0.02 * i for i, arch in enumerate(ARCHS)}


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


def ledger_of(scores: pd.DataFrame, truth: TruthTable | None, distilled: bool = True) -> Ledger:
    stages = {"search": {"seconds": 5.0, "peak_mib": 9.0}}
    distill = {"seconds": 2.0, "core_seconds": 3.0, "distilled": distilled}
    return ledger(
        scores, stages, truth, distill=distill, device="cpu", proxy_bytes=10, real_bytes=1000
    )
