"""Where in a TOML document a field is, so that an error can name its line.

The document has been read by a TOML parser before; this looks for tables and
keys line by line. What stands inside a string of several lines may mislead it
about a number that is shown to a person, and about nothing else.
"""

from __future__ import annotations

import re
from typing import Final

_DEEPEST: Final = 8
"""Parts of a field that are looked for."""
# No two parts of these can take the same character: a line takes no longer than it is long.
_TABLE: Final = re.compile(r"\s*\[+([^\[\]]+)\]")
_KEY: Final = re.compile(
    r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*="""
)


def line_of(text: str, field: str, *, value: str = "") -> int | None:
    """The number of the line that says `field` (`clock.max_lag`), or else its table; from 1.

    Where a field, or a table, has several lines, it is the one with `value` in
    quotes, if there is one. None where neither field nor table is there.
    """
    wanted = field.split(".")[:_DEEPEST] if field else []
    names = _names(text)
    for length in range(len(wanted), 0, -1):
        part = wanted[:length]
        for number, name in names:
            if name == part:
                others = (n for n, other in names if n > number and other[:length] != part)
                return _line_with(text, value, number, next(others, None)) or number
    return None


def last_line(text: str) -> int:
    """The number of the last line that is not empty, or 1."""
    return text.rstrip().count("\n") + 1


def _line_with(text: str, value: str, first: int, beyond: int | None) -> int | None:
    """The first line that has `value` in quotes, from the line `first` on and before `beyond`."""
    lines = text.splitlines()[: None if beyond is None else beyond - 1]
    for number, line in enumerate(lines, 1):
        if value and number >= first and (f'"{value}"' in line or f"'{value}'" in line):
            return number
    return None


def _names(text: str) -> list[tuple[int, list[str]]]:
    found: list[tuple[int, list[str]]] = []
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if heading := _TABLE.match(line):
            table = _parts(heading[1].strip())
            found.append((number, table))
        elif key := _KEY.match(line):
            found.append((number, [*table, *_parts(key[1])]))
    return found


def _parts(name: str) -> list[str]:
    if name[:1] in {'"', "'"}:
        return [name.strip("\"'")]
    return [part.strip() for part in name.split(".")]
