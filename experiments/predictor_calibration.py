"""Do the interval of trust and the bound on what was missed hold as often as they say, where the
truth is known?

    python experiments/predictor_calibration.py run digits INDICATORS --out runs/predictor
    python experiments/predictor_calibration.py run nasbench201 INDICATORS --out runs/predictor
    python experiments/predictor_calibration.py summary --out runs/predictor

One draw is a search among candidates that are drawn at random: labels are chosen, each one run's
accuracy, the predictor is fitted, and its ρ with the truth (the mean of a candidate's runs) of all
other candidates estimated. Then ten are verified, and how much better than the winner the best of
the others is when trained once, like it, is bounded. ``run`` appends a line a draw to a file and
goes on where it stopped.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import predictor_pools
import typer
from predictor_study import VERIFIED, append, labelled, lines, missing
from scipy import stats

from proxynas.core import seeds
from proxynas.predict import choose, curves, predictor, trust, verify
from proxynas.predict.curves import Pool

app = typer.Typer(add_completion=False)

LABELS = (10, 20, 40, 80)
Out = Annotated[Path, typer.Option(help="folder of the results")]


@app.command()
def run(
    space: str,
    indicators: Path,
    out: Out,
    draws: int = 200,
    size: Annotated[int, typer.Option(help="candidates of a draw")] = 150,
    without: Annotated[Path | None, typer.Option(help="names, a line each, to leave out")] = None,
) -> None:
    """Append ``draws`` draws of every number of labels to a file in ``out``."""
    if space == "digits":
        pool = predictor_pools.digits(indicators, 0.07)
    else:
        pool = predictor_pools.nasbench201(indicators, "cifar10", 1.7)
    if without is not None:
        left_out = set(without.read_text().splitlines())
        pool = predictor_pools.part(pool, [name for name in pool.names if name not in left_out])
    pool = replace(pool, axes=None)  # as in a search
    path = out / f"calibration-{space}.jsonl"
    for seed in missing(path, draws):
        rng = np.random.default_rng(seeds.derive(seed, "candidates of a draw"))
        drawn = predictor_pools.part(pool, list(rng.choice(pool.names, size, replace=False)))
        append(path, {"seed": seed, "rows": [_draw(drawn, labels, seed) for labels in LABELS]})


def _draw(pool: Pool, labels: int, seed: int) -> dict[str, Any]:
    truth = pool.truth()
    account = curves.Account(
        pool, np.inf, np.random.default_rng(seeds.derive(seed, "calibration", labels))
    )
    design, prediction = labelled(account, labels, seed)
    known = pd.Series(account.labels, dtype="float64")
    rest = truth.index.difference(design.index)
    trusted = trust.trust(prediction, known, choose.weights(design, len(truth)), len(rest))
    rho = float(stats.spearmanr(prediction.values[rest], truth[rest]).statistic)
    for arch in verify.best(prediction, account.labels, VERIFIED):
        account.train(arch)
    known = pd.Series(account.labels, dtype="float64")
    prediction = predictor.fit(pool.features, known, prior=pool.prior, axes=pool.axes, seed=seed)
    bound = verify.headroom(prediction, known, seed)
    untrained = [arch for arch in pool.names if arch not in account.labels]
    best = max(account.train(arch) for arch in untrained)  # all, once: what the bound is about
    return {
        "labels": labels,
        "candidates": len(truth),
        "rho": rho,
        "estimate": trusted.rho,
        "low": trusted.low,
        "high": trusted.high,
        "effective": trusted.effective,
        "missed": best - float(known.max()),
        "regret": float(truth.max() - truth[verify.winner(known)]),
        "probability": None if bound is None else bound.probability,
        "bound": None if bound is None else bound.high,
    }


@app.command()
def summary(out: Out) -> None:
    """Print the calibration table of all draws as JSON."""
    table = {}
    for path in sorted(out.glob("calibration-*.jsonl")):
        rows = pd.DataFrame([row for line in lines(path) for row in line["rows"]])
        space = path.stem.removeprefix("calibration-")
        table[space] = [_row(labels, rows[rows["labels"] == labels]) for labels in LABELS]
    typer.echo(json.dumps(table, indent=1))


def _row(labels: int, draws: pd.DataFrame) -> dict[str, Any]:
    inside = (draws["low"] <= draws["rho"]) & (draws["rho"] <= draws["high"])
    held = draws["missed"] <= draws["bound"]
    found = {
        "labels": labels,
        "draws": len(draws),
        "candidates": int(draws["candidates"].iloc[0]),
        "rho": draws["rho"].mean(),
        "estimate": draws["estimate"].mean(),
        "width": (draws["high"] - draws["low"]).mean(),
        "effective": draws["effective"].mean(),
        "covered": inside.mean(),
        "rho_below": (draws["rho"] < draws["low"]).mean(),
        "rho_above": (draws["rho"] > draws["high"]).mean(),
        "missed": draws["missed"].mean(),
        "regret": draws["regret"].mean(),
        "bound": draws["bound"].mean(),
        "bound_held": held.mean(),
        "better_said": draws["probability"].mean(),
        "better_was": (draws["missed"] > 0).mean(),
    }
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in found.items()
    }


if __name__ == "__main__":
    app()
