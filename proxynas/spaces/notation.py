"""How architectures are written: a template that names every axis once, such as
``D{depth}-W{width}``.

No network is listed for anything here, so an axis more costs a few comparisons, not a factor.
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import SpecError
from ..core.text import FORMULAS, quoted

Value = str | int | float | bool
"""The value of an axis."""


@dataclass(frozen=True)
class _Part:
    literal: str  # what stands before the axis
    axis: str | None  # None: the end
    plain: bool  # written as {axis}, without a conversion or a format


def _parts(template: str) -> Iterator[_Part]:
    for literal, name, form, conversion in string.Formatter().parse(template):
        yield _Part(literal, name, not form and conversion is None)


def pattern(template: str, axes: Mapping[str, Sequence[Value]]) -> re.Pattern[str]:
    """Matches the architectures of a space, with a group named after each axis."""
    text = ""
    for part in _parts(template):
        text += re.escape(part.literal)
        if part.axis is not None:
            choices = sorted((str(v) for v in axes[part.axis]), key=len, reverse=True)
            text += f"(?P<{part.axis}>{'|'.join(map(re.escape, choices))})"
    return re.compile(text)


def check(template: str, axes: Mapping[str, Sequence[Value]], where: object) -> None:
    """Refuse a template from which the values of the axes cannot be read back.

    Raises:
        SpecError: it does not name every axis once as ``{axis}``, or writes two architectures
            alike; an axis is empty, has a value twice, or a name that Python would not take.
    """
    try:
        parts = list(_parts(template))
    except ValueError as error:
        raise SpecError(
            f"{where}: arch must be a text with {{axis}} in it, but {template!r} is not: {error}"
        ) from None
    _check_texts(template, parts, axes, where)
    named = sorted(part.axis for part in parts if part.axis is not None)
    if named != sorted(axes) or not all(part.plain for part in parts):
        expected = ", ".join("{" + axis + "}" for axis in axes)
        raise SpecError(
            f"{where}: arch must name every axis once ({expected}), but it is {template!r}"
        )
    for axis, values in axes.items():
        if not axis.isidentifier():
            raise SpecError(
                f"{where}: an axis is an argument of the factory, so {axis!r} cannot be its name"
            )
        if not values or len({str(v) for v in values}) != len(values):
            raise SpecError(
                f"{where}: axes.{axis} must list at least one value and no value twice, "
                f"but got {list(values)}"
            )
    twice = written_alike(template, axes)
    if twice is not None:
        raise SpecError(
            f"{where}: arch must write every network differently, but two of them are {twice!r}; "
            "put a separator between the axes"
        )


def _check_texts(
    template: str, parts: Sequence[_Part], axes: Mapping[str, Sequence[Value]], where: object
) -> None:
    """Architectures are names in tables of all kinds, so they must be such as tables can show."""
    texts = [template, *(str(value) for values in axes.values() for value in values)]
    wrong = next((text for text in texts if not text.isprintable()), None)
    if wrong is not None:
        raise SpecError(
            f"{where}: architectures are written in printable characters, but got {quoted(wrong)}"
        )
    first = parts[0] if parts else _Part("", None, True)
    starts = [first.literal] if first.literal else axes.get(first.axis or "", ())
    formula = next((str(s) for s in starts if str(s).startswith(FORMULAS)), None)
    if formula is not None:
        raise SpecError(
            f"{where}: an architecture must not begin with {formula[0]!r}, which spreadsheets take "
            "for a formula; put a letter before it"
        )
    longest = len(template) + sum(
        max((len(str(value)) for value in values), default=0) for values in axes.values()
    )
    if longest > LONGEST:
        raise SpecError(
            f"{where}: an architecture may have {LONGEST} characters, but one has {longest:,}"
        )


LONGEST = 1000
"""Characters of an architecture."""


def written_alike(template: str, axes: Mapping[str, Sequence[Value]]) -> str | None:
    """A text that two different choices of values are written as, or ``None``.

    Two choices are written at once, part by part. As long as they may still come out alike, one
    text is the other and a rest; all that has to be kept is which rests there are (the dangling
    suffixes of Sardinas and Patterson, 1953).
    """
    same = ""  # the text of two choices that have not differed yet: one example of it
    rests: dict[str, str] = {}  # of two that differ: the longer's text, by what it is ahead
    for part in _parts(template):
        same += part.literal
        rests = _ahead(rests, [part.literal])
        if part.axis is not None:
            choices = [str(v) for v in axes[part.axis]]
            rests = {**_ahead(rests, choices), **_ahead({"": same}, choices, differ=True)}
            same += choices[0]
    return rests.get("")


def _ahead(
    rests: Mapping[str, str], choices: Sequence[str], differ: bool = False
) -> dict[str, str]:
    """The rests after both texts got one of ``choices``, not the same one if they must
    ``differ``."""
    known = set(choices)
    longer: dict[str, list[str]] = {}  # by what a choice starts with
    for choice in choices:
        for end in range(len(choice)):
            longer.setdefault(choice[:end], []).append(choice)
    rests_after: dict[str, str] = {}
    for rest, text in rests.items():
        for second in choices:
            ahead = rest + second
            for end in range(len(ahead) + 1):
                if ahead[:end] in known and not (differ and ahead[:end] == second):
                    rests_after.setdefault(ahead[end:], text + second)
            for first in longer.get(ahead, ()):
                shorter = text[: len(text) - len(rest)]
                rests_after.setdefault(first[len(ahead) :], shorter + first)
    return rests_after
