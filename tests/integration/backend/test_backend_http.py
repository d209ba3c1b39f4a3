"""The whole backend over real TLS: what a device meets on the wire."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import DatabaseError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    EnrolBegin,
    Problem,
    Standing,
)
from hwtrust_backend.app.backend import make_backend
from hwtrust_backend.app.committer import BUSY_SECONDS
from hwtrust_backend.app.server import listening_socket, make_server
from hwtrust_backend.keys import (
    Secret,
    issue_device_certificate,
    make_authority,
)
from hwtrust_backend.keys.signing import SoftwareSigner
from hwtrust_backend.testing import DAY, HOUR, BackendServer
from simulators.attester import make_csr, make_release, spki
from simulators.backend_clients import (
    BackendDevice,
    HttpApi,
    RefusedByHttpError,
    client_context,
    enrolled_device,
    leaf_der,
)
from simulators.ek_authority import EkAuthority
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend

PROBLEM = "application/problem+json"


@pytest.fixture
def device(server: BackendServer) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(server)


def port_of(server: BackendServer) -> int:
    """Where it listens."""
    return int(server.url.rpartition(":")[2])


def refusal(api: HttpApi, path: str, body: msgspec.Struct | bytes) -> RefusedByHttpError:
    """The problem that a request ends in."""
    with pytest.raises(RefusedByHttpError) as caught:
        api.post(path, body, ChallengeReply)
    assert caught.value.media_type == PROBLEM
    return caught.value


# --- a device's life -----------------------------------------------------------------


def test_a_device_enrols_attests_and_rotates_over_tls(server: BackendServer) -> None:
    """A certificate and a token at the door, then one round trip an attestation."""
    vendor = EkAuthority.new()
    for file in vendor.files:
        server.add_ek_ca(file)
    device = BackendDevice(server.backend)
    device.load(make_release())
    api = HttpApi(server, device)
    enrolled = device.enrol(api, server.token(), vendor.issue(device.tpm.ek))
    assert enrolled.root.approval.epoch == device.counter
    assert device.attest(api).standing is Standing.TRUSTED
    server.rotate(device.name)
    reply = device.attest(api, csr=True)
    assert reply.root is not None
    assert reply.root.approval.epoch == device.counter + 1
    device.rotate()
    confirmed = device.attest(api)
    assert confirmed.root is None
    assert confirmed.approval is not None
    assert confirmed.approval.epoch == device.counter


def test_a_device_whose_certificate_expired_comes_back_by_a_session(
    server: BackendServer, device: BackendDevice
) -> None:
    """An expired certificate is answered with a code; a session gives a new one (82)."""
    server.clock.advance(31 * DAY)
    device.tpm.advance(31 * DAY)
    try:
        with pytest.raises(RefusedByHttpError) as caught:
            device.attest(HttpApi(server, device))
        assert (caught.value.status, caught.value.code) == (401, "identity:certificate:refused")
        device.session(HttpApi(server))
        reply = device.attest(HttpApi(server, device))
        assert reply.root is not None
    finally:
        server.clock.advance(-31 * DAY)


def test_a_backend_keeps_its_devices_over_a_restart(tmp_path: Path, database_url: str) -> None:
    """Data directory and database are the backend: another process goes on where one stopped."""
    directory = tmp_path / "data"
    with BackendServer(directory, database=database_url) as first:
        first.accept(make_release())
        device = enrolled_device(first)
        clock = first.clock
    with BackendServer(directory, clock=clock, database=database_url) as second:
        assert device.attest(HttpApi(second, device)).standing is Standing.TRUSTED


# --- refusals ------------------------------------------------------------------------


def test_refusals_have_the_code_and_the_status_of_their_cause(
    server: BackendServer, device: BackendDevice
) -> None:
    """Each row: what is wrong, and what a device reads."""
    other = enrolled_device(server)
    api = HttpApi(server, device)
    used = device.evidence(device.next_nonce)
    device.attest(api, used)
    session = ChallengeRequest(device=device.name, purpose=Purpose.SESSION)
    session_nonce = HttpApi(server).challenge(session).nonce
    good = device.evidence(device.next_nonce)
    relayed = BackendDevice(server.backend, tpm=SoftwareTpm(seed=device.tpm.seed))
    relayed.load(make_release())
    relayed.tpm.tls_key = SoftwareTpm().tls_key

    def attest(evidence: object) -> AttestRequest:
        return AttestRequest(device=device.name, evidence=evidence)  # type: ignore[arg-type]

    cases: dict[str, tuple[HttpApi, AttestRequest, int, str]] = {
        "a nonce used before": (api, attest(used), 403, "challenge:used"),
        "a nonce of another device": (
            api,
            attest(device.evidence(other.next_nonce)),
            403,
            "challenge:forged",
        ),
        "a nonce for another purpose": (
            api,
            attest(device.evidence(session_nonce)),
            403,
            "challenge:purpose",
        ),
        "no certificate": (HttpApi(server), attest(good), 401, "identity:missing"),
        "another device's certificate": (
            HttpApi(server, other),
            attest(good),
            403,
            "identity:key:mismatch",
        ),
        "a quote for another TLS key": (
            api,
            attest(relayed.evidence(device.next_nonce)),
            403,
            "evidence:tls-key:mismatch",
        ),
        "a changed log": (
            api,
            attest(msgspec.structs.replace(good, log=b"\x00")),
            403,
            "evidence:log:mismatch",
        ),
        "an unknown device": (
            HttpApi(server),
            AttestRequest(device=b"\x00\x0b" + bytes(32), evidence=good),
            401,
            "identity:missing",
        ),
    }
    for case, (client, message, status, code) in cases.items():
        with pytest.raises(RefusedByHttpError) as caught:
            client.attest(message)
        assert (caught.value.status, caught.value.code) == (status, code), case
        assert caught.value.problem.status == status


def test_enrolments_are_refused_with_a_code(server: BackendServer) -> None:
    """No certificate, a guessed token, a used-up one."""
    vendor = EkAuthority.new()
    for file in vendor.files:
        server.add_ek_ca(file)
    stranger = BackendDevice(server.backend)
    begin = EnrolBegin(ek_public=stranger.tpm.ek.encode_sized(), token=server.token())
    refused = refusal(HttpApi(server), "/v1/enrolments", begin)
    assert (refused.status, refused.code) == (403, "enrolment:ek:unknown")
    certificate = vendor.issue(stranger.tpm.ek)
    begin = EnrolBegin(
        ek_public=stranger.tpm.ek.encode_sized(), ek_certificate=certificate, token="guessed"
    )
    refused = refusal(HttpApi(server), "/v1/enrolments", begin)
    assert (refused.status, refused.code) == (403, "enrolment:token:refused")
    assert refused.problem.hint


BAD_BODIES = {
    "not JSON": b"{",
    "no UTF-8": b'{"device": "\xff\xfe", "purpose": "attest"}',
    "deep JSON": b"[" * 60_000,
    "deep JSON in an unknown field": b'{"x":' + b"[" * 60_000,
    "an unknown field": b'{"device": "AAAA", "purpose": "attest", "admin": true}',
    "a missing field": b'{"device": "AAAA"}',
    "an unknown purpose": b'{"device": "AAAA", "purpose": "root"}',
    "no base64": b'{"device": "*", "purpose": "attest"}',
    "a number for a string": b'{"device": 1, "purpose": "attest"}',
    "a field too long": json.dumps({"device": "A" * 20000, "purpose": "attest"}).encode(),
    "a list": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_is_no_request_is_a_400(server: BackendServer, case: str) -> None:
    """Whatever arrives ends in a problem of ours, never in a 500 (95)."""
    refused = refusal(HttpApi(server), "/v1/challenges", BAD_BODIES[case])
    assert (refused.status, refused.code) == (400, "request:invalid")


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_is_no_attestation_is_the_same_400(server: BackendServer, case: str) -> None:
    """The route that decodes its body at once refuses as all others do."""
    refused = refusal(HttpApi(server), "/v1/attest", BAD_BODIES[case])
    assert (refused.status, refused.code) == (400, "request:invalid")
    other = refusal(HttpApi(server), "/v1/challenges", BAD_BODIES[case])
    assert refused.problem.title == other.problem.title


def test_a_refused_attestation_says_what_is_wrong_as_any_other_route(
    server: BackendServer,
) -> None:
    """Whoever builds a client is told what to mend."""
    body = b'{"device": 1, "purpose": "attest", "evidence": {}}'
    told = {
        refusal(HttpApi(server), path, body).problem.detail.partition("; ")[2]
        for path in ("/v1/attest", "/v1/challenges")
    }
    assert len(told) == 1
    assert all(told)


def answer_to_attestation(
    server: BackendServer, device: BackendDevice, *, media_type: str
) -> tuple[int, http.client.HTTPMessage, Problem]:
    """The problem that a well-formed attestation ends in."""
    evidence = device.evidence(bytes(40), purpose=Purpose.SESSION)
    body = msgspec.json.encode(AttestRequest(device=device.name, evidence=evidence))
    connection = http.client.HTTPSConnection(
        "localhost", port_of(server), context=client_context(server), timeout=30
    )
    with contextlib.closing(connection):
        connection.request("POST", "/v1/attest", body, {"content-type": media_type})
        with connection.getresponse() as response:
            problem = msgspec.json.decode(response.read(), type=Problem)
            return response.status, response.headers, problem


def test_an_attestation_of_another_content_type_is_refused(
    server: BackendServer, device: BackendDevice
) -> None:
    """What a form on any page can send is decoded here no more than elsewhere."""
    status, headers, _ = answer_to_attestation(server, device, media_type="text/plain")
    assert (status, headers["content-type"]) == (415, PROBLEM)


def test_a_full_queue_of_attestations_is_a_503_that_says_when_to_come_again(
    server: BackendServer, device: BackendDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that finds the backend busy knows how long to wait, and is well afterwards."""
    monkeypatch.setattr(server.backend.committer, "_queue_limit", 0)
    status, headers, problem = answer_to_attestation(server, device, media_type="application/json")
    assert (status, problem.code) == (503, "backend:busy")
    assert headers["retry-after"] == str(BUSY_SECONDS)
    monkeypatch.undo()
    assert device.attest(HttpApi(server, device)).standing is Standing.TRUSTED


