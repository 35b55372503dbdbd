"""The Pareto front: what no other candidate beats in every objective at once."""

import numpy as np


def front(values: np.ndarray) -> np.ndarray:
    """Which rows of ``values`` (n, objectives), higher is better, no other row dominates: bool
    (n,).

    A row dominates another one if it is at least as good in every objective and better in one;
    equal rows do not dominate each other. A row with NaN is never in the front and dominates
    nothing.
    """
    known: np.ndarray = ~np.isnan(values).any(1)
    in_front = known.copy()
    for i in np.flatnonzero(known):
        better = (values >= values[i]).all(1) & (values > values[i]).any(1)
        in_front[i] = not better.any()
    return in_front
