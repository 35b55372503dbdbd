"""``proxynas search`` and ``proxynas report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..specs import EngineSpec, SearchSpec
from ..specs.option import RUN
from .options import Config, Given, Workers, pairs, take_engine, takes

if TYPE_CHECKING:
    from ..pipeline.reporting import Result


@takes(SearchSpec, EngineSpec)
def search(
    given: Given,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Wall-clock time to plan for, such as 90s, 10m or 1h. It chooses what you leave "
            "out, and prints why.",
            rich_help_panel=RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory. Default: runs/<data>-<space>-<proxy>-<digits>; with --budget "
            "runs/<data>-<space>-budget-<budget>.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Config = None,
    workers: Workers = None,
) -> None:
    """Distil a proxy set, train candidates on it, rank them, and report how far to trust the
    ranking.

    Rerunning the same command resumes: nothing that is done is done again.

    [bold]Examples[/]

      proxynas search

      proxynas search --data fashion-mnist --download --candidates 40 --budget 10m

      proxynas search --data ./my-images --space ./my-space.toml --ipc 10 --out runs/mine

      proxynas search --space chain --strategy tpe --candidates 200 --constraint 'parameters<5e4'

      proxynas search --space chain --strategy nsga2 --objective indicator --objective flops
    """
    from ..core import settings

    make_engine = take_engine(given)
    spec = settings.load(SearchSpec, config, given)  # before PyTorch, which takes seconds to import
    from ..api import run_search
    from ..pipeline import flow, planning
    from .console import ConsoleWatcher
    from .console import out as console

    watcher, engine = ConsoleWatcher(), make_engine()
    if budget is None:
        folder = out or flow.default_folder(spec)
    else:
        planned = planning.plan(
            budget, config, given, out, workers=workers, engine=engine, watcher=watcher
        )
        spec, folder = planned.spec, planned.folder
        for reason in planned.reasons:
            console.print(f"  {reason}", markup=False)
    result = run_search(spec, folder, workers=workers, engine=engine, watcher=watcher)
    show(result, folder, everything=False)


def show(result: "Result", folder: Path, *, everything: bool) -> None:
    """Print a search's result: the ranking, its cost, the winner and what to do next."""
    from ..report.tables import ledger_table, pareto_table, ranking_table
    from .console import out as console

    console.print()
    console.print(ranking_table(result.ranking, result.headline, everything=everything))
    console.print()
    if result.pareto is not None:
        console.print(pareto_table(result.pareto, result.headline))
        console.print()
    console.print(ledger_table(result.ledger))
    console.print()
    for sentence in result.summary:
        console.print(sentence, markup=False, style="bold")
    for sentence in result.verdict.sentences if everything else ():
        console.print(sentence, markup=False)
    console.print(result.next_step.text, markup=False)
    if result.next_step.command:
        console.print(f"  {result.next_step.command}", markup=False, soft_wrap=True)
    if not everything:
        console.print(
            f"\nall rows and the whole verdict: proxynas report {folder} --all",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"report: {result.report}", markup=False, soft_wrap=True)


def report(
    folder: Annotated[Path, typer.Argument(help="A run directory of 'proxynas search'.")],
    truth: Annotated[
        str | None, typer.Option(help="Another truth table: a CSV, auto or none.")
    ] = None,
    indicator: Annotated[
        str | None, typer.Option(help="Another indicator to pick the best network by.")
    ] = None,
    combine: Annotated[
        list[str] | None,
        typer.Option(metavar="A+B", help="Rank by the mean rank of these as well. Repeatable."),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Rank accuracies measured elsewhere as well. Repeatable."
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Print every row of the ranking, not only the main ones.")
    ] = False,
) -> None:
    """Write a run's report again from what is stored, without training anything.

    [bold]Example[/]

      proxynas report runs/digits-convnet-grid-gm-ipc1-0123ab --indicator sotl
    """
    from ..api import write_report

    tables = {name: str(path) for name, path in pairs(table or [], "--table").items()}
    result = write_report(
        folder, truth=truth, indicator=indicator, combine=combine or (), tables=tables
    )
    show(result, folder, everything=all_)
