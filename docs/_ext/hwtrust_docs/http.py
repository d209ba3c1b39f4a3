"""The HTTP API: the document that a backend gives of itself, as pages."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import urllib.request
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from hwtrust_backend.app.problems import status_of
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.testing import BackendServer
from hwtrust_docs import errors
from hwtrust_docs.markdown import anchor, code, link, paragraphs, plain, table, target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

METHODS = ("get", "head", "post", "put", "patch", "delete")
_ROLE = "hwtrust_role"
_ALL_GROUPS = "hwtrust_all_groups"
_CALLERS = {
    "apiToken": "a program with an API token",
    "deviceCertificate": "a device, by its certificate",
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of a backend that was started to be asked for it."""
    with quietly(), BackendServer() as backend:
        trust = ssl.create_default_context(cadata=backend.trust.tls_ca)
        address = f"{backend.url}/schema/openapi.json"
        with urllib.request.urlopen(address, context=trust) as answer:  # noqa: S310 - https
            found: dict[str, Any] = json.load(answer)
        found["x-roles"] = _roles(backend)
    return found


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what a backend logs as it starts out of what the build says."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _roles(backend: BackendServer) -> dict[str, str]:
    """The role that a route takes, by method and path; the document cannot name it."""
    found = {}
    for route in create_app(backend.backend).routes:
        for handler in getattr(route, "route_handlers", ()):
            role = handler.opt.get(_ROLE)
            if role is not None:
                limit = ", of all groups" if handler.opt.get(_ALL_GROUPS) else ""
                for method in handler.http_methods:
                    found[f"{method.lower()} {route.path_format}"] = f"{role.value}{limit}"
    return found


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each method and path with what is said of it."""
    for path, item in sorted(document()["paths"].items()):
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def page(_: Mapping[str, str]) -> list[str]:
    """A section for each kind of routes, and an entry for each route."""
    tags: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for method, path, operation in operations():
        tags.setdefault(operation["tags"][0], []).append((method, path, operation))
    lines: list[str] = []
    for tag, found in sorted(tags.items()):
        lines += [f"## {tag.replace('-', ' ').capitalize()}", ""]
        for method, path, operation in found:
            lines += _entry(method, path, operation)
    return [*lines, *_schemas()]


def problems(_: Mapping[str, str]) -> list[str]:
    """Which status comes with which codes."""
    by_status: dict[HTTPStatus, list[str]] = {}
    for name, cls in errors.documented().items():
        by_status.setdefault(status_of(cls("")), []).append(name)
    rows = [
        (
            f"{status.value} {status.phrase}",
            ", ".join(link("error", name) for name in names),
        )
        for status, names in sorted(by_status.items())
        if status is not HTTPStatus.INTERNAL_SERVER_ERROR
    ]
    rows.append(("500 Internal Server Error", "every other error: a defect, or a wrong setting"))
    return table(("status", "codes"), rows)


def _entry(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    name = f"{method.upper()} {path}"
    lines = [target("http", name), f"### {code(name)}", "", *paragraphs(operation["summary"])]
    lines += paragraphs(operation.get("description", ""))
    lines += [f"**Who:** {_who(method, path, operation)}.", ""]
    lines += table(("parameter", "in", "type", "meaning"), _parameters(operation))
    if body := operation.get("requestBody"):
        lines += [f"**Body:** {_contents(body)}", ""]
    rows = []
    for status, answer in sorted(operation["responses"].items()):
        said = _resolved(answer)
        rows.append((status, _contents(said), plain(said.get("description", ""))))
    return [*lines, *table(("status", "body", "meaning"), rows)]


def _who(method: str, path: str, operation: dict[str, Any]) -> str:
    asked = operation.get("security", [])
    callers = [_CALLERS[scheme] for each in asked for scheme in each]
    if not asked or {} in asked:
        callers.append("anybody")
    role = document()["x-roles"].get(f"{method} {path}")
    return " or ".join(callers) + (f" of the role {role}" if role else "")


def _parameters(operation: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for parameter in operation.get("parameters", []):
        where = parameter["in"] + (", required" if parameter.get("required") else "")
        kind = _type(parameter.get("schema", {}))
        yield code(parameter["name"]), where, kind, plain(parameter.get("description", ""))


def _contents(message: dict[str, Any]) -> str:
    return ", ".join(
        f"{code(media)}: {_type(content.get('schema', {}))}"
        for media, content in message.get("content", {}).items()
    )


def _resolved(value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = document()
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _type(schema: dict[str, Any]) -> str:
    """What a value is, in words; of a message its name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{code(name)}](#{anchor('schema', name)})"
    for joined in ("anyOf", "oneOf"):
        if joined in schema:
            return " or ".join(_type(part) for part in schema[joined])
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    return f"{kind}{_limits(schema)}"


LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "minLength": "{} characters or more",
    "maxLength": "{} characters or fewer",
    "pattern": "like `{}`",
    "contentEncoding": "in {}",
    "default": "default `{}`",
}


def _limits(schema: dict[str, Any]) -> str:
    said = [
        words.format(str(schema[key]).replace("|", "\\|"))
        for key, words in LIMITS.items()
        if schema.get(key) not in (None, "")
    ]
    return f" ({', '.join(said)})" if said else ""


def _schemas() -> list[str]:
    lines = ["## Messages", "", "What bodies hold. A field without a default is required.", ""]
    for name, schema in sorted(document()["components"]["schemas"].items()):
        lines += [target("schema", name), f"### {code(name)}", ""]
        lines += paragraphs(schema.get("description", ""))
        required = set(schema.get("required", []))
        rows = [
            (code(field), _type(value), "required" if field in required else "")
            for field, value in schema.get("properties", {}).items()
        ]
        lines += table(("field", "type", ""), rows)
        if not rows:
            lines += [_type(schema), ""]
    return lines
