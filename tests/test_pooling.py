import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from proxynas.nets.pooling import HalvingAvgPool


@pytest.mark.parametrize("side", [(2, 2), (3, 2), (8, 8), (7, 5)])
def test_halving_is_average_pooling_with_its_first_and_second_derivatives(
    side: tuple[int, int],
) -> None:
    x = torch.randn(2, 1, *side, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(HalvingAvgPool()(x), F.avg_pool2d(x, 2))
    assert torch.autograd.gradcheck(HalvingAvgPool(), x)
    assert torch.autograd.gradgradcheck(HalvingAvgPool(), x)


def test_it_may_be_under_vmap() -> None:
    x = torch.randn(5, 4, 3, 6, 6)
    ours = vmap(grad(lambda z: HalvingAvgPool()(z).square().sum()))(x)
    theirs = vmap(grad(lambda z: F.avg_pool2d(z, 2).square().sum()))(x)
    torch.testing.assert_close(ours, theirs)
