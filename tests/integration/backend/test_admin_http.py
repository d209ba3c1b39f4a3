"""The administration API over HTTP: every route, for everybody who may not use it.

The routes are taken from the application itself: one that is added is walked, too,
and fails here until `CALLS` says how it is called.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from litestar.routes import HTTPRoute
from litestar.testing import TestClient
from sqlalchemy import func, select

from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.api_tokens import create_api_token, revoke_api_token
from hwtrust_backend.admin.models import ApiToken
from hwtrust_backend.admin.principals import Role
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.app.routes.admin import PREFIX
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.config import Settings
from hwtrust_backend.db import Base
from hwtrust_backend.enrolment.kinds import DeviceKind
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.keys import Secret
from hwtrust_backend.policies import DEFAULT_DOCUMENT
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP, DAY, HOUR, ManualClock
from simulators.attester import make_release
from simulators.device_rows import add_device, add_groups, device_name
from simulators.ek_authority import EkAuthority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from httpx import Response

    from hwtrust_backend.app.backend import Backend

PASSPHRASE = Secret(b"protects nothing")
MINE, THEIRS, FREE = device_name(1), device_name(2), device_name(3)
"""A device of the group `eu`, one of the group `us`, and an EK that is on no list."""
SQL = "' OR 1=1; DROP TABLE devices --"


@dataclass(frozen=True)
class Call:
    """A request that is answered with `status` to an administrator of all devices."""

    status: int
    body: Any = None
    content: bytes | None = None
    query: str = ""
    path: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] | None = None
    """The same path for something of the group `us`; None: it is not about one group's."""
    foreign_body: Any = None
    """A body that names the group `us`."""


