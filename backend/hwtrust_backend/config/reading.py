"""Reading settings: a TOML file and the environment over it, into frozen structs.

Rules:
1. A name that is not known is an error, in the file and in the environment: a
   misspelt setting must not be a silent default.
2. A field `x_ms` is a span of time and is written `x = "30d"`, `"24h"`, `"15m"`,
   `"30s"`; a field that is a struct is a table of the file.
3. A variable's name is the prefix, the table's name and the field's, in capitals;
   a list is separated by commas there.
4. An error names the setting as it is written, and the file or variable it stands in.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from hwtrust.errors import ConfigError
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.config.kinds import LISTS, kind_of

_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)")
_SIZES: Final = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND}

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
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML file: {error}", path=str(path)) from error


def set_from_environment(
    found: dict[str, Any], cls: type[msgspec.Struct], *, variable: str, name: str, value: str
) -> str:
    """Put the variable's value where the file would have it; `name` is without the prefix.

    Gives the setting's name, as `convert` takes it.

    Raises:
        ConfigError: there is no such setting (rule 1).
    """
    for field, kind in _fields(cls).items():
        written = field.removesuffix("_ms")
        if _is_table(kind):
            if name.startswith(f"{written}_"):
                table = found.setdefault(written, {})
                rest = name.removeprefix(f"{written}_")
                if not isinstance(table, dict):
                    return written
                return f"{written}." + set_from_environment(
                    table, kind, variable=variable, name=rest, value=value
                )
        elif name == written:
            found[written] = _from_text(kind, value)
            return written
    place = variable.removesuffix(name.upper())
    known = [
        f"{place}{field.removesuffix('_ms').upper()}"
        for field, kind in _fields(cls).items()
        if not _is_table(kind)
    ]
    raise ConfigError(_unknown(variable, known), path=variable, setting=variable)


def convert(
    found: Mapping[str, Any],
    cls: type[Read],
    *,
    source: str,
    sources: Mapping[str, str],
    table: str = "",
) -> Read:
    """The struct of what was found in `source`; `sources` has where else a setting stands.

    Raises:
        ConfigError: an unknown name, or a value that is none.
    """
    kinds = typing.get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for written, value in found.items():
        name, where = f"{table}{written}", sources.get(f"{table}{written}", source)
        field = f"{written}_ms" if f"{written}_ms" in kinds else written
        if field not in kinds or written.endswith("_ms"):
            known = [f"{table}{other.removesuffix('_ms')}" for other in kinds]
            raise ConfigError(f"{where}: {_unknown(name, known)}", path=where, setting=name)
        if not _is_table(kinds[field]):
            values[field] = _value(kinds[field], field, value, name=name, where=where)
        elif isinstance(value, dict):
            values[field] = convert(
                value, kinds[field], source=source, sources=sources, table=f"{written}."
            )
        else:
            message = f"{where}: {name} is a table: [{name}]"
            raise ConfigError(message, path=where, setting=name)
    return cls(**values)


def _value(kind: Any, field: str, value: Any, *, name: str, where: str) -> Any:  # noqa: ANN401
    """A setting's value in its kind; of what is wrong it is said what would be right."""
    span = field.endswith("_ms")
    try:
        # A bare number is no span: of what, seconds or milliseconds?
        found = parse_span(value if isinstance(value, str) else "") if span else value
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, ConfigError) as error:
        wanted = kind_of(kind, name, span=span) + (', such as "30d" or "15m"' if span else "")
        message = f"{where}: {name} must be: {wanted}; it is {reprlib.repr(value)}"
        raise ConfigError(message, path=where, setting=name) from error


def _unknown(name: str, known: Sequence[str]) -> str:
    """What to say of a name that is none: also the one that is nearest to it."""
    near = difflib.get_close_matches(name.removesuffix("_ms"), known, 1)
    meant = f"; is it {near[0]}?" if near else "; docs/configuration.md lists them all"
    return f"{name} is no setting{meant}"


def _fields(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: kind for name, kind in typing.get_type_hints(cls).items() if name[:1] != "_"}


def _is_table(kind: Any) -> bool:  # noqa: ANN401 - a type as annotations have it
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _from_text(kind: Any, value: str) -> Any:  # noqa: ANN401 - a type, and what it says
    if typing.get_origin(kind) in LISTS:
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
