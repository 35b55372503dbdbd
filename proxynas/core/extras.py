"""Packages that only some of proxynas needs: its extras."""

import importlib
from typing import Any

from .errors import SpecError


def need(module: str, what: str, extra: str) -> Any:
    """The module, imported.

    Args:
        module: its name, such as ``optuna.samplers``.
        what: what needs it, at the beginning of a sentence.
        extra: the extra of proxynas that installs it.

    Raises:
        SpecError: it is not installed; says the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = "is not installed" if getattr(error, "name", None) == package else "is incomplete"
        raise SpecError(
            f"{what} takes the package {package}, which {missing}: pip install 'proxynas[{extra}]'"
        ) from None