def test_a_database_that_is_away_is_a_503_that_says_when_to_come_again(
    server: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says no more about it: what is wrong inside is in the log alone (94)."""

    def away() -> object:
        raise DatabaseError("connection to server at 192.0.2.1 failed")

    monkeypatch.setattr(server.backend.database, "reading", away)
    connection = http.client.HTTPSConnection(
        "localhost", port_of(server), context=client_context(server), timeout=30
    )
    with contextlib.closing(connection):
        body = msgspec.json.encode(ChallengeRequest(device=bytes(34), purpose=Purpose.ATTEST))
        connection.request("POST", "/v1/challenges", body, {"content-type": "application/json"})
        with connection.getresponse() as response:
            problem = msgspec.json.decode(response.read(), type=Problem)
            assert (response.status, problem.code) == (503, DatabaseError.code)
            assert (problem.detail, int(response.headers["retry-after"]) > 0) == ("", True)


def test_sql_in_a_name_is_a_name(server: BackendServer) -> None:
    """Metacharacters reach the database as values (95)."""
    message = ChallengeRequest(device=b"' OR 1=1 --", purpose=Purpose.ATTEST)
    refused = refusal(HttpApi(server), "/v1/challenges", message)
    assert (refused.status, refused.code) == (404, "device:unknown")
    path = "/v1/enrolments/%27%20OR%201%3D1%20--/key"
    refused = refusal(HttpApi(server), path, b'{"ak_public": "AAAA"}')
    assert (refused.status, refused.code) == (404, "enrolment:unknown")


def test_a_body_of_10_mib_is_refused_before_it_is_read(server: BackendServer) -> None:
    """The limit is said by the length alone; nobody waits for the rest (95)."""
    context = client_context(server)
    with (
        socket.create_connection(("localhost", port_of(server)), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        secured.sendall(
            b"POST /v1/challenges HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 10485760\r\n\r\n" + b"a" * 4096
        )
        response = http.client.HTTPResponse(secured)
        response.begin()
        assert response.status == 413
        assert json.loads(response.read())["code"] == "request:too-large"


def test_a_body_without_a_length_is_limited_too(server: BackendServer) -> None:
    """Chunks are counted as they come (95)."""
    context = client_context(server)
    connection = http.client.HTTPSConnection("localhost", port_of(server), context=context)
    try:
        chunks = (b"a" * 65536 for _ in range(64))
        try:
            connection.request(
                "POST",
                "/v1/challenges",
                body=chunks,
                headers={"content-type": "application/json"},
                encode_chunked=True,
            )
        except (BrokenPipeError, ConnectionResetError):
            return
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_endless_headers_end_the_connection(server: BackendServer) -> None:
    """A client cannot fill the memory with headers (95)."""
    context = client_context(server)
    with (
        socket.create_connection(("localhost", port_of(server)), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
        endless = b"x: " + b"a" * 1000 + b"\r\n"
        # Reset, broken pipe, or the end of TLS: whichever is noticed first.
        with pytest.raises(OSError, match=r".*"):
            secured.sendall(endless * 50_000)


def test_a_body_that_does_not_arrive_in_time_is_a_408() -> None:
    """A slow client is let go (95)."""
    with BackendServer(request_timeout_ms=200) as server:
        context = client_context(server)
        with (
            socket.create_connection(("localhost", port_of(server)), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secured,
        ):
            secured.sendall(
                b"POST /v1/challenges HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            )
            response = http.client.HTTPResponse(secured)
            response.begin()
            assert response.status == 408
            assert json.loads(response.read())["code"] == "request:timeout"


def test_a_defect_of_ours_says_nothing_of_the_inside(
    server: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is a 500 without a message."""
    from hwtrust_backend.appraisal import Attestations  # noqa: PLC0415

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(Attestations, "challenge", broken)
    message = ChallengeRequest(device=b"x", purpose=Purpose.ATTEST)
    status, media_type, body = HttpApi(server).request(
        "POST", "/v1/challenges", msgspec.json.encode(message)
    )
    assert (status, media_type) == (500, PROBLEM)
    assert b"secret" not in body
    assert b"RuntimeError" not in body


def test_paths_that_do_not_exist_are_problems_too(server: BackendServer) -> None:
    """Every error has one form."""
    for method, path, status in (("GET", "/nope", 404), ("GET", "/v1/attest", 405)):
        found, media_type, _ = HttpApi(server).request(method, path)
        assert (found, media_type) == (status, PROBLEM)


def test_the_api_documents_itself(server: BackendServer) -> None:
    """The OpenAPI document has every endpoint with its types, and health answers."""
    status, _, body = HttpApi(server).request("GET", "/schema/openapi.json")
    document = json.loads(body)
    assert status == 200
    assert set(document["paths"]) > {
        "/v1/enrolments",
        "/v1/enrolments/{enrolment}/key",
        "/v1/enrolments/{enrolment}/finish",
        "/v1/challenges",
        "/v1/attest",
        "/healthz",
    }
    assert {"AttestRequest", "AttestReply", "Enrolled"} <= set(document["components"]["schemas"])
    assert HttpApi(server).request("GET", "/healthz")[0] == 200


# --- TLS -----------------------------------------------------------------------------


def test_tls_1_2_is_refused(server: BackendServer) -> None:
    """TLS 1.3 or nothing (83)."""
    context = ssl.create_default_context(cadata=server.trust.tls_ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("localhost", port_of(server)), timeout=30) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="localhost")


