"""Training, the same for every network and dataset: recipes, fused replicas, curricula.

>>> from proxynas import datasets
>>> from proxynas.core import seeds
>>> from proxynas.nets import convnet
>>> digits = datasets.load("digits")
>>> with seeds.seeded(0):
...     net = convnet.make(digits.shape, digits.num_classes, depth=1, width=8)
>>> trained = fit([net], digits.train.x, digits.train.y, Recipe(updates=3, batch_size=64))
>>> trained.losses.shape  # a row per replica, a column per update
torch.Size([1, 3])
>>> accuracy, loss = evaluate(net, digits.val.x, digits.val.y)
>>> 0 <= accuracy <= 1 and loss > 0
True
"""

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
