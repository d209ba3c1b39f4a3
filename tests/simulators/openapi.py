"""Everybody who may call the API, and requests that its OpenAPI document allows or forbids.

    callers = Callers(server, directory)
    for case in requests_of(operation, mode, examples=4, known=callers.known):
        response = callers.send("viewer", case)

A request goes over TLS to a `BackendServer`, through all that a real one goes
through; a device shows its certificate in the handshake.
"""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import requests
import schemathesis
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Config, GenerationMode

from hwtrust.wire.messages import EnrolBegin
from hwtrust_backend.admin import Role, local_administrator, lock, retire
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.admin.authorities import import_authority
from hwtrust_backend.admin.hooks import add_webhook
from hwtrust_backend.admin.queries import query
from hwtrust_backend.admin.tokens import create_token
from hwtrust_backend.app.routes.events import LONGEST_WAIT
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.testing import DAY, HOUR
from hwtrust_backend.webhooks import Topic
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, ek_of
from simulators.device_rows import add_device, device_name
from simulators.ek_authority import EkAuthority
from simulators.release_bundle import begin_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from schemathesis import Case, Response
    from schemathesis.core.result import Ok
    from schemathesis.schemas import APIOperation, BaseSchema

    from hwtrust_backend.testing import BackendServer

    Operation = APIOperation[Any, Any, Any, Any]

NOBODY: Final = "nobody"
DEVICE: Final = "device"
ADMINISTRATOR: Final = "administrator"
WHO: Final = (NOBODY, "viewer", "operator", DEVICE, ADMINISTRATOR)
"""Who may do least comes first: what it is refused is still there for the next one."""

_WAIT: Final = "/v1/wait"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Callers:
    """Tokens of every role, a device that enrolled, and things that they can ask for."""

    def __init__(self, server: BackendServer, directory: Path) -> None:
        self.server = server
        self._trust = directory / "trust.pem"
        self._trust.write_text(server.trust.tls_ca)
        server.accept(make_release())
        self.device = BackendDevice(server.backend)
        self.device.load(make_release())
        server.allow_ek(self.device.name)
        self.device.enrol(HttpApi(server))
        self.known = self._make(self.device)
        """Something that there is, by the operation, or else by what comes before its name."""
        self._sessions = {}
        for who, token in {NOBODY: "", DEVICE: "", **self._tokens()}.items():
            session = self._sessions[who] = requests.Session()
            # Nothing of this machine's environment belongs to a request.
            session.trust_env = False
            if token:
                session.headers["authorization"] = f"Bearer {token}"
        self._certificates = {DEVICE: str(_certificate_file(self.device, directory))}

    def send(self, who: str, case: Case[Any]) -> Response:
        """Send a request of the document in somebody's name."""
        if case.path == _WAIT:
            # Whoever may wait would.
            given = str(case.query.get("seconds", 1))
            if given.isdigit() and int(given) <= LONGEST_WAIT:
                case.query = {**case.query, "seconds": 0}
        return case.call(
            base_url=self.server.url,
            session=self._sessions[who],
            verify=str(self._trust),
            cert=self._certificates.get(who),
            timeout=30,
        )

    def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            session.close()

    def _tokens(self) -> dict[str, str]:
        found = {}
        by = local_administrator()
        with self.server.session() as session:
            for role in Role:
                _, found[role.value] = create_api_token(
                    session,
                    name=f"the-{role}",
                    role=role,
                    groups=None,
                    lifetime_ms=30 * DAY,
                    by=by,
                    now=self.server.clock(),
                )
        return found

    def _make(self, device: BackendDevice) -> dict[str, object]:
        server, by = self.server, local_administrator()
        server.run_due()
        begin_repository(server)
        begun = HttpApi(server).begin(EnrolBegin(ek_public=ek_of(device)))
        with server.session() as session:
            now = server.clock()
            row, locked, retired = (add_device(session, number) for number in (1, 4, 5))
            allow_ek(session, device_name(2), label="", now=now)
            create_api_token(
                session,
                name="spare",
                role=Role.VIEWER,
                groups=None,
                lifetime_ms=DAY,
                by=by,
                now=now,
            )
            token, _ = create_token(session, lifetime_ms=HOUR, by=by, now=now)
            webhook, _ = add_webhook(
                session,
                server.backend.webhooks,
                url="https://receiver.example.org/",
                topics=(Topic.LOCKED,),
                group="",
                by=by,
                now=now,
            )
            vendor = import_authority(
                session,
                EkAuthority.new().root.der,
                authorities=server.backend.enrolments.authorities,
                kind=AuthorityKind.CERTIFICATES,
                label="",
                by=by,
                now=now,
            )
            query(session, device.name.hex(), by=by, now=now)
            session.flush()
            lock(session, locked, reason="tried", by=by, now=now)
            retire(session, retired, reason="tried", by=by, now=now)
        device.attest(HttpApi(server, device))
        return {
            "GET /v1/admin/devices/{device}/evidence": device.name.hex(),
            "POST /v1/admin/devices/{device}/query": device.name.hex(),
            "POST /v1/admin/devices/{device}/unlock": locked,
            "POST /v1/admin/devices/{device}/readmit": retired,
            "api-tokens": "spare",
            "audit": 1,
            "devices": row,
            "ek-authorities": vendor.authority.id,
            "eks": device_name(2),
            "enrolment-tokens": token.id,
            "enrolments": begun.enrolment,
            "export": "devices",
            "groups": "default",
            "metadata": "1.root.json",
            "policies": "default",
            "releases": "1.0",
            "results": device.name.hex(),
            "targets": "releases",
            "versions": 1,
            "webhooks": webhook.id,
        }


