"""Average pooling, written so that it is fast on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HalvingAvgPool(nn.Module):
    """Means of 2×2 squares: (…, H, W) to (…, H // 2, W // 2), as ``nn.AvgPool2d(2)``.

    PyTorch's own goes from value to value on a CPU. Sums of slices are faster (``make bench``) and
    differ from it by rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The means; an odd row or column at the end is left out."""
        if x.device.type != "cpu":
            return F.avg_pool2d(x, 2)
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        even = x[..., : 2 * height, : 2 * width]
        upper, lower = torch.unflatten(even, -2, (height, 2)).unbind(-2)
        left, right = torch.unflatten(upper + lower, -1, (width, 2)).unbind(-1)
        return (left + right) * 0.25


class SmoothingAvgPool(nn.Module):
    """Means of the 3×3 squares around every value, without what is outside: (…, H, W) to the same,
    as ``nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)``.

    On a CPU sums of slices again (``make bench``).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        if x.device.type != "cpu":
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        padded = F.pad(x, (1, 1, 1, 1))
        rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
        sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        height, width = (_neighbours(side, x) for side in x.shape[-2:])
        return sums / (height[:, None] * width)


def _neighbours(side: int, like: Tensor) -> Tensor:
    """How many of a value, the one before and the one after there are, (side,): 2 at the ends."""
    count = torch.full((side,), 3, dtype=like.dtype, device=like.device)
    count[0] -= 1
    count[-1] -= 1
    return count
