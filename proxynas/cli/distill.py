"""``proxynas distill``, ``proxynas merge`` and ``proxynas evaluate``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..core.errors import SpecError
from ..specs import DataSpec, DistillSpec, EvaluationSpec
from .options import Config, Given, takes


@takes(DistillSpec)
def distill(
    given: Given,
    out: Annotated[
        Path,
        typer.Option(
            help="The proxy-set file to write (.safetensors); beside it lies the checkpoint while it runs.",
            rich_help_panel="Run",
        ),
    ],
    config: Config = None,
) -> None:
    """Make a proxy set and write it to a file.

    Ctrl-C keeps a checkpoint; the same command goes on from it, and ends at the set that an
    uninterrupted run gives.

    [bold]Example[/]

      proxynas distill --data digits --method gm --ipc 1 --set init=real --out digits-gm.safetensors

      proxynas distill --data digits --method unroll --set synthetic=gtn-lrn --out
      digits-gtn.safetensors
    """
    from .. import datasets, proxyset
    from ..core import hardware, settings
    from ..distill import loop
    from .console import ConsoleWatcher
    from .console import out as console

    spec = settings.load(DistillSpec, config, given)
    spec = replace(spec, device=hardware.check(spec.device))
    if spec.clock == "core" and spec.seconds is None:
        raise SpecError(
            "clock = 'core' says which seconds end it, but there are none; give --seconds, or leave it out"
        )
    watcher = ConsoleWatcher()
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    if out.is_dir():
        raise SpecError(f"--out must be a file, but {out} is a folder")
    if out.exists():
        made = proxyset.read(out)
        if made.provenance.get("spec") != loop.fingerprint(spec, dataset):
            raise SpecError(f"{out} holds another proxy set; give another --out, or remove it")
        said = f"{out} is there already, made by the same settings"
        more = (
            ""
            if spec.seconds is None
            else "; to distil for another time remove it, or give another --out"
        )
        console.print(said + more, markup=False, soft_wrap=True)
    else:
        checkpoint = out.with_name(out.name + ".checkpoint")
        made = loop.distill(
            spec,
            dataset,
            checkpoint=checkpoint,
            on_step=watcher.distilling,
            on_shared=watcher.preparing,
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
    sets: Annotated[
        list[str], typer.Argument(help="Proxy-set files, or names of shipped sets; two or more.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The proxy-set file to write (.safetensors).", rich_help_panel="Run"),
    ],
) -> None:
    """Make one proxy set of several that were distilled apart, from the same data, with seeds of
    their own.

    Images and labels come in the order of the files; seconds are added up, experts that all used
    counted once.

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


@takes(DataSpec, EvaluationSpec)
def evaluate(
    given: Given,
    proxy: Annotated[str, typer.Argument(help="A proxy-set file, or the name of a shipped set.")],
) -> None:
    """Train networks from scratch on a proxy set and print their accuracy on the real test split,
    mean ± sd.

    The recipe is Zhao 2021's: 300 passes over the set, with --augment 1000, of SGD 0.01, momentum
    0.9, weight decay 5e-4, a tenth of the rate from half-way on. With --protocol loo2023 it is Loo
    2023's: 1000 (ten images) or 2000 updates of Adam 1e-4 on squared errors, after 500 of warm-up a
    cosine, on the network of that paper. Where a set has learning rates of its own these are used;
    --extend strategy=1, 2 or 3 trains for longer than it has.

    [bold]Example[/]

      proxynas evaluate digits-gm.safetensors --arch lenet --arch
      D2-W128-relu-instancenorm-avgpooling
    """
    from .. import datasets
    from ..compare import evaluation
    from ..core import hardware, settings
    from .console import Bar, ConsoleWatcher
    from .console import out as console

    data = settings.make(DataSpec, settings.known(DataSpec, given))
    data = replace(data, device=hardware.check(data.device))
    spec = settings.make(EvaluationSpec, settings.known(EvaluationSpec, given))
    watcher = ConsoleWatcher()
    dataset = datasets.load_for(data, watcher.loading)
    watcher.ended()
    table = Table(
        "architecture",
        "test accuracy %",
        "sd",
        "networks",
        title=f"{proxy} → {dataset.name}",
        box=SIMPLE_HEAD,
    )
    with Bar("training") as bar:
        rows = evaluation.evaluate(proxy, dataset, spec, on_done=bar.update)
    for row in rows:
        table.add_row(row.arch, f"{100 * row.mean:.1f}", f"{100 * row.sd:.1f}", str(row.runs))
    console.print(table)