def requests_of(operation: Operation, *, allowed: bool, examples: int) -> list[Case[Any]]:
    """Requests that the document allows for an operation, or ones that it forbids.

    There are none of the latter where anything would do.
    """
    mode = GenerationMode.POSITIVE if allowed else GenerationMode.NEGATIVE
    found: list[Case[Any]] = []

    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Case[Any]) -> None:
        found.append(case)

    with contextlib.suppress(Unsatisfiable):
        collect()
    return found


def schema_of(document: dict[str, Any]) -> BaseSchema:
    """A document, to be asked for its operations; the callers show who they are by themselves."""
    config = Config.from_dict(
        {
            "generation": {"with-security-parameters": False},
            # What is too long is refused as such, whatever else is wrong with it.
            "checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}},
        }
    )
    return schemathesis.openapi.from_dict(document, config=config)


def operations_of(schema: BaseSchema) -> list[Operation]:
    """The operations of a document: those that read first, those that take away last."""
    found = [cast("Ok[Operation]", result).ok() for result in schema.get_all_operations()]
    return sorted(found, key=lambda operation: _METHODS.index(operation.method.upper()))


def about(case: Case[Any], known: Mapping[str, object]) -> Case[Any]:
    """The same request about something that there is."""
    parts = case.path.split("/")
    for before, part in pairwise(parts):
        name = part.strip("{}")
        if name != part and name in case.path_parameters:
            there = known.get(case.operation.label, known[before])
            case.path_parameters = {**case.path_parameters, name: there}
    return case


class DocumentedApi(HttpApi):
    """The API as a device uses it, held to the document in every answer."""

    def __init__(
        self,
        callers: Callers,
        schema: BaseSchema,
        check: Callable[[Case[Any], Response], None],
        *,
        who: str = DEVICE,
    ) -> None:
        super().__init__(callers.server)
        self._callers = callers
        self._schema = schema
        self._check = check
        self._who = who
        self.called: set[str] = set()

    def request(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, str | None, bytes]:
        """One request, in the name of who calls: status, media type, body."""
        parts = path.split("/")
        enrolment = parts[3] if len(parts) > 3 and parts[2] == "enrolments" else ""
        template = path.replace(enrolment, "{enrolment}") if enrolment else path
        case = self._schema[template][method].Case(
            path_parameters={"enrolment": enrolment} if enrolment else {},
            body=json.loads(body or b"null"),
            media_type="application/json",
        )
        response = self._callers.send(self._who, case)
        self._check(case, response)
        self.called.add(f"{method} {template}")
        return response.status_code, response.headers["content-type"][0], response.content


def _certificate_file(device: BackendDevice, directory: Path) -> Path:
    key = device.tpm.tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = directory / "device.pem"
    path.write_text(key.decode() + device.certificate)
    return path
