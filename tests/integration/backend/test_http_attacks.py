"""Attacks on the HTTP layer that no generator draws, byte for byte over TLS.

Each carries an administrator's token and would make an enrolment token: what is
refused has made none, and what could be read in two ways is refused.
"""

from __future__ import annotations

import base64
import logging
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from sqlalchemy import func, select

from hwtrust.wire.messages import Problem
from hwtrust_backend.admin import Role, local_administrator
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.app.problems import PROBLEM_TYPE
from hwtrust_backend.enrolment.models import EnrolmentToken
from hwtrust_backend.testing import DAY, BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, client_context, leaf_der

if TYPE_CHECKING:
    from collections.abc import Iterator

END: Final = b"\r\n"
BODY: Final = b'{"label": "smuggled"}'
POST: Final = b"POST /v1/admin/enrolment-tokens HTTP/1.1"
CHUNKED: Final = b"transfer-encoding: chunked"
JSON: Final = b"content-type: application/json"
HOST: Final = b"host: localhost"
LENGTH: Final = b"content-length: %d" % len(BODY)
CHUNKS: Final = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
TOKEN: Final = b"authorization: Bearer TOKEN"
"""Stands for the administrator's."""


@dataclass(frozen=True)
class Attack:
    """A request, and the status that it gets; no status: the connection ends without one."""

    sent: bytes
    status: int | None = 400


def request(*head: bytes, body: bytes = BODY) -> bytes:
    """A request of these lines."""
    return END.join((*head, b"", body))


def post(*head: bytes, line: bytes = POST, body: bytes = BODY) -> bytes:
    """The request that makes a token, but for what is wrong with it."""
    return request(line, TOKEN, *head, body=body)


