"""Changes by chance: of bytes, of lines, of a description, of tensors in a file."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from .test_damaged import change

SCALARS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 2**63, 2**70, 10**400]),
    st.sampled_from([-1.0, 0.0, 0.5, float("nan"), float("inf"), 1e300]),
    st.booleans(),
    st.sampled_from(["", "digits", "auto", "none", "[b]", "=1+1", "$x_{$", "\x1b[31m", "../x"]),
    st.text(max_size=30),
    st.text(min_size=1, max_size=3).map(lambda text: text * 300),
)


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


BYTES = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10**9), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 10**9), st.just(0)),
    st.tuples(st.just("zero"), st.integers(0, 10**9), st.integers(1, 200)),
    st.tuples(st.just("double"), st.integers(0, 10**9), st.integers(1, 200)),
)


def mutate(data: DataObject, path: Path) -> None:
    """Change some bytes of a file."""
    content = bytearray(path.read_bytes())
    for how, place, value in data.draw(st.lists(BYTES, min_size=1, max_size=3)):
        at = place % max(1, len(content))
        if how == "flip" and content:
            content[at] ^= value
        elif how == "cut":
            del content[at:]
        elif how == "zero":
            content[at : at + value] = bytes(value)
        else:
            content[at:at] = content[at : at + value]
    path.write_bytes(content)


def mutate_text(data: DataObject, text: str) -> str:
    """Change some lines, or put anything into the text."""
    lines = text.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(lines)))
        how = data.draw(st.sampled_from(["drop", "double", "insert", "cell"]))
        if how == "drop":
            lines[at : at + 1] = []
        elif how == "double":
            lines[at:at] = lines[at : at + 1]
        elif how == "insert":
            lines[at:at] = [data.draw(st.text(max_size=40)) + "\n"]
        elif at < len(lines):
            cells = lines[at].rstrip("\n").split(",")
            cells[data.draw(st.integers(0, len(cells) - 1))] = str(data.draw(SCALARS))[:400]
            lines[at] = ",".join(cells) + "\n"
    return "".join(lines)


def put(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def edit(data: DataObject, about: Any) -> None:
    """Replace something at any depth of a description."""
    while True:
        keys = list(about) if isinstance(about, dict) else list(range(len(about)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(about[key], dict | list) and about[key]
        if deeper and data.draw(st.booleans()):
            about = about[key]
            continue
        if data.draw(st.integers(0, 4)) == 0:
            del about[key]
        else:
            about[key] = data.draw(VALUES)
        return


TENSORS = st.sampled_from(
    [
        *(torch.tensor(1.0), torch.tensor(3), torch.zeros(0), torch.zeros(3, 0), torch.ones(5)),
        *(torch.full((10, 1, 8, 8), torch.nan), torch.arange(10), torch.arange(10) - 5),
        *(torch.ones(10, 10), torch.full((10, 10), torch.inf), torch.ones(10, dtype=torch.bool)),
        *(torch.ones(10, 1, 8, 8).half(), torch.ones(10, 3, 8, 8), torch.ones(10, 64)),
    ]
)


def reseal(data: DataObject, path: Path) -> None:
    """Change what a file of tensors says, or its tensors, and give it the right checksum."""

    def anything(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        if data.draw(st.booleans()):
            edit(data, about)
        else:
            tensors[data.draw(st.sampled_from([*tensors, "order", "rates", "zca.mean"]))] = (
                data.draw(TENSORS).clone()
            )

    with contextlib.suppress(ValueError):  # what JSON cannot write
        change(path, anything)
