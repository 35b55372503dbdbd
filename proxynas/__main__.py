"""The ``proxynas`` command, and ``python -m proxynas``.

Ctrl-C is answered from the first moment on, while PyTorch is still being imported.
"""

import os
import signal
import sys
from types import FrameType

from .core.errors import STOPPED

leave = os._exit  # which foreign code that runs has not replaced


def main() -> None:
    """Run the command; see :func:`proxynas.cli.main`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    signal.signal(signal.SIGINT, interrupt)
    from .cli import main as run

    run()


def interrupt(number: int, frame: FrameType | None) -> None:
    """Leave at once while a module is being imported, of which half is no use; else as usual.

    Raises:
        KeyboardInterrupt: nothing is being imported.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, f"{STOPPED}\n".encode())
            leave(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
