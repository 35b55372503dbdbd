"""Text from outside (names of files, sets and networks, messages of other code) as it may be shown.

Everything that is printed or written for people goes through here: no escape code reaches a
terminal, no formula a spreadsheet, and no name breaks a line.
"""

QUOTED = 200
"""Characters of a value that an error still quotes."""

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets take for the beginning of a formula."""

_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {c: f"\\{c}" for c in "\\|`*[]"}
)


def visible(text: str, keep: str = "") -> str:
    """``text`` with control characters, line breaks, direction marks and broken Unicode as escapes.

    Characters of ``keep`` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def cut(text: str, limit: int = QUOTED) -> str:
    """``text`` of ``limit`` characters at most: its beginning, …, and its end."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def quoted(value: object, limit: int = QUOTED) -> str:
    """A value as an error quotes it: in one line, and cut."""
    try:
        return cut(visible(repr(value)), limit)
    except (RecursionError, ValueError):  # nested too deep; a whole number of too many digits
        return f"a value of type {type(value).__name__}"


def reason(error: BaseException, limit: int = QUOTED) -> str:
    """What another library or foreign code raised, in one line: its type and its message, cut."""
    message = visible(" ".join(str(error).split()))
    name = type(error).__name__
    return cut(f"{name}: {message}" if message else name, limit)


def cell(text: str) -> str:
    """A text as a cell of a CSV file that spreadsheets open: in one line, and no formula."""
    text = visible(text)
    return f"'{text}" if text.startswith(FORMULAS) else text


def markdown(text: str) -> str:
    """A text as Markdown that shows it as it is, in one line."""
    return visible(text).translate(_MARKDOWN)


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8, which a name of a file need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