WHY = {"reason": "tried"}
ONE, OTHER = {"device": MINE}, {"device": THEIRS}
VENDOR = EkAuthority.new()
RELEASE = msgspec.to_builtins(make_release("2.0"))
CALLS: dict[tuple[str, str], Call] = {
    ("GET", "/whoami"): Call(200),
    ("GET", "/devices"): Call(200),
    ("GET", "/devices/{device}"): Call(200, path=ONE, foreign=OTHER),
    ("PATCH", "/devices/{device}"): Call(200, {"label": "x"}, path=ONE, foreign=OTHER),
    ("POST", "/devices/{device}/rotate"): Call(200, {}, path=ONE, foreign=OTHER),
    ("POST", "/devices/{device}/events"): Call(
        200, {"kind": "transaction"}, path=ONE, foreign=OTHER
    ),
    ("POST", "/devices/{device}/query"): Call(200, {"wait": 0}, path=ONE, foreign=OTHER),
    ("GET", "/devices/{device}/answer"): Call(200, path=ONE, foreign=OTHER),
    ("GET", "/devices/{device}/evidence"): Call(404, path=ONE, foreign=OTHER),
    ("POST", "/devices/{device}/lock"): Call(200, WHY, path=ONE, foreign=OTHER),
    ("POST", "/devices/{device}/unlock"): Call(200, {}, path=ONE, foreign=OTHER),
    ("POST", "/devices/{device}/retire"): Call(200, WHY, path=ONE, foreign=OTHER),
    ("POST", "/devices/{device}/readmit"): Call(409, WHY, path=ONE, foreign=OTHER),
    ("GET", "/enrolment-tokens"): Call(200),
    ("POST", "/enrolment-tokens"): Call(201, {}, foreign_body={"group": "us"}),
    ("GET", "/enrolment-tokens/{token}"): Call(404, path={"token": "f" * 12}),
    ("DELETE", "/enrolment-tokens/{token}"): Call(404, path={"token": "f" * 12}),
    ("GET", "/eks"): Call(200),
    ("POST", "/eks/import"): Call(200, content=f"name\n{FREE}".encode()),
    ("GET", "/eks/export"): Call(200),
    ("GET", "/eks/{name}"): Call(200, path={"name": MINE}, foreign={"name": THEIRS}),
    ("PUT", "/eks/{name}"): Call(
        200, {}, path={"name": MINE}, foreign={"name": FREE}, foreign_body={"group": "us"}
    ),
    ("DELETE", "/eks/{name}"): Call(204, path={"name": MINE}, foreign={"name": THEIRS}),
    ("GET", "/ek-authorities"): Call(200),
    ("POST", "/ek-authorities"): Call(201, content=VENDOR.files[0], query="?kind=certificates"),
    ("DELETE", "/ek-authorities/{authority}"): Call(404, path={"authority": "f" * 32}),
    ("GET", "/groups"): Call(200),
    ("GET", "/groups/{group}"): Call(200, path={"group": "eu"}, foreign={"group": "us"}),
    ("PUT", "/groups/{group}"): Call(200, {"policy": "default"}, path={"group": "new"}),
    ("POST", "/groups/{group}/dry-run"): Call(
        200, {"document": DEFAULT_DOCUMENT}, path={"group": "eu"}, foreign={"group": "us"}
    ),
    ("GET", "/policies"): Call(200),
    ("GET", "/policies/{policy}"): Call(
        200, path={"policy": "default"}, foreign={"policy": "theirs"}
    ),
    ("POST", "/policies/{policy}/versions"): Call(
        201, {"document": DEFAULT_DOCUMENT}, path={"policy": "new"}
    ),
    ("GET", "/policies/{policy}/versions/{version}"): Call(
        200,
        path={"policy": "default", "version": "1"},
        foreign={"policy": "theirs", "version": "1"},
    ),
    ("POST", "/policies/{policy}/versions/{version}/activate"): Call(
        200, path={"policy": "default", "version": "1"}
    ),
    ("GET", "/releases"): Call(200),
    ("POST", "/releases"): Call(201, RELEASE),
    ("GET", "/releases/{release}"): Call(200, path={"release": "1.0"}),
    ("POST", "/releases/{release}/accept"): Call(200, path={"release": "1.0"}),
    ("POST", "/releases/{release}/retire"): Call(200, path={"release": "1.0"}),
    ("GET", "/audit"): Call(200),
    ("GET", "/audit/head"): Call(404),
    ("GET", "/audit/consistency"): Call(200, query="?old=1"),
    ("GET", "/audit/{sequence}"): Call(200, path={"sequence": "1"}, foreign={"sequence": "1"}),
    ("GET", "/export/{kind}"): Call(200, path={"kind": "devices"}),
    ("GET", "/api-tokens"): Call(200),
    ("POST", "/api-tokens"): Call(201, {"name": "new", "role": "viewer", "lifetime_ms": HOUR}),
    ("GET", "/api-tokens/{name}"): Call(200, path={"name": "viewer"}),
    ("DELETE", "/api-tokens/{name}"): Call(200, path={"name": "spare"}),
    ("GET", "/webhooks"): Call(200),
    ("POST", "/webhooks"): Call(
        201,
        {"url": "https://receiver.example.org/", "topics": ["device.locked"]},
        foreign_body={
            "url": "https://receiver.example.org/",
            "topics": ["device.locked"],
            "group": "us",
        },
    ),
    ("DELETE", "/webhooks/{webhook}"): Call(404, path={"webhook": "wh_none"}),
    ("POST", "/webhooks/{webhook}/secret"): Call(404, path={"webhook": "wh_none"}),
    ("POST", "/webhooks/{webhook}/enable"): Call(404, path={"webhook": "wh_none"}),
    ("POST", "/webhooks/{webhook}/test"): Call(404, path={"webhook": "wh_none"}),
    ("GET", "/webhooks/{webhook}/deliveries"): Call(404, path={"webhook": "wh_none"}),
}
OPERATORS = {
    ("POST", "/devices/{device}/query"),
    ("POST", "/devices/{device}/events"),
    ("PATCH", "/devices/{device}"),
    ("POST", "/devices/{device}/rotate"),
    ("POST", "/devices/{device}/lock"),
    ("POST", "/devices/{device}/unlock"),
    ("POST", "/enrolment-tokens"),
    ("DELETE", "/enrolment-tokens/{token}"),
    ("POST", "/eks/import"),
    ("PUT", "/eks/{name}"),
    ("DELETE", "/eks/{name}"),
    ("POST", "/groups/{group}/dry-run"),
}
FOR_ALL_DEVICES = {
    ("PUT", "/groups/{group}"),
    ("POST", "/policies/{policy}/versions"),
    ("POST", "/policies/{policy}/versions/{version}/activate"),
    ("POST", "/releases"),
    ("POST", "/releases/{release}/accept"),
    ("POST", "/releases/{release}/retire"),
    ("POST", "/ek-authorities"),
    ("DELETE", "/ek-authorities/{authority}"),
    ("GET", "/api-tokens"),
    ("POST", "/api-tokens"),
    ("GET", "/api-tokens/{name}"),
    ("DELETE", "/api-tokens/{name}"),
}


