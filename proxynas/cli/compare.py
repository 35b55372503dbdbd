"""``proxynas compare``."""

from pathlib import Path
from typing import Annotated

import typer

from ..specs import CompareSpec, EngineSpec
from ..specs.option import RUN
from .options import Given, Workers, take_engine, takes


# reason: its docstring is what --help shows, an example file among it
@takes(CompareSpec, EngineSpec)
def compare(
    given: Given,
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            "-c",
            help="The TOML file of the table: what its rows have in common, then its rows. Flags "
            "win over what they have in common.",
            rich_help_panel=RUN,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory. Default: runs/compare-<name of the file>.", rich_help_panel=RUN
        ),
    ] = None,
    workers: Workers = None,
) -> None:
    """Make a table of accuracies: distil every row several times and train networks on every set.

    Rerunning resumes. The run directory gets table.md, and table.json with seconds, memory and
    accuracy on the way.

    [bold]Example[/]

      proxynas compare -c table.toml --workers 2

    with table.toml:

      data = "digits"
      seconds = 30
      distillations = 3
      archs = \\["D2-W32-relu-instancenorm-avgpooling", "mlp"]

      \\[\\[rows]]
      name = "random images"
      method = "random"

      \\[\\[rows]]
      name = "GM, pixels"
      method = "gm"
      settings = { init = "real" }
      paper = { mlp = "what was published" }

    Above the rows also: method, ipc, steps, settings (by method), archs, updates, batch_size,
    protocol, augment, points; in a row these but points, and seconds, labels, extend, paper.
    """
    from ..core import settings

    make_engine = take_engine(given)
    spec = settings.load(CompareSpec, config, given)  # before PyTorch, which takes seconds
    from ..compare import compare as make
    from .console import ConsoleWatcher
    from .console import out as console

    engine = make_engine()
    folder = out or Path("runs") / f"compare-{config.stem}"
    table = make(spec, folder, workers=workers, engine=engine, watcher=ConsoleWatcher())
    console.print()
    console.print(table.rich())
    for note in table.notes():
        console.print(note, markup=False)
    console.print(f"\ntable: {folder / 'table.md'}", markup=False, soft_wrap=True)
