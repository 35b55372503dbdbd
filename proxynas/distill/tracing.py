"""A function as the list of its tensor operations, recorded once.

Tiny networks spend their time in Python, and under ``torch.func.vmap`` most of it goes into
translating each operation into its stacked form, again at every call. :func:`record` translates
once. It is for functions whose operations do not depend on values, of inputs that keep their
shapes, and that change nothing in place.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import Node
from torch.ops import aten  # type: ignore[import-not-found]  # made at run time

Function = Callable[..., Tensor]

_SHAPES = (aten.view.default, aten._unsafe_view.default, aten.expand.default)


def record(function: Function, example: Sequence[Tensor]) -> Function:
    """The operations of ``function`` on tensors of the shapes and types of ``example``, to be
    called with such."""
    recorded = make_fx(function)(*example)
    for node in list(recorded.graph.nodes):
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    run: Function = recorded.forward
    return run


def _does_nothing(node: Node) -> bool:
    """Whether what comes out is what goes in: a view of its own shape, a product with one."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]
    if node.target in _SHAPES:
        return bool(before.shape == after.shape)
    return bool(
        node.target is aten.mul.Scalar and node.args[1] == 1 and before.dtype == after.dtype
    )
