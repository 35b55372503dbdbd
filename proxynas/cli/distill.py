"""``proxynas distill``, ``proxynas merge`` and ``proxynas evaluate``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..core.errors import SpecError
from ..specs import DataSpec, DistillSpec, EvaluationSpec
from ..specs.option import RUN
from .options import Config, Given, takes

if TYPE_CHECKING:
    from ..proxyset import ProxySet


@takes(DistillSpec)
def distill(
    given: Given,
    out: Annotated[
        Path,
        typer.Option(
            help="The proxy-set file to write (.safetensors); "
            "while it runs, the checkpoint lies beside it.",
            rich_help_panel=RUN,
        ),
    ],
    config: Config = None,
) -> None:
    """Make a proxy set and write it to a file.

    Ctrl-C keeps a checkpoint. Rerunning the same command resumes from it, and ends at the set that
    an uninterrupted run gives.

    [bold]Example[/]

      proxynas distill --data digits --method gm --ipc 1 --set init=real --out digits-gm.safetensors

      proxynas distill --method unroll --set synthetic=gtn-lrn --out digits-gtn.safetensors
    """
    from ..core import settings

    spec = settings.load(DistillSpec, config, given)  # before PyTorch, which takes seconds
    from .. import datasets
    from ..core import hardware
    from ..distill.reuse import Destination, reuse_or_distill
    from .console import ConsoleWatcher
    from .console import out as console

    spec = replace(spec, device=hardware.check(spec.device))
    if spec.clock == "core" and spec.seconds is None:
        raise SpecError(
            "clock = 'core' says which seconds end it, but there are none; "
            "give --seconds, or leave it out"
        )
    watcher = ConsoleWatcher()
    dataset = datasets.load_for(spec, watcher.loading)
    watcher.ended()
    if out.is_dir():
        raise SpecError(f"--out must be a file, but {out} is a directory")
    existed, at = out.exists(), Destination(out, out.with_name(out.name + ".checkpoint"))
    proxy = reuse_or_distill(at, spec, dataset, watcher=watcher)
    watcher.ended()
    if existed:
        hint = "; to distil for another time remove it, or give another --out"
        console.print(
            f"{out} exists already, made with the same settings"
            + (hint if spec.seconds is not None else ""),
            markup=False,
            soft_wrap=True,
        )
    elif at.checkpoint is not None:
        at.checkpoint.unlink(missing_ok=True)
    console.print(f"{out}: {_summary(proxy)}", markup=False, soft_wrap=True)


def _summary(proxy: "ProxySet") -> str:
    """Size, method, cost and losses of a set, in one line."""
    about = proxy.provenance
    losses = about["losses"]
    return (
        f"{len(proxy)} {_unit(proxy)} ({about['method']}, {about['ipc']} per class, "
        f"{about['steps']} steps), {about['seconds']:.1f} s, peak {about['peak_mib']:.0f} MiB"
        + (f", loss {losses[0]:.4g} → {losses[-1]:.4g}" if losses else "")
    )


def _unit(proxy: "ProxySet") -> str:
    return "images" if proxy.is_images else "rows"


def merge(
    sets: Annotated[
        list[str], typer.Argument(help="Proxy-set files, or names of shipped sets; two or more.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The proxy-set file to write (.safetensors).", rich_help_panel=RUN),
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
        raise SpecError(f"{out} exists already; give another --out, or remove it")
    merged = proxyset.merge([proxyset.read(name) for name in sets], sets)
    merged.save(out)
    about = merged.provenance
    console.print(
        f"{out}: {len(merged)} {_unit(merged)} of {len(about['merged'])} sets, "
        f"{about['seconds']:.1f} s to distil",
        markup=False,
        soft_wrap=True,
    )


@takes(DataSpec, EvaluationSpec)
def evaluate(
    given: Given,
    proxy: Annotated[str, typer.Argument(help="A proxy-set file, or the name of a shipped set.")],
) -> None:
    """Train networks on a proxy set and print their accuracy on the real test split, mean ± sd.

    The recipe is Zhao 2021's: 300 passes over the set (1000 with --augment) of SGD with momentum
    0.9, weight decay 5e-4, a tenth of the rate from half-way on. Rate and loss are the set's: 0.01
    and cross-entropy, or those that its soft labels are for. With --protocol loo2023 it is Loo
    2023's: 1000 (ten images) or 2000 updates of Adam 1e-4 on squared errors, a cosine after 500 of
    warm-up, on the network of that paper. Learning rates that a set has learned replace the
    recipe's; --extend strategy=1, 2 or 3 trains for longer than it has steps.

    [bold]Example[/]

      proxynas evaluate digits-gm.safetensors --arch lenet --arch mlp
    """
    from .. import datasets, spaces
    from ..compare import evaluation
    from ..core import hardware, settings
    from .console import Bar, ConsoleWatcher
    from .console import out as console

    data = settings.make(DataSpec, settings.known(DataSpec, given))
    data = replace(data, device=hardware.check(data.device))
    spec = settings.make(EvaluationSpec, settings.known(EvaluationSpec, given))
    watcher = ConsoleWatcher()
    for line in spaces.notice(spec.space):
        watcher.say(line)
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