def test_plain_http_is_refused(server: BackendServer) -> None:
    """No byte of an answer without TLS (83)."""
    with socket.create_connection(("localhost", port_of(server)), timeout=30) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        try:
            answer = raw.recv(4096)
        except ConnectionResetError:
            answer = b""
        assert not answer.startswith(b"HTTP")


def test_a_client_that_trusts_another_ca_does_not_connect(server: BackendServer) -> None:
    """Neither another CA nor another host name passes for the backend (83)."""
    other = make_authority(
        SoftwareSigner(ec.generate_private_key(ec.SECP256R1())),
        name="other",
        now=server.clock(),
    )
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    anchors = {
        "another CA": (other.public_bytes(Encoding.PEM).decode(), "localhost"),
        "another host": (server.trust.tls_ca, "backend.example"),
    }
    for case, (pem, name) in anchors.items():
        context = ssl.create_default_context(cadata=pem)
        with (
            socket.create_connection(("localhost", port_of(server)), timeout=30) as raw,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(raw, server_hostname=name)
        assert case


def test_a_client_certificate_of_another_ca_ends_the_handshake(
    server: BackendServer, device: BackendDevice
) -> None:
    """A certificate that says the right name is worth nothing under another CA (82)."""
    signer = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    authority = make_authority(signer, name="hwtrust device-ca", now=server.clock())
    issued = issue_device_certificate(
        make_csr(device.tpm.tls_key),
        tls_key=spki(device.tpm.tls_key),
        device=device.name,
        signer=signer,
        authority=authority,
        now=server.clock(),
        lifetime_ms=HOUR,
    )
    device.certificate = issued.pem
    with pytest.raises((ssl.SSLError, ConnectionError)):
        device.attest(HttpApi(server, device))


# --- behind a proxy --------------------------------------------------------------------


def client_cert(device: BackendDevice) -> dict[str, str]:
    """The header of RFC 9440 for a device's certificate."""
    der = leaf_der(device.certificate)
    return {"client-cert": f":{base64.b64encode(der).decode()}:"}


def test_a_forged_client_cert_header_is_ignored(
    server: BackendServer, device: BackendDevice
) -> None:
    """From a peer that is no trusted proxy the header means nothing."""
    with pytest.raises(RefusedByHttpError) as caught:
        device.attest(HttpApi(server, headers=client_cert(device)))
    assert (caught.value.status, caught.value.code) == (401, "identity:missing")


def test_forwarded_headers_do_not_make_a_proxy() -> None:
    """Who a peer is follows from its address, never from X-Forwarded-For."""
    with BackendServer(trusted_proxies=("10.1.2.3",)) as server:
        server.accept(make_release())
        device = enrolled_device(server)
        headers = {
            **client_cert(device),
            "x-forwarded-for": "10.1.2.3",
            "forwarded": "for=10.1.2.3",
        }
        with pytest.raises(RefusedByHttpError) as caught:
            device.attest(HttpApi(server, headers=headers))
        assert caught.value.code == "identity:missing"


def test_a_trusted_proxy_says_who_its_client_is() -> None:
    """Its header is the identity; its own certificate, a broken header or none is not."""
    with BackendServer(trusted_proxies=("127.0.0.1", "::1")) as server:
        server.accept(make_release())
        device = enrolled_device(server)
        reply = device.attest(HttpApi(server, headers=client_cert(device)))
        assert reply.standing is Standing.TRUSTED
        assert reply.approval is not None
        with pytest.raises(RefusedByHttpError) as caught:
            device.attest(HttpApi(server, device))
        assert caught.value.code == "identity:missing"
        for value in ("", ":", ":*:", "AAAA", ":AAAA:"):
            with pytest.raises(RefusedByHttpError) as caught:
                device.attest(HttpApi(server, headers={"client-cert": value}))
            assert caught.value.code == "identity:certificate:refused"


def test_a_secret_does_not_show_itself(server: BackendServer) -> None:
    """Neither vault nor secrets appear in a repr (104)."""
    secret = server.backend.vault.challenge_key
    assert isinstance(secret, Secret)
    shown = repr(secret) + repr(server.backend.vault) + repr(server.backend)
    assert secret.reveal().hex() not in shown
    assert repr(secret.reveal()) not in shown


def test_a_proxy_on_a_unix_socket_is_trusted_where_the_settings_say_so(tmp_path: Path) -> None:
    """`unix` means the socket that the backend itself listens on, and no other connection."""
    path = tmp_path / "backend.sock"
    with BackendServer() as server:
        server.accept(make_release())
        device = enrolled_device(server)
        for proxies, status in ((("unix",), 200), ((), 401)):
            settings = msgspec.structs.replace(
                server.backend.settings, listen=f"unix:{path}", trusted_proxies=proxies
            )
            behind = make_backend(
                settings,
                database=server.backend.database,
                vault=server.backend.vault,
                clock=server.clock,
            )
            nonce = server.backend.attestations.challenge
            with server.session() as session:
                asked = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
                device.next_nonce = nonce(session, asked, now=server.clock()).nonce
            message = AttestRequest(device=device.name, evidence=device.evidence(device.next_nonce))
            with serving(behind):
                assert over_unix_socket(path, message, client_cert(device)) == status
        with BackendServer(trusted_proxies=("unix",)) as not_behind:
            not_behind.accept(make_release())
            other = enrolled_device(not_behind)
            with pytest.raises(RefusedByHttpError) as caught:
                other.attest(HttpApi(not_behind, headers=client_cert(other)))
            assert caught.value.code == "identity:missing"


@contextlib.contextmanager
def serving(backend: Backend) -> Iterator[None]:
    """Serve where the settings say, until the end of the block."""
    with listening_socket(backend.settings) as listener:
        server = make_server(backend, log_level="critical", shutdown_seconds=1)
        run = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listener]),))
        run.start()
        try:
            yield
        finally:
            server.should_exit = True
            run.join()


def over_unix_socket(path: Path, message: msgspec.Struct, headers: dict[str, str]) -> int:
    """The status that a proxy gets for a message."""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        headers = {"content-type": "application/json", "connection": "close", **headers}
        connection.request("POST", "/v1/attest", msgspec.json.encode(message), headers)
        return connection.getresponse().status
    finally:
        connection.close()
