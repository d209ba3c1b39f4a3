"""Attestation results over real TLS: for the device, for relying parties, for anybody."""

from __future__ import annotations

import base64
import http.client
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import select

from hwtrust.errors import ResultExpiredError, ResultSignatureError
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.admin.principals import Role
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.policies import add_group
from hwtrust_backend.results import IssuedResult, read_jwks, verify_result
from hwtrust_backend.testing import DAY, HOUR, MINUTE, BackendServer
from simulators.attester import make_release
from simulators.backend_clients import (
    BackendDevice,
    HttpApi,
    RefusedByHttpError,
    client_context,
    enrolled_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust_backend.results import ResultClaims

JWKS = "/.well-known/jwks.json"
NONCE = b"a relying party's own nonce"
NONCE_TEXT = base64.b64encode(NONCE).decode()


@pytest.fixture(scope="module")
def server(database_setting: str) -> Iterator[BackendServer]:
    """A backend that accepts release 1.0."""
    with BackendServer(database=database_setting) as started:
        started.accept(make_release())
        with started.session() as session:
            now = started.clock()
            add_group(session, "lab", policy="default", label="", by="cli:root", now=now)
        yield started


@pytest.fixture
def own_server(database_url: str) -> Iterator[BackendServer]:
    """A backend of the test's own, whose clock it may turn."""
    with BackendServer(database=database_url) as started:
        started.accept(make_release())
        yield started


@pytest.fixture
def device(server: BackendServer) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(server)


def bearer(server: BackendServer, *, groups: list[str] | None = None) -> dict[str, str]:
    """The header of a relying party's API token."""
    with server.session() as session:
        _, token = create_api_token(
            session,
            name=f"shop-{server.clock()}",
            role=Role.VIEWER,
            groups=groups,
            lifetime_ms=30 * DAY,
            by=local_administrator(),
            now=server.clock(),
        )
    return {"authorization": f"Bearer {token}"}


def ask(api: HttpApi, path: str = "/v1/results", **body: object) -> IssuedResult:
    """Ask for a result with a POST."""
    return api.post(path, msgspec.json.encode(body), IssuedResult)


def verify(server: BackendServer, issued: IssuedResult, **expected: Any) -> ResultClaims:  # noqa: ANN401
    """Verify as a relying party does: with the keys that the server publishes now."""
    status, _, content = HttpApi(server).request("GET", JWKS)
    assert status == 200
    given: dict[str, Any] = {"nonce": None, "audience": None, "any_status": False, **expected}
    return verify_result(issued.result, keys=read_jwks(content), now=server.clock(), **given)


# --- the device hands its result on -----------------------------------------------------------


def test_a_device_gets_a_result_that_a_relying_party_believes(
    server: BackendServer, device: BackendDevice
) -> None:
    """The passport: asked for with a certificate, verified with the published keys alone."""
    issued = ask(HttpApi(server, device), nonce=NONCE_TEXT, audience="shop")
    claims = verify(server, issued, nonce=NONCE, audience="shop")
    assert (claims.sub, issued.status) == (device.name.hex(), "affirming")
    assert claims.iss == server.url
    assert claims.device.hwtrust_release == "1.0"
    assert issued.expires_at == claims.exp * 1000


def test_without_a_certificate_a_device_gets_nothing(
    server: BackendServer, device: BackendDevice
) -> None:
    """A result about a device is not given to whoever names it."""
    with pytest.raises(RefusedByHttpError) as caught:
        ask(HttpApi(server))
    assert (caught.value.status, caught.value.code) == (401, "identity:missing")
    with pytest.raises(RefusedByHttpError) as caught:
        ask(HttpApi(server), f"/v1/results/{device.name.hex()}")
    assert (caught.value.status, caught.value.code) == (401, "access:credentials")


@pytest.mark.parametrize("size", [1, 7, 65])
def test_a_nonce_of_another_size_is_refused(
    server: BackendServer, device: BackendDevice, size: int
) -> None:
    """8 to 64 bytes, as the draft has it."""
    with pytest.raises(RefusedByHttpError) as caught:
        ask(HttpApi(server, device), nonce=base64.b64encode(bytes(size)).decode())
    assert (caught.value.status, caught.value.code) == (400, "request:invalid")


# --- a relying party asks ---------------------------------------------------------------------


def test_a_relying_party_gets_a_result_by_its_token(
    server: BackendServer, device: BackendDevice
) -> None:
    """By GET with the nonce in the query, or by POST; the record names who asked."""
    api = HttpApi(server, headers=bearer(server))
    path = f"/v1/results/{device.name.hex()}"
    nonce = base64.urlsafe_b64encode(NONCE).decode().rstrip("=")
    status, _, answer = api.request("GET", f"{path}?nonce={nonce}&audience=shop")
    assert status == 200
    issued = msgspec.json.decode(answer, type=IssuedResult)
    assert verify(server, issued, nonce=NONCE, audience="shop").sub == device.name.hex()
    assert verify(server, ask(api, path)).sub == device.name.hex()
    with server.session() as session:
        query = select(AuditRecord).where(AuditRecord.event == Event.RESULT_ISSUED.value)
        found = [row for row in session.scalars(query) if row.device == device.name.hex()]
    assert len(found) == 2
    assert all(row.actor.startswith("token:shop-") for row in found)
    assert len({row.evidence for row in found}) == 2


def test_a_device_of_another_group_does_not_exist_for_a_relying_party(
    server: BackendServer, device: BackendDevice
) -> None:
    """The same answer as for a device that nobody knows."""
    answers = []
    for name in (device.name.hex(), "000b" + "00" * 32):
        with pytest.raises(RefusedByHttpError) as caught:
            ask(HttpApi(server, headers=bearer(server, groups=["lab"])), f"/v1/results/{name}")
        answers.append((caught.value.status, caught.value.code, caught.value.problem.detail))
    assert answers[0] == answers[1]
    assert answers[0][:2] == (404, "device:unknown")


def test_a_query_whose_nonce_is_no_base64_is_refused(
    server: BackendServer, device: BackendDevice
) -> None:
    """Nothing but base64 and base64url is taken for a nonce."""
    api = HttpApi(server, headers=bearer(server))
    status, _, answer = api.request("GET", f"/v1/results/{device.name.hex()}?nonce=%21%21%21%21")
    assert (status, json.loads(answer)["code"]) == (400, "request:invalid")


# --- what it says of the device -----------------------------------------------------------------


def test_a_device_that_failed_is_contraindicated(
    server: BackendServer, device: BackendDevice
) -> None:
    """The codes of the findings say why."""
    device.load(make_release("9.9"))
    api = HttpApi(server, device)
    device.attest(api)
    issued = ask(api)
    claims = verify(server, issued, any_status=True)
    assert issued.status == "contraindicated"
    assert claims.device.hwtrust_standing == "failed"
    assert claims.device.hwtrust_findings


def test_a_device_that_is_away_for_too_long_is_affirmed_in_nothing(
    own_server: BackendServer,
) -> None:
    """A result near the end of the grace is short, and after it none affirms."""
    server, device = own_server, enrolled_device(own_server)
    api = HttpApi(server, headers=bearer(server))
    path = f"/v1/results/{device.name.hex()}"
    server.clock.advance(7 * DAY - MINUTE)
    late = ask(api, path)
    assert late.status == "affirming"
    assert late.expires_at - server.clock() <= MINUTE
    server.clock.advance(MINUTE)
    with pytest.raises(ResultExpiredError):
        verify(server, late)
    assert ask(api, path).status == "none"


# --- the keys -------------------------------------------------------------------------------------


def test_the_set_of_keys_may_be_kept_and_asked_for_again_cheaply(server: BackendServer) -> None:
    """Public, with an age and a tag; an unchanged set is not sent twice."""
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection("localhost", port, context=client_context(server))
    try:
        connection.request("GET", JWKS)
        first = connection.getresponse()
        content = first.read()
        assert first.getheader("content-type") == "application/jwk-set+json"
        assert first.getheader("cache-control") == "public, max-age=3600"
        tag = first.getheader("etag")
        assert tag is not None
        connection.request("GET", JWKS, headers={"if-none-match": f'"other", W/{tag}'})
        second = connection.getresponse()
        assert (second.status, second.read()) == (304, b"")
        connection.request("GET", JWKS, headers={"if-none-match": '"other"'})
        third = connection.getresponse()
        assert (third.status, third.read()) == (200, content)
    finally:
        connection.close()
    assert len(json.loads(content)["keys"]) == 2
    assert all("d" not in key for key in json.loads(content)["keys"])


def test_a_result_outlives_the_turn_of_its_key_and_not_its_withdrawal(
    own_server: BackendServer,
) -> None:
    """After a turn the old key is still published; after a compromise it is not."""
    server, device = own_server, enrolled_device(own_server)
    api = HttpApi(server, device)
    ask(api)
    server.clock.advance(3 * HOUR)
    issued = ask(api)
    keys = server.backend.results.keys
    with server.session() as session:
        keys.rotate(session, by="cli:root", now=server.clock())
    assert verify(server, issued).sub == device.name.hex()
    with server.session() as session:
        keys.withdraw(session, by="cli:root", now=server.clock())
    with pytest.raises(ResultSignatureError):
        verify(server, issued)
    assert verify(server, ask(api)).sub == device.name.hex()
