"""What the OpenAPI document says, beyond what the framework reads off the handlers.

    handlers ──Litestar──▶ paths, parameters ─┐
    messages ──msgspec───▶ schemas ───────────┼─▶ /schema/openapi.json
    AREAS, REFUSALS ─────▶ who, and what else ┘

Rules:
1. The schema of a message is msgspec's, which is what decodes it: the document
   says of bytes and limits what holds.
2. How an operation may be refused follows from what it takes: who is asked for,
   a path with names, a body. Each refusal is a problem (RFC 9457).
3. `AREAS` has a line for every path. One that has none is an error, and no
   document is given: what was forgotten would be described as open to everybody.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, get_args

import msgspec
from litestar import Litestar, Request
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import SecurityScheme
from litestar.routes import HTTPRoute

from hwtrust.errors import ConfigError
from hwtrust.wire.messages import Problem
from hwtrust_backend.app.problems import PROBLEM_TYPE

TOKEN: Final = "apiToken"  # noqa: S105 - a name
"""The security scheme of programs."""
CERTIFICATE: Final = "deviceCertificate"
"""The security scheme of devices."""

SCHEMES: Final = {
    TOKEN: SecurityScheme(type="http", scheme="bearer", description="An API token, `hwt_…`."),
    CERTIFICATE: SecurityScheme(
        type="mutualTLS", description="The certificate that the device got from this backend."
    ),
}

_SCHEMAS: Final = "#/components/schemas/"
_RESPONSES: Final = "#/components/responses/"

REFUSALS: Final = {
    HTTPStatus.BAD_REQUEST: "The request is none that this route takes.",
    HTTPStatus.UNAUTHORIZED: "It is not shown who calls, or what is shown does not count.",
    HTTPStatus.FORBIDDEN: "Who calls may not do this, or what is shown is not accepted.",
    HTTPStatus.NOT_FOUND: "There is no such thing, or it is not for this caller to see.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.CONFLICT: "It does not fit the state that things are in.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than this route takes.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another type, or encoded.",
    HTTPStatus.TOO_MANY_REQUESTS: "Requests come too often; `Retry-After` says when to come.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The backend cannot work, or may change nothing, at present.",
}

_OF_BODIES: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    }
)
_OF_CALLERS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_OF_WORK: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

_READING: Final = frozenset({"get", "head"})


@dataclass(frozen=True, slots=True)
class Area:
    """What the paths of one kind have in common; `tag` is absent where the handlers name it."""

    tag: str | None
    schemes: tuple[str, ...] = ()
    open_too: bool = False
    """Whether it also answers whoever shows nothing."""
    is_free: bool = False
    """Whether it answers whatever the limits say, and touches nothing."""


AREAS: Final[Mapping[str, Area]] = {
    "/healthz": Area("operations", is_free=True),
    "/readyz": Area("operations", is_free=True),
    "/metrics": Area("operations", (TOKEN,)),
    "/v1/enrolments": Area("enrolment"),
    "/v1/challenges": Area("attestation"),
    "/v1/attest": Area("attestation", (CERTIFICATE,), open_too=True),
    "/v1/enclaves": Area("enclaves"),
    "/v1/enclaves/attest": Area("enclaves", (CERTIFICATE,), open_too=True),
    "/v1/events": Area("events", (CERTIFICATE,)),
    "/v1/wait": Area("events", (CERTIFICATE,)),
    "/v1/results": Area("results", (CERTIFICATE,)),
    "/v1/results/{device}": Area("results", (TOKEN,)),
    "/v1/releases": Area("releases"),
    "/.well-known/jwks.json": Area("results"),
    "/v1/admin": Area(None, (TOKEN,)),
}
"""By path; a path belongs to the longest one that it is, or is below of."""


class Document(JsonRenderPlugin):
    """Gives the document, which is made when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._made: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document as JSON."""
        with self._lock:
            if self._made is None:
                complete(openapi_schema, request.app)
                self._made = self.render_json(request, openapi_schema)
            return self._made


def complete(document: dict[str, Any], app: Litestar) -> None:
    """Put into the framework's document what it cannot know.

    Raises:
        ConfigError: a path is in no area.
    """
    parts = document["components"]
    parts["schemas"] = {**parts["schemas"], **_schemas(app)}
    parts["responses"] = {_name(status): _problem(status) for status in REFUSALS}
    for path, item in document["paths"].items():
        area = _area(path)
        for method, operation in item.items():
            _complete(operation, area, path=path, method=method)


def _complete(operation: dict[str, Any], area: Area, *, path: str, method: str) -> None:
    summary, _, rest = operation.pop("description").partition("\n")
    operation["summary"] = summary
    if rest.strip():
        operation["description"] = rest.strip()
    if area.tag is not None:
        operation["tags"] = [area.tag]
    operation["security"] = [{scheme: []} for scheme in area.schemes]
    if area.open_too:
        operation["security"].append({})
    refused = set() if area.is_free else set(_OF_WORK)
    if area.schemes:
        refused |= _OF_CALLERS
    if operation.get("parameters"):
        refused.add(HTTPStatus.BAD_REQUEST)
    if "{" in path:
        refused.add(HTTPStatus.NOT_FOUND)
    if method not in _READING:
        refused.add(HTTPStatus.CONFLICT)
    if "requestBody" in operation:
        refused |= _OF_BODIES
    said = operation["responses"]
    # The framework's own form of a refusal is not how this backend refuses.
    said.pop("400", None)
    said |= {str(status.value): {"$ref": _RESPONSES + _name(status)} for status in sorted(refused)}


def _area(path: str) -> Area:
    for known in sorted(AREAS, key=len, reverse=True):
        if path == known or path.startswith(f"{known}/"):
            return AREAS[known]
    raise ConfigError(f"the OpenAPI document does not say who may call {path}")


def _name(status: HTTPStatus) -> str:
    return "".join(word.capitalize() for word in status.name.split("_"))


def _problem(status: HTTPStatus) -> dict[str, Any]:
    schema = {"$ref": f"{_SCHEMAS}{Problem.__name__}"}
    return {"description": REFUSALS[status], "content": {PROBLEM_TYPE: {"schema": schema}}}


def _schemas(app: Litestar) -> dict[str, Any]:
    messages = {Problem, *_messages(app)}
    _, found = msgspec.json.schema_components(messages, ref_template=_SCHEMAS + "{name}")
    for schema in found.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return found


def _messages(app: Litestar) -> Iterator[type[msgspec.Struct]]:
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if handler.resolve_include_in_schema():
                yield from _inside(handler.parsed_return_field.annotation)
                if handler.parsed_data_field is not None:
                    yield from _inside(handler.parsed_data_field.annotation)
                for said in (handler.responses or {}).values():
                    yield from _inside(said.data_container)


def _inside(annotation: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for part in get_args(annotation):
        yield from _inside(part)
