"""From the fields of a spec to the flags of a command, and the flags that are no spec's."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from ..core import settings
from ..core.errors import SpecError
from ..core.text import quoted
from ..specs import EngineSpec, Option
from ..specs.option import PANELS, RUN

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="A TOML file whose keys are the flags of this command, with underscores; flags win. "
        "Those that take KEY=VALUE are tables, such as \\[settings] or \\[set]; those that may be "
        "repeated are lists. Flags under 'Run' are no keys. The spec.toml of a run directory is "
        "such a file.",
        rich_help_panel=RUN,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tasks at a time, one process and one thread each. Default: one per core, or per GPU.",
        rich_help_panel=RUN,
    ),
]
if TYPE_CHECKING:
    from ..engine import Engine

Given = dict[str, Any]
"""The flags that were given, by field name; those left out are not in it."""


@dataclass(frozen=True)
class Flag:
    """A field of a spec as a flag: its name on the command line and how its value is read."""

    field: str
    flag: str
    kind: Any  # the field's type, without None and without constraints
    option: Option
    default: Any

    @property
    def parameter(self) -> inspect.Parameter:
        """It as the parser takes it."""
        info = typer.Option(
            self.flag,
            help=self.option.help + self._default(),
            rich_help_panel=self.option.panel,
            metavar=self.option.metavar or ("KEY=VALUE" if self._table else None),
        )
        kind: Any = list[str] if self._table or get_origin(self.kind) is tuple else self.kind
        annotation: Any = Annotated[kind | None, info]
        return inspect.Parameter(
            self.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )

    def read(self, value: Any) -> Any:
        """The field's value, of what the parser gives; ``None`` where the flag was left out."""
        if value is None or value == []:
            return None
        if not self._table:
            return value
        read = pairs(value, self.flag)
        if isinstance(self.kind, type) and is_dataclass(self.kind):
            return settings.make(self.kind, read, where=self.flag)
        text = get_args(self.kind)[1:] == (str,)
        return {key: str(item) for key, item in read.items()} if text else read

    @property
    def _table(self) -> bool:
        return get_origin(self.kind) is dict or is_dataclass(self.kind)

    def _default(self) -> str:
        shown = isinstance(self.default, str | int | float) and self.default is not False
        return f" Default: {self.default}." if shown else ""


def takes(spec: type, *others: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of ``spec``; it gets those that were given (:data:`Given`) as its
    first argument."""
    known = {flag.field: flag for cls in (spec, *others) for flag in flags_of(cls)}
    flags = dict(sorted(known.items(), key=lambda item: PANELS.index(item[1].option.panel)))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            values = {field: flag.read(arguments.pop(field)) for field, flag in flags.items()}
            command(
                {field: value for field, value in values.items() if value is not None}, **arguments
            )

        rest = list(inspect.signature(command).parameters.values())[1:]
        parameters = [*(flag.parameter for flag in flags.values()), *rest]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        del run.__wrapped__  # the parser must see the flags
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def take_engine(given: Given) -> "Callable[[], Engine]":
    """What makes the engine that was asked for; its flags, which are no part of a run, are taken
    out.

    Raises:
        SpecError: flags of Ray without it, when the engine is made.
    """
    names = [flag.field for flag in flags_of(EngineSpec)]
    spec = settings.make(EngineSpec, {name: given.pop(name) for name in names if name in given})

    def engine() -> "Engine":
        from ..engine.choice import make_engine

        return make_engine(spec)

    return engine


def flags_of(spec: type) -> Iterator[Flag]:
    """The fields of ``spec`` that are flags, in order."""
    hints = get_type_hints(spec, include_extras=True)
    for field in fields(spec):
        options = [
            extra
            for extra in getattr(hints[field.name], "__metadata__", ())
            if isinstance(extra, Option)
        ]
        if options:
            option = options[-1]
            flag = option.flag or "--" + field.name.replace("_", "-")
            default = field.default_factory() if callable(field.default_factory) else field.default
            yield Flag(field.name, flag, _plain(hints[field.name]), option, default)


def _plain(hint: Any) -> Any:
    """A type without its constraints and without ``None``."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        kinds = [arg for arg in get_args(hint) if arg is not NoneType]
        # text can be any of several kinds: the spec reads it
        return _plain(kinds[0]) if len(kinds) == 1 else str
    return hint


def pairs(items: list[str], flag: str) -> dict[str, Any]:
    """``KEY=VALUE`` flags as a dict; a value is read as TOML where it is TOML, and is text
    otherwise.

    Raises:
        SpecError: one without ``=`` or key, or a key twice.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise SpecError(f"{flag} takes KEY=VALUE, but got {quoted(item)}")
        if key in values:
            raise SpecError(f"{flag} has {quoted(key)} twice; leave one out")
        try:
            values[key] = settings.parse_toml(f"value = {value}")["value"]
        except ValueError:
            values[key] = value
    return values
