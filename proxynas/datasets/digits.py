"""The embedded default: scikit-learn's 8×8 digits, 1,797 real images in 16 levels of grey.

scikit-learn is imported when they are read: it takes a second or two, which workers do not need.
"""

import torch

from .base import Images, Stored
from .split import stratified

TEST_IMAGES = 500
VAL_IMAGES = 297  # which leaves 1,000 to train on
LEVELS = 16


def read(val_fraction: float | None) -> Stored:
    """Read the digits: (N, 1, 8, 8), 500 images to test, 297 (or `val_fraction` of the rest) to
    validate."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    images = Images(x, torch.from_numpy(bunch.target).long())
    rest, test = stratified(images.y, TEST_IMAGES)
    trainable = images[rest]
    n = VAL_IMAGES if val_fraction is None else round(val_fraction * len(trainable))
    train, val = stratified(trainable.y, n)
    names = tuple(str(digit) for digit in range(10))
    return Stored("digits", trainable[train], trainable[val], images[test], names, LEVELS)
