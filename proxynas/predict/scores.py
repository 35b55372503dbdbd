"""Normal scores: ranks as quantiles of the normal distribution (van der Waerden 1952), and the way
back to accuracies.

Indicators have any scale and accuracies a long lower tail, so a predictor sees neither, but
Φ⁻¹((rank − 1/2) / n). Ties share their mean rank. Unlike plain ranks these keep the best apart from
each other, which is what a search is about.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEAST_ROOM = 1e-6
"""Accuracy that predictions may go beyond labels of 0 or 1, to keep their order."""


def normal_scores(values: Floats) -> Floats:
    """Normal scores of ``values`` (n,), higher is higher; NaN and -inf count as the lowest."""
    ranks = stats.rankdata(np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
    return np.asarray(stats.norm.ppf((ranks - 0.5) / len(values)), dtype=np.float64)


def feature_scores(features: pd.DataFrame) -> Floats:
    """Normal scores of every column, float64 (n, k); columns that are the same for all candidates
    are left out.
    """
    columns = [
        normal_scores(features.iloc[:, j].to_numpy(dtype=np.float64))
        for j in range(features.shape[1])
    ]
    varied = [column for column in columns if np.ptp(column) > 0]
    return np.stack(varied, axis=1) if varied else np.empty((len(features), 0))


def axis_scores(axes: pd.DataFrame) -> Floats:
    """The axes of a space as numbers, float64 (n, k): normal scores of a numeric axis, 0 and 1 for
    each other value.
    """
    parts = [np.empty((len(axes), 0))]
    for name in axes:
        column = axes[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            parts.append(feature_scores(column.to_frame()))
        else:
            parts.append(pd.get_dummies(column.astype(str)).to_numpy(dtype=np.float64))
    return np.concatenate(parts, axis=1)


def standardised(x: Floats) -> Floats:
    """Columns of mean 0 and variance 1; constant columns become 0."""
    spread = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


@dataclass(frozen=True)
class Scale:
    """An increasing map between accuracies in [0, 1] and their normal scores among some labels.

    ``scores`` and ``accuracies`` are the distinct points (m,) of it, ascending. Between two it is
    linear. Beyond the ends it goes on as steeply as over the quarter of the points that is nearest,
    and bends towards 0 and 1, so that predictions beyond become equal only where floats do.
    """

    scores: Floats
    accuracies: Floats

    def accuracy(self, scores: Floats) -> Floats:
        """The accuracies of normal scores of any shape."""
        quarter = max(1, len(self.scores) // 4)
        inside = np.interp(scores, self.scores, self.accuracies)
        above = np.maximum(scores - self.scores[-1], 0) * self._slope(-1 - quarter, -1)
        below = np.maximum(self.scores[0] - scores, 0) * self._slope(0, quarter)
        return np.asarray(
            inside + _bend(above, 1 - self.accuracies[-1]) - _bend(below, self.accuracies[0])
        )

    def score(self, accuracies: Floats) -> Floats:
        """The normal scores of accuracies that lie between the labels'."""
        return np.asarray(np.interp(accuracies, self.accuracies, self.scores))

    def _slope(self, i: int, j: int) -> float:
        return float((self.accuracies[j] - self.accuracies[i]) / (self.scores[j] - self.scores[i]))


def fit_scale(accuracies: Floats) -> Scale:
    """The scale of labels (n,), at least two of them different."""
    distinct, inverse = np.unique(accuracies, return_inverse=True)
    scores = np.empty(len(distinct))
    scores[inverse] = normal_scores(accuracies)
    return Scale(scores, distinct)


def _bend(beyond: Floats, room: float) -> Floats:
    """How far to go beyond an end: at first ``beyond`` itself, and never more than there is
    ``room``.
    """
    room = max(room, LEAST_ROOM)
    return np.asarray(room * -np.expm1(-beyond / room), dtype=np.float64)
