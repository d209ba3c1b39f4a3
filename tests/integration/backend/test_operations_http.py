"""The backend in operation, over real TLS: health, metrics, switches, limits, and bad input."""

from __future__ import annotations

import http.client
import io
import json
import logging
import resource
import socket
import ssl
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from hwtrust.errors import DatabaseError, ForbiddenError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest, Problem, Standing
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.admin.principals import Principal, Role, local_administrator
from hwtrust_backend.admin.switches import switch_read_only
from hwtrust_backend.app import measuring, protocol, serving
from hwtrust_backend.app.background import Background, Task
from hwtrust_backend.audit import Event
from hwtrust_backend.config import ForwardedHeader, LogFormat, RateSettings
from hwtrust_backend.observe import logs, metrics, traces
from hwtrust_backend.testing import HOUR, BackendServer
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
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend

PROBLEM = "application/problem+json"


@pytest.fixture(autouse=True)
def _fresh_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for a second in operation is asked for anew by each request."""
    monkeypatch.setattr(serving, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "FRESH_SECONDS", 0.0)


def ask(
    server: BackendServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request without a client certificate."""
    port = int(server.url.rpartition(":")[2])
    context = client_context(server)
    with closing(
        http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    ) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"connection": "close", "content-type": "application/json", **named}
        connection.request(method, path, body=body, headers=named)
        response = connection.getresponse()
        answer = response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, answer


def problem(answer: bytes) -> Problem:
    """The problem that an answer holds."""
    return msgspec.json.decode(answer, type=Problem)


def metric(text_: str, name: str, **labels: str) -> float:
    """One sample of an exposition; 0 where there is none."""
    for family in text_string_to_metric_families(text_):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


def challenge_body(device: BackendDevice) -> bytes:
    """A request for a nonce."""
    return msgspec.json.encode(ChallengeRequest(device=device.name, purpose=Purpose.SESSION))


# --- health and readiness ------------------------------------------------------------


def test_a_backend_that_works_is_healthy_and_ready(server: BackendServer) -> None:
    """Both answer without credentials."""
    assert ask(server, "GET", "/healthz")[0] == 200
    status, _, answer = ask(server, "GET", "/readyz")
    assert (status, json.loads(answer)) == (200, {"status": "ready", "failed": []})


def failing(server: BackendServer) -> list[str]:
    """The checks that fail, and that this is a 503."""
    status, _, answer = ask(server, "GET", "/readyz")
    failed: list[str] = json.loads(answer)["failed"]
    assert status == (503 if failed else 200)
    return failed


