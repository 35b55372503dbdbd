"""proxynas: rank neural architectures on a distilled proxy set, and say how far the ranking can be
trusted.

>>> import proxynas as pn
>>> data = pn.load_data("digits")
>>> proxy = pn.make_proxy(data, "random", ipc=1)  # or "gm", "rcig", …: see `proxynas list`
>>> evaluator = pn.Evaluator(proxy, data)
>>> space = pn.load_space("convnet-grid")
>>> net = space.build("D1-W32-relu-none-avgpooling", data.shape, data.num_classes)
>>> 0 < evaluator.evaluate(net)["val_accuracy"] < 1  # any torch.nn.Module
True

What is not named in ``__all__`` is private, the plug-ins ``proxynas.optuna`` and ``proxynas.tune``
excepted.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Evaluation,
        Evaluator,
        ProxynasError,
        Recipe,
        SearchSpec,
        load_data,
        load_space,
        load_truth,
        make_proxy,
        rank_networks,
        read_proxy,
        run_search,
        write_report,
    )

__version__ = "0.1.0"

__all__ = [
    "Evaluation",
    "Evaluator",
    "ProxynasError",
    "Recipe",
    "SearchSpec",
    "__version__",
    "load_data",
    "load_space",
    "load_truth",
    "make_proxy",
    "rank_networks",
    "read_proxy",
    "run_search",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """What is in ``__all__``, imported when it is first used: the command line needs no PyTorch to
    print its help."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(".api", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
