"""Every key of every configuration file and of a policy: its type and its default."""

from __future__ import annotations

import enum
import types
import typing
from typing import TYPE_CHECKING, Any

import msgspec

from hwtrust.agent.config import AgentConfig
from hwtrust.agent.permissions import Allow
from hwtrust.device.config import DeviceConfig
from hwtrust.enclave.config import EnclaveConfig
from hwtrust_backend.config.reference import all_settings
from hwtrust_backend.policies import policy_schema
from hwtrust_docs.http import LIMITS
from hwtrust_docs.markdown import code, plain, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row = tuple[str, str, str]

_WORDS: dict[object, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Any: "anything",
}


def device(_: Mapping[str, str]) -> list[str]:
    """The keys of `hwtrust.toml`, the agent's among them."""
    rows = [row for row in keys(DeviceConfig) if row[0] != "agent"]
    rows += keys(AgentConfig, "agent.")
    rows += keys(Allow, "agent.allow[].")
    return _table(rows)


def enclave(_: Mapping[str, str]) -> list[str]:
    """The keys of an enclave's configuration."""
    return _table(keys(EnclaveConfig))


def backend(_: Mapping[str, str]) -> list[str]:
    """The backend's settings, with the variable of each."""
    rows = [
        (code(each.name), plain(each.kind), code(each.default), each.variable)
        for each in all_settings()
    ]
    return table(
        ("key", "type", "default", "variable"),
        [(*row[:3], code(row[3]) if row[3] else "only in the file") for row in rows],
    )


def policy(_: Mapping[str, str]) -> list[str]:
    """The fields of a policy document, as its JSON Schema has them."""
    schema = policy_schema()
    rows = list(_fields(schema, schema.get("$ref", ""), ""))
    return table(("field", "type"), [(code(name), kind) for name, kind in rows])


def keys(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[Row]:
    """Each key of a table and of the tables in it, with its type and its default."""
    hints = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        inner = _table_in(hints[field.name])
        if inner is not None:
            yield from keys(inner, f"{prefix}{field.encode_name}.")
            continue
        yield f"{prefix}{field.encode_name}", type_of(hints[field.name]), _default(field)


def type_of(annotation: object) -> str:  # noqa: PLR0911 - one line for each kind
    """A type, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is typing.Annotated:
        return type_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_of(one) for one in arguments if one is not type(None))
    if origin in (tuple, list, frozenset):
        return f"list of {type_of(arguments[0])}"
    if origin is dict:
        return f"table of {type_of(arguments[1])}"
    if origin is typing.Literal:
        return " or ".join(f'"{one}"' for one in arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f'"{one.value}"' for one in annotation)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return "table"
    return getattr(annotation, "__name__", str(annotation))


def _table_in(annotation: object) -> type[msgspec.Struct] | None:
    for one in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(annotation) in (tuple, list, dict):
            return None
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return one
    return None


def _default(field: msgspec.structs.FieldInfo) -> str:
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    if default is msgspec.NODEFAULT:
        return "required"
    if default is None:
        return "absent"
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, enum.Enum | str):
        return code(f'"{getattr(default, "value", default)}"')
    if isinstance(default, int) and default > 0xFFFF:  # noqa: PLR2004 - a handle
        return code(f"0x{default:08X}")
    return code(default if isinstance(default, int | float) else "{}" if default == {} else "[]")


def _table(rows: typing.Iterable[Row]) -> list[str]:
    written = [(code(name), plain(kind), default) for name, kind, default in rows]
    return table(("key", "type", "default"), written)


def _fields(schema: dict[str, Any], reference: str, prefix: str) -> Iterator[tuple[str, str]]:
    definitions = schema.get("$defs", {})
    found = definitions[reference.rpartition("/")[2]]
    for name, value in found.get("properties", {}).items():
        inner = _reference(value)
        if inner and "properties" in definitions[inner.rpartition("/")[2]]:
            yield from _fields(schema, inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _kind(value, definitions)


def _reference(value: dict[str, Any]) -> str:
    for part in (value, *value.get("anyOf", []), *value.get("allOf", [])):
        if "$ref" in part:
            return str(part["$ref"])
    return ""


def _kind(  # noqa: PLR0911 - one line for each kind
    value: dict[str, Any], definitions: dict[str, Any]
) -> str:
    if "$ref" in value:
        return _kind(definitions[value["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in value:
        parts = [_kind(part, definitions) for part in value["anyOf"] if part != {"type": "null"}]
        return " or ".join(dict.fromkeys(parts))
    if "enum" in value:
        return " or ".join(code(one) for one in value["enum"])
    if "const" in value:
        return code(value["const"])
    kind = str(value.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(value.get('items', {}), definitions)}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"table of {_kind(value['additionalProperties'], definitions)}"
    said = [
        words.format(str(value[key]).replace("|", "\\|"))
        for key, words in LIMITS.items()
        if key != "default" and value.get(key) not in (None, "")
    ]
    names = {"string": "text", "object": "table", "boolean": "true or false"}
    return names.get(kind, kind) + (f" ({', '.join(said)})" if said else "")
