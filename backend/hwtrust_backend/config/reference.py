"""Every setting there is: its name, its variable, its kind and its default; and what is in force.

The documented reference is held to this, and `hwtrust-backend config show` prints it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.config.reading import read_toml
from hwtrust_backend.config.settings import CONFIG_NAME, PREFIX, Settings, load_settings

_UNITS: Final = ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"))
_MASKED: Final = "***"
_LISTS: Final = (tuple, frozenset, list)
_TABLES: Final = (dict, Mapping)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting."""

    name: str
    """As in the file; a dot stands before what is in a table."""
    variable: str
    """Empty: it stands in the file alone."""
    kind: str
    default: str


class SettingInForce(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it is in force, and where that comes from."""

    name: str
    value: str
    source: str


def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the code; where the data directory is, is none."""
    return tuple(
        Setting(
            name=name,
            variable="" if isinstance(default, dict) else _variable(name),
            kind=_kind(annotation, name, span=span),
            default=_spelt(default, span=span),
        )
        for name, annotation, default, span in _leaves(Settings, Settings(data_dir="-"))
        if name != "data_dir"
    )


def settings_in_force(
    data_dir: Path, *, file: Path | None, environ: Mapping[str, str]
) -> tuple[SettingInForce, ...]:
    """Every setting with its source; the password of a database's URL is masked.

    Raises:
        ConfigError: as `load_settings`.
    """
    settings = load_settings(data_dir, file=file, environ=environ)
    path = file or data_dir / CONFIG_NAME
    written = read_toml(path) if path.exists() else {}
    found: list[SettingInForce] = []
    for name, _, value, span in _leaves(Settings, settings):
        variable = _variable(name)
        if name == "data_dir":
            source = "--data"
        elif variable in environ:
            source = variable
        else:
            source = str(path) if _is_written(written, name) else "default"
        text = _without_password(value) if name == "database" else _spelt(value, span=span)
        found.append(SettingInForce(name=name, value=text, source=source))
    return tuple(found)


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper().replace('.', '_')}"


def _leaves(
    cls: type[msgspec.Struct], values: msgspec.Struct, prefix: str = ""
) -> typing.Iterator[tuple[str, Any, Any, bool]]:
    for field, annotation in typing.get_type_hints(cls, include_extras=True).items():
        if field.startswith("_"):
            continue
        value = getattr(values, field)
        if isinstance(value, msgspec.Struct):
            yield from _leaves(type(value), value, f"{prefix}{field}.")
        else:
            span = field.endswith("_ms")
            yield f"{prefix}{field.removesuffix('_ms')}", annotation, value, span


def _kind(annotation: Any, name: str, *, span: bool) -> str:  # noqa: ANN401 - an annotation
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
    if origin in _LISTS or origin in _TABLES:
        return "list" if origin in _LISTS else "table"
    if plain is str or str in typing.get_args(plain):
        return "text"
    raise TypeError(f"the setting {name} has a kind that is not documented")


def _limits(bounds: Meta, *, span: bool) -> str:
    low = bounds.ge if bounds.ge is not None else None
    high = bounds.le if bounds.le is not None else None
    parts = []
    if low is not None:
        parts.append(f"at least {_spelt(low, span=span)}")
    if high is not None:
        parts.append(f"at most {_spelt(high, span=span)}")
    return f", {', '.join(parts)}" if parts else ""


def _spelt(value: Any, *, span: bool) -> str:  # noqa: ANN401 - a value of any setting
    if span:
        for size, unit in _UNITS:
            if value and value % size == 0:
                return f"{value // size}{unit}"
        return f"{value}ms"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | frozenset | list):
        return f"[{', '.join(sorted(_quoted(item) for item in value))}]"
    if isinstance(value, Mapping):
        return msgspec.json.encode(value).decode()
    return _quoted(value) if isinstance(value, Enum | str) else str(value)


def _quoted(value: object) -> str:
    text = str(value.value) if isinstance(value, Enum) else str(value)
    return msgspec.json.encode(text).decode()


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return _quoted(_MASKED)
    hidden = parts.query
    if "password" in hidden:
        hidden = _MASKED
    if password is None:
        return _quoted(urlunsplit(parts._replace(query=hidden)) if hidden != parts.query else url)
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}:{_MASKED}@{host}"
    return _quoted(urlunsplit(parts._replace(netloc=shown, query=hidden)))


def _is_written(written: Mapping[str, Any], name: str) -> bool:
    table, dot, rest = name.partition(".")
    if dot:
        inner = written.get(table)
        return isinstance(inner, dict) and rest in inner
    return name in written
