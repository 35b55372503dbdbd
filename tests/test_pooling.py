from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F

from proxynas.nets.pooling import HalvingAvgPool, SmoothingAvgPool


@pytest.mark.parametrize("side", [(2, 2), (3, 2), (8, 8), (7, 5)])
def test_halving_is_average_pooling_with_its_first_and_second_derivatives(
    side: tuple[int, int],
) -> None:
    x = torch.randn(2, 1, *side, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(HalvingAvgPool()(x), F.avg_pool2d(x, 2))
    assert torch.autograd.gradcheck(HalvingAvgPool(), x)
    assert torch.autograd.gradgradcheck(HalvingAvgPool(), x)


@pytest.mark.parametrize("side", [(1, 1), (1, 4), (2, 2), (8, 8), (7, 5)])
def test_smoothing_is_average_pooling_with_its_first_and_second_derivatives(
    side: tuple[int, int],
) -> None:
    x = torch.randn(2, 1, *side, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(SmoothingAvgPool()(x), _smoothed(x))
    assert torch.autograd.gradcheck(SmoothingAvgPool(), x)
    assert torch.autograd.gradgradcheck(SmoothingAvgPool(), x)


def _smoothed(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


@pytest.mark.parametrize(
    ("pool", "usual"),
    [(HalvingAvgPool(), partial(F.avg_pool2d, kernel_size=2)), (SmoothingAvgPool(), _smoothed)],
)
def test_it_may_be_under_vmap(pool: nn.Module, usual: Callable[..., torch.Tensor]) -> None:
    x = torch.randn(5, 4, 3, 6, 6)
    ours = vmap(grad(lambda z: pool(z).square().sum()))(x)
    theirs = vmap(grad(lambda z: usual(z).square().sum()))(x)
    torch.testing.assert_close(ours, theirs)
