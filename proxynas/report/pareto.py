"""The Pareto front of a search with two objectives or more: the candidates that none beats in all
of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..rank import Key, Ranking, words
from ..rank.indicators import LOWER_IS_BETTER
from ..search.strategies import front
from .inputs import Pareto, ReportInputs

LABELS = {"parameters": "Parameters", "flops": "FLOPs"}


def of_run(
    ranking: Ranking, headline: Key, costs: pd.DataFrame, objectives: Sequence[str]
) -> Pareto | None:
    """Which candidates are on the front; ``None`` for a single objective.

    ``objectives`` name the ``indicator``, the headline's, which is to be high, and columns of
    ``costs``, which are to be low; the first of these is drawn. Candidates whose training failed
    are left out; ``None`` where that is all of them.
    """
    others = [name for name in objectives if name != "indicator"]
    if not others:
        return None
    value = ranking.values[headline]
    value = value[np.isfinite(value)]
    if value.empty:
        return None
    known = costs.loc[value.index, others].astype("float64")
    on_front = front(np.column_stack([value.to_numpy(), -known.to_numpy()]))
    turned = ", sign turned" if headline[1] in LOWER_IS_BETTER else ""
    return Pareto(
        x_label=LABELS[others[0]],
        y_label=words.label(headline) + turned,
        archs=[str(arch) for arch in value.index],
        x=known[others[0]].tolist(),
        y=value.tolist(),
        front=on_front.tolist(),
    )


def front_table(inputs: ReportInputs) -> pd.DataFrame:
    """The front, best first: ``arch``, ``indicator`` (higher is better), costs, and truth if
    known."""
    assert inputs.pareto is not None
    archs = [
        arch
        for arch, on_front in zip(inputs.pareto.archs, inputs.pareto.front, strict=True)
        if on_front
    ]
    table = pd.DataFrame(
        {"arch": archs, "indicator": inputs.ranking.values[inputs.headline].loc[archs].to_numpy()}
    )
    table = table.join(inputs.costs[["parameters", "flops"]], on="arch")
    if inputs.ranking.truth is not None:
        table = table.assign(truth=inputs.ranking.truth.reindex(archs).to_numpy())
    ordered: pd.DataFrame = table.sort_values(
        ["indicator", "flops", "parameters", "arch"], ascending=[False, True, True, True]
    )
    return ordered
