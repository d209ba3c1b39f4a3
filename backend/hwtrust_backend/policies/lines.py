"""Where in a TOML document a field is, so that an error can name its line.

The document has been read by a TOML parser before; this looks for tables and
keys line by line. What stands inside a string of several lines may mislead it
about a number that is shown to a person, and about nothing else.
"""

from __future__ import annotations

import re
from typing import Final

_TABLE: Final = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]+")
_KEY: Final = re.compile(
    r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*="""
)


def line_of(text: str, field: str) -> int | None:
    """The number of the line that says `field` (`clock.max_lag`), or else its table; from 1.

    None where neither is there.
    """
    wanted = field.split(".") if field else []
    for length in range(len(wanted), 0, -1):
        for number, name in _names(text):
            if name == wanted[:length]:
                return number
    return None


def _names(text: str) -> list[tuple[int, list[str]]]:
    found: list[tuple[int, list[str]]] = []
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if heading := _TABLE.match(line):
            table = _parts(heading[1])
            found.append((number, table))
        elif key := _KEY.match(line):
            found.append((number, [*table, *_parts(key[1])]))
    return found


def _parts(name: str) -> list[str]:
    if name[:1] in {'"', "'"}:
        return [name.strip("\"'")]
    return [part.strip() for part in name.split(".")]
