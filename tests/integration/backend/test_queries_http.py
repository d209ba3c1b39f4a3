"""Asking a device over HTTP, on a page and at the command line, while it answers."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest, Evidence, WaitReply
from hwtrust.wire.statement import Statement, StepFailure
from hwtrust_backend.admin.api_tokens import create_api_token
from hwtrust_backend.admin.principals import Role, local_administrator
from hwtrust_backend.admin.queries import QueryReport
from hwtrust_backend.app.asking import Asking
from hwtrust_backend.audit import evidence_digest
from hwtrust_backend.cli import queries as commands
from hwtrust_backend.config import system_clock
from hwtrust_backend.observe import metrics
from hwtrust_backend.pages.protection import form_token
from hwtrust_backend.pages.sessions import sign_in_by_token
from hwtrust_backend.testing import DAY, HOUR, BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, enrolled_device
from simulators.backend_shell import Shell
from simulators.fleet import Fleet, fleet_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAILURE = StepFailure(
    step="stage", code="<script>x</script>", layer="<b>kernel</b>", release="2.0", detail='"><img>'
)
PATIENCE = 50
"""Seconds that no test waits."""


@pytest.fixture
def device(server: BackendServer) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(server)


@pytest.fixture
def tokens(server: BackendServer, request: pytest.FixtureRequest) -> dict[Role, str]:
    """API tokens of an operator and a viewer."""
    made = {}
    with server.session() as session:
        for role in (Role.OPERATOR, Role.VIEWER):
            _, made[role] = create_api_token(
                session,
                name=f"{role}-{abs(hash(request.node.nodeid))}",
                role=role,
                groups=None,
                lifetime_ms=DAY,
                by=local_administrator(),
                now=server.clock(),
            )
    return made


def ask(
    server: BackendServer, token: str, name: str, method: str = "POST", *, wait: int = 30
) -> tuple[int, QueryReport]:
    """Ask a device, or look at what it answered last."""
    api = HttpApi(server, headers={"authorization": f"Bearer {token}"})
    if method == "POST":
        path, body = f"/v1/admin/devices/{name}/query", json.dumps({"wait": wait}).encode()
        status, _, answer = api.request("POST", path, body)
    else:
        status, _, answer = api.request("GET", f"/v1/admin/devices/{name}/answer")
    assert status == 200, answer
    return status, msgspec.json.decode(answer, type=QueryReport)


class Woken(threading.Thread):
    """A device that waits for a push, and then attests by a new challenge."""

    def __init__(self, server: BackendServer, device: BackendDevice) -> None:
        super().__init__(daemon=True)
        self.api = HttpApi(server, device)
        self.device = device
        self.reason = ""

    def run(self) -> None:
        """Wait, and answer."""
        _, _, body = self.api.request("GET", "/v1/wait?seconds=50")
        self.reason = msgspec.json.decode(body, type=WaitReply).reason
        wanted = ChallengeRequest(device=self.device.name, purpose=Purpose.ATTEST)
        self.device.next_nonce = self.api.challenge(wanted).nonce
        self.device.attest(self.api)


def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    pause = threading.Event()
    for _ in range(PATIENCE * 100):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it has not come to that")


# --- HTTP ---------------------------------------------------------------------------------------


def test_a_waiting_device_answers_at_once(
    server: BackendServer, device: BackendDevice, tokens: dict[Role, str]
) -> None:
    """Wake, new challenge, attestation, answer: in one call of an operator."""
    woken = Woken(server, device)
    woken.start()
    until(lambda: len(server.backend.waiters) > 0)
    _, report = ask(server, tokens[Role.OPERATOR], device.name.hex())
    woken.join(PATIENCE)
    assert woken.reason == "query"
    assert report.answered
    assert report.answer is not None
    assert [layer.name for layer in report.answer.layers] == [
        layer.name for layer in make_release().layers
    ]
    assert report.result.count(".") == 2
    _, seen = ask(server, tokens[Role.VIEWER], device.name.hex(), "GET")
    assert (seen.answer, seen.result) == (report.answer, report.result)
    api = HttpApi(server, headers={"authorization": f"Bearer {tokens[Role.VIEWER]}"})
    _, _, body = api.request("GET", f"/v1/admin/devices/{device.name.hex()}/evidence")
    evidence = msgspec.json.decode(body, type=Evidence)
    assert evidence_digest(evidence).hex() == report.answer.evidence


def test_a_silent_device_is_told_of_as_silent(
    server: BackendServer, device: BackendDevice, tokens: dict[Role, str]
) -> None:
    """The call ends in time, and says when the device was heard of last."""
    began = time.monotonic()
    for wait in (0, 1):
        _, report = ask(server, tokens[Role.OPERATOR], device.name.hex(), wait=wait)
        assert (report.answered, report.answer, report.result) == (False, None, "")
        assert report.attested_at > 0
    assert time.monotonic() - began < PATIENCE


def test_few_wait_at_once(server: BackendServer, device: BackendDevice) -> None:
    """Whoever comes beyond the limit is told to come later; nobody waits in a process that ends."""
    asking = Asking(server.backend, limit=0)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - by its code
        asking.wait(device.name.hex(), 1, seconds=1).send(None)
    assert getattr(caught.value, "code", "") == "wait:full"


def test_reports_are_counted_by_their_step(server: BackendServer, device: BackendDevice) -> None:
    """A failure that is reported over HTTP is in the metrics, once."""

    def counted() -> float:
        wanted = 'hwtrust_device_failures_total{step="stage"} '
        lines = metrics.exposition([]).decode().splitlines()
        return sum(float(line.split(" ")[1]) for line in lines if line.startswith(wanted))

    before = counted()
    device.statement = Statement(failure=FAILURE)
    device.attest(HttpApi(server, device))
    until(lambda: counted() == before + 1)


# --- the command line -----------------------------------------------------------------------


def test_the_command_line_asks_waits_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`device query` on the backend's machine wakes a device that waits at the server."""
    with BackendServer(tmp_path / "data") as server:
        server.accept(make_release())
        device = enrolled_device(server)
        name = device.name.hex()
        shell = Shell(server.directory, capsys)
        _, err = shell.run("device", "query", name[:20], "--wait", "1s", code=1)
        assert "last heard of" in err
        assert "hint: " in err
        assert "asked" in shell.run("device", "query", name[:20], "--wait", "0")[0]
        assert "device query" in shell.run("device", "answer", name, code=1)[1]
        # The command has the machine's time, which goes faster than the test's.
        server.clock.advance(DAY // 24)
        kept = tmp_path / "evidence.json"
        woken = Woken(server, device)
        woken.start()
        found: dict[str, Any] = shell.json(
            "device", "query", name, "--wait", "50s", "--evidence", str(kept)
        )
        woken.join(PATIENCE)
        assert found["answered"]
        assert (
            evidence_digest(msgspec.json.decode(kept.read_bytes(), type=Evidence)).hex()
            == (found["answer"]["evidence"])
        )
        text, _ = shell.run("device", "answer", name[:20])
        for part in ("kernel", "frontend", found["answer"]["evidence"], "trusted", "tpm clock"):
            assert part in text
        device.statement = Statement(failure=FAILURE)
        device.attest(HttpApi(server, device))
        shown, _ = shell.run("device", "show", name[:20])
        assert "stage of 2.0 failed" in shown
        assert "it reports that stage failed" in shell.run("device", name[:20])[0]
        assert [row["device"] for row in shell.json("devices", "--failing")] == [name]


def test_the_command_line_asks_by_the_clock_of_the_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is off does not let older evidence answer."""
    with BackendServer(tmp_path / "data") as server:
        server.accept(make_release())
        name = enrolled_device(server).name.hex()
        shell = Shell(server.directory, capsys)
        monkeypatch.setattr(commands, "clock_skew", lambda *_: HOUR)
        before = system_clock()
        shell.run("device", "query", name, "--wait", "0")
        asked = shell.json("device", "answer", name)["asked_at"]
        assert before - HOUR <= asked <= system_clock() - HOUR


# --- the pages -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A backend with pages."""
    with fleet_at(tmp_path_factory.mktemp("provider")) as made:
        yield made


def test_the_page_asks_and_shows_the_answer(fleet: Fleet) -> None:
    """The button is an operator's; everybody who sees the device sees the answer."""
    name = fleet.name("press 1")
    page = f"/ui/devices/{name}"
    assert f"{page}/query" not in fleet.ask("GET", page, cookie=fleet.cookie("viewer"))[2]
    cookie = fleet.cookie("operator")
    assert f"{page}/query" in fleet.ask("GET", page, cookie=cookie)[2]
    assert "woken" in fleet.ask("GET", f"{page}/query", cookie=cookie)[2]
    fields = {"form_token": form_token(cookie), "reason": ""}
    own = {"sec-fetch-site": "same-origin"}
    status, location, _ = fleet.ask(
        "POST", f"{page}/query", cookie=cookie, headers=own, form=fields
    )
    assert (status, location) == (303, f"{page}?done=query")
    assert "has not answered yet" in fleet.ask("GET", page, cookie=cookie)[2]
    fleet.attest("press 1")
    shown = fleet.ask("GET", page, cookie=fleet.cookie("viewer"))[2]
    assert "has not answered yet" not in shown
    assert "Verdict then" in shown
    viewer = fleet.cookie("viewer")
    fields = {"form_token": form_token(viewer), "reason": ""}
    assert fleet.ask("POST", f"{page}/query", cookie=viewer, headers=own, form=fields)[0] == 403


def test_the_pages_show_a_report_as_text_with_what_to_do(fleet: Fleet) -> None:
    """What a device says of itself is escaped; the list marks it, and finds it."""
    device = fleet.devices["press 2"]
    device.statement = Statement(failure=FAILURE)
    fleet.attest("press 2")
    with fleet.server.session() as session:
        cookie = sign_in_by_token(session, fleet.tokens["viewer"], now=fleet.server.clock())
    page = fleet.ask("GET", f"/ui/devices/{fleet.name('press 2')}", cookie=cookie)[2]
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    for raw in ("<script>x", "<b>kernel", '"><img>'):
        assert raw not in page
    assert "room on the disk" in page
    found = fleet.ask("GET", "/ui/devices?state=failing", cookie=cookie)[2]
    assert fleet.name("press 2") in found
    assert fleet.name("press 1") not in found
    device.statement = Statement()
    fleet.attest("press 2")
    page = fleet.ask("GET", f"/ui/devices/{fleet.name('press 2')}", cookie=cookie)[2]
    assert "Once reported" in page