def test_readiness_names_the_check_that_fails(
    server: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old schema, a database that does not answer, a clock that is off."""
    with server.session() as session:
        kept = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert failing(server) == ["database"]
    with server.session() as session:
        # A newer one is no reason: this replica goes on while others are brought up to date.
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert failing(server) == []
    with server.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :kept"), {"kept": kept})
    watch = server.backend.clock_watch
    kept_skew, watch.skew_ms = watch.skew_ms, 10**15
    try:
        assert failing(server) == ["clock"]
    finally:
        watch.skew_ms = kept_skew

    def refuse(_: object) -> None:
        raise DatabaseError("the database cannot be used")

    monkeypatch.setattr(type(server.backend.database), "reading", refuse)
    assert failing(server) == ["database"]
    assert ask(server, "GET", "/healthz")[0] == 200


def test_a_database_that_does_not_answer_makes_a_backend_unready_in_time(
    server: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask, and however long it takes."""
    monkeypatch.setattr(serving, "DATABASE_SECONDS", 0.05)
    hold = threading.Event()
    original = type(server.backend.database).reading

    @contextmanager
    def slow(database: Any) -> Iterator[Any]:  # noqa: ANN401 - as the original's
        hold.wait(20)
        with original(database) as session:
            yield session

    with monkeypatch.context() as patch:
        patch.setattr(type(server.backend.database), "reading", slow)
        began = time.monotonic()
        assert "database" in failing(server)
        assert time.monotonic() - began < 10
        hold.set()
    assert failing(server) == []


# --- metrics -------------------------------------------------------------------------


def api_token(server: BackendServer, role: Role = Role.VIEWER) -> str:
    """A new API token, as the header has it."""
    with server.session() as session:
        _, token = create_api_token(
            session,
            name=f"test-{time.monotonic_ns()}",
            role=role,
            groups=None,
            lifetime_ms=HOUR,
            by=local_administrator(),
            now=server.clock(),
        )
    return f"Bearer {token}"


def test_metrics_are_for_tokens_and_tell_of_the_fleet(server: BackendServer) -> None:
    """Requests, attestations, decisions, devices and this process, in the Prometheus format."""
    assert ask(server, "GET", "/metrics")[0] == 401
    assert ask(server, "GET", "/metrics", authorization="Bearer hwt_guess")[0] == 401
    bearer = api_token(server)
    before = ask(server, "GET", "/metrics", authorization=bearer)[2].decode()
    device = enrolled_device(server)
    assert device.attest(HttpApi(server, device)).standing is Standing.TRUSTED
    with pytest.raises(RefusedByHttpError):
        device.attest(HttpApi(server), device.evidence(device.next_nonce))
    status, headers, answer = ask(server, "GET", "/metrics", authorization=bearer)
    after = answer.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")

    def gained(name: str, **labels: str) -> float:
        return metric(after, name, **labels) - metric(before, name, **labels)

    attest = {"route": "/v1/attest", "method": "POST"}
    assert gained("hwtrust_http_requests_total", **attest, status="200") == 1
    assert gained("hwtrust_http_requests_total", **attest, status="401") == 1
    assert gained("hwtrust_http_request_duration_seconds_count", **attest) == 2
    assert gained("hwtrust_attestations_total", standing="trusted") == 1
    assert gained("hwtrust_refusals_total", code="identity:missing") == 1
    assert gained("hwtrust_audit_records_total", event=Event.ENROLMENT_ACCEPTED.value) == 1
    assert gained("hwtrust_audit_records_total", event=Event.ROOT_MADE.value) == 1
    assert gained("hwtrust_commit_batch_size_sum") == 2
    assert gained("hwtrust_commit_duration_seconds_count") >= 1
    assert metric(after, "hwtrust_devices", standing="trusted") >= 1
    assert metric(after, "hwtrust_ready", check="database") == 1
    assert metric(after, "hwtrust_worker_resident_memory_bytes", worker="0") > 0
    assert metric(after, "hwtrust_read_only") == 0


def test_a_path_that_does_not_exist_makes_no_time_series(server: BackendServer) -> None:
    """What a caller invents is no label."""
    for number in range(5):
        assert ask(server, "GET", f"/invented-{number}")[0] == 404
        assert ask(server, "PROPFIND", "/healthz")[0] == 405
    shown = metrics.exposition().decode()
    assert "invented" not in shown
    assert "PROPFIND" not in shown
    assert (
        metric(shown, "hwtrust_http_requests_total", route="none", method="GET", status="404") >= 5
    )


# --- read-only -----------------------------------------------------------------------


def turn(server: BackendServer, *, to: bool) -> None:
    """Turn the switch."""
    with server.session() as session:
        switch_read_only(
            session, to=to, reason="moving", by=local_administrator(), now=server.clock()
        )


def test_a_read_only_backend_changes_nothing_and_says_when_to_come_again(
    server: BackendServer,
) -> None:
    """Devices and administrators get a typed 503; whoever only reads goes on."""
    device = enrolled_device(server)
    nonce = device.next_nonce
    turn(server, to=True)
    try:
        api = HttpApi(server, device)
        with pytest.raises(RefusedByHttpError) as caught:
            device.attest(api)
        assert (caught.value.status, caught.value.code) == (503, "backend:read-only")
        status, headers, answer = ask(server, "POST", "/v1/challenges", challenge_body(device))
        assert (status, problem(answer).code) == (503, "backend:read-only")
        assert int(headers["retry-after"]) > 0
        for path in ("/healthz", "/readyz", "/schema/openapi.json"):
            assert ask(server, "GET", path)[0] == 200
        assert (
            metric(
                ask(server, "GET", "/metrics", authorization=api_token(server))[2].decode(),
                "hwtrust_read_only",
            )
            == 1
        )
    finally:
        turn(server, to=False)
    # The nonce was not used up.
    assert device.next_nonce == nonce
    assert device.attest(HttpApi(server, device)).standing is Standing.TRUSTED


def test_background_work_rests_while_the_backend_is_read_only(server: BackendServer) -> None:
    """What only looks goes on; what writes begins again once the switch is off."""
    looked, wrote = threading.Semaphore(0), threading.Event()

    def look(_: Backend) -> None:
        looked.release()

    def write(_: Backend) -> None:
        wrote.set()

    tasks = (Task("look", 10, look, by_the_clock=False, changes=False), Task("write", 10, write))
    background = Background(server.backend, tasks)
    turn(server, to=True)
    try:
        background.start()
        assert all(looked.acquire(timeout=30) for _ in range(4))
        assert not wrote.is_set()
    finally:
        turn(server, to=False)
    try:
        assert wrote.wait(30)
    finally:
        background.stop()


def test_turning_the_switch_is_recorded_with_who_did_it(server: BackendServer) -> None:
    """Also the record of the switch that forbids writing is written."""
    turn(server, to=True)
    turn(server, to=False)
    with server.session() as session:
        rows = session.execute(
            text("SELECT event, actor FROM audit_records ORDER BY sequence DESC LIMIT 2")
        ).all()
    name = local_administrator().name
    assert [tuple(row) for row in rows] == [
        (Event.READ_ONLY_OFF.value, name),
        (Event.READ_ONLY_ON.value, name),
    ]


@pytest.mark.parametrize(
    "by",
    [
        Principal("token:a", Role.OPERATOR, None),
        Principal("token:b", Role.ADMINISTRATOR, frozenset({"lab"})),
    ],
)
def test_the_switch_is_for_administrators_of_all_devices(
    server: BackendServer, by: Principal
) -> None:
    """A lesser role, or a limit to groups, does not stop the fleet."""
    with pytest.raises(ForbiddenError), server.session() as session:
        switch_read_only(session, to=True, reason="", by=by, now=server.clock())


# --- limits --------------------------------------------------------------------------


def test_who_asks_too_often_is_told_when_to_come_again(database_setting: str) -> None:
    """A refusal by rate writes no audit record, and health goes on."""
    rates = RateSettings(address=5, credentials=2, device=3, total=0)
    with BackendServer(database=database_setting, rates=rates) as limited:
        if not database_setting:
            limited.accept(make_release())
        found = [ask(limited, "POST", "/v1/challenges", b"{}") for _ in range(6)]
        assert [status for status, _, _ in found] == [400] * 5 + [429]
        _, headers, answer = found[-1]
        assert headers["content-type"] == PROBLEM
        assert problem(answer).code == "request:rate"
        assert 1 <= int(headers["retry-after"]) <= 12
        with limited.session() as session:
            count = session.scalar(text("SELECT count(*) FROM audit_records"))
        assert ask(limited, "POST", "/v1/enrolments", b"{}")[0] == 429
        with limited.session() as session:
            assert session.scalar(text("SELECT count(*) FROM audit_records")) == count
        guesses = [
            ask(limited, "GET", "/metrics", authorization=f"Bearer hwt_{n}")[0] for n in range(3)
        ]
        assert guesses == [401, 401, 429]
        assert ask(limited, "GET", "/healthz")[0] == 200


def test_a_device_that_attests_too_often_is_told_to_wait() -> None:
    """By its certificate, from wherever it comes; another device goes on."""
    rates = RateSettings(address=0, credentials=0, device=3, total=0)
    with BackendServer(rates=rates) as limited:
        limited.accept(make_release())
        first, second = enrolled_device(limited), enrolled_device(limited)
        api = HttpApi(limited, first)
        for _ in range(3):
            assert first.attest(api).standing is Standing.TRUSTED
        with pytest.raises(RefusedByHttpError) as caught:
            first.attest(api)
        assert (caught.value.status, caught.value.code) == (429, "request:rate")
        assert second.attest(HttpApi(limited, second)).standing is Standing.TRUSTED


def test_one_address_does_not_take_all_connections() -> None:
    """The one too many is closed; one that ends makes room."""
    with BackendServer(address_connection_limit=3) as limited:
        port = int(limited.url.rpartition(":")[2])
        context = client_context(limited)

        def connect() -> http.client.HTTPSConnection:
            made = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
            made.request("GET", "/healthz")
            made.getresponse().read()
            return made

        held = [connect() for _ in range(3)]
        with pytest.raises((ConnectionError, ssl.SSLError, http.client.HTTPException)):
            connect()
        held.pop().close()
        deadline = time.monotonic() + 10
        while True:
            try:
                held.append(connect())
            except (ConnectionError, ssl.SSLError, http.client.HTTPException):
                assert time.monotonic() < deadline
            else:
                break
        for connection in held:
            connection.close()


def test_a_trusted_proxys_clients_are_told_apart(tmp_path: Path) -> None:
    """Each has a rate of its own, by the header that the proxy sets."""
    rates = RateSettings(address=1, credentials=0, device=0, total=0)
    with BackendServer(
        rates=rates,
        trusted_proxies=("127.0.0.1",),
        forwarded_header=ForwardedHeader.X_FORWARDED_FOR,
    ) as limited:
        statuses = [
            ask(limited, "POST", "/v1/challenges", b"{}", x_forwarded_for=client)[0]
            for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2, 192.0.2.3")
        ]
        assert statuses == [400, 429, 400, 400]


# --- request ids, log lines, traces --------------------------------------------------


def test_a_request_is_one_line_with_its_id_and_without_its_secrets(server: BackendServer) -> None:
    """The id in the answer finds the line; neither token, body nor path of the caller is in it."""
    stream = io.StringIO()
    names = ("hwtrust_backend", "hwtrust_backend.access", "uvicorn", "uvicorn.error")
    kept = {
        name: (list(logging.getLogger(name).handlers), logging.getLogger(name).level)
        for name in names
    }
    logs.configure(level="info", form=LogFormat.JSON, access=True, stream=stream)
    try:
        given = {"x_request_id": "chosen-by-the-caller", "authorization": "Bearer hwt_verysecret"}
        _, headers, _ = ask(server, "POST", "/v1/challenges", b'{"device": "s3cret"}', **given)
        ask(server, "GET", "/nowhere%0aINFO%20forged")
    finally:
        for name, (handlers, level) in kept.items():
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).setLevel(level)
            logging.getLogger(name).propagate = True
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("request") == headers["x-request-id"]]
    assert headers["x-request-id"] != "chosen-by-the-caller"
    assert line["route"] == "/v1/challenges"
    assert (line["status"], line["code"]) == (400, "request:invalid")
    assert line["duration_ms"] >= 0
    assert line["peer"] == "127.0.0.1"
    for secret in ("verysecret", "s3cret", "forged"):
        assert secret not in stream.getvalue()


