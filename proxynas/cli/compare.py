"""``proxynas compare``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Clock, Data, DataRoot, Device, Download, ImageSize, Seed, Workers, Zca


def compare(
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            "-c",
            help="The TOML file of the table: what its rows have in common, then its rows; flags win over the former.",
            rich_help_panel="Run",
        ),
    ],
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    zca: Zca = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Limit of each distillation; rows with their own keep it.", rich_help_panel="Comparison"),
    ] = None,
    clock: Clock = None,
    distillations: Annotated[
        int | None, typer.Option(help="Sets a row; 3 by default.", rich_help_panel="Comparison")
    ] = None,
    students: Annotated[
        int | None,
        typer.Option(help="Networks an architecture and set; 5 by default.", rich_help_panel="Comparison"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; by default runs/compare-<name of the file>.", rich_help_panel="Run"),
    ] = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Make a table of accuracies: distil every row several times, train networks on every set, mean ± sd.

    The same command again goes on where it stopped and redoes nothing. The folder has table.md, and table.json with
    seconds, memory and accuracy on the way.

    [bold]Example[/]

      proxynas compare -c table.toml --workers 2

    with table.toml, whose further keys are those of 'proxynas distill' and 'proxynas evaluate':

      data = "digits"
      seconds = 30
      distillations = 3
      students = 5
      archs = \\["D2-W32-relu-instancenorm-avgpooling", "mlp"]

      \\[settings.gm]
      real_batch = 64

      \\[\\[rows]]
      name = "random images"
      method = "random"

      \\[\\[rows]]
      name = "GM, pixels"
      method = "gm"
      settings = { init = "real" }
      paper = { mlp = "what was published" }
    """
    from ..compare import compare as make
    from ..compare.spec import CompareSpec
    from ..core import settings
    from .console import ConsoleWatcher
    from .console import out as console

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "zca": zca,
        "seconds": seconds, "clock": clock, "distillations": distillations, "students": students, "seed": seed,
        "device": device,
    }  # fmt: skip
    spec = settings.load(CompareSpec, config, flags)
    folder = out or Path("runs") / f"compare-{config.stem}"
    table = make(spec, folder, workers=workers, watcher=ConsoleWatcher())
    console.print()
    console.print(table.rich())
    for note in table.notes():
        console.print(note, markup=False)
    console.print(f"\ntable: {folder / 'table.md'}", markup=False, soft_wrap=True)