class Site:
    """A backend with two tenants, tokens of every kind, and a client that calls it."""

    def __init__(self, backend: Backend, client: TestClient[Any], tokens: dict[str, str]) -> None:
        self.backend = backend
        self.client = client
        self.tokens = tokens

    def call(self, key: tuple[str, str], who: str | None, *, foreign: bool = False) -> Response:
        """Send a call of the table, with somebody's token."""
        call = CALLS[key]
        path = call.foreign if foreign and call.foreign is not None else call.path
        body = call.foreign_body if foreign and call.foreign_body is not None else call.body
        content = call.content if call.content is not None else None
        if content is None and body is not None:
            content = json.dumps(body).encode()
        return self.send(key[0], key[1].format(**path) + call.query, who, content=content)

    def send(
        self, method: str, path: str, who: str | None, *, content: bytes | None = None
    ) -> Response:
        """Send a request, with somebody's token."""
        headers = {"content-type": "application/json"} if content is not None else {}
        if who is not None:
            headers["authorization"] = f"Bearer {self.tokens[who]}"
        return self.client.request(method, PREFIX + path, headers=headers, content=content)

    def state(self) -> dict[str, list[Any]]:
        """All that is in the database, but when a token was used, and what was refused to whom."""
        found = {}
        with self.backend.database.reading() as session:
            done = select(AuditRecord.at, AuditRecord.event, AuditRecord.reason)
            done = done.where(AuditRecord.event != Event.REQUEST_REFUSED)
            found["done"] = [tuple(row) for row in session.execute(done.order_by(AuditRecord.at))]
            for table in Base.metadata.sorted_tables:
                if table.name.startswith("audit_"):
                    continue
                columns = [column for column in table.columns if column.name != "last_used_at"]
                rows = session.execute(select(*columns).order_by(*table.primary_key.columns))
                found[table.name] = [tuple(row) for row in rows]
        return found