def test_an_attestation_is_one_trace_from_the_request_to_the_commit(server: BackendServer) -> None:
    """Request, verify, appraise, sign and commit, in the trace of the caller."""
    exporter = InMemorySpanExporter()
    device = enrolled_device(server)
    trace = "0af7651916cd43dd8448eb211c80319c"
    traces.start(exporter=exporter)
    try:
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        device.attest(HttpApi(server, device, headers=headers))
        # The request ends for its server a moment after the answer has come.
        ended = threading.Event()
        for _ in range(500):
            if any(span.name == "POST /v1/attest" for span in exporter.get_finished_spans()):
                break
            ended.wait(0.01)
    finally:
        traces.stop()
    found = {
        span.name
        for span in exporter.get_finished_spans()
        if f"{span.context.trace_id:032x}" == trace
    }
    assert {"POST /v1/attest", "verify", "appraise", "commit", "sign"} <= found


# --- bad input (95) ------------------------------------------------------------------


def posts(server: BackendServer) -> list[str]:
    """Every path that takes a body, with something in place of its parameters."""
    document = json.loads(ask(server, "GET", "/schema/openapi.json")[2])
    methods = {"post", "put", "patch"}
    return [
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if method in methods
    ]


DEEP = b'{"device":' * 50_000
BODIES = {
    "SQL metacharacters": json.dumps(
        dict.fromkeys(
            ("device", "token", "name", "ek_public", "purpose", "nonce", "audience"),
            "'; DROP TABLE devices; --",
        )
    ).encode(),
    "a zero byte": b'{"device": "\\u0000", "name": "\\u0000"}',
    "half of a pair": b'{"device": "\\ud800", "name": "\\ud800"}',
    "deep JSON": DEEP,
    "deep lists": b"[" * 60_000,
    "invalid UTF-8": b'{"device": "\xff\xfe"}',
    "a number without an end": b'{"device": ' + b"9" * 60_000 + b"}",
    "no JSON": b"\x00\x01\x02",
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
}


