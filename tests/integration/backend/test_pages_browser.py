"""The pages in a real browser, against a whole backend with real devices."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from hwtrust.wire.cel import Event, EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest
from hwtrust_backend.admin.api_tokens import create_api_token, revoke_api_token
from hwtrust_backend.admin.devices import change_device, lock
from hwtrust_backend.admin.principals import Role, local_administrator
from hwtrust_backend.app.background import TASKS, run_once
from hwtrust_backend.audit import Event as AuditEvent
from hwtrust_backend.audit import page_of_records
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE
from hwtrust_backend.enrolment import Device
from hwtrust_backend.pages.sessions import COOKIE
from hwtrust_backend.policies import add_group, add_policy
from hwtrust_backend.publishing import StoredRoot
from hwtrust_backend.testing import BackendServer, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi
from simulators.browser import Visitor, chromium
from simulators.oidc_provider import OidcProvider
from simulators.tls_server import Pki

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

EVIL = '<script>document.title="taken"</script><img src=x onerror=alert(1)>"\'{{7*7}}'
GROUNDS: dict[Any, str] = {"light": "rgb(246, 246, 244)", "dark": "rgb(18, 20, 23)"}
SCREENSHOTS = os.environ.get("HWTRUST_SCREENSHOTS", "")


@dataclass
class Fleet:
    """A backend with devices of every kind, and tokens of every role."""

    server: BackendServer
    provider: OidcProvider
    devices: dict[str, BackendDevice] = field(default_factory=dict)
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

    def events(self, event: AuditEvent) -> int:
        """How many records there are of an event."""
        with self.server.session() as session:
            found = page_of_records(session, before=None, limit=1000, event=event.value)
        return len(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The backend that all tests look at."""
    home = tmp_path_factory.mktemp("provider")
    with (
        OidcProvider(Pki(home), home) as provider,
        BackendServer(oidc=provider.settings(groups_claim="")) as server,
    ):
        fleet = Fleet(server, provider)
        provider.now = lambda: server.clock() // 1000
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
    crowd(fleet)
    run_once(server.backend, tuple(task for task in TASKS if task.name in {"missing", "activity"}))


def crowd(fleet: Fleet) -> None:
    """A hundred and twenty devices that exist only as rows, and four hours of attestations."""
    server, now = fleet.server, fleet.server.clock()
    with server.session() as session:
        device = session.get_one(Device, fleet.name("press 1"))
        root = session.scalars(select(StoredRoot).where(StoredRoot.device == device.id)).one()
        for number in range(120):
            name = f"000b{number:064x}"
            aged = now - (number * number % 29) * DAY
            session.add(copied(device, id=name, label="", counter=7 + number % 5, rotate_at=aged + 30 * DAY))
            session.flush()
            session.add(copied(root, device=name, epoch=7 + number % 5, made_at=aged))
        counts = {now // MINUTE - ago: 40 + 9 * (ago % 7) + ago // 4 for ago in range(2, 240)}
        server.backend.activity.write(session, counts, now=now)


def copied(row: Any, **changes: object) -> Any:
    """A row like another one."""
    values = {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}
    return type(row)(**{**values, **changes})


@pytest.fixture
def visit(browser: Browser, fleet: Fleet) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers of their own, signed in with the token of a role; none may trespass."""
    opened: list[Visitor] = []

    def open_one(role: str = "", **options: Any) -> Visitor:
        visitor = Visitor(browser, fleet.url, also=(fleet.provider.url,), **options)
        opened.append(visitor)
        if role:
            visitor.sign_in(fleet.tokens[role])
        return visitor

    yield open_one
    for visitor in opened:
        visitor.__exit__(None, None, None)
    assert [visitor.trespasses for visitor in opened if visitor.trespasses] == []


def every_page(fleet: Fleet) -> tuple[str, ...]:
    """The address of each page, as an administrator has them."""
    changed = f"/ui/devices/{fleet.name('changed')}"
    return (
        "/ui/",
        "/ui/devices",
        changed,
        f"{changed}/lock",
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


# --- how pages look --------------------------------------------------------------------

SIZES = {"desktop": (1280, 900), "phone": (400, 860)}

FAINT_TEXT = """
() => {
  const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const read = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = read(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const svg = element instanceof SVGElement;
    const pair = [light(read(svg ? style.fill : style.color)), light(ground(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  return found;
}
"""
"""Where a text's contrast with what is behind it is less than 4.5 to 1 (WCAG 2.2, 1.4.3)."""


def test_every_page_fits_its_window_and_can_be_read(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """On a desk's screen and a phone's, in light and in dark, and nothing trespasses."""
    page = visit("administrator", reduced_motion="reduce").page
    for number, path in enumerate(every_page(fleet)):
        page.goto(path)
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
            for scheme, ground in GROUNDS.items():
                page.emulate_media(color_scheme=scheme)
                style = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert style == ground
                assert page.evaluate(FAINT_TEXT) == [], (path, scheme)
                if SCREENSHOTS:
                    file = Path(SCREENSHOTS) / f"{number:02}-{size}-{scheme}.png"
                    page.screenshot(path=file, full_page=True)