def read(target: bytes, *head: bytes, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return request(b"%s %s HTTP/1.1" % (method, target), HOST, TOKEN, *head, body=b"")


FRAMING = {
    "two lengths that agree": Attack(post(HOST, JSON, LENGTH, LENGTH)),
    "two lengths that do not": Attack(post(HOST, JSON, LENGTH, b"content-length: 2")),
    "a list of lengths": Attack(post(HOST, JSON, b"content-length: 21, 21")),
    "a length and chunks": Attack(post(HOST, JSON, LENGTH, CHUNKED, body=CHUNKS)),
    "chunks and a length": Attack(post(HOST, JSON, CHUNKED, LENGTH, body=CHUNKS)),
    "chunks twice": Attack(post(HOST, JSON, CHUNKED, CHUNKED, body=CHUNKS)),
    "another coding": Attack(post(HOST, JSON, b"transfer-encoding: xchunked", body=CHUNKS)),
    "chunked, but not last": Attack(
        post(HOST, JSON, b"transfer-encoding: chunked, identity", body=CHUNKS)
    ),
    "a space before a colon": Attack(post(HOST, JSON, b"transfer-encoding : chunked", body=CHUNKS)),
    "chunks in HTTP/1.0": Attack(
        post(HOST, JSON, CHUNKED, line=POST.replace(b"1.1", b"1.0"), body=CHUNKS)
    ),
    "a chunk of no size": Attack(post(HOST, JSON, CHUNKED, body=b"zz\r\n" + CHUNKS)),
    "a chunk of any size": Attack(post(HOST, JSON, CHUNKED, body=b"f" * 20 + b"\r\n" + CHUNKS)),
    "a negative length": Attack(post(HOST, JSON, b"content-length: -1")),
    "a signed length": Attack(post(HOST, JSON, b"content-length: +21")),
    "a length of 77 bits": Attack(post(HOST, JSON, b"content-length: 99999999999999999999999")),
    "bare line feeds": Attack(post(HOST, JSON, LENGTH).replace(b"\r\n", b"\n")),
    "a folded header": Attack(post(HOST, JSON, b"x: a\r\n b", LENGTH)),
    "a zero byte in a header": Attack(post(HOST, JSON, b"x: a\0b", LENGTH)),
    "no host": Attack(post(JSON, LENGTH)),
    "two hosts": Attack(post(HOST, b"host: evil.example", JSON, LENGTH)),
    "a host that is none": Attack(post(b"host: a b", JSON, LENGTH)),
    "HTTP/0.9": Attack(b"GET /healthz\r\n\r\n"),
    "HTTP/2 without asking": Attack(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/3.0": Attack(post(HOST, JSON, LENGTH, line=POST.replace(b"1.1", b"3.0"))),
    "TLS in TLS": Attack(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20),
    "an encoded body": Attack(post(HOST, JSON, LENGTH, b"content-encoding: gzip"), 415),
}
METHODS = {
    "a method of another case": Attack(post(HOST, JSON, LENGTH, line=POST.lower())),
    "a method that is none": Attack(post(HOST, JSON, LENGTH, line=POST.replace(b"POST", b"FOO"))),
    "a method for another route": Attack(read(b"/v1/admin/whoami", method=b"DELETE"), 405),
    "HEAD": Attack(read(b"/v1/admin/whoami", method=b"HEAD"), 405),
    "TRACE": Attack(read(b"/v1/admin/whoami", method=b"TRACE"), 405),
    "CONNECT": Attack(b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n"),
    "OPTIONS of everything": Attack(read(b"*", method=b"OPTIONS"), 404),
    "another method in a header": Attack(
        request(
            b"GET /v1/admin/whoami HTTP/1.1",
            HOST,
            b"x-http-method-override: DELETE",
            body=b"",
        ),
        401,
    ),
}
TARGETS = {
    "an empty part": Attack(read(b"//v1/admin/whoami")),
    "an empty part within": Attack(read(b"/v1//admin/whoami")),
    "an encoded slash": Attack(read(b"/v1/admin%2fwhoami")),
    "an encoded slash in a name": Attack(read(b"/v1/admin/groups/a%2Fb")),
    "parent directories": Attack(read(b"/v1/enrolments/../admin/whoami"), 404),
    "encoded parent directories": Attack(read(b"/v1/enrolments/%2e%2e/admin/whoami"), 404),
    "a path parameter": Attack(read(b"/v1/admin;x/whoami"), 404),
    "a zero byte in a name": Attack(read(b"/v1/admin/groups/a%00b")),
    "a line break in a name": Attack(read(b"/v1/admin/groups/default%0a")),
    "no UTF-8 in a name": Attack(read(b"/v1/admin/groups/%ff%fe"), 404),
    "bytes that are no ASCII": Attack(read(b"/v1/admin/groups/\xff\xfe")),
    "half an escape": Attack(read(b"/v1/admin/groups/%f"), 404),
    "a space": Attack(read(b"/v1/admin/who ami")),
    "a number that is none": Attack(read(b"/v1/admin/audit/1e3"), 404),
    "a number without end": Attack(read(b"/v1/admin/audit/" + b"9" * 4000)),
    "a parameter twice": Attack(read(b"/v1/admin/devices?limit=1&limit=500")),
    "a parameter twice, once encoded": Attack(read(b"/v1/admin/devices?limit=1&l%69mit=500")),
    "thousands of parameters": Attack(read(b"/v1/admin/devices?" + b"a&" * 15_000)),
    "a query of 31 kB": Attack(read(b"/v1/admin/devices?search=" + b"a" * 31_000)),
    "a query of 40 kB": Attack(read(b"/v1/admin/devices?search=" + b"a" * 40_000), None),
    "a zero byte in a query": Attack(read(b"/v1/admin/devices?search=%00")),
}
BODIES = {
    "text": Attack(post(HOST, b"content-type: text/plain", LENGTH), 415),
    "a form": Attack(post(HOST, b"content-type: application/x-www-form-urlencoded", LENGTH), 415),
    "parts": Attack(post(HOST, b"content-type: multipart/form-data", LENGTH), 415),
    "no type": Attack(post(HOST, LENGTH), 415),
    "two types": Attack(post(HOST, JSON, b"content-type: text/plain", LENGTH), 415),
    "a type that only begins so": Attack(
        post(HOST, b"content-type: application/jsonp", LENGTH), 415
    ),
    "a body that waits for leave, too large": Attack(
        post(HOST, JSON, b"content-length: 999999999", b"expect: 100-continue", body=b""), 413
    ),
    "a body that waits for leave, of nobody": Attack(
        request(POST, HOST, JSON, b"content-length: 9999", b"expect: 100-continue", body=b""), 401
    ),
}
CREDENTIALS = {
    "one token twice": Attack(post(HOST, TOKEN, JSON, LENGTH), 401),
    "one token twice, spelt otherwise": Attack(
        post(HOST, TOKEN.replace(b"authorization", b"AUTHORIZATION"), JSON, LENGTH), 401
    ),
    "a token after another": Attack(
        post(HOST, b"authorization: Bearer hwt_other", JSON, LENGTH), 401
    ),
    "a token in a list": Attack(
        request(POST, HOST, TOKEN + b", Bearer hwt_other", JSON, LENGTH), 401
    ),
    "a token with a zero byte": Attack(request(POST, HOST, TOKEN + b"\0", JSON, LENGTH)),
    "a token that is not ASCII": Attack(request(POST, HOST, TOKEN + b"\xff", JSON, LENGTH), 401),
    "a token as a cookie": Attack(
        request(POST, HOST, TOKEN.replace(b"authorization:", b"cookie:"), JSON, LENGTH), 401
    ),
    "a token of a proxy": Attack(
        request(POST, HOST, TOKEN.replace(b"auth", b"proxy-auth"), JSON, LENGTH), 401
    ),
}
ATTACKS = FRAMING | METHODS | TARGETS | BODIES | CREDENTIALS
GOOD = post(HOST, JSON, LENGTH)


@pytest.fixture(scope="module")
def server() -> Iterator[BackendServer]:
    """A backend over TLS."""
    with BackendServer() as started:
        yield started


@pytest.fixture(scope="module")
def token(server: BackendServer) -> bytes:
    """An administrator's."""
    with server.session() as session:
        _, made = create_api_token(
            session,
            name="attacker",
            role=Role.ADMINISTRATOR,
            groups=None,
            lifetime_ms=30 * DAY,
            by=local_administrator(),
            now=server.clock(),
        )
    return made.encode()


@dataclass(frozen=True)
class Answer:
    """One answer of a connection."""

    status: int
    media_type: str
    allow: str
    body: bytes


def sent(server: BackendServer, data: bytes, *, answers: int = 1) -> list[Answer]:
    """Send bytes on a connection of their own, and read that many answers, or to its end."""
    port = int(server.url.rpartition(":")[2])
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    found: list[Answer] = []
    with closing(client_context(server).wrap_socket(plain, server_hostname="localhost")) as secured:
        try:
            secured.sendall(data)
            while len(found) < answers:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    byte = secured.recv(1)
                    if not byte:
                        return found
                    head += byte
                found.append(answer_of(secured, head, data))
        except ConnectionError:
            pass
    return found


def answer_of(secured: socket.socket, head: bytes, data: bytes) -> Answer:
    """The answer that begins with `head`."""
    first, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = 0 if data.startswith(b"HEAD") else int(headers.get("content-length", 0))
    body = b""
    while len(body) < length:
        body += secured.recv(length - len(body))
    media_type = headers.get("content-type", "")
    return Answer(int(first.split(" ")[1]), media_type, headers.get("allow", ""), body)


def tokens(server: BackendServer) -> int:
    """How many enrolment tokens there are."""
    with server.backend.database.reading() as session:
        return session.scalar(select(func.count()).select_from(EnrolmentToken)) or 0


def check_refused(answers: list[Answer], attack: Attack) -> None:
    """It is the one answer, a problem with a code; or there is none."""
    assert [answer.status for answer in answers] == ([attack.status] if attack.status else [])
    for answer in answers:
        assert answer.media_type == PROBLEM_TYPE
        if not attack.sent.startswith(b"HEAD"):
            problem = msgspec.json.decode(answer.body, type=Problem)
            assert (problem.status, bool(problem.code)) == (attack.status, True)


@pytest.mark.parametrize("case", ATTACKS)
def test_an_attack_is_refused_with_a_type_and_changes_nothing(
    server: BackendServer, token: bytes, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One problem or the connection's end; no token is made, and the log has no error."""
    attack, before = ATTACKS[case], tokens(server)
    answers = sent(server, attack.sent.replace(b"TOKEN", token))
    check_refused(answers, attack)
    assert tokens(server) == before
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert [record for record in caplog.records if record.exc_info] == []
    if attack.status == 405:
        assert "GET" in answers[0].allow


def test_the_same_request_unspoilt_makes_a_token(server: BackendServer, token: bytes) -> None:
    """What is refused above is refused for what is wrong with it, and for nothing else."""
    before = tokens(server)
    forms = (
        GOOD,
        GOOD.replace(JSON, JSON + b"; charset=utf-8"),
        GOOD.replace(b"authorization: Bearer", b"AUTHORIZATION: bearer"),
        GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GOOD.replace(b" /v1", b" https://localhost/v1"),
        GOOD.replace(b"tokens HTTP", b"tokens/ HTTP"),
        post(HOST, JSON, CHUNKED, body=CHUNKS),
    )
    for form in forms:
        assert [each.status for each in sent(server, form.replace(b"TOKEN", token))] == [201], form
    assert tokens(server) == before + len(forms)


def test_a_body_that_waits_for_leave_gets_it_once_it_may_come(
    server: BackendServer, token: bytes
) -> None:
    """`Expect: 100-continue` is answered, and then the request."""
    data = post(HOST, JSON, LENGTH, b"expect: 100-continue").replace(b"TOKEN", token)
    assert [answer.status for answer in sent(server, data, answers=2)] == [100, 201]


def test_requests_in_one_go_are_answered_in_their_order(
    server: BackendServer, token: bytes
) -> None:
    """A refused one takes its own body with it, and nothing of the next one."""
    nobody = request(POST, HOST, JSON, LENGTH)
    last = request(b"GET /nowhere HTTP/1.1", HOST, b"connection: close", body=b"")
    data = (nobody + GOOD + last).replace(b"TOKEN", token)
    assert [answer.status for answer in sent(server, data, answers=4)] == [401, 201, 404]


@pytest.mark.parametrize("line", [b"GET /healthz HTTP/1.1", b"GET /v1/admin/whoami HTTP/1.1"])
def test_a_request_in_the_body_of_another_is_a_body(
    server: BackendServer, token: bytes, line: bytes
) -> None:
    """What a route does not read is never taken for the next request."""
    before = tokens(server)
    length = b"content-length: %d" % len(GOOD.replace(b"TOKEN", token))
    last = request(b"GET /nowhere HTTP/1.1", HOST, b"connection: close", body=b"")
    data = (request(line, HOST, TOKEN, length, body=GOOD) + last).replace(b"TOKEN", token)
    assert [answer.status for answer in sent(server, data, answers=3)] == [200, 404]
    assert tokens(server) == before


@pytest.mark.parametrize("path", [b"/v1/challenges", b"/v1/challenges/"])
def test_no_spelling_of_a_path_passes_the_limit_of_an_address(path: bytes) -> None:
    """A token that nobody gave out does not lift it either."""
    rates = {"address": 2, "credentials": 0, "device": 0, "total": 0}
    with BackendServer(rates=rates) as server:
        length = b"content-length: 2"
        data = request(b"POST %s HTTP/1.1" % path, HOST, TOKEN, JSON, length, body=b"{}")
        statuses = [sent(server, data)[0].status for _ in range(3)]
    assert statuses == [400, 400, 429]


# --- behind a proxy ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind_proxy() -> Iterator[BackendServer]:
    """A backend that believes what its only client says of others."""
    with BackendServer(trusted_proxies=("127.0.0.1",)) as started:
        yield started


@pytest.fixture(scope="module")
def certificate(behind_proxy: BackendServer) -> bytes:
    """The Client-Cert header of a device that enrolled."""
    device = BackendDevice(behind_proxy.backend)
    behind_proxy.accept(make_release())
    device.load(make_release())
    behind_proxy.allow_ek(device.name)
    device.enrol(HttpApi(behind_proxy))
    return b"client-cert: :%s:" % base64.b64encode(leaf_der(device.certificate))


WAIT = b"GET /v1/wait?seconds=0 HTTP/1.1"
CERT = b"CERT"
"""Stands for the header that names the device."""
HEADERS = {
    "none": ([], 401),
    "twice": ([CERT, CERT], 401),
    "twice, spelt otherwise": ([CERT, b"CLIENT-CERT: ::"], 401),
    "a list": ([CERT + b", ::"], 401),
    "without colons": ([b"client-cert: AAAA"], 401),
    "empty": ([b"client-cert: ::"], 401),
    "no base64": ([b"client-cert: :%%%:"], 401),
    "no certificate": ([b"client-cert: :AAAA:"], 401),
    "under another name": ([b"x-client-cert: :AAAA:"], 401),
    "larger than any": ([b"client-cert: :" + b"A" * 20_000 + b":"], 401),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_proxys_header_that_could_be_two_is_nobody(
    behind_proxy: BackendServer, certificate: bytes, case: str
) -> None:
    """One Client-Cert header with one certificate of ours, or nobody calls."""
    lines, status = HEADERS[case]
    head = [certificate + line[4:] if line.startswith(CERT) else line for line in lines]
    attack = Attack(request(WAIT, HOST, *head, body=b""), status)
    check_refused(sent(behind_proxy, attack.sent), attack)


def test_a_proxys_header_names_the_device(behind_proxy: BackendServer, certificate: bytes) -> None:
    """The one good header passes, in any case of its name."""
    for header in (certificate, certificate.replace(b"client-cert", b"Client-CERT")):
        answers = sent(behind_proxy, request(WAIT, HOST, header, body=b""))
        assert answers[0].status in {200, 204}
