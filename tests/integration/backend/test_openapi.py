"""The HTTP API held to its own OpenAPI document, by everybody who may call it.

schemathesis draws requests that the document allows and requests that it forbids;
each is sent by nobody, by every role and by a device, over TLS. What it cannot draw
(a certificate, a policy, an attestation) is here as an example.
HWTRUST_OPENAPI_EXAMPLES says how many requests of each kind an operation gets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from litestar import Litestar, Router, get, post
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute
from litestar.testing import TestClient
from litestar.utils.sync import AsyncCallable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hwtrust.errors import ConfigError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest, EventReply, EventReport
from hwtrust_backend.app.asking import Asking
from hwtrust_backend.app.openapi import AREAS, complete
from hwtrust_backend.app.problems import PROBLEM_TYPE
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.policies import DEFAULT_DOCUMENT
from hwtrust_backend.references import accept_release
from hwtrust_backend.results import IssuedResult
from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice
from simulators.device_rows import device_name
from simulators.ek_authority import EkAuthority
from simulators.enclave_clients import (
    BackendEnclave,
    DocumentedWay,
    enclave_policy,
    trust_signers,
)
from simulators.openapi import (
    ADMINISTRATOR,
    DEVICE,
    NOBODY,
    WHO,
    Callers,
    DocumentedApi,
    about,
    operations_of,
    requests_of,
    schema_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis import Case, Response
    from schemathesis.schemas import APIOperation, BaseSchema

EXAMPLES = int(os.environ.get("HWTRUST_OPENAPI_EXAMPLES", "2"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
PROBLEM = {"$ref": "#/components/schemas/Problem"}
BODIES: dict[str, Any] = {
    "POST /v1/admin/eks/import": f"name\n{device_name(3)}",
    "POST /v1/admin/ek-authorities": EkAuthority.new().root.der,
    "POST /v1/admin/groups/{group}/dry-run": {"document": DEFAULT_DOCUMENT},
    "POST /v1/admin/policies/{policy}/versions": {"document": DEFAULT_DOCUMENT},
    "POST /v1/admin/releases": msgspec.to_builtins(make_release("2.0")),
    "POST /v1/admin/webhooks": {
        "url": "https://other.example.org/",
        "topics": ["device.locked"],
    },
    "POST /v1/results": {"nonce": "AAAAAAAAAAA="},
    "POST /v1/results/{device}": {"nonce": "AAAAAAAAAAA="},
    "PUT /v1/admin/groups/{group}": {"policy": "default"},
}
"""Bodies that are accepted, of operations whose schema cannot tell them from others."""
UNSHOWN = {400, 401, 404}
"""What a caller gets that does not show who it is; a path that cannot be comes first."""
BY_MESSAGES = {
    "POST /v1/enrolments",
    "POST /v1/enrolments/{enrolment}/key",
    "POST /v1/enrolments/{enrolment}/finish",
    "POST /v1/challenges",
    "POST /v1/attest",
}
"""Operations that only a TPM's signatures pass; a device calls them."""

BY_EVIDENCE = {"POST /v1/enclaves/enrol", "POST /v1/enclaves/attest"}
"""Those that only an enclave's evidence passes."""

WITH_SLASHES = {f"{method} /v1/releases/targets/{{path}}" for method in ("GET", "HEAD")}
"""Operations whose parameter has slashes, which OpenAPI cannot write; a TUF client calls them."""


@dataclass(frozen=True)
class Exchange:
    """A request and what came of it."""

    who: str
    operation: str
    status: int
    failures: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def server() -> Iterator[BackendServer]:
    """A backend over TLS, as it is served; nobody is told to come later, and no answer awaited."""

    async def at_once(*_: object, **__: object) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch, BackendServer() as started:
        patch.setattr(Asking, "wait", at_once)
        yield started


