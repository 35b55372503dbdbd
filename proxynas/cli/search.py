"""``proxynas search`` and ``proxynas report``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Combine,
    Config,
    Data,
    DataRoot,
    Device,
    Download,
    ImageSize,
    Ipc,
    Method,
    Seed,
    Set,
    Space,
    SpaceSet,
    Steps,
    Table,
    Workers,
    Zca,
    ZeroCostSet,
    named,
    pairs,
)


def search(
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    zca: Zca = None,
    space: Space = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="How many networks to sample, 60 by default; as many as the space has: all of it.",
            rich_help_panel="Search",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Training runs per candidate and source; 2 by default.", rich_help_panel="Search")
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(help="Optimiser updates of each training run; 100 by default.", rich_help_panel="Search"),
    ] = None,
    indicator: Annotated[
        str | None,
        typer.Option(
            help="What picks the best network: val_accuracy, val_loss, val_auc, sotl, sotl_late, synflow, naswot, "
            "jacob_cov, snip, grad_norm, vote, parameters, flops, or several joined by + (mean rank); "
            "auto takes what experiments/ found best.",
            rich_help_panel="Search",
        ),
    ] = None,
    distinct: Annotated[
        bool | None,
        typer.Option("--distinct", help="Sample no two isomorphic networks.", rich_help_panel="Search"),
    ] = None,
    combine: Combine = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="random, early-stopping or zero-cost: compare with these only (all by default); repeatable.",
            rich_help_panel="Search",
        ),
    ] = None,
    space_set: SpaceSet = None,
    zero_cost_set: ZeroCostSet = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images an update, at most; 256 by default.", rich_help_panel="Search")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of candidates; 0.01 by default.", rich_help_panel="Search")
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="How candidates are trained, such as --train schedule=cosine; repeatable.",
            rich_help_panel="Search",
        ),
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(help="Validation images that score a run; 1,000 by default.", rich_help_panel="Search")
    ] = None,
    val_points: Annotated[
        int | None,
        typer.Option(help="Validations during each run; 2 or more give val_auc.", rich_help_panel="Search"),
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="Real training images that batch norms see before scoring; 256 by default, 0: none.",
            rich_help_panel="Search",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            help="A truth table (CSV), none, or auto (default): the one that ships or is installed.",
            rich_help_panel="Search",
        ),
    ] = None,
    truth_data: Annotated[
        str | None,
        typer.Option(
            help="The truth's own name for the data, as in --data ./my-cifar --truth-data cifar10.",
            rich_help_panel="Search",
        ),
    ] = None,
    table: Table = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="Use this proxy set (a file, or the name of a shipped one) instead of distilling.",
            rich_help_panel="Distillation",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A further proxy set to compare in the same run; repeatable.", rich_help_panel="Search"),
    ] = None,
    method: Method = None,
    ipc: Ipc = None,
    steps: Steps = None,
    set_: Set = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Wall time to plan for, such as 90s, 10m or 1h: chooses what you leave out and says why.",
            rich_help_panel="Run",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; by default runs/<data>-<space>-<proxy>-<digits>.", rich_help_panel="Run"),
    ] = None,
    config: Config = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Distil a proxy set, train candidates on it, rank them, and report how far to trust the ranking.

    The same command again goes on where it stopped and redoes nothing.

    [bold]Examples[/]

      proxynas search

      proxynas search --data fashion-mnist --candidates 40 --budget 10m

      proxynas search --data ./my-images --space ./my-space.toml --ipc 10 --out runs/mine
    """
    from ..core import settings
    from ..pipeline import flow, planning
    from ..pipeline.spec import SearchSpec
    from ..report.tables import ledger_table, ranking_table
    from .console import ConsoleWatcher
    from .console import out as console

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "zca": zca,
        "space": space,
        "candidates": candidates, "seeds": seeds, "updates": updates, "indicator": indicator, "truth": truth,
        "proxy": proxy, "method": method, "ipc": ipc, "steps": steps, "settings": pairs(set_), "seed": seed,
        "device": device, "combine": combine, "baselines": baseline, "batch_size": batch_size, "lr": lr,
        "training": pairs(train, "--train"), "space_settings": pairs(space_set, "--space-set"), "also": also,
        "val_size": val_size, "val_points": val_points, "calibrate": calibrate, "truth_data": truth_data,
        "distinct": distinct, "tables": named(table),
        "zero_cost_settings": pairs(zero_cost_set, "--zero-cost-set"),
    }  # fmt: skip
    watcher = ConsoleWatcher()
    if budget is None:
        spec = settings.load(SearchSpec, config, flags)
        folder = out or flow.default_folder(spec)
    else:
        planned = planning.plan(budget, config, flags, out, workers=workers, watcher=watcher)
        spec, folder = planned.spec, planned.folder
        for reason in planned.reasons:
            console.print(f"  {reason}", markup=False)
    result = flow.search(spec, folder, workers=workers, watcher=watcher)
    console.print()
    console.print(ranking_table(result.ranking, result.headline, everything=False))
    console.print(f"all rows: proxynas report {folder} --all", markup=False, soft_wrap=True)
    console.print()
    console.print(ledger_table(result.ledger))
    console.print()
    for sentence in result.verdict.sentences:
        console.print(sentence, markup=False)
    console.print(f"\nreport: {result.report}", markup=False, soft_wrap=True)


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder of 'proxynas search'.")],
    truth: Annotated[str | None, typer.Option(help="Another truth table: a CSV, auto or none.")] = None,
    indicator: Annotated[str | None, typer.Option(help="Another indicator to pick the best network by.")] = None,
    combine: Combine = None,
    table: Table = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Print every row of the ranking, not only the main ones.")
    ] = False,
) -> None:
    """Write a run's report anew from what is stored, without training anything.

    [bold]Example[/]

      proxynas report runs/digits-convnet-grid-gm-ipc1-0123ab --indicator sotl
    """
    from ..pipeline import flow
    from ..report.tables import ranking_table
    from .console import out as console

    result = flow.rewrite(folder, truth_table=truth, indicator=indicator, combine=combine or (), tables=named(table))
    console.print(ranking_table(result.ranking, result.headline, everything=all_))
    if not all_:
        console.print(f"all rows: proxynas report {folder} --all", markup=False, soft_wrap=True)
    console.print(f"\nreport: {result.report}", markup=False, soft_wrap=True)
