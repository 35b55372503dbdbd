"""The one way in which networks are trained, whatever on: a recipe, fused replicas, and curricula."""

from .curriculum import Curriculum, GoingOn
from .fit import (
    FUSION_LIMIT,
    Loss,
    Recipe,
    Trained,
    batches,
    calibrate,
    evaluate,
    fit,
    fusion_pays,
    loss_of,
    make_optimizer,
    rate_at,
)

__all__ = [
    "FUSION_LIMIT",
    "Curriculum",
    "GoingOn",
    "Loss",
    "Recipe",
    "Trained",
    "batches",
    "calibrate",
    "evaluate",
    "fit",
    "fusion_pays",
    "loss_of",
    "make_optimizer",
    "rate_at",
]
