"""The pages in a real browser, against a whole backend with real devices."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust_backend.admin.api_tokens import revoke_api_token
from hwtrust_backend.admin.principals import Role, local_administrator
from hwtrust_backend.audit import Event, sign_head
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.pages.sessions import COOKIE
from hwtrust_backend.policies import DEFAULT_DOCUMENT, versions_in_force
from simulators.browser import FAINT_TEXT, Visitor, chromium
from simulators.fleet import EVIL, Fleet, every_page, fleet_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

GROUNDS: dict[Any, str] = {"light": "rgb(246, 246, 244)", "dark": "rgb(18, 20, 23)"}
SCREENSHOTS = os.environ.get("HWTRUST_SCREENSHOTS", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The backend that all tests look at."""
    with fleet_at(tmp_path_factory.mktemp("provider")) as made:
        yield made


@pytest.fixture
def visit(browser: Browser, fleet: Fleet) -> Iterator[Callable[..., Visitor]]:
    """Opens browsers of their own, signed in with the token of a role; none may trespass."""
    opened: list[Visitor] = []

    def open_one(role: str = "", **options: Any) -> Visitor:  # noqa: ANN401 - playwright's
        visitor = Visitor(browser, fleet.url, also=(fleet.provider.url,), **options)
        opened.append(visitor)
        if role:
            visitor.hold(COOKIE, fleet.cookie(role))
        return visitor

    yield open_one
    for visitor in opened:
        visitor.__exit__(None, None, None)
    assert [visitor.trespasses for visitor in opened if visitor.trespasses] == []


# --- how pages look --------------------------------------------------------------------

SIZES = {"desktop": (1440, 1000), "tablet": (1024, 800), "phone": (390, 844)}


def check_names(page: Page, path: str) -> None:
    """One main part, one first heading, a place in the navigation, a label for each field."""
    assert page.get_by_role("main").count() == 1, path
    assert page.get_by_role("heading", level=1).count() == 1, path
    if path != "/ui/nothing":
        assert page.locator("nav [aria-current=page]").count() == 1, path
        assert page.get_by_role("link", name="Skip to the content").count() == 1, path
    levels = page.evaluate(
        "[...document.querySelectorAll('main :is(h1, h2, h3, h4)')].map((h) => +h.tagName[1])"
    )
    assert all(after - before <= 1 for before, after in pairwise([0, *levels])), path
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
                if size == "desktop":
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


