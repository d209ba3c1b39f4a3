"""Events and waiting over HTTP: what a device's application and its connection see."""

from __future__ import annotations

import http.client
import json
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.wire.messages import EventReply, EventReport, Problem, WaitReply
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.enrolment import lock_device
from hwtrust_backend.publishing import roots_of
from hwtrust_backend.publishing.events import AT_ONCE, INTERVAL_MS
from hwtrust_backend.testing import DAY, BackendServer, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, RefusedByHttpError, enrolled_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLICY = policy_document(
    rotation={"triggers": ["event"], "events": ["transaction"], "per_minute": 1000}
)
PATIENCE = 50
"""Seconds that no test waits: whoever waits so long has been forgotten."""


@pytest.fixture(scope="module")
def server(database_setting: str) -> Iterator[BackendServer]:
    """A backend that accepts release 1.0, and replaces roots for transactions."""
    with BackendServer(database=database_setting, policy=POLICY) as started:
        started.accept(make_release())
        yield started


@pytest.fixture
def device(server: BackendServer) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(server)


@pytest.fixture
def api(server: BackendServer, device: BackendDevice) -> HttpApi:
    """A connection with the device's certificate."""
    return HttpApi(server, device)


class Wait(threading.Thread):
    """A device that waits on a connection of its own."""

    def __init__(self, api: HttpApi) -> None:
        super().__init__(daemon=True)
        self.api = api
        self.status = 0
        self.body = b""

    def run(self) -> None:
        """Wait as long as one may."""
        self.status, _, self.body = self.api.request("GET", "/v1/wait")

    def is_there(self, server: BackendServer) -> None:
        """Return once the backend has it among those who wait."""
        pause = threading.Event()
        for _ in range(PATIENCE * 100):
            if len(server.backend.waiters) or not self.is_alive():
                return
            pause.wait(0.01)

    def told(self) -> WaitReply:
        """What it was told."""
        self.join(PATIENCE)
        assert self.status == http.client.OK
        return msgspec.json.decode(self.body, type=WaitReply)


def waiting(server: BackendServer, api: HttpApi) -> Wait:
    """A device that waits."""
    made = Wait(api)
    made.start()
    made.is_there(server)
    return made


def reasons_of(server: BackendServer, event: Event, device: BackendDevice) -> list[str]:
    """The reasons of a device's records of that event, oldest first."""
    with server.backend.database.reading() as session:
        rows = session.query(AuditRecord).filter(
            AuditRecord.device == device.name.hex(), AuditRecord.event == event.value
        )
        return [row.reason for row in rows.order_by(AuditRecord.sequence)]


# --- events -----------------------------------------------------------------------------------


def test_an_event_that_the_policy_names_brings_a_new_root_at_once(
    server: BackendServer, device: BackendDevice, api: HttpApi
) -> None:
    """Report, attest, and the root is there; the trail says why."""
    reply = api.post("/v1/events", EventReport(kind="transaction", detail="no. 7"), EventReply)
    assert reply.attest
    assert device.attest(api).root is not None
    assert reasons_of(server, Event.EVENT_REPORTED, device) == ["transaction: no. 7"]
    with server.backend.database.reading() as session:
        assert roots_of(session, device.name.hex())[1].reason == "event transaction"


def test_an_event_of_another_kind_is_noted_and_nothing_follows(
    server: BackendServer, device: BackendDevice, api: HttpApi
) -> None:
    """What the administrator has not named makes nothing due."""
    assert not api.post("/v1/events", EventReport(kind="door-opened"), EventReply).attest
    assert device.attest(api).root is None
    assert reasons_of(server, Event.EVENT_REPORTED, device) == ["door-opened (nothing follows)"]


