"""``proxynas distill``, ``proxynas merge`` and ``proxynas evaluate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..core.errors import SpecError
from .options import (
    Augment,
    Clock,
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
    Steps,
    Zca,
    pairs,
)


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
    zca: Zca = None,
    method: Method = None,
    ipc: Ipc = None,
    steps: Steps = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Stop after this many seconds, over all starts; those of experts count.",
            rich_help_panel="Distillation",
        ),
    ] = None,
    clock: Clock = None,
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
    from .. import proxyset
    from ..core import hardware, settings
    from ..distill import loop
    from ..distill.spec import DistillSpec
    from .console import ConsoleWatcher
    from .console import out as console

    flags = {
        "data": data, "data_root": data_root, "download": download, "image_size": image_size, "zca": zca,
        "method": method, "ipc": ipc, "steps": steps, "seconds": seconds, "clock": clock,
        "settings": pairs(set_), "seed": seed,
        "device": None if device is None else hardware.check(device),
    }  # fmt: skip
    spec = settings.load(DistillSpec, config, flags)
    if spec.clock == "core" and spec.seconds is None:
        raise SpecError("clock = 'core' says which seconds end it, but there are none; give --seconds, or leave it out")
    watcher = ConsoleWatcher()
    dataset = spec.dataset(watcher.loading)
    watcher.ended()
    if out.is_dir():
        raise SpecError(f"--out must be a file, but {out} is a folder")
    if out.exists():
        made = proxyset.read(out)
        if made.provenance.get("spec") != loop.fingerprint(spec, dataset):
            raise SpecError(f"{out} holds another proxy set; give another --out, or remove it")
        said = f"{out} is there already, made by the same settings"
        more = "" if spec.seconds is None else "; to distil for another time remove it, or give another --out"
        console.print(said + more, markup=False, soft_wrap=True)
    else:
        checkpoint = out.with_name(out.name + ".checkpoint")
        made = loop.distill(
            spec, dataset, checkpoint=checkpoint, on_step=watcher.distilling, on_shared=watcher.preparing
        )
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


def merge(
    sets: Annotated[list[str], typer.Argument(help="Proxy-set files, or names of shipped sets; two or more.")],
    out: Annotated[Path, typer.Option(help="The proxy-set file to write (.safetensors).", rich_help_panel="Run")],
) -> None:
    """Make one proxy set of several that were distilled apart, from the same data, with seeds of their own.

    Images and labels come in the order of the files; seconds are added up, experts that all used counted once.

    [bold]Example[/]

      proxynas merge digits-0.safetensors digits-1.safetensors --out digits-both.safetensors
    """
    from .. import proxyset
    from .console import out as console

    if out.exists():
        raise SpecError(f"{out} is there already; give another --out, or remove it")
    made = proxyset.merge([proxyset.read(proxyset.locate(name)) for name in sets], sets)
    made.save(out)
    told, unit = made.provenance, "images" if made.x.ndim == 4 else "rows"
    console.print(
        f"{out}: {len(made)} {unit} of {len(told['merged'])} sets, {told['seconds']:.1f} s to distil",
        markup=False,
        soft_wrap=True,
    )


def evaluate(
    proxy: Annotated[str, typer.Argument(help="A proxy-set file, or the name of a shipped set.")],
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = None,
    image_size: ImageSize = None,
    zca: Zca = None,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="Network to train: convnet, lenet, alexnet, vgg11, resnet18, mlp, all (those six), vit, or an "
            "architecture of --space; repeatable. By default the student of Zhao 2021, for tables mlp.",
            rich_help_panel="Evaluation",
        ),
    ] = None,
    space: Space = None,
    runs: Annotated[int, typer.Option(min=1, help="Networks to train.", rich_help_panel="Evaluation")] = 5,
    updates: Annotated[
        int | None,
        typer.Option(min=1, help="Optimiser updates of each; as published by default.", rich_help_panel="Evaluation"),
    ] = None,
    protocol: Annotated[
        Literal["zhao", "loo"],
        typer.Option(help="Whose recipe: Zhao 2021's, or Loo 2023's (for rcig).", rich_help_panel="Evaluation"),
    ] = "zhao",
    augment: Augment = None,
    going_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Train past the steps that the set was distilled for by a strategy of Medvedev 2020, such as "
            "--going-on strategy=3; repeatable, with times=10 as many steps in all, decay=0.98, rate=0.3.",
            rich_help_panel="Evaluation",
        ),
    ] = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Train networks from scratch on a proxy set and print their accuracy on the real test split, mean ± sd.

    The recipe is Zhao 2021's: 300 passes over the set, with --augment 1000, of SGD 0.01, momentum 0.9, weight decay
    5e-4, a tenth of the rate from half-way on. With --protocol loo it is Loo 2023's: 1000 (ten images) or 2000 updates
    of Adam 1e-4 on squared errors, after 500 of warm-up a cosine, on the network of that paper. Where a set has
    learning rates of its own these are used; --going-on strategy=1, 2 or 3 trains for longer than it has.

    [bold]Example[/]

      proxynas evaluate digits-gm.safetensors --arch lenet --arch D2-W128-relu-instancenorm-avgpooling
    """
    from ..compare import evaluation
    from ..core import hardware, settings
    from ..datasets.spec import DataSpec
    from ..training.curriculum import GoingOn
    from .console import Bar, ConsoleWatcher
    from .console import out as console

    further = pairs(going_on, "--going-on")
    flags = {"data": data, "data_root": data_root, "download": download, "image_size": image_size, "zca": zca}
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
            protocol=protocol,
            going_on=None if further is None else settings.make(GoingOn, further, where="--going-on"),
            on_done=bar.update,
        )
    for row in found:
        table.add_row(row.arch, f"{100 * row.mean:.1f}", f"{100 * row.sd:.1f}", str(row.runs))
    console.print(table)