@pytest.mark.parametrize("case", BODIES)
def test_no_body_makes_a_server_error_on_any_route(server: BackendServer, case: str) -> None:
    """Every route that takes a body answers what is wrong, typed and at once (95)."""
    headers = {
        "authorization": api_token(server, Role.ADMINISTRATOR),
        "content-type": "application/json",
    }
    routes = posts(server)
    assert len(routes) > 10
    port = int(server.url.rpartition(":")[2])
    context = client_context(server)
    with closing(
        http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    ) as connection:
        for route in routes:
            method, _, path = route.partition(" ")
            parts = [
                "%27%3B%20DROP%20TABLE%20devices" if part[:1] == "{" else part
                for part in path.split("/")
            ]
            connection.request(method, "/".join(parts), body=BODIES[case], headers=headers)
            response = connection.getresponse()
            answer = response.read()
            assert response.status < 500, (route, answer)
            if response.status >= 400 and not path.startswith("/ui"):
                assert response.getheader("content-type") == PROBLEM, (route, answer)
                assert problem(answer).code, (route, answer)


def test_a_body_of_ten_mebibytes_is_refused_on_every_route_of_devices(
    server: BackendServer,
) -> None:
    """With and without its length; nothing of it is kept (95)."""
    routes = [route for route in posts(server) if "/admin/" not in route and " /ui" not in route]
    assert len(routes) >= 6
    large = b'{"device": "' + b"a" * (10 * 2**20) + b'"}'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for route in routes:
        method, _, path = route.partition(" ")
        status, code = sent_in_chunks(server, method, path.replace("{", "").replace("}", ""), large)
        assert (status, code) == (413, "request:too-large"), route
        status, code = sent_whole(server, method, path.replace("{", "").replace("}", ""), large)
        assert (status, code) == (413, "request:too-large"), route
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, f"{grown} KiB"


