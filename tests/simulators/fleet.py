"""A backend with devices of every kind, for tests of what administrators see.

    with fleet_at(directory) as fleet:
        fleet.answer("GET", "/ui/", cookie=fleet.cookie("viewer"))

Its devices are real ones that enrolled and attested over HTTP, and a crowd of rows
besides; its people come with tokens of every role, or from a real provider.
"""

from __future__ import annotations

import hashlib
import http.client
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from sqlalchemy import select

from hwtrust.wire.cel import Event, EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest, Finding, Severity
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.admin.devices import change_device, lock
from hwtrust_backend.admin.principals import Role, local_administrator
from hwtrust_backend.app.background import TASKS, run_once
from hwtrust_backend.audit import Event as AuditEvent
from hwtrust_backend.audit import page_of_records
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE
from hwtrust_backend.enrolment import Device
from hwtrust_backend.pages.models import PageSession
from hwtrust_backend.pages.sessions import COOKIE, sign_in_by_token
from hwtrust_backend.policies import add_group, add_policy
from hwtrust_backend.publishing import StoredRoot
from hwtrust_backend.testing import BackendServer, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, client_context
from simulators.device_rows import add_enclave
from simulators.enclaves import MACHINES
from simulators.oidc_provider import OidcProvider
from simulators.tls_server import Pki

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVIL = '<script>document.title="taken"</script><img src=x onerror=alert(1)>"\'{{7*7}}'
"""A label that would do harm, if a page obeyed it."""


@dataclass
class Fleet:
    """A backend with devices of every kind, and tokens of every role."""

    server: BackendServer
    provider: OidcProvider
    devices: dict[str, BackendDevice] = field(default_factory=dict)
    enclaves: dict[str, str] = field(default_factory=dict)
    """Names by label."""
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where its pages are."""
        return self.server.url

    def name(self, device: str) -> str:
        """A device's name, in hexadecimal."""
        return self.devices[device].name.hex()

    def add(self, label: str, *, group: str = "default") -> BackendDevice:
        """A device that is enrolled, and has loaded its release."""
        device = BackendDevice(self.server.backend)
        device.load(make_release())
        self.server.allow_ek(device.name)
        device.enrol(HttpApi(self.server, device))
        self.devices[label] = device
        with self.server.session() as session:
            change_device(
                session,
                device.name.hex(),
                label=label,
                group=group,
                by=local_administrator(),
                now=self.server.clock(),
            )
        return device

    def attest(self, label: str) -> None:
        """Have a device attest."""
        device = self.devices[label]
        api = HttpApi(self.server, device)
        asked = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
        device.next_nonce = api.challenge(asked).nonce
        device.attest(api)

    def token(self, name: str, role: Role, groups: tuple[str, ...] | None = None) -> str:
        """A new API token."""
        with self.server.session() as session:
            _, token = create_api_token(
                session,
                name=name,
                role=role,
                groups=groups,
                lifetime_ms=300 * DAY,
                by=local_administrator(),
                now=self.server.clock(),
            )
        return token

    def stored(self, device: str) -> Device:
        """A device as the database has it."""
        with self.server.session() as session:
            return session.get_one(Device, self.name(device))

    def newest_record(self) -> int:
        """The number of the newest record."""
        with self.server.session() as session:
            return page_of_records(session, before=None, limit=1)[0].sequence

    def seen_at(self, cookie: str) -> int:
        """When a session was used last."""
        digest = hashlib.sha256(cookie.encode()).digest()
        with self.server.session() as session:
            return session.get_one(PageSession, digest).seen_at

    def answer(
        self,
        method: str,
        path: str,
        *,
        cookie: str = "",
        headers: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
    ) -> tuple[int, str, str, dict[str, str]]:
        """What a client gets that is no browser: status, location, body, headers."""
        sent = dict(headers or {})
        if cookie:
            sent["cookie"] = f"{COOKIE}={cookie}"
        body = None
        if form is not None:
            body = urlencode(form)
            sent["content-type"] = "application/x-www-form-urlencoded"
        port = int(self.url.rpartition(":")[2])
        context = client_context(self.server)
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        try:
            connection.request(method, path, body=body, headers=sent)
            got = connection.getresponse()
            found = dict(got.getheaders())
            return got.status, found.get("location", ""), got.read().decode(), found
        finally:
            connection.close()

    def ask(self, method: str, path: str, **options: Any) -> tuple[int, str, str]:  # noqa: ANN401
        """The same without the headers."""
        return self.answer(method, path, **options)[:3]

    def cookie(self, role: str) -> str:
        """The cookie of a new session."""
        with self.server.session() as session:
            return sign_in_by_token(session, self.tokens[role], now=self.server.clock())

    def events(self, event: AuditEvent) -> int:
        """How many records there are of an event."""
        with self.server.session() as session:
            found = page_of_records(session, before=None, limit=1000, event=event.value)
        return len(found)


