"""The models of a predictor, from standardised features to normal scores, by scikit-learn."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV

Floats = NDArray[np.float64]

Model = Callable[[Floats, Floats, int], Any]
"""Features (n, k), normal scores of labels (n,), a seed → a scikit-learn regressor, tuned to them
but not fitted.
"""

PENALTIES = np.logspace(-1, 3, 13)
"""Ridge penalties, of which leave-one-out takes the best."""


def ridge(x: Floats, y: Floats, seed: int) -> Any:
    """Ridge regression; its penalty by leave-one-out, whenever it is fitted."""
    return RidgeCV(PENALTIES)


def gaussian_process(x: Floats, y: Floats, seed: int) -> Any:
    """A Gaussian process (Matérn 5/2 and noise); its length, variance and noise by marginal
    likelihood, here.
    """
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(3.0, (0.5, 50.0), nu=2.5) + WhiteKernel(
        0.3, (1e-3, 2.0)
    )
    tuned = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # a length at its bound is a straight line, and welcome
        tuned.fit(x, y)
    return GaussianProcessRegressor(tuned.kernel_, normalize_y=True, optimizer=None)


def boosting(x: Floats, y: Floats, seed: int) -> Any:
    """Gradient boosting with trees of depth 2."""
    return GradientBoostingRegressor(
        n_estimators=100, max_depth=2, learning_rate=0.07, subsample=0.7, random_state=seed % 2**32
    )


MODELS: dict[str, Model] = {"ridge": ridge, "Gaussian process": gaussian_process}
"""What predicts by default: their mean (experiments/README.md)."""


def predict(model: Any, x: Floats, y: Floats, new: Floats) -> Floats:
    """What ``model``, fitted to features (n, k) and scores (n,), predicts for features (N, k).

    All are finite and our own, and scikit-learn need not look whether they are, thousands of times.
    """
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return np.asarray(clone(model).fit(x, y).predict(new), dtype=np.float64)


def unsure(model: Any, x: Floats, y: Floats, new: Floats) -> Floats | None:
    """The standard deviation of a Gaussian process for features (N, k), without its noise; ``None``
    of other models.
    """
    if not isinstance(model, GaussianProcessRegressor):
        return None
    fitted = clone(model).fit(x, y)
    std = fitted.predict(new, return_std=True)[1]
    noise = fitted.kernel_.k2.noise_level * y.var()  # the noise is that of standardised scores
    return np.asarray(np.sqrt(np.maximum(std**2 - noise, 0.0)))
