"""Of what kind a setting is, and how its values are spelt: for the reference and for errors."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import Meta
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND

MASKED: Final = "***"
LISTS: Final = (tuple, frozenset, list)

_UNITS: Final = ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"))
_TABLES: Final = (dict, Mapping)


def kind_of(annotation: Any, name: str, *, span: bool) -> str:  # noqa: ANN401 - an annotation
    """What may stand there, for people: `integer, at least 1`, `"text" or "json"`."""
    plain, bounds = annotation, Meta()
    if typing.get_origin(annotation) is typing.Annotated:
        plain, bounds = typing.get_args(annotation)[:2]
    if span:
        return f"span{_limits(bounds, span=True)}"
    if plain is bool:
        return "true or false"
    if plain in {int, float}:
        return f"{'integer' if plain is int else 'number'}{_limits(bounds, span=False)}"
    if isinstance(plain, type) and issubclass(plain, Enum):
        return " or ".join(f'"{member.value}"' for member in plain)
    origin = typing.get_origin(plain)
    if origin in LISTS or origin in _TABLES:
        return "list" if origin in LISTS else "table"
    if plain is str or str in typing.get_args(plain):
        return "text"
    raise TypeError(f"the setting {name} has a kind that is not documented")


def _limits(bounds: Meta, *, span: bool) -> str:
    low = bounds.ge if bounds.ge is not None else None
    high = bounds.le if bounds.le is not None else None
    parts = []
    if low is not None:
        parts.append(f"at least {spelt(low, span=span)}")
    if high is not None:
        parts.append(f"at most {spelt(high, span=span)}")
    return f", {', '.join(parts)}" if parts else ""


def spelt(value: Any, *, span: bool) -> str:  # noqa: ANN401 - a value of any setting
    """A value as it is written."""
    if span:
        for size, unit in _UNITS:
            if value and value % size == 0:
                return f"{value // size}{unit}"
        return f"{value}ms"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | frozenset | list):
        return f"[{', '.join(sorted(quoted(item) for item in value))}]"
    if isinstance(value, Mapping):
        return msgspec.json.encode(value).decode()
    return quoted(value) if isinstance(value, Enum | str) else str(value)


def quoted(value: object) -> str:
    """A text as it is written."""
    text = str(value.value) if isinstance(value, Enum) else str(value)
    return msgspec.json.encode(text).decode()


def without_password(url: str) -> str:
    """A database's URL for people: itself where it holds no password."""
    try:
        # As the driver is given it: a `#`, `/` or `?` ends no password there.
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return MASKED
    in_query = any("password" in name for name in parsed.query)
    if parsed.password is None and not in_query:
        return url
    shown = parsed.set(query={}) if in_query else parsed
    return shown.render_as_string(hide_password=True) + f"?{MASKED}" * in_query
