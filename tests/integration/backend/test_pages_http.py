"""The pages as a client sees them that is no browser: forged forms, roles, headers, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.admin.principals import Role
from hwtrust_backend.app.background import TASKS, run_once
from hwtrust_backend.audit import Event, page_of_records
from hwtrust_backend.config.clock import MINUTE
from hwtrust_backend.monitor.activity import attestations_by_minute
from hwtrust_backend.pages.assets import asset_path, assets
from hwtrust_backend.pages.protection import FOREVER, HEADERS, form_token
from hwtrust_backend.testing import BackendServer
from simulators.fleet import Fleet, every_page, fleet_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = {"sec-fetch-site": "same-origin"}
"""What a browser says of a form on our own page."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The backend that all tests speak with."""
    with fleet_at(tmp_path_factory.mktemp("provider")) as made:
        yield made


@pytest.fixture
def cookie(fleet: Fleet) -> str:
    """The cookie of an administrator's session."""
    return fleet.cookie("administrator")


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
    acts = ("query", "rotate", "lock", "unlock", "retire", "readmit", "label")
    for path in (*every_page(fleet), *(f"/ui/devices/{name}/{act}" for act in acts)):
        assert fleet.ask("GET", path, cookie=cookie)[0] in {200, 404, 405}
    for path in ("/ui/logout", "/ui/releases/retire", "/ui/audit/check"):
        assert fleet.ask("GET", path, cookie=cookie)[0] in {404, 405}
    assert fleet.newest_record() == before


def test_a_viewer_can_press_no_button(fleet: Fleet) -> None:
    """What a page does not offer is refused as well; who tried to change something is recorded."""
    device = f"/ui/devices/{fleet.name('press 1')}"
    cookie = fleet.cookie("viewer")
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
        status, _, body = fleet.ask("POST", path, cookie=cookie, headers=OWN, form=form)
        assert (status, "access:forbidden" in body) == (403, True), path
        if path.endswith(("/try", "/check")):
            continue
        with fleet.server.session() as session:
            (last,) = page_of_records(session, before=None, limit=1)
        assert last.event == Event.REQUEST_REFUSED
        assert last.reason.startswith(f"POST {path}: ")


# --- every answer ----------------------------------------------------------------


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


def test_signing_in_is_slowed_after_ten_failures(fleet: Fleet) -> None:
    """An address that goes on is told to wait, and leaves no more records."""
    fleet.server.clock.advance(MINUTE)
    before = fleet.events(Event.SESSION_REFUSED)
    good = fleet.tokens["viewer"]
    statuses = [
        fleet.ask("POST", "/ui/login", headers=OWN, form={"token": token})[0]
        for token in (*["bad"] * 12, good)
    ]
    assert statuses == [401] * 10 + [429] * 3
    assert fleet.events(Event.SESSION_REFUSED) == before + 10
    fleet.server.clock.advance(MINUTE)
    assert fleet.ask("POST", "/ui/login", headers=OWN, form={"token": good})[0] == 303


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {}],
    ids=["another site", "an older browser elsewhere", "nothing says where it comes from"],
)
def test_nobody_is_signed_in_by_another_sites_form(fleet: Fleet, headers: dict[str, str]) -> None:
    """A reader is not made to work in an attacker's session."""
    form = {"token": fleet.tokens["viewer"]}
    status, _, _, answered = fleet.answer("POST", "/ui/login", headers=headers, form=form)
    assert status == 403
    assert "set-cookie" not in answered


def test_a_new_sign_in_takes_nothing_over(fleet: Fleet, cookie: str) -> None:
    """Whoever planted a cookie before has no session after."""
    form = {"token": fleet.tokens["viewer"], "next": "//evil.example"}
    for planted in ("planted", cookie):
        status, location, _, answered = fleet.answer(
            "POST", "/ui/login", cookie=planted, headers=OWN, form=form
        )
        assert (status, location) == (303, "/ui/")
        assert planted not in answered["set-cookie"]
        assert fleet.ask("GET", "/ui/", cookie=planted)[0] == 303


def test_signing_out_everywhere_ends_every_session(fleet: Fleet) -> None:
    """All of one's sessions, and nobody else's."""
    mine, other, his = (fleet.cookie(role) for role in ("operator", "operator", "viewer"))
    form = {"everywhere": "yes", "form_token": form_token(mine)}
    assert fleet.ask("POST", "/ui/logout", cookie=mine, headers=OWN, form=form)[0] == 303
    answers = [fleet.ask("GET", "/ui/", cookie=one)[0] for one in (mine, other, his)]
    assert answers == [303, 303, 200]


def test_what_is_attested_is_counted_for_the_overview(fleet: Fleet) -> None:
    """The server counts in memory, and its background task writes the minutes down."""
    server = fleet.server
    server.clock.advance(MINUTE)
    began = server.clock()
    fleet.attest("press 1")
    fleet.attest("press 2")
    run_once(server.backend, tuple(task for task in TASKS if task.name == "activity"))
    with server.session() as session:
        found = attestations_by_minute(session, since=began, until=server.clock())
    assert sum(found.values()) == 2


def test_a_backend_that_is_read_only_shows_and_writes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """Who is signed in goes on looking; nobody new is signed in, and no use is noted."""
    with BackendServer(tmp_path / "data", read_only=True) as server:
        frozen = Fleet(server, fleet.provider)
        frozen.tokens["viewer"] = frozen.token("viewer", Role.VIEWER)
        cookie = frozen.cookie("viewer")
        server.clock.advance(2 * MINUTE)
        before = frozen.seen_at(cookie), frozen.newest_record()
        assert frozen.ask("GET", "/ui/", cookie=cookie)[0] == 200
        assert frozen.ask("GET", "/ui/login/return?code=x&state=y")[0] == 503
        form = {"token": frozen.tokens["viewer"]}
        assert frozen.ask("POST", "/ui/login", headers=OWN, form=form)[0] == 503
        assert (frozen.seen_at(cookie), frozen.newest_record()) == before
