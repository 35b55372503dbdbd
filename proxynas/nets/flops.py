"""What a forward pass costs, counted operation by operation, and how much it holds at once."""

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


def largest_activation(net: nn.Module, x: Tensor) -> int:
    """Values in the largest output of any module of ``net`` for one of the inputs ``x`` (N, …)."""
    sizes = [x[:1].numel()]
    hooks = [
        module.register_forward_hook(lambda _, __, y: sizes.append(y.numel()))
        for module in net.modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            net(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)