def sent_whole(server: BackendServer, method: str, path: str, body: bytes) -> tuple[int, str]:
    """Announce a body by its length, and send none of it before the answer."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return answered(server, head.encode(), b"")


def sent_in_chunks(server: BackendServer, method: str, path: str, body: bytes) -> tuple[int, str]:
    """Send a body that does not say how long it is, until there is an answer."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    head += "content-type: application/json\r\n\r\n"
    return answered(server, head.encode(), body)


def connected(server: BackendServer) -> ssl.SSLSocket:
    """A TLS connection."""
    port = int(server.url.rpartition(":")[2])
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    return client_context(server).wrap_socket(plain, server_hostname="localhost")


def answered(server: BackendServer, head: bytes, chunks: bytes) -> tuple[int, str]:
    """Status and code of the answer to a head and to a body in chunks."""
    with closing(connected(server)) as connection:
        connection.sendall(head)
        size = 64 * 1024
        for start in range(0, len(chunks), size):
            part = chunks[start : start + size]
            try:
                connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            except OSError:
                break
            # Whoever does not listen to the answer may get a reset for it.
            connection.settimeout(0.01)
            try:
                early = connection.recv(65536)
            except TimeoutError:
                early = b""
            connection.settimeout(30)
            if early:
                return parsed(connection, early)
        return parsed(connection, b"")


def parsed(connection: ssl.SSLSocket, early: bytes) -> tuple[int, str]:
    """Status and code of an answer that has begun."""
    received = early
    while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
        more = connection.recv(65536)
        if not more:
            break
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), problem(body).code


SLOW = {
    "headers, byte by byte": (b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\n", b"a"),
    "line ends before a request": (b"", b"\r\n"),
    "line ends after an answer": (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"),
    "a body": (
        b"POST /v1/attest HTTP/1.1\r\nhost: x\r\n%s\r\ncontent-length: 1000\r\n\r\n"
        % b"content-type: application/json",
        b"a",
    ),
    "a body that was refused": (
        b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n",
        b"a",
    ),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_caller_that_draws_it_out_loses_its_connection(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it sends a byte of now and then (95); others are answered meanwhile."""
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.7)
    start, drip = SLOW[case]
    with BackendServer(request_timeout_ms=700) as patient, closing(connected(patient)) as slow:
        slow.sendall(start)
        began = time.monotonic()
        ended = False
        received = b""
        while not ended and time.monotonic() - began < 15:
            try:
                slow.sendall(drip)
                slow.settimeout(0.1)
                more = slow.recv(65536)
                ended, received = not more, received + more
            except TimeoutError:
                continue
            except OSError:
                ended = True
            if b"request:timeout" in received:
                ended = True
        assert ended
        assert ask(patient, "GET", "/healthz")[0] == 200


def was_cut_off(connection: ssl.SSLSocket, data: bytes) -> bool:
    """Whether a connection that is written to and never read is ended by the other side."""
    try:
        while True:
            connection.sendall(data)
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_caller_that_does_not_read_its_answers_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers that nobody takes are not kept for ever."""
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.5)
    with BackendServer() as patient, closing(connected(patient)) as slow:
        slow.settimeout(20)
        request = b"GET /schema/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        assert was_cut_off(slow, request * 100)
        assert ask(patient, "GET", "/healthz")[0] == 200