def test_a_device_that_is_trusted_and_locked_does_not_look_well(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """The verdict's edge has the colour of the worst that there is to say."""
    page = visit("viewer").page
    edges = {"press 1": "trusted", "changed": "failed", "door": "failed", "gone": "incomplete"}
    for label, tone in edges.items():
        page.goto(f"/ui/devices/{fleet.name(label)}")
        classes = page.get_by_role("region", name="Verdict").get_attribute("class") or ""
        assert classes.split()[-1] == tone, label


def test_what_was_measured_wrongly_is_shown_whole(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """A digest that one has to look up is there to be read and copied, not only its beginning."""
    page = visit("viewer").page
    page.goto(f"/ui/devices/{fleet.name('changed')}")
    found = page.get_by_role("region", name="Layers").get_by_text("07" * 32)
    assert found.evaluate(
        "element => element.scrollWidth <= element.clientWidth || "
        "getComputedStyle(element).display === 'inline'"
    )
    matching = page.locator("tr.match .hash").first
    assert len(matching.inner_text()) == 64


def test_an_enclaves_page_says_what_its_hardware_vouches_for(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """Facts in groups and words, what its kind cannot do, its finding; and nothing of a TPM."""
    page = visit("viewer").page
    page.goto("/ui/devices?kind=snp")
    assert page.locator("tr[data-row]").count() == 1
    assert page.get_by_label("Kind").input_value() == "snp"
    page.get_by_role("link", name="vm").click()
    panel = page.get_by_role("region", name="What the hardware vouches for")
    for title in ("Launch measurement", "Debugging and policy", "Identity of the machine", "GPU"):
        assert panel.get_by_role("heading", name=title, exact=True).count() == 1, title
    assert panel.locator("dt", has_text="The host may debug it").count() == 1
    assert panel.get_by_role("list", name="What this kind does not do").locator("li").count() >= 2
    assert page.get_by_text("AMD SEV-SNP", exact=False).first.is_visible()
    verdict = page.get_by_role("region", name="Verdict")
    assert verdict.get_by_text("snp:platform-unknown").first.is_visible()
    assert "Do:" in verdict.inner_text()
    for name in ("PCR values", "Quoted PCRs", "TPM's clock"):
        assert page.get_by_text(name).count() == 0, name


def test_a_tpms_page_shows_its_pcrs_and_no_enclaves_part(
    fleet: Fleet, visit: Callable[..., Visitor]
) -> None:
    """It looks as before."""
    page = visit("viewer").page
    page.goto(f"/ui/devices/{fleet.name('press 1')}")
    assert page.get_by_role("region", name="PCR values").count() == 1
    assert page.get_by_role("region", name="What the hardware vouches for").count() == 0


def test_the_overview_counts_by_kind(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Each number leads to its devices."""
    page = visit("viewer").page
    page.goto("/ui/")
    page.get_by_role("link", name="Intel TDX 1").click()
    page.wait_for_url("**/ui/devices?kind=tdx")
    assert page.locator("tr[data-row]").count() == 1


def test_paper_is_white_and_holds_no_buttons(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Whoever reads in the dark prints in the light; what can be pressed stays away."""
    page = visit("operator", color_scheme="dark").page
    page.goto(f"/ui/devices/{fleet.name('changed')}")
    page.emulate_media(media="print")
    panel = page.get_by_role("region", name="Verdict")
    style = panel.evaluate("element => getComputedStyle(element).backgroundColor")
    assert style == "rgb(255, 255, 255)"
    assert page.locator("button:visible, a.button:visible, nav:visible").count() == 0


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
    visitor, before = visit(), fleet.events(Event.SESSION_REFUSED)
    visitor.page.goto("/ui/login")
    visitor.page.get_by_label("API token").fill("hwt_" + "A" * 43)
    visitor.page.keyboard.press("Enter")
    assert "access:credentials" in visitor.page.get_by_role("alert").inner_text()
    assert COOKIE not in visitor.cookies()
    assert fleet.events(Event.SESSION_REFUSED) == before + 1


def test_signing_out_ends_the_session(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """The cookie that was opens nothing any more."""
    visitor = visit("viewer")
    visitor.page.goto("/ui/enrolment")
    kept = visitor.cookies()[COOKIE]["value"]
    visitor.page.get_by_role("button", name="Sign out", exact=True).click()
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
    visitor, before = visit(), fleet.events(Event.SESSION_REFUSED)
    fleet.provider.claims["nonce"] = "another"
    try:
        visitor.page.goto("/ui/login")
        visitor.page.get_by_role("link", name="Continue with localhost").click()
        visitor.page.wait_for_url("**/ui/login/return**")
    finally:
        del fleet.provider.claims["nonce"]
    assert "login:oidc:token" in visitor.page.get_by_role("alert").inner_text()
    assert visitor.cookies() == {}
    assert fleet.events(Event.SESSION_REFUSED) == before + 1


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


# --- who sees what ----------------------------------------------------------------------------


def test_a_viewer_sees_no_button(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """What somebody may not do is not offered."""
    visitor = visit("viewer")
    device = f"/ui/devices/{fleet.name('press 1')}"
    for path in (device, "/ui/policies/default", "/ui/releases", "/ui/enrolment", "/ui/audit"):
        visitor.page.goto(path)
        forms = visitor.page.locator("main form[method=post], main a.button.grave")
        assert forms.count() == 0, path


def test_somebody_of_one_group_sees_no_other(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Other groups' devices are in no list, no count and at no address."""
    page = visit("tenant").page
    page.goto("/ui/")
    assert "1 device in service" in page.get_by_role("main").inner_text()
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
    pages = {"a": "audit", "p": "policies", "r": "releases", "e": "enrolment", "d": "devices"}
    for key, path in pages.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"**/ui/{path}")
    rows = page.locator("tr[data-row]")
    for key, at in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert "at" in (rows.nth(at).get_attribute("class") or "")


FOCUSED = """
() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  const [style, box] = [getComputedStyle(at), at.getBoundingClientRect()];
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const inside = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
  return { seen: ring && inside, name: at.innerText?.trim() || at.tagName };
}
"""


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what is called `name` has the focus; every stop on the way can be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        assert stop is not None, (page.url, name)
        assert stop["seen"], (page.url, stop)
        if stop["name"] == name:
            return
    raise AssertionError((page.url, name))


def test_wherever_the_tab_key_stops_is_seen(fleet: Fleet, visit: Callable[..., Visitor]) -> None:
    """Every stop has a ring around it and is in the window; a device is locked on the way."""
    page = visit("operator").page
    for path in ("/ui/", "/ui/releases", "/ui/policies/default/try", "/ui/enrolment"):
        page.goto(path)
        tab_to(page, "Sign out everywhere")
    page.goto(f"/ui/devices/{fleet.name('bench')}")
    tab_to(page, "Lock")
    page.keyboard.press("Enter")
    page.wait_for_url("**/lock")
    page.keyboard.type("without a mouse")
    for key in ("Tab", "Space", "Enter"):
        page.keyboard.press(key)
    page.get_by_text("The device is locked.").wait_for()
    assert fleet.stored("bench").lock_reason == "without a mouse"
    page.get_by_role("link", name="Unlock").press("Enter")
    page.get_by_role("button", name="Unlock").press("Enter")
    page.get_by_text("The device is unlocked").wait_for()


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


# --- policies, tokens, audit ----------------------------------------------------------


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
        assert versions_in_force(session)["default"].version == 1


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
