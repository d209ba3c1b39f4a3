"""Every setting there is: its name, its variable, its kind and its default; and what is in force.

The documented reference is held to this, and `hwtrust-backend config show` prints it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hwtrust_backend.config.kinds import kind_of, quoted, spelt, without_password
from hwtrust_backend.config.reading import read_toml
from hwtrust_backend.config.settings import CONFIG_NAME, PREFIX, Settings, load_settings


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
            kind=kind_of(annotation, name, span=span),
            default=spelt(default, span=span),
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
        text = quoted(without_password(value)) if name == "database" else spelt(value, span=span)
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


def _is_written(written: Mapping[str, Any], name: str) -> bool:
    table, dot, rest = name.partition(".")
    if dot:
        inner = written.get(table)
        return isinstance(inner, dict) and rest in inner
    return name in written
