"""Networks, one file each. A factory is ``make(shape, classes, *, ...) -> nn.Module`` with
``shape`` as (C, H, W)."""
