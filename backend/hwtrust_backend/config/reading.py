"""Reading settings: a TOML file and the environment over it, into frozen structs.

Rules:
1. A name that is not known is an error, in the file and in the environment: a
   misspelt setting must not be a silent default.
2. A field `x_ms` is a span of time and is written `x = "30d"`, `"24h"`, `"15m"`,
   `"30s"`; a field that is a struct is a table of the file.
3. A variable's name is the prefix, the table's name and the field's, in capitals;
   a list is separated by commas there.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from hwtrust.errors import ConfigError
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND

_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)")
_SIZES: Final = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND}
_LISTS: Final = (tuple, frozenset, list)

Read = TypeVar("Read", bound=msgspec.Struct)


def parse_span(text: str) -> int:
    """`30d`, `24h`, `15m` or `30s` in milliseconds.

    Raises:
        ConfigError: another spelling.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no span of time; write it like 30d, 24h, 15m or 30s")
    return int(match[1]) * _SIZES[match[2]]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file.

    Raises:
        ConfigError: unreadable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}", path=str(path)) from error


def set_from_environment(
    found: dict[str, Any], cls: type[msgspec.Struct], *, variable: str, name: str, value: str
) -> None:
    """Put the variable's value where the file would have it; `name` is without the prefix.

    Raises:
        ConfigError: there is no such setting (rule 1).
    """
    for field, kind in _fields(cls).items():
        written = field.removesuffix("_ms")
        if _is_table(kind):
            if name.startswith(f"{written}_"):
                table = found.setdefault(written, {})
                rest = name.removeprefix(f"{written}_")
                set_from_environment(table, kind, variable=variable, name=rest, value=value)
                return
        elif name == written:
            found[written] = _from_text(kind, value)
            return
    raise ConfigError(f"{variable} is no setting of hwtrust-backend", variable=variable)


def convert(found: Mapping[str, Any], cls: type[Read], *, source: str) -> Read:
    """The struct of what was found.

    Raises:
        ConfigError: an unknown name, or a value that is none.
    """
    try:
        return msgspec.convert(_with_spans(found, cls), cls)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}", path=source) from error


def _fields(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: kind for name, kind in typing.get_type_hints(cls).items() if name[:1] != "_"}


def _is_table(kind: Any) -> bool:  # noqa: ANN401 - a type as annotations have it
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _from_text(kind: Any, value: str) -> Any:  # noqa: ANN401 - a type, and what it says
    if typing.get_origin(kind) in _LISTS:
        return [item.strip() for item in value.split(",") if item.strip()]
    if kind is bool:
        return {"true": True, "false": False}.get(value.lower(), value)
    for number in (int, float):
        if kind is number:
            try:
                return number(value)
            except ValueError:
                return value
    return value


def _with_spans(found: Mapping[str, Any], cls: type[msgspec.Struct]) -> dict[str, Any]:
    """`root_lifetime = "30d"` as `root_lifetime_ms = 2592000000`; all else as it is."""
    fields = _fields(cls)
    converted: dict[str, Any] = {}
    for name, value in found.items():
        if f"{name}_ms" in fields:
            if not isinstance(value, str):
                raise ConfigError(f'{name} is a span of time in quotes, such as "30d"')
            converted[f"{name}_ms"] = parse_span(value)
        elif name.endswith("_ms"):
            raise ConfigError(f"{name} is no setting; write {name.removesuffix('_ms')}")
        elif _is_table(fields.get(name)) and isinstance(value, dict):
            converted[name] = _with_spans(value, fields[name])
        else:
            converted[name] = value
    return converted
