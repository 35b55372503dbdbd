"""A run directory belongs to one spec, which lies in it as ``spec.toml``."""

from pathlib import Path
from typing import Any

from . import files, settings
from .errors import RunFolderError

LONGEST = 200
"""Characters of two values that an error still quotes."""


def open_folder(spec: Any, folder: Path) -> None:
    """Make the run directory, or check that it belongs to this spec, a settings dataclass.

    Raises:
        RunFolderError: it belongs to another one, or cannot be written.
    """
    wanted, path = settings.to_toml(spec), folder / "spec.toml"
    if not path.exists():
        files.write_text(path, wanted)
        return
    there = settings.to_dict(settings.make(type(spec), settings.read_toml(path), where=str(path)))
    here = settings.to_dict(spec)
    keys = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
    if keys:
        key = keys[0]
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        values = f"is {there.get(key)!r}, but this one asks for {here.get(key)!r}"
        if len(values) > LONGEST:
            values = f"differs from what this one asks for (see {path})"
        raise RunFolderError(
            f"{folder} holds another run: its {key} {values}{more}; "
            "give another --out, or remove the directory"
        )
