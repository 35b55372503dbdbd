"""The command line: parse, call the library, print. No logic of its own."""

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from .. import __version__
from ..core.allocator import keep_freed_memory
from ..core.errors import STOPPED, ProxynasError, SpecError, out_of_memory
from ..core.settings import one_line
from ..core.text import cut, visible
from . import compare, distill, search, truth

# OpenMP threads that wait for each other spin, and starve each other where something else computes
# too. They spin less here; on an idle machine that can cost some time. PyTorch reads it when it is
# imported, which only the commands do.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = typer.Typer(
    name="proxynas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Rank neural architectures on a distilled proxy set, and say how far to trust the ranking."
    "\n\n"
    "Start with [bold]proxynas search[/]: in a few minutes it distils the 8×8 digits into ten "
    "images, trains fifty ConvNets on them, trains the best on the whole data and writes a report "
    "that compares the ranking with measured ground truth.",
)


def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"proxynas {__version__}")
        raise typer.Exit


def list_() -> None:
    """List the datasets, search spaces, truth tables, methods and proxy sets that are here."""
    from . import listing
    from .console import out as console

    for table in listing.tables():
        console.print(table)
        console.print()


app.callback(invoke_without_command=True)(_version)
app.command()(search.search)
app.command()(distill.distill)
app.command()(distill.merge)
app.command()(distill.evaluate)
app.command()(compare.compare)
measured = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
measured.callback()(truth.truth)
measured.command("import")(truth.truth_import)
app.add_typer(measured, name="truth")
app.command()(search.report)
app.command("list")(list_)


def main() -> None:
    """The ``proxynas`` command. Exit code 2 and one line for what a user can fix, 130 for
    Ctrl-C."""
    keep_freed_memory()
    try:
        _check_arguments(sys.argv[1:])
        status = app(standalone_mode=False) or 0
    except ProxynasError as error:
        _fail(str(error))
        status = 2
    except USAGE_ERROR as error:
        _fail(f"{error.format_message()}; see --help")  # type: ignore[attr-defined]  # see USAGE_ERROR
        status = 2
    except KeyboardInterrupt:  # most are the parser's; this one came while it was leaving
        status = 130
    except BrokenPipeError:
        _drop_output()
        status = 1
    except (OSError, MemoryError, RecursionError, ValidationError, RuntimeError) as error:
        message = explained(error)
        if message is None:
            raise
        _fail(message)
        status = 2
    status = _flushed(status)
    with suppress(ValueError):  # the main thread alone may do that
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is leaving
    if status == 130:
        _fail(STOPPED, label="")
    sys.exit(status)


def _check_arguments(arguments: list[str]) -> None:
    """Refuse an empty argument, which is a variable of a script that was not set: an empty path
    would be this directory.

    Raises:
        SpecError: names the flag.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, equals, value = argument.partition("=")
        if not (argument and (value or not equals or not flag.startswith("--"))):
            flag = flag or before
            if flag not in MAY_BE_EMPTY:
                raise SpecError(f"an argument is empty, after {flag or 'proxynas'!r}; leave it out")


MAY_BE_EMPTY = ("--augment",)
"""Flags of which the empty text means none."""


def explained(error: BaseException) -> str | None:
    """What the machine refused, in one line; ``None`` for an error of ours.

    Every stage names what it knows best; this is for whatever else a file system, the memory or a
    setting can refuse.
    """
    if out_of_memory(error):
        return "there is not enough memory; ask for less at a time, or for fewer --workers"
    if isinstance(error, RecursionError):
        return "something given is nested too deep; make it flatter"
    if isinstance(error, ValidationError):
        return one_line(error)
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename is not None else " a file"
        return f"cannot use{where}: {error.strerror or error}; give another place, or make room"
    return None


def _flushed(status: int) -> int:
    """The exit status, once all that was printed has left; 2 where it could not."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        if status != 2:  # else one line has said what is wrong
            _fail(f"cannot write the standard output: {error.strerror}")
        return 2
    return status


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that Python does not try again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""What the parser raises for an unknown flag, command or a value of the wrong type."""


def _fail(message: str, label: str = "error: ") -> None:
    from .console import err

    line = cut(visible(" ".join(message.split())), LONGEST)
    with suppress(OSError):  # nobody listens
        err.print(Text.assemble((label, "bold red"), line))


LONGEST = 380
"""Characters of an error, which stays one line that can be read."""
