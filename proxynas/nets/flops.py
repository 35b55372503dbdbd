"""What a forward pass costs, counted operation by operation."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(net: nn.Module, x: Tensor) -> int:
    """FLOPs of a forward pass on ``x`` in evaluation mode; a multiply-add counts as two."""
    modes = [(module, module.training) for module in net.modules()]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net.eval()(x)
    for module, training in modes:  # one by one: a frozen batch norm stays frozen
        module.training = training
    return counter.get_total_flops()