def test_a_device_reports_so_many_events_and_no_more(
    server: BackendServer, device: BackendDevice, api: HttpApi
) -> None:
    """A flood is refused before anything is noted; after a while there is room again."""
    for _ in range(AT_ONCE):
        api.post("/v1/events", EventReport(kind="door-opened"), EventReply)
    # While the requests run the clock does, too: one more may have come free.
    with pytest.raises(RefusedByHttpError) as caught:  # noqa: PT012
        for _ in range(AT_ONCE):
            api.post("/v1/events", EventReport(kind="door-opened"), EventReply)
    assert (caught.value.status, caught.value.code) == (429, "event:limit")
    noted = len(reasons_of(server, Event.EVENT_REPORTED, device))
    assert noted <= AT_ONCE + 1
    server.clock.advance(INTERVAL_MS)
    api.post("/v1/events", EventReport(kind="door-opened"), EventReply)
    assert len(reasons_of(server, Event.EVENT_REPORTED, device)) == noted + 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"kind": ""}, id="no kind"),
        pytest.param({"kind": "x" * 61}, id="a kind that is too long"),
        pytest.param({"kind": "a kind"}, id="a kind with a space"),
        pytest.param({"kind": "x", "detail": "x" * 201}, id="a detail that is too long"),
        pytest.param({"kind": "x", "device": "00"}, id="another device named in the body"),
    ],
)
def test_an_event_that_is_none_is_refused(api: HttpApi, body: dict[str, str]) -> None:
    """Nothing of any length and any form reaches the trail."""
    with pytest.raises(RefusedByHttpError) as caught:
        api.post("/v1/events", json.dumps(body).encode(), EventReply)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/events"), ("GET", "/v1/wait?seconds=0")]
)
def test_only_a_device_with_its_certificate_may_report_and_wait(
    server: BackendServer, method: str, path: str
) -> None:
    """Nobody else finds out, or makes, anything."""
    body = b'{"kind": "transaction"}' if method == "POST" else None
    status, _, answer = HttpApi(server).request(method, path, body)
    assert status == 401
    assert msgspec.json.decode(answer, type=Problem).code == "identity:missing"


def test_a_replica_whose_clock_is_off_refuses_over_http_too(
    server: BackendServer, device: BackendDevice, api: HttpApi
) -> None:
    """Attestations and events are for another replica, and use nothing up."""
    watch = server.backend.clock_watch
    watch.skew_ms = 200 * 365 * DAY
    try:
        for refused in (
            lambda: device.attest(api),
            lambda: api.post("/v1/events", EventReport(kind="transaction"), EventReply),
        ):
            with pytest.raises(RefusedByHttpError) as caught:
                refused()
            assert (caught.value.status, caught.value.code) == (503, "backend:clock")
    finally:
        watch.skew_ms = 0
    assert device.attest(api).root is None


# --- waiting ------------------------------------------------------------------------------------


def test_a_wait_that_meets_nothing_ends_without_content(api: HttpApi) -> None:
    """204: wait again."""
    assert api.request("GET", "/v1/wait?seconds=0")[::2] == (204, b"")


@pytest.mark.parametrize("seconds", ["-1", "56", "soon"])
def test_nobody_waits_longer_than_is_good_for_a_connection(api: HttpApi, seconds: str) -> None:
    """The time is bounded, whatever is asked for."""
    assert api.request("GET", f"/v1/wait?seconds={seconds}")[0] == 400


def test_a_waiting_device_is_told_of_its_rotation_and_gets_its_root(
    server: BackendServer, device: BackendDevice, api: HttpApi
) -> None:
    """Told at once, it attests and has the root; after that there is nothing to tell."""
    waits = waiting(server, api)
    server.rotate(device.name)
    assert waits.told() == WaitReply(attest=True, reason="rotation")
    assert device.attest(api).root is not None
    assert api.request("GET", "/v1/wait?seconds=0")[0] == 204


def test_due_work_tells_the_device_that_waits(
    server: BackendServer, device: BackendDevice, api: HttpApi
) -> None:
    """What the background grants is pushed: the device need not ask."""
    device.attest(api)
    with server.session() as session:
        lock_device(session, device.name.hex()).rotate_at = server.clock()
    waits = waiting(server, api)
    server.run_due()
    assert waits.told().reason == "rotation"
    assert device.attest(api).root is not None


def test_a_shutdown_ends_every_wait_at_once(new_server: Callable[[], BackendServer]) -> None:
    """Whoever waits gets an answer, and nobody waits for it."""
    with new_server() as started:
        started.accept(make_release())
        made = BackendDevice(started.backend)
        made.load(make_release())
        started.allow_ek(made.name)
        made.enrol(HttpApi(started))
        waits = waiting(started, HttpApi(started, made))
        assert waits.is_alive()
    waits.join(PATIENCE)
    assert waits.status == 204


@pytest.fixture
def new_server(database_url: str, database_kind: str) -> Callable[[], BackendServer]:
    """Makes a backend of the test's own."""
    database = database_url if database_kind == "postgresql" else ""
    return lambda: BackendServer(database=database)
