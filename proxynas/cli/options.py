"""Flags that several commands share."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..core.errors import SpecError

Data = Annotated[
    str | None,
    typer.Option(
        help="digits (default), mnist, fashion-mnist, svhn, cifar10, cifar100, moons, a folder with train/<class>/*, "
        "or a table: a .csv with the target in its last column.",
        rich_help_panel="Data",
    ),
]
DataRoot = Annotated[
    str | None, typer.Option(help="Where torchvision's datasets are (mnist to cifar100).", rich_help_panel="Data")
]
Download = Annotated[
    bool | None, typer.Option("--download", help="Fetch the dataset if it is not there.", rich_help_panel="Data")
]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize every image to N×N; not for tables.", rich_help_panel="Data")
]
Zca = Annotated[
    float | None,
    typer.Option(
        help="Whiten images (ZCA) with this strength, such as 0.1; evaluate and search need it too.",
        rich_help_panel="Data",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu (default), cuda, cuda:N, or auto.", rich_help_panel="Run")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of every random choice; 0 by default.", rich_help_panel="Run")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="A TOML file whose keys are the flags that describe a run, with underscores; flags win. --set is "
        "[settings], --train [training], --space-set [space_settings], --baseline the list baselines. A run folder's "
        "spec.toml is one.",
        rich_help_panel="Run",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes, one thread each; one a core by default.", rich_help_panel="Run")
]
Method = Annotated[
    str | None,
    typer.Option(help="How the proxy set is made, gm by default: see 'proxynas list'.", rich_help_panel="Distillation"),
]
Ipc = Annotated[
    int | None, typer.Option(help="Images per class in the proxy set; 1 by default.", rich_help_panel="Distillation")
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Distillation steps; the method's own number by default, in a search 400 at most.",
        rich_help_panel="Distillation",
    ),
]
Clock = Annotated[
    Literal["wall", "core"] | None,
    typer.Option(
        help="Which seconds: wall (default), or those of all cores together, which other work does not shorten.",
        rich_help_panel="Distillation",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the method, such as --set init=real; repeatable. An unknown one lists them all.",
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
ZeroCostSet = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="As --space-set, for zero-cost indicators, which can afford larger networks than training; repeatable.",
        rich_help_panel="Search",
    ),
]
Combine = Annotated[
    list[str] | None,
    typer.Option(metavar="A+B", help="Rank by the mean rank of these as well; repeatable.", rich_help_panel="Search"),
]
Table = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE",
        help="Accuracies measured elsewhere, such as --table '12 epochs=early.csv', ranked beside the others, never "
        "picked by; a truth table (proxynas truth import); repeatable.",
        rich_help_panel="Search",
    ),
]


def pairs(items: list[str] | None, flag: str = "--set") -> dict[str, Any] | None:
    """``KEY=VALUE`` flags as a dict; a value is read as TOML where it is TOML, and is text otherwise."""
    found: dict[str, Any] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise SpecError(f"{flag} takes KEY=VALUE, but got {item!r}")
        if key in found:
            raise SpecError(f"{flag} has {key!r} twice; leave one out")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found or None


def named(items: list[str] | None) -> dict[str, str] | None:
    """``--table NAME=FILE`` flags as a dict of text."""
    found = pairs(items, "--table")
    return None if found is None else {key: str(value) for key, value in found.items()}