@pytest.fixture(scope="module")
def callers(server: BackendServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    """Everybody who may call it."""
    made = Callers(server, tmp_path_factory.mktemp("callers"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(server: BackendServer) -> Litestar:
    """The application, to be looked at."""
    return create_app(server.backend)


@pytest.fixture(scope="module")
def document(app: Litestar) -> dict[str, Any]:
    """The document as it is served."""
    with TestClient(app) as client:
        found: dict[str, Any] = client.get("/schema/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def schema(document: dict[str, Any]) -> BaseSchema:
    """The document as schemathesis reads it."""
    return schema_of(document)


@pytest.fixture(scope="module")
def exchanges(callers: Callers, schema: BaseSchema) -> list[Exchange]:
    """Every operation, called by everybody with what the document allows and forbids."""
    found = []
    for operation in operations_of(schema):
        drawn = [
            *(about(case, callers.known) for case in examples_of(operation)),
            *requests_of(operation, allowed=False, examples=EXAMPLES),
        ]
        for case in drawn:
            for who in WHO:
                response = callers.send(who, case)
                failures = failures_of(case, response)
                found.append(Exchange(who, operation.label, response.status_code, failures))
    return found


def examples_of(operation: APIOperation[Any, Any, Any, Any]) -> Iterator[Case[Any]]:
    """Requests that the document allows; the last ones have the body that is accepted."""
    yield from requests_of(operation, allowed=True, examples=EXAMPLES)
    if operation.label in BODIES:
        for case in requests_of(operation, allowed=True, examples=1):
            case.body = BODIES[operation.label]
            yield case


def failures_of(case: Case[Any], response: Response) -> tuple[str, ...]:
    """In what an answer departs from the document."""
    try:
        case.validate_response(response, checks=CHECKS)
    except FailureGroup as error:
        return tuple(str(failure) for failure in error.exceptions)
    return ()


def check(case: Case[Any], response: Response) -> None:
    """The answer is as the document says."""
    assert failures_of(case, response) == ()


def is_open(operation: dict[str, Any]) -> bool:
    """Whether an operation answers whoever shows nothing."""
    return not operation["security"] or {} in operation["security"]


def labelled(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations of a document, as schemathesis calls them."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


# --- answers -----------------------------------------------------------------------------


def test_every_answer_is_one_that_the_document_knows(exchanges: list[Exchange]) -> None:
    """Whoever sends whatever: no 5xx, and no status, type, header or form but the document's."""
    departures = [exchange for exchange in exchanges if exchange.failures]
    assert departures == []
    assert max(exchange.status for exchange in exchanges) < 500


def test_every_operation_is_called_by_everybody(
    exchanges: list[Exchange], document: dict[str, Any]
) -> None:
    """Nothing of the document is passed over in silence."""
    operations = set(labelled(document))
    assert len(operations) > 50
    for who in WHO:
        assert {exchange.operation for exchange in exchanges if exchange.who == who} == operations


def test_every_operation_is_answered_well_to_who_may(
    exchanges: list[Exchange], document: dict[str, Any]
) -> None:
    """An answer that is never given would never be held to its schema."""
    answered = {exchange.operation for exchange in exchanges if exchange.status < 300}
    assert set(labelled(document)) - answered <= BY_MESSAGES | BY_EVIDENCE | WITH_SLASHES


def test_who_shows_nothing_is_answered_only_where_the_document_says_so(
    exchanges: list[Exchange], document: dict[str, Any]
) -> None:
    """The security that an operation names is the one that it asks for."""
    operations = labelled(document)
    refused = set()
    for exchange in exchanges:
        if exchange.who == NOBODY and not is_open(operations[exchange.operation]):
            assert exchange.status in UNSHOWN, exchange
            refused |= {exchange.operation} if exchange.status == 401 else set()
        elif is_open(operations[exchange.operation]):
            assert exchange.status != 401, exchange
    assert refused == {name for name in operations if not is_open(operations[name])}


def test_a_token_is_no_certificate_and_a_certificate_no_token(
    exchanges: list[Exchange], document: dict[str, Any]
) -> None:
    """Each scheme opens what names it, and nothing else."""
    other: dict[str, list[dict[str, list[str]]]] = {
        DEVICE: [{"apiToken": []}],
        ADMINISTRATOR: [{"deviceCertificate": []}],
    }
    operations = labelled(document)
    for exchange in exchanges:
        if operations[exchange.operation]["security"] == other.get(exchange.who):
            assert exchange.status in UNSHOWN, exchange


def test_a_devices_life_is_as_the_document_says(
    server: BackendServer, callers: Callers, schema: BaseSchema
) -> None:
    """Enrolment, challenge, attestation, event, wait and result: each answer has its schema."""
    with server.session() as session:
        accept_release(session, "1.0", now=server.clock())
    api = DocumentedApi(callers, schema, check)
    other = BackendDevice(server.backend)
    other.load(make_release())
    server.allow_ek(other.name)
    assert other.enrol(api).certificate
    device = callers.device
    asked = ChallengeRequest(device=device.name, purpose=Purpose.SESSION)
    assert api.challenge(asked).nonce
    assert device.attest(api).challenge
    event = api.post("/v1/events", EventReport(kind="transaction"), EventReply)
    assert isinstance(event.attest, bool)
    assert api.post("/v1/results", b"{}", IssuedResult).result
    assert api.called >= BY_MESSAGES


def test_an_enclaves_life_is_as_the_document_says(
    server: BackendServer, callers: Callers, schema: BaseSchema
) -> None:
    """Challenge, enrolment and session: each answer has its schema."""
    server.hold_to(enclave_policy(evidence=["tpm", "snp"]))
    trust_signers(server.backend)
    api = DocumentedApi(callers, schema, check, who=NOBODY)
    way, enclave = DocumentedWay(api), BackendEnclave()
    enclave.enrol(way, server.token())
    assert enclave.session(way).certificate
    assert api.called >= BY_EVIDENCE


# --- the document ------------------------------------------------------------------------


def test_the_document_is_an_openapi_document(schema: BaseSchema) -> None:
    """It is valid by the schema of OpenAPI 3.1."""
    schema.validate()
    assert schema.specification.version.startswith("3.1")


def test_every_route_but_the_pages_is_in_the_document(
    app: Litestar, document: dict[str, Any]
) -> None:
    """A route that is added is described, or is a page."""
    found = {
        f"{method} {route.path_format}"
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS"}
        if route.path != "/" and not route.path.startswith(("/ui", "/schema"))
    }
    assert found == set(labelled(document))


def test_every_operation_says_what_it_is_and_how_it_refuses(document: dict[str, Any]) -> None:
    """One sentence, a tag, who is asked for; and every refusal is a problem with a code."""
    identifiers = set()
    for label, operation in labelled(document).items():
        identifiers.add(operation["operationId"])
        assert " " in operation["summary"], label
        assert len(operation["tags"]) == 1, label
        for scheme in operation["security"]:
            assert set(scheme) <= set(document["components"]["securitySchemes"]), label
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and label != "GET /readyz":
                name = answer.get("$ref", "").rpartition("/")[2]
                said = document["components"]["responses"].get(name, answer)
                assert list(said["content"]) == [PROBLEM_TYPE], label
                assert said["content"][PROBLEM_TYPE]["schema"] == PROBLEM, label
        free = label in {"GET /healthz", "GET /readyz"}
        assert ({"429", "503"} <= set(operation["responses"])) != free, label
        assert ("401" in operation["responses"]) == bool(operation["security"]), label
        assert ("413" in operation["responses"]) == ("requestBody" in operation), label
    assert len(identifiers) == len(labelled(document))
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "mutualTLS"}


def test_the_schema_of_a_message_is_that_of_what_decodes_it(document: dict[str, Any]) -> None:
    """Bytes are base64 of their length, and what is not known is refused."""
    begin = document["components"]["schemas"]["EnrolBegin"]
    assert begin["additionalProperties"] is False
    assert begin["properties"]["ek_public"] == {
        "type": "string",
        "contentEncoding": "base64",
        "maxLength": 10924,
    }


def test_a_path_that_nobody_has_thought_of_makes_no_document(app: Litestar) -> None:
    """Who may call it has to be said; open to everybody is no default."""

    @get("/v1/new", sync_to_thread=False)
    def new() -> None:
        """Do what nobody has described."""

    other = Litestar([new], openapi_config=OpenAPIConfig("x", "1", use_handler_docstrings=True))
    with pytest.raises(ConfigError) as caught:
        complete(other.openapi_schema.to_schema(), other)
    assert caught.value.code == "config"
    assert all(any(path.startswith(area) for path in paths_of(app)) for area in AREAS)


def paths_of(app: Litestar) -> set[str]:
    """The paths of an application, as the document writes them."""
    return {route.path_format for route in app.routes if isinstance(route, HTTPRoute)}


# --- routes that share a path ------------------------------------------------------------


def wrapped_twice(app: Litestar) -> list[str]:
    """Handlers that would start a thread in order to start a thread."""
    found = []
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            called = handler.fn
            if isinstance(called, AsyncCallable) and isinstance(called.func, AsyncCallable):
                found.append(f"{handler.http_methods} {route.path}")
    return found


def test_no_handler_is_wrapped_twice(app: Litestar) -> None:
    """Two handlers of one path that are registered apart make one of them answer 500."""
    shared = [
        route
        for route in app.routes
        if isinstance(route, HTTPRoute) and len(route.methods - {"OPTIONS"}) > 1
    ]
    assert len(shared) > 10
    assert wrapped_twice(app) == []


def test_handlers_of_one_path_work_wherever_they_are_listed() -> None:
    """One router for all is what keeps them from being wrapped twice."""

    @get("/both", sync_to_thread=True)
    def read() -> str:
        return "read"

    @post("/both", sync_to_thread=True)
    def write() -> str:
        return "written"

    assert wrapped_twice(Litestar([read, write]))
    app = Litestar([Router("/", route_handlers=[read, write])])
    assert wrapped_twice(app) == []
    with TestClient(app) as client:
        assert (client.get("/both").text, client.post("/both").text) == ("read", "written")
