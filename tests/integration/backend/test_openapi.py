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
from litestar import Litestar, Router, get
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
from hwtrust_backend.app.openapi import AREAS, complete
from hwtrust_backend.app.problems import PROBLEM_TYPE
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.policies import DEFAULT_DOCUMENT
from hwtrust_backend.results import IssuedResult
from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release
from simulators.device_rows import device_name
from simulators.ek_authority import EkAuthority
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
    from schemathesis.schemas import BaseSchema

EXAMPLES = int(os.environ.get("HWTRUST_OPENAPI_EXAMPLES", "2"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
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
BY_MESSAGES = {
    "POST /v1/enrolments",
    "POST /v1/enrolments/{enrolment}/key",
    "POST /v1/enrolments/{enrolment}/finish",
    "POST /v1/challenges",
    "POST /v1/attest",
}
"""Operations that only a TPM's signatures pass; a device calls them."""
IN_ORDER = {
    "POST /v1/admin/devices/{device}/unlock": 409,
    "POST /v1/admin/devices/{device}/readmit": 409,
}
"""Operations that need another one before them."""


@dataclass(frozen=True)
class Exchange:
    """A request and what came of it."""

    who: str
    operation: str
    status: int
    failures: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def server() -> Iterator[BackendServer]:
    """A backend over TLS, as it is served; nobody is told to come later."""
    with BackendServer() as started:
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
