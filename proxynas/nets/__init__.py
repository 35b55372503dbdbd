"""Networks, one file each.

A factory is ``make(shape, classes, *, ...) -> nn.Module`` with ``shape`` as (C, H, W). Each axis
of a search space is a keyword of its factory, however many there are.

    >>> import torch
    >>> from proxynas.nets import convnet
    >>> net = convnet.make((3, 32, 32), 10, depth=2, width=16, norm="batchnorm")
    >>> net(torch.zeros(4, 3, 32, 32)).shape
    torch.Size([4, 10])
"""
