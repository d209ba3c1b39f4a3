"""How results and complaints are written.

What devices, vendors and colleagues have written stands in them: no text moves the
cursor of a terminal, or turns a line around.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from hwtrust_backend.observe.logs import safe

PROGRAM: Final = "hwtrust-backend"


def complain(message: str, *, hint: str = "") -> None:
    """Say what went wrong, on standard error."""
    text = "\n".join(map(safe, message.strip().rstrip(".").split("\n")))
    # Lower case, unless it begins with a name: `EK`, `TLS`, `/var/lib`.
    if text[1:2].islower():
        text = text[0].lower() + text[1:]
    click.echo(f"{PROGRAM}: {text}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def say_json(value: Any) -> None:  # noqa: ANN401 - anything that msgspec encodes
    """A result for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say_state(kind: str, name: str, state: str, *, as_json: bool) -> None:
    """What has become of one thing; `kind` is what programs read its name under."""
    if as_json:
        say_json({kind: name, "state": state})
    else:
        click.echo(f"{name}: {state}")


def say_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A result for people: columns as wide as they need to be."""
    table = [list(heads), *(list(map(safe, row)) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def say_fields(fields: Sequence[tuple[str, str]]) -> None:
    """One result for people: a name and a value on each line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name.ljust(width)}  {safe(value)}".rstrip())
