"""Settings: frozen dataclasses that are checked when made, and their way to TOML and back.

Every stage declares its settings as a pydantic dataclass with :data:`CONFIG`. A flag and a TOML key
of one name mean the same thing, and where a flag is called otherwise than its field, both names are
keys; :func:`load` merges them (flags win) and turns whatever is wrong into one
:class:`~proxynas.core.errors.SpecError`.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from . import files
from .errors import SpecError
from .text import cut, is_unicode, quoted

T = TypeVar("T")

CONFIG = ConfigDict(
    extra="forbid", arbitrary_types_allowed=False, validate_default=True, allow_inf_nan=False
)
"""Shared by every settings class: unknown keys and infinite numbers are errors; defaults are
checked like the rest."""


HIGHEST = 1e30
"""Of all numbers: their squares still are numbers in float32, or nearly so."""

LARGEST = 2**24
"""Bytes of a TOML file."""

DEEPEST = 50
"""Lists and tables in each other."""

FLAGS_ONLY = ("budget", "out", "workers", "engine", "ray_address", "gpus_per_task", "config")
"""How and where a command runs, which is no setting of what it makes."""


def make(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build settings ``cls`` from ``values``.

    Raises:
        SpecError: an unknown key, a wrong type or a value out of range; the message names the key
            and ``where``.
    """
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # every settings class is a dataclass
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            keys = f"known keys: {', '.join(sorted(known))}" if known else "it has none"
            hint = f"did you mean {close[0]!r}?" if close else keys
            raise SpecError(f"{_at(where)}unknown key {quoted(key)}; {hint}")
    hints = get_type_hints(cls)
    for key, value in values.items():
        _check_kind(f"{_at(where)}{key}", value, hints[key])
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise SpecError(one_line(error, where)) from None


def load(cls: type[T], file: Path | None, flags: Mapping[str, Any]) -> T:
    """Settings from a TOML ``file`` (if any) with ``flags`` laid over it; a flag that is ``None``
    was not given."""
    return make(cls, given(cls, file, flags), where=str(file) if file is not None else "")


def given(cls: type, file: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`load` makes settings ``cls`` of.

    Raises:
        SpecError: the file cannot be read, or has a setting by both its names.
    """
    return merge({} if file is None else _by_field(cls, read_toml(file), file), flags)


def _by_field(cls: type, values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    fields_of = {
        option.flag.removeprefix("--").replace("-", "_"): name
        for name, hint in get_type_hints(cls, include_extras=True).items()
        for option in getattr(hint, "__metadata__", ())
        if getattr(option, "flag", "")
    }
    names = {f.name for f in fields(cls)}
    renamed = {}
    for key, value in values.items():
        if key in FLAGS_ONLY and key not in names:
            flag = f"--{key.replace('_', '-')}"
            raise SpecError(f"{file}: {key!r} is no key; {flag} is a flag, where a command has it")
        name = key if key in names else fields_of.get(key, key)
        if name in renamed:
            raise SpecError(f"{file}: {name!r} is there twice, once as its flag is called")
        renamed[name] = value
    return renamed


def known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that are fields of ``cls``."""
    names = {f.name for f in fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def part(cls: type[T], spec: Any) -> T:
    """Settings ``cls`` made of the fields that ``spec`` has by the same names; the others keep
    their defaults."""
    return cls(**{f.name: getattr(spec, f.name) for f in fields(cls) if hasattr(spec, f.name)})  # type: ignore[arg-type]


def merge(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``over`` laid on top, tables key by key at every depth; ``None`` is not
    given."""
    merged = dict(values)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        elif value is not None:
            merged[key] = value
    return merged


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SpecError: the file is missing, unreadable or not TOML.
    """
    data = files.read_bytes(file, SpecError, "a TOML file", limit=LARGEST)
    try:
        return parse_toml(data.decode())
    except ValueError as error:
        raise SpecError(f"{file} is not valid TOML: {cut(str(error))}; fix that line") from None


def parse_toml(toml: str) -> dict[str, Any]:
    """A TOML text as plain values.

    Raises:
        ValueError: it is not TOML, or has what no setting can be: numbers of thousands of digits,
            lists a hundred deep.
    """
    try:
        values = tomllib.loads(toml)
        _check_depth(values)
    except RecursionError:
        raise ValueError("lists or tables are nested too deep") from None
    return values


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError("lists or tables are nested too deep")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _check_depth(item, depth + 1)


def to_dict(spec: Any) -> dict[str, Any]:
    """Settings as plain JSON-able values, ``None`` left out (TOML has no null)."""
    plain: dict[str, Any] = _without_none(json.loads(json.dumps(asdict(spec), default=str)))
    return plain


def to_toml(spec: Any) -> str:
    """Settings as TOML text that :func:`load` reads back."""
    return tomli_w.dumps(to_dict(spec))


def _check_kind(where: str, value: Any, hint: Any) -> None:
    """Refuse what pydantic would convert without a word, and what no setting can be.

    Raises:
        SpecError: true or false for something else, or the other way round; a number that no
            computation survives; text that is not Unicode.
    """
    kinds = set(get_args(hint)) - {NoneType} if get_origin(hint) in (Union, UnionType) else {hint}
    if isinstance(value, bool) and len(kinds) == 1 and kinds <= {int, float, str}:
        raise SpecError(f"{where}: expected {_words(kinds)}, but got {str(value).lower()}")
    if not isinstance(value, bool) and kinds == {bool}:
        raise SpecError(f"{where}: expected true or false, but got {quoted(value)}")
    for item in _leaves(value):
        if isinstance(item, int | float) and HIGHEST < abs(item) < math.inf:
            raise SpecError(f"{where}: expected a number up to {HIGHEST:g}, but got {quoted(item)}")
        if isinstance(item, str) and ("\0" in item or not is_unicode(item)):
            raise SpecError(f"{where}: expected text in UTF-8, but got {quoted(item)}")


def _words(kinds: set[Any]) -> str:
    return "text" if kinds == {str} else "a number"


def _leaves(value: Any) -> Iterator[Any]:
    """Whatever is in lists and tables, their keys included."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def one_line(error: ValidationError, where: str = "") -> str:
    """What pydantic found, as one line: the first thing that is wrong, and what came there."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{_at(where)}{key}: {message}, but got {quoted(first['input'])}{more}"
