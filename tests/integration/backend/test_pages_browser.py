"""The pages in a real browser, against a whole backend with real devices."""

from __future__ import annotations

import hashlib
import http.client
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

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
from hwtrust_backend.audit import page_of_records, sign_head
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE
from hwtrust_backend.enrolment import Device
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.pages.assets import asset_path, assets
from hwtrust_backend.pages.models import PageSession
from hwtrust_backend.pages.protection import FOREVER, HEADERS, form_token
from hwtrust_backend.pages.sessions import COOKIE, sign_in_by_token
from hwtrust_backend.policies import DEFAULT_DOCUMENT, active_versions, add_group, add_policy
from hwtrust_backend.publishing import StoredRoot
from hwtrust_backend.testing import BackendServer, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, client_context
from simulators.browser import Visitor, chromium
from simulators.oidc_provider import OidcProvider
from simulators.tls_server import Pki

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

EVIL = '<script>document.title="taken"</script><img src=x onerror=alert(1)>"\'{{7*7}}'
GROUNDS: dict[Any, str] = {"light": "rgb(246, 246, 244)", "dark": "rgb(18, 20, 23)"}
SCREENSHOTS = os.environ.get("HWTRUST_SCREENSHOTS", "")


@dataclass
class Fleet:
    """A backend with devices of every kind, and tokens of every role."""

    server: BackendServer
    provider: Any
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

    def ask(self, method: str, path: str, **options: Any) -> tuple[int, str, str]:
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
            session.add(
                copied(device, id=name, label="", counter=7 + number % 5, rotate_at=aged + 30 * DAY)
            )
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
            visitor.hold(COOKIE, fleet.cookie(role))
        return visitor

    yield open_one
    for visitor in opened:
        visitor.__exit__(None, None, None)
    assert [visitor.trespasses for visitor in opened if visitor.trespasses] == []


@pytest.fixture
def cookie(fleet: Fleet) -> str:
    """The cookie of an administrator's session."""
    return fleet.cookie("administrator")


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


def check_names(page: Page, path: str) -> None:
    """One main part, one first heading, a place in the navigation, a label for each field."""
    assert page.get_by_role("main").count() == 1, path
    assert page.get_by_role("heading", level=1).count() == 1, path
    if path != "/ui/nothing":
        assert page.locator("nav [aria-current=page]").count() == 1, path
        assert page.get_by_role("link", name="Skip to the content").count() == 1, path
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]"
        ".filter((field) => field.labels.length === 0 && !field.ariaLabel).length"
    )
    assert unnamed == 0, path


