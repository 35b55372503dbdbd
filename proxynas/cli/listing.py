"""What is here: datasets, spaces, truth tables, methods and proxy sets, as rich tables."""

from dataclasses import fields

from rich import box
from rich.table import Column, Table

from .. import datasets, proxyset, spaces, truth
from ..core import resources
from ..distill import METHODS


def tables() -> list[Table]:
    """One table each; reading them trains nothing."""
    return [_datasets(), _spaces(), _truth(), _methods(), _proxy_sets()]


def _table(title: str, *columns: str) -> Table:
    first, *others = columns  # names are never cut: commands take them
    headers: list[Column | str] = [Column(first, no_wrap=True), *others]
    return Table(*headers, title=title, title_justify="left", box=box.SIMPLE_HEAD)


def _datasets() -> Table:
    table = _table(
        "Datasets (or the path of a folder of images, or of a .csv table)",
        "name",
        "what",
        "here now",
    )
    for known in datasets.names():
        table.add_row(
            known.name,
            known.description,
            "yes" if known.available else "with --data-root or --download",
        )
    return table


def _spaces() -> Table:
    table = _table("Search spaces (or the path of a TOML file)", "name", "networks", "what")
    for name in spaces.names():
        space = spaces.load(name)
        table.add_row(name, f"{space.size:,}", space.description)
    return table


def _truth() -> Table:
    table = _table("Measured truth tables", "space", "data", "networks", "runs", "measured on")
    for path in sorted(resources.folder("search_spaces").glob("*.csv")):
        measured = truth.read(path)
        header, networks = measured.header, measured.rows["arch"].nunique()
        counts = (f"{networks:,}", f"{len(measured.rows):,}")
        table.add_row(str(header["space"]), str(header["data"]), *counts, str(header["made_on"]))
    return table


def _methods() -> Table:
    table = _table("Methods", "name", "what", "steps", "settings (--set KEY=VALUE)")
    for name, method in METHODS.items():
        keys = ", ".join(field.name for field in fields(method.settings))
        table.add_row(
            name, method.summary, f"{method.steps:,}" if method.steps else "–", keys or "–"
        )
    return table


def _proxy_sets() -> Table:
    table = _table(
        "Shipped proxy sets (--proxy NAME: data, method, images per class); accuracy of networks "
        "trained on one, on as many random images in brackets",
        *("name", "core time", "test accuracy %", "ranks"),
    )
    for name in proxyset.names():
        about, card = proxyset.read(name).provenance, proxyset.card(name)
        measured = "–"
        if card is not None:
            arch, (mean, sd) = next(iter(card.accuracy.items()))
            beside = f" ({card.random[arch][0]:.1f})" if arch in card.random else ""
            measured = f"{mean:.1f} ± {sd:.1f}{beside}"
        took = f"{about['core_seconds']:.0f} s"
        table.add_row(name, took, measured, "–" if card is None else card.ranks)
    return table