@contextmanager
def fleet_at(directory: Path) -> Iterator[Fleet]:
    """The backend, furnished; `directory` is the provider's."""
    with (
        OidcProvider(Pki(directory), directory) as provider,
        BackendServer(oidc=provider.settings()) as server,
    ):
        provider.now = lambda: server.clock() // 1000
        fleet = Fleet(server, provider)
        furnish(fleet)
        yield fleet


def furnish(fleet: Fleet) -> None:
    """One device of every kind, a second group, a second policy version, a hostile label."""
    server = fleet.server
    server.accept(make_release())
    with server.session() as session:
        add_policy(
            session, "default", policy_document(heartbeat="1m"), by="test", now=server.clock()
        )
        add_group(session, "lab", policy="default", label="", by="test", now=server.clock())
    for role in Role:
        fleet.tokens[role.value] = fleet.token(role.value, role)
    fleet.tokens["tenant"] = fleet.token("tenant", Role.OPERATOR, ("lab",))
    for label in ("press 1", "press 2", "gone", "door", "changed", EVIL[:190]):
        fleet.add(label)
    fleet.add("bench", group="lab")
    server.clock.advance(3 * HOUR)
    for device in fleet.devices.values():
        device.tpm.advance(3 * HOUR)
    changed = fleet.devices["changed"]
    changed.append(Event(EventKind.VIOLATION, "kernel", "1.0", b"\7" * 32))
    for label in fleet.devices:
        if label != "gone":
            fleet.attest(label)
    with server.session() as session:
        lock(
            session,
            fleet.name("door"),
            reason="stolen",
            by=local_administrator(),
            now=server.clock(),
        )
    enclaves(fleet)
    crowd(fleet)
    run_once(server.backend, tuple(task for task in TASKS if task.name in {"missing", "activity"}))


def enclaves(fleet: Fleet) -> None:
    """A machine with a GPU at which somebody should look, and a TD; both are rows."""
    now = fleet.server.clock()
    alert = Finding(
        code="snp:platform-unknown", severity=Severity.ALERT, message="0x80 is not known"
    )
    times = {"enrolled_at": now, "attested_at": now, "standing_since": now}
    with fleet.server.session() as session:
        for number, (label, machine, findings) in enumerate(
            (("vm", "snp with a GPU", (alert,)), ("td", "tdx", ())), 1
        ):
            fleet.enclaves[label] = add_enclave(
                session,
                number,
                MACHINES[machine],
                label=label,
                findings=msgspec.json.encode(findings),
                watchdog_at=now + DAY,
                **times,
            )


def crowd(fleet: Fleet) -> None:
    """A hundred and twenty devices that exist only as rows, and four hours of attestations."""
    server, now = fleet.server, fleet.server.clock()
    with server.session() as session:
        device = session.get_one(Device, fleet.name("press 1"))
        root = session.scalars(select(StoredRoot).where(StoredRoot.device == device.id)).one()
        for number in range(120):
            name = f"000b{number:064x}"
            aged = now - (number * number % 29) * DAY
            session.add(
                copied(device, id=name, label="", counter=7 + number % 5, rotate_at=aged + 30 * DAY)
            )
            session.flush()
            session.add(copied(root, device=name, epoch=7 + number % 5, made_at=aged))
        counts = {now // MINUTE - ago: 40 + 9 * (ago % 7) + ago // 4 for ago in range(2, 240)}
        server.backend.activity.write(session, counts, now=now)


def copied(row: Any, **changes: object) -> Any:  # noqa: ANN401 - a row of any table
    """A row like another one."""
    values = {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}
    return type(row)(**{**values, **changes})


def every_page(fleet: Fleet) -> tuple[str, ...]:
    """The address of each page, as an administrator has them."""
    changed = f"/ui/devices/{fleet.name('changed')}"
    return (
        "/ui/",
        "/ui/devices",
        changed,
        f"{changed}/lock",
        f"/ui/devices/{fleet.enclaves['vm']}",
        "/ui/devices?kind=snp",
        "/ui/policies",
        "/ui/policies/default?version=2&against=1",
        "/ui/policies/default/try",
        "/ui/policies/default/activate?version=2",
        "/ui/releases",
        "/ui/enrolment",
        "/ui/audit",
        "/ui/audit/1",
        "/ui/nothing",
    )
