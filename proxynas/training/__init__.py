"""The one way in which networks are trained, whatever on: a recipe, fused replicas, and
curricula."""

from ..specs import Loss, Recipe
from .curriculum import Curriculum
from .fitting import (
    FUSION_LIMIT,
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