def test_every_page_fits_its_window_and_can_be_read(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """On a desk's screen and a phone's, in light and in dark, with names for all its parts."""
    page = visit("administrator", reduced_motion="reduce").page
    for number, path in enumerate(every_page(fleet)):
        page.goto(path)
        check_names(page, path)
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


def test_the_pictures_have_their_numbers_as_tables(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """Whoever does not see a picture has its name, a sentence, and every number."""
    page = visit("viewer").page
    page.goto("/ui/")
    pictures = page.locator("figure.plot")
    assert pictures.count() == 5
    for picture in pictures.all():
        assert picture.get_by_role("img").get_attribute("aria-label")
        assert picture.locator("summary").inner_text() == "As a table"
        assert picture.locator("tbody tr").count() >= 5


# --- signing in -----------------------------------------------------------------------


def test_a_token_signs_in_and_leads_on(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """One comes to the page that one wanted; the cookie is what it has to be."""
    visitor = visit()
    visitor.page.goto("/ui/devices?standing=failed")
    assert "/ui/login" in visitor.page.url
    visitor.page.get_by_label("API token").fill(fleet.tokens["viewer"])
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_url("**/ui/devices?standing=failed")
    assert visitor.page.locator("tr[data-row]").count() == 1
    cookie = visitor.cookies()[COOKIE]
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
    assert cookie["path"] == "/"
    assert fleet.tokens["viewer"] not in str(visitor.cookies())


def test_a_bad_token_is_refused_and_recorded(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """The page says so, the trail says so, and nobody is signed in."""
    visitor, before = visit(), fleet.events(AuditEvent.SESSION_REFUSED)
    visitor.page.goto("/ui/login")
    visitor.page.get_by_label("API token").fill("hwt_" + "A" * 43)
    visitor.page.keyboard.press("Enter")
    assert "access:credentials" in visitor.page.get_by_role("alert").inner_text()
    assert COOKIE not in visitor.cookies()
    assert fleet.events(AuditEvent.SESSION_REFUSED) == before + 1


def test_signing_out_ends_the_session(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """The cookie that was opens nothing any more."""
    visitor = visit("viewer")
    visitor.page.goto("/ui/enrolment")
    kept = visitor.cookies()[COOKIE]["value"]
    visitor.page.get_by_role("button", name="Sign out").click()
    visitor.page.wait_for_url("**/ui/login")
    assert COOKIE not in visitor.cookies()
    status, location, _ = fleet.ask("GET", "/ui/", cookie=kept)
    assert (status, location) == (303, "/ui/login?next=%2Fui%2F")


def test_a_provider_signs_in_and_leads_on(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Through a real provider and back, though the session's cookie is for this site alone."""
    visitor = visit()
    visitor.page.goto("/ui/policies")
    visitor.page.get_by_role("link", name="Continue with localhost").click()
    visitor.page.wait_for_url("**/ui/policies")
    assert "oidc:alice@example.org" in visitor.page.get_by_role("banner").inner_text()
    cookies = visitor.cookies()
    assert cookies[COOKIE]["sameSite"] == "Strict"
    assert set(cookies) == {COOKIE}


def test_a_provider_that_lies_signs_nobody_in(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """An ID token that is not good ends on a page that says why, with a record."""
    visitor, before = visit(), fleet.events(AuditEvent.SESSION_REFUSED)
    fleet.provider.claims["nonce"] = "another"
    try:
        visitor.page.goto("/ui/login")
        visitor.page.get_by_role("link", name="Continue with localhost").click()
        visitor.page.wait_for_url("**/ui/login/return**")
    finally:
        del fleet.provider.claims["nonce"]
    assert "login:oidc:token" in visitor.page.get_by_role("alert").inner_text()
    assert visitor.cookies() == {}
    assert fleet.events(AuditEvent.SESSION_REFUSED) == before + 1


def test_an_answer_that_nobody_asked_for_signs_nobody_in(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """A prepared link to the return address is refused."""
    visitor = visit()
    visitor.page.goto("/ui/login/return?code=x&state=y")
    assert "login:oidc:state" in visitor.page.get_by_role("alert").inner_text()
    assert visitor.cookies() == {}


def test_a_link_from_elsewhere_finds_the_session(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """The strict cookie does not come with another site's link; the page asks once more."""
    visitor = visit("viewer")
    target = f"{fleet.url}/ui/devices/{fleet.name('changed')}"
    # 127.0.0.1 is another site than localhost.
    elsewhere = fleet.provider.url.replace("localhost", "127.0.0.1")
    visitor.allow(elsewhere)
    visitor.page.route(
        f"{elsewhere}/page",
        lambda route: route.fulfill(body=f'<a href="{target}">go</a>', content_type="text/html"),
    )
    visitor.page.goto(f"{elsewhere}/page")
    visitor.page.get_by_role("link", name="go").click()
    visitor.page.get_by_role("heading", level=1, name="changed").wait_for()
    assert visitor.page.url == target


# --- forms ----------------------------------------------------------------------------------


def test_a_device_is_locked_and_unlocked_by_its_page(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """A reason and a tick are asked for; the trail has who did it."""
    page = visit("operator").page
    page.goto(f"/ui/devices/{fleet.name('press 2')}")
    page.get_by_role("link", name="Lock").click()
    page.get_by_label("Reason").fill("lost in transit")
    page.get_by_role("button", name="Lock").click()
    assert page.url.endswith("/lock"), "the box is not ticked"
    page.get_by_label("I mean this device").check()
    page.get_by_role("button", name="Lock").click()
    page.get_by_text("The device is locked.").wait_for()
    assert fleet.stored("press 2").lock_reason == "lost in transit"
    assert "token:operator" in page.locator("section", has_text="History").last.inner_text()
    page.get_by_role("link", name="Unlock").click()
    page.get_by_role("button", name="Unlock").click()
    page.get_by_text("The device is unlocked").wait_for()
    assert fleet.stored("press 2").locked_at is None


def test_another_sites_form_changes_nothing(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """A page elsewhere that sends the form in the reader's name is refused."""
    visitor = visit("operator")
    elsewhere = fleet.provider.url.replace("localhost", "127.0.0.1")
    visitor.allow(elsewhere)
    action = f"{fleet.url}/ui/devices/{fleet.name('press 1')}/rotate"
    visitor.page.route(
        f"{elsewhere}/page",
        lambda route: route.fulfill(
            body=f'<form method="post" action="{action}"><button>Win</button></form>',
            content_type="text/html",
        ),
    )
    visitor.page.goto(f"{elsewhere}/page")
    visitor.page.get_by_role("button", name="Win").click()
    visitor.page.wait_for_url(action)
    assert "page:form:forged" in visitor.page.content()
    assert fleet.stored("press 1").rotation_asked_at is None


FORGERIES: dict[str, tuple[dict[str, str], bool]] = {
    "another site's, with the token": ({"sec-fetch-site": "cross-site"}, True),
    "a sibling host's, with the token": ({"sec-fetch-site": "same-site"}, True),
    "of an older browser elsewhere, with the token": ({"origin": "https://evil.example"}, True),
    "from nowhere, with the token": ({}, True),
    "our own, without the token": ({"sec-fetch-site": "same-origin"}, False),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("form", ["device", "token", "release", "policy", "label", "check"])
def test_a_forged_form_changes_nothing(fleet: Fleet, cookie: str, forgery: str, form: str) -> None:
    """Whatever a form does, it is refused unless page and session are its own."""
    headers, with_token = FORGERIES[forgery]
    path, fields = {
        "device": (f"/ui/devices/{fleet.name('press 1')}/retire", {"reason": "x"}),
        "token": ("/ui/enrolment", {"group": "default", "lifetime": "1h", "uses": "1"}),
        "release": ("/ui/releases/retire", {"name": "1.0"}),
        "policy": ("/ui/policies/default/activate", {"version": "2"}),
        "label": (f"/ui/devices/{fleet.name('press 1')}/label", {"label": "x"}),
        "check": ("/ui/audit/check", {}),
    }[form]
    before = fleet.newest_record()
    fields |= {"sure": "yes"}
    if with_token:
        fields["form_token"] = form_token(cookie)
    status, _, body = fleet.ask("POST", path, cookie=cookie, headers=headers, form=fields)
    assert (status, "page:form:forged" in body) == (403, True)
    assert fleet.newest_record() == before


def test_a_get_changes_nothing(fleet: Fleet, cookie: str) -> None:
    """Following every address, also those that forms are sent to, leaves the trail as it was."""
    before = fleet.newest_record()
    name = fleet.name("press 1")
    acts = ("rotate", "lock", "unlock", "retire", "readmit", "label")
    for path in (*every_page(fleet), *(f"/ui/devices/{name}/{act}" for act in acts)):
        assert fleet.ask("GET", path, cookie=cookie)[0] in {200, 404, 405}
    for path in ("/ui/logout", "/ui/releases/retire", "/ui/audit/check"):
        assert fleet.ask("GET", path, cookie=cookie)[0] in {404, 405}
    assert fleet.newest_record() == before


# --- who sees what ----------------------------------------------------------------------------


def test_a_viewer_sees_no_button_and_can_press_none(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """What is not shown is refused as well."""
    visitor = visit("viewer")
    device = f"/ui/devices/{fleet.name('press 1')}"
    for path in (device, "/ui/policies/default", "/ui/releases", "/ui/enrolment", "/ui/audit"):
        visitor.page.goto(path)
        forms = visitor.page.locator("main form[method=post], main a.button.grave")
        assert forms.count() == 0, path
    cookie = visitor.cookies()[COOKIE]["value"]
    own = {"sec-fetch-site": "same-origin"}
    fields = {"form_token": form_token(cookie), "reason": "x", "sure": "yes"}
    for path in (
        f"{device}/rotate",
        f"{device}/lock",
        f"{device}/retire",
        f"{device}/label",
        "/ui/releases/retire",
        "/ui/policies/default/activate",
        "/ui/policies/default/try",
        "/ui/audit/check",
    ):
        form = {**fields, "name": "1.0", "version": "1", "group": "default", "document": "x = 1"}
        status, _, body = fleet.ask("POST", path, cookie=cookie, headers=own, form=form)
        assert (status, "access:forbidden" in body) == (403, True), path


def test_somebody_of_one_group_sees_no_other(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Other groups' devices are in no list, no count and at no address."""
    page = visit("tenant").page
    page.goto("/ui/")
    assert "1 devices in service" in page.get_by_role("main").inner_text()
    page.goto("/ui/devices")
    assert page.locator("tr[data-row]").count() == 1
    answer = page.goto(f"/ui/devices/{fleet.name('press 1')}")
    assert answer is not None
    assert answer.status == 404
    page.goto("/ui/audit")
    assert fleet.name("press 1")[:16] not in page.content()


def test_a_session_ends_with_its_token(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """A token that is revoked signs its people out at once."""
    fleet.tokens["short"] = fleet.token("short", Role.VIEWER)
    page = visit("short").page
    with fleet.server.session() as session:
        revoke_api_token(session, "short", by=local_administrator(), now=fleet.server.clock())
    page.goto("/ui/devices")
    assert "/ui/login" in page.url


# --- hostile texts ----------------------------------------------------------------------------


def test_a_hostile_label_is_shown_and_not_obeyed(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """Markup in a label is text on every page that shows it."""
    page = visit("viewer").page
    name = fleet.name(EVIL)
    for path in ("/ui/devices?search=script", f"/ui/devices/{name}", f"/ui/audit?device={name}"):
        page.goto(path)
        assert "<script>document.title" in page.get_by_role("main").inner_text(), path
        assert page.title() != "taken"
        assert page.locator("main img, main script").count() == 0, path


# --- without a mouse, without a script ----------------------------------------------------------


def test_the_keyboard_leads_everywhere(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """/, j, k, Enter, g and a letter, ? and Escape."""
    page = visit("viewer").page
    page.goto("/ui/")
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    page.keyboard.press("/")
    page.wait_for_url("**/ui/devices#search")
    page.keyboard.type("press 2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/devices?search=press*")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name="press 2").wait_for()
    for key, path in {"a": "audit", "p": "policies", "d": "devices"}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"**/ui/{path}")
    rows = page.locator("tr[data-row]")
    for key, at in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert "at" in (rows.nth(at).get_attribute("class") or "")


def test_everything_works_without_a_script(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Signing in, filtering, paging, and asking for a rotation need no JavaScript."""
    page = visit("operator", java_script_enabled=False).page
    page.goto("/ui/devices")
    assert page.locator("tr[data-row]").count() == 50
    page.get_by_role("link", name="Next page").click()
    assert page.locator("tr[data-row]").count() == 50
    page.get_by_label("Search").fill("bench")
    page.get_by_role("button", name="Show").click()
    page.locator("tr[data-row] a").first.click()
    page.get_by_role("link", name="Rotate root").click()
    page.get_by_role("button", name="Rotate root").click()
    assert "A rotation is asked for" in page.get_by_role("status").first.inner_text()
    assert fleet.stored("bench").rotation_asked_at is not None


# --- policies, tokens, audit ------------------------------------------------------------------------


def test_a_dry_run_says_who_would_fail_and_why(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """The form takes a document, and nothing is in force by it."""
    page = visit("operator").page
    page.goto("/ui/policies/default/try?version=1")
    document = page.get_by_label("Document")
    assert document.input_value() == DEFAULT_DOCUMENT
    document.fill(DEFAULT_DOCUMENT.replace("unsafe_any", "# unsafe_any"))
    page.get_by_role("button", name="Try").click()
    result = page.get_by_role("region", name="more devices would fail")
    assert "pcr:unlisted" in result.inner_text()
    document.fill("releases = 7")
    page.get_by_role("button", name="Try").click()
    page.get_by_role("alert").wait_for()
    with fleet.server.session() as session:
        assert active_versions(session) == {"default": 1}


def test_a_token_is_shown_once(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """The answer to the form has the token; no page after it has."""
    page = visit("operator").page
    page.goto("/ui/enrolment")
    page.get_by_label("What for").fill("rack 12")
    page.get_by_role("button", name="Make a token").click()
    token = page.locator(".secret").inner_text()
    assert len(token) > 40
    page.goto("/ui/enrolment")
    assert "rack 12" in page.get_by_role("main").inner_text()
    assert token not in page.content()
    page.get_by_role("button", name="Revoke").click()
    page.get_by_text("revoked").wait_for()


def test_the_trail_is_checked_and_a_record_proved(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """A signed head, the check of all records, and one record's proof, verified by the server."""
    server = fleet.server
    with server.session() as session:
        signer = server.backend.vault.signer(KeyRole.AUDIT)
        sign_head(session, signer, origin=server.url, now=server.clock())
    page = visit("operator").page
    page.goto("/ui/audit")
    page.get_by_role("button", name="Check all now").click()
    page.get_by_text("records 1…").wait_for()
    facts = page.locator("section", has_text="Is it whole?")
    assert facts.get_by_text("verified").count() == 2
    page.goto("/ui/audit/3")
    page.get_by_text("lead from this record to the root").wait_for()


# --- every answer ------------------------------------------------------------------------------------


def test_every_answer_carries_what_protects_it(fleet: Fleet, cookie: str) -> None:
    """Pages, redirections, errors and files, signed in or not."""
    files = [asset_path(name) for name in assets()]
    for path in (*every_page(fleet), "/", "/ui/login", "/ui/login/return", *files):
        for who in (cookie, ""):
            _, _, _, headers = fleet.answer("GET", path, cookie=who)
            held = {name: headers.get(name) for name in HEADERS}
            if path in files:
                assert held.pop("cache-control") == FOREVER
            expected = {name: value for name, value in HEADERS.items() if name in held}
            assert held == expected, path


def test_a_page_that_nobody_uses_keeps_no_session_alive(fleet: Fleet, cookie: str) -> None:
    """The quiet refresh of the overview does not count as use; anything else does."""
    fleet.server.clock.advance(2 * MINUTE)
    before = fleet.seen_at(cookie)
    fleet.ask("GET", "/ui/", cookie=cookie, headers={"x-hwtrust-quiet": "1"})
    assert fleet.seen_at(cookie) == before
    fleet.ask("GET", "/ui/", cookie=cookie)
    assert fleet.seen_at(cookie) > before


def test_signing_in_is_slowed_after_ten_failures(tmp_path: Path) -> None:
    """An address that goes on is told to wait, and leaves no more records."""
    with BackendServer(tmp_path / "data") as server:
        fleet = Fleet(server, provider=None)
        good = fleet.token("good", Role.VIEWER)
        own = {"sec-fetch-site": "same-origin"}
        statuses = [
            fleet.ask("POST", "/ui/login", headers=own, form={"token": token})[0]
            for token in (*["bad"] * 12, good)
        ]
        assert statuses == [401] * 10 + [429] * 3
        assert fleet.events(AuditEvent.SESSION_REFUSED) == 10
        server.clock.advance(MINUTE)
        assert fleet.ask("POST", "/ui/login", headers=own, form={"token": good})[0] == 303