@pytest.fixture(scope="module")
def site(database_setting: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site; tests that are refused leave it as it was."""
    directory: Path = tmp_path_factory.mktemp("admin")
    settings = Settings(data_dir=str(directory / "data"), database=database_setting)
    clock = ManualClock()
    install(settings, passphrase=PASSPHRASE, clock=clock, cost=CHEAP)
    backend = open_backend(settings, passphrase=PASSPHRASE, clock=clock)
    tokens = {"garbage": "hwt_garbage", "nobody's": "hwt_" + "A" * 43, "of another kind": "Basic"}
    by = local_administrator()
    kinds: dict[str, tuple[Role, list[str] | None]] = {
        "viewer": (Role.VIEWER, None),
        "operator": (Role.OPERATOR, None),
        "administrator": (Role.ADMINISTRATOR, None),
        "eu": (Role.ADMINISTRATOR, ["eu"]),
        "expired": (Role.ADMINISTRATOR, None),
        "revoked": (Role.ADMINISTRATOR, None),
        "spare": (Role.VIEWER, None),
    }
    with backend.database.transaction() as session:
        add_groups(session, "eu", "us")
        session.flush()
        for name, (role, groups) in kinds.items():
            _, tokens[name] = create_api_token(
                session,
                name=name,
                role=role,
                groups=groups,
                lifetime_ms=HOUR if name == "expired" else 30 * DAY,
                by=by,
                now=clock(),
            )
        revoke_api_token(session, "revoked", by=by, now=clock())
        for number, group in ((1, "eu"), (2, "us")):
            allow_ek(session, device_name(number), label="", group=group, now=clock())
            add_device(session, number, group=group)
        add_release(session, make_release(), now=clock())
        accept_release(session, "1.0", now=clock())
    clock.advance(2 * HOUR)
    with TestClient(create_app(backend), raise_server_exceptions=False) as client:
        yield Site(backend, client, tokens)
    backend.database.close()


def routes(site: Site) -> set[tuple[str, str]]:
    """Every method and path below the prefix, from the application itself."""
    found = set()
    for route in site.client.app.routes:
        if isinstance(route, HTTPRoute) and route.path.startswith(PREFIX + "/"):
            path = "/".join(
                f"{{{part.name}}}" if not isinstance(part, str) else part
                for part in route.path_components
            ).removeprefix(PREFIX.strip("/"))
            found |= {(str(method), path) for method in route.methods - {"OPTIONS"}}
    return found


def check_problem(response: Response, status: int) -> None:
    """The answer is a problem of that status, with a code, and nobody keeps it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["code"]


def test_every_route_is_walked(site: Site) -> None:
    """A route that nobody has thought of here fails this test."""
    assert routes(site) == set(CALLS)
    assert set(CALLS) > OPERATORS | FOR_ALL_DEVICES


@pytest.mark.parametrize(
    "who", [None, "garbage", "nobody's", "of another kind", "expired", "revoked"]
)
def test_without_a_token_in_force_nothing_is_answered_and_nothing_changed(
    site: Site, who: str | None
) -> None:
    """Every route refuses before it reads a body, and says which credentials it takes."""
    before = site.state()
    for key in sorted(CALLS):
        response = site.call(key, who)
        check_problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer", key
        assert response.json()["code"] == "access:credentials", key
    assert site.state() == before


def test_a_lesser_role_is_refused_and_changes_nothing(site: Site) -> None:
    """A viewer changes nothing; an operator changes nothing that is for administrators."""
    before = site.state()
    for key in sorted(CALLS):
        changing = key[0] != "GET" or key in FOR_ALL_DEVICES
        if changing:
            check_problem(site.call(key, "viewer"), 403)
        if changing and key not in OPERATORS:
            check_problem(site.call(key, "operator"), 403)
    assert site.state() == before


def test_what_somebody_may_not_do_is_in_the_trail(site: Site) -> None:
    """With who asked, and for what; whoever is not known leaves no record."""

    def refusals() -> list[tuple[str, str]]:
        query = select(AuditRecord.actor, AuditRecord.reason)
        query = query.where(AuditRecord.event == Event.REQUEST_REFUSED)
        with site.backend.database.reading() as session:
            found = session.execute(query.order_by(AuditRecord.sequence))
            return [(actor, reason) for actor, reason in found]

    before = refusals()
    check_problem(
        site.send("POST", "/policies/default/versions/1/activate", "viewer", content=b"{}"), 403
    )
    check_problem(
        site.send("POST", "/policies/default/versions/1/activate", None, content=b"{}"), 401
    )
    body = b'{"url": "https://x.example/", "topics": ["device.locked"]}'
    check_problem(site.send("POST", "/webhooks", "eu", content=body), 403)
    told = refusals()[len(before) :]
    assert [actor for actor, _ in told] == ["token:viewer", "token:eu"]
    assert told[0][1].startswith(f"POST {PREFIX}/policies/default/versions/1/activate: ")


def test_a_request_that_is_refused_is_not_read(site: Site) -> None:
    """Nobody gets to the parser of a body who may not use the route."""
    for method, path in sorted(CALLS):
        if method != "GET":
            where = path.format(**CALLS[method, path].path)
            for who, status in ((None, 401), ("viewer", 403)):
                check_problem(site.send(method, where, who, content=b"{"), status)


def test_a_tenant_neither_sees_nor_touches_what_is_anothers(site: Site) -> None:
    """What belongs to another group is not there; what is for all devices is refused."""
    before = site.state()
    tried = 0
    for key, call in sorted(CALLS.items()):
        if key in FOR_ALL_DEVICES:
            check_problem(site.call(key, "eu"), 403)
        elif call.foreign is not None or call.foreign_body is not None:
            tried += 1
            check_problem(site.call(key, "eu", foreign=True), 404)
    assert tried > 15
    assert site.state() == before


def test_what_a_tenant_lists_is_its_own(site: Site) -> None:
    """No list, no export and no trail shows another tenant's device."""
    trail = "/audit?limit=500"
    for path in ("/devices", "/eks", "/eks/export", trail, "/export/devices", "/export/roots"):
        own, whole = site.send("GET", path, "eu"), site.send("GET", path, "administrator")
        assert (own.status_code, whole.status_code) == (200, 200)
        assert THEIRS not in own.text
        assert path == "/export/roots" or THEIRS in whole.text
    assert [row["name"] for row in site.send("GET", "/groups", "eu").json()] == ["eu"]
    assert site.send("GET", "/whoami", "eu").json() == {
        "name": "token:eu",
        "role": "administrator",
        "groups": ["eu"],
    }


def test_no_route_works_with_two_tokens_or_with_a_token_elsewhere(site: Site) -> None:
    """A token counts in its header alone, and once."""
    token = site.tokens["administrator"]
    for headers, query in (
        ([("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")], ""),
        ([("authorization", token)], ""),
        ([("cookie", f"token={token}")], ""),
        ([], f"?token={token}&access_token={token}"),
    ):
        response = site.client.get(f"{PREFIX}/whoami{query}", headers=headers)
        check_problem(response, 401)


def test_devices_are_listed_by_their_kind(site: Site) -> None:
    """Every line names it, and a filter takes those that there are."""
    rows = site.send("GET", "/devices?kind=tpm", "viewer").json()["devices"]
    assert {row["device"]: row["kind"] for row in rows} == {MINE: "tpm", THEIRS: "tpm"}
    for kind in DeviceKind:
        answer = site.send("GET", f"/devices?kind={kind}", "viewer")
        assert (answer.status_code, len(answer.json()["devices"])) == (200, 2 * (kind == "tpm"))
    report = site.send("GET", f"/devices/{MINE}", "viewer").json()
    assert (report["summary"]["kind"], report["facts"]) == ("tpm", {})


BAD: dict[str, tuple[str, str, bytes | None, int]] = {
    "SQL in a search": ("GET", f"/devices?search={SQL}", None, 200),
    "a percent sign in a search": ("GET", "/devices?search=%25", None, 200),
    "a NUL in a search": ("GET", "/devices?search=%00", None, 400),
    "a search that is no UTF-8": ("GET", "/devices?search=%ff%fe", None, 200),
    "a search that is too long": ("GET", f"/devices?search={'x' * 201}", None, 400),
    "a standing that is none": ("GET", "/devices?standing=superb", None, 400),
    "a kind that is none": ("GET", "/devices?kind=vax", None, 400),
    "a filter that is misspelt": ("GET", "/devices?standng=failed", None, 400),
    "a page without end": ("GET", "/devices?limit=100000", None, 400),
    "a cursor that no page gave": ("GET", "/devices?cursor=e30", None, 400),
    "a device that is no name": ("GET", f"/devices/{SQL}", None, 400),
    "a path that is no UTF-8": ("GET", "/devices/%ff", None, 400),
    "a path with a NUL": ("GET", "/releases/%00", None, 400),
    "a number beyond any": ("GET", f"/audit/{2**70}", None, 400),
    "a version beyond any": ("GET", f"/policies/default/versions/{2**70}", None, 400),
    "an export of something else": ("GET", "/export/passwords", None, 400),
    "a body that is no JSON": ("PATCH", f"/devices/{MINE}", b"{", 400),
    "a body that is no UTF-8": ("PATCH", f"/devices/{MINE}", b'{"label": "\xff"}', 400),
    "half of a surrogate pair": ("PATCH", f"/devices/{MINE}", b'{"label": "\\ud800"}', 400),
    "a NUL in a label": ("PATCH", f"/devices/{MINE}", b'{"label": "\\u0000"}', 400),
    "a line break behind a label": ("PATCH", f"/devices/{MINE}", b'{"label": "x\\n"}', 400),
    "a field that is none": ("PATCH", f"/devices/{MINE}", b'{"lable": "x"}', 400),
    "a list in place of an object": ("PATCH", f"/devices/{MINE}", b"[]", 400),
    "a deep list": ("PATCH", f"/devices/{MINE}", b"[" * 100_000, 400),
    "a large body": ("PATCH", f"/devices/{MINE}", b'"' + b"x" * 10 * 2**20 + b'"', 413),
    "no reason": ("POST", f"/devices/{MINE}/lock", b"{}", 400),
    "an empty reason": ("POST", f"/devices/{MINE}/lock", b'{"reason": ""}', 400),
    "no use at all": ("POST", "/enrolment-tokens", b'{"uses": 0}', 400),
    "too many uses": ("POST", "/enrolment-tokens", b'{"uses": 1e30}', 400),
    "a token for ever": ("POST", "/enrolment-tokens", b'{"lifetime_ms": 99999999999999}', 400),
    "a role that is none": ("POST", "/api-tokens", b'{"name": "x", "role": "god"}', 400),
    "a policy that is none": (
        "POST",
        "/policies/x/versions",
        b'{"document": "nothing = [known"}',
        400,
    ),
    "an allow-list that is none": ("POST", "/eks/import", b"\xff\xfe,", 400),
    "a large allow-list": ("POST", "/eks/import", b"x" * 10 * 2**20, 413),
    "certificates that are none": ("POST", "/ek-authorities?kind=certificates", b"x", 400),
    "a revocation list that is none": ("POST", "/ek-authorities?kind=revocations", b"", 400),
    "a receiver inside": (
        "POST",
        "/webhooks",
        b'{"url": "http://127.0.0.1/", "topics": ["device.locked"]}',
        400,
    ),
}


def test_what_is_no_request_is_refused_with_a_type_and_changes_nothing(site: Site) -> None:
    """Whatever comes, the answer is a result or a problem: no 5xx, no change (95)."""
    before = site.state()
    for sentence, (method, path, content, status) in BAD.items():
        response = site.send(method, path, "administrator", content=content)
        assert response.status_code == status, (sentence, response.text)
        if status != 200:
            check_problem(response, status)
    assert site.state() == before


def test_a_refusal_names_the_field_that_is_wrong(site: Site) -> None:
    """Who wrote a body of five fields reads which of them it is."""
    for method, path, content, wrong in (
        ("PATCH", f"/devices/{MINE}", b'{"label": "x\\u009b"}', "label"),
        ("POST", "/enrolment-tokens", b'{"label": "x", "uses": 0}', "uses"),
        ("GET", "/devices?limit=0", None, "limit"),
    ):
        response = site.send(method, path, "administrator", content=content)
        check_problem(response, 400)
        assert f"; {wrong}: " in response.json()["detail"]


def test_an_administrator_can_do_it_all_and_each_change_is_in_the_trail(site: Site) -> None:
    """What is refused to the others is there for who may; nothing changes without a record."""

    def records() -> int:
        with site.backend.database.reading() as session:
            return session.scalar(select(func.count()).select_from(AuditRecord)) or 0

    for key in sorted(CALLS, key=lambda item: (item[0] == "DELETE", "/retire" in item[1], item)):
        before = records()
        response = site.call(key, "administrator")
        assert response.status_code == CALLS[key].status, (key, response.text)
        if response.is_success:
            assert response.headers["cache-control"] == "no-store"
        changed = response.is_success and key[0] != "GET" and "dry-run" not in key[1]
        assert (records() > before) is changed, key
    with site.backend.database.reading() as session:
        last = session.scalars(select(AuditRecord).order_by(AuditRecord.sequence.desc())).first()
        assert last is not None
        assert last.actor == "token:administrator"
        row = session.scalars(select(ApiToken).where(ApiToken.name == "administrator")).one()
        assert row.last_used_at is not None
