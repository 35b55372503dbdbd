"""How images are whitened: a strength and its unit (:mod:`proxynas.datasets.zca`)."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator


@dataclass(frozen=True)
class Regularisation:
    """What whitening adds to each eigenvalue: ``strength``, positive, in the unit of
    ``convention``.

    ``relative``: times the mean eigenvalue of images normalised by channel. ``kornia``: as it is,
    to the eigenvalues of pixels in [0, 1].
    """

    strength: float
    convention: Literal["relative", "kornia"] = "relative"

    @property
    def setting(self) -> float | str:
        """As a setting has it: 0.1, or "kornia:0.1"."""
        return self.strength if self.convention == "relative" else str(self)

    def __str__(self) -> str:
        unit = "" if self.convention == "relative" else f"{self.convention}:"
        return f"{unit}{self.strength:g}"


def parse_whitening(setting: Any) -> Regularisation:
    """The regularisation that a setting names.

    Raises:
        ValueError: it is neither a positive number nor ``kornia:`` and one.
    """
    text = "" if isinstance(setting, bool) else str(setting).strip()
    try:
        strength = float(text.removeprefix("kornia:"))
    except ValueError:
        strength = math.nan
    if not 0 < strength < math.inf:
        raise ValueError("expected a strength above 0, such as 0.1, or with its unit, kornia:0.1")
    return Regularisation(strength, "kornia" if text.startswith("kornia:") else "relative")


WhiteningSetting = Annotated[
    float | str, BeforeValidator(lambda setting: parse_whitening(setting).setting)
]
"""A setting: a strength relative to the mean eigenvalue, or ``kornia:`` and an absolute one."""
