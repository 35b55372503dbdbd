"""Settings: frozen dataclasses that are checked when made, and their way to TOML and back.

Every stage declares its settings as a pydantic dataclass with :data:`CONFIG`. A flag and a TOML key
of one name mean the same thing; :func:`load` merges them (flags win) and turns whatever is wrong
into one :class:`~proxynas.core.errors.SpecError`.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import SpecError

T = TypeVar("T")

CONFIG = ConfigDict(
    extra="forbid", arbitrary_types_allowed=False, validate_default=True, allow_inf_nan=False
)
"""Shared by every settings class: unknown keys and infinite numbers are errors; defaults are
checked like the rest."""


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
            raise SpecError(f"{_at(where)}unknown key {key!r}; {hint}")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise SpecError(_one_line(error, where)) from None


def load(cls: type[T], file: Path | None, flags: Mapping[str, Any]) -> T:
    """Settings from a TOML ``file`` (if any) with ``flags`` laid over it; a flag that is ``None``
    was not given."""
    values = merge(read_toml(file) if file is not None else {}, flags)
    return make(cls, values, where=str(file) if file is not None else "")


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
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"cannot read {file}: {error.strerror}; give the path of a TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{file} is not valid TOML: {error}; fix that line") from None


def to_dict(spec: Any) -> dict[str, Any]:
    """Settings as plain JSON-able values, ``None`` left out (TOML has no null)."""
    plain: dict[str, Any] = _without_none(json.loads(json.dumps(asdict(spec), default=str)))
    return plain


def to_toml(spec: Any) -> str:
    """Settings as TOML text that :func:`load` reads back."""
    return tomli_w.dumps(to_dict(spec))


def _without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _one_line(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{_at(where)}{key}: {message}, but got {first['input']!r}{more}"
