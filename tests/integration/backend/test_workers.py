"""Several workers on one socket: what dies is replaced, what was acknowledged is kept."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import urllib.request
from typing import TYPE_CHECKING, Self

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from hwtrust.wire.messages import Standing
from hwtrust_backend.app import workers
from hwtrust_backend.app.notify import READY, STOPPING, notify
from hwtrust_backend.audit import Event
from simulators.backend_clients import BackendDevice, HttpApi
from simulators.served import PROGRAM, Served, await_that, free_port

if TYPE_CHECKING:
    from pathlib import Path

BROKEN = (OSError, http.client.HTTPException)


class Load:
    """Devices that attest without a pause, each in a thread; counts what was acknowledged."""

    def __init__(self, served: Served, count: int) -> None:
        self.broken: list[BaseException] = []
        self.other: list[BaseException] = []
        self._served = served
        self._ended = threading.Event()
        self._devices = [served.device() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._attest, args=(device,)) for device in self._devices
        ]
        self.acknowledged: dict[str, int] = {device.name.hex(): 0 for device in self._devices}

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, once each has its last answer."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        """Attestations that were acknowledged."""
        return sum(self.acknowledged.values())

    def _attest(self, device: BackendDevice) -> None:
        api = HttpApi(self._served, device)
        while not self._ended.is_set():
            try:
                assert device.attest(api).standing is Standing.TRUSTED
            except BROKEN as error:
                self.broken.append(error)
                self._begin_again(device)
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.other.append(error)
                return
            else:
                self.acknowledged[device.name.hex()] += 1

    def _begin_again(self, device: BackendDevice) -> None:
        """A connection broke: the answer may be lost, and with it the next nonce."""
        while not self._ended.is_set():
            try:
                device.session(HttpApi(self._served))
            except BROKEN as error:
                self.broken.append(error)
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.other.append(error)
                return
            else:
                self.acknowledged[device.name.hex()] += 1
                return


def recorded(served: Served) -> dict[str, int]:
    """How often each device's evidence was accepted, by the audit trail."""
    query = text("SELECT device, count(*) FROM audit_records WHERE event = :event GROUP BY device")
    with served.backend.database.reading() as session:
        rows = session.execute(query, {"event": Event.EVIDENCE_ACCEPTED.value}).all()
    return {device: count for device, count in rows}  # noqa: C416 - rows are no pairs to dict()


def scraped(port: int) -> dict[tuple[str, str], float]:
    """The metrics of a plain listener, by name and worker."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        shown = response.read().decode()
    return {
        (sample.name, sample.labels.get("worker", "")): sample.value
        for family in text_string_to_metric_families(shown)
        for sample in family.samples
    }


# --- under load -----------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_loses_nothing_acknowledged(
    tmp_path: Path, database_url: str
) -> None:
    """A kill -9 under load: the others go on, every answer has its record (98)."""
    port = free_port()
    with Served(
        tmp_path / "data",
        "--workers",
        "2",
        database=database_url,
        metrics_listen=f"127.0.0.1:{port}",
    ) as served:
        await_that(lambda: len(served.workers()) == 2)
        with Load(served, 3) as load:
            for _ in range(2):
                seen = load.total
                await_that(lambda seen=seen: load.total > seen + 10, served.log)  # type: ignore[misc]
                victim = served.workers()[0]
                os.kill(victim, signal.SIGKILL)
                await_that(
                    lambda victim=victim: (
                        victim not in served.workers()  # type: ignore[misc]
                        and len(served.workers()) == 2
                    ),
                    served.log,
                )
            seen = load.total
            await_that(lambda: load.total > seen + 10, served.log)
        assert load.other == []
        kept = recorded(served)
        for device, count in load.acknowledged.items():
            assert kept[device] >= count
        # An answer may be lost with its worker, but not many.
        lost = sum(kept.values()) - load.total
        assert 0 <= lost <= len(load.broken)
        await_that(lambda: ("hwtrust_worker_resident_memory_bytes", "1") in scraped(port))
        shown = scraped(port)
        assert shown["hwtrust_worker_restarts_total", ""] == 2
        for number in ("0", "1"):
            assert shown["hwtrust_worker_resident_memory_bytes", number] > 2**20
    assert served.exit_code == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopping_under_load_breaks_no_request(tmp_path: Path, workers: str) -> None:
    """Whatever connection was taken gets its answer; the exit code is 0."""
    with Served(tmp_path / "data", "--workers", workers) as served:
        load = Load(served, 3)
        with load:
            await_that(lambda: load.total > 20, served.log)
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(60) == 0
        assert load.other == []
        # Once nobody listens, connections are refused; none is reset and no answer is cut off.
        refused = (ConnectionRefusedError,)
        assert [error for error in load.broken if not isinstance(error, refused)] == []
        assert recorded(served) == load.acknowledged


def test_workers_are_rolled_without_a_gap(tmp_path: Path) -> None:
    """SIGHUP: new processes with new settings, one after the other, and no request fails."""
    with Served(tmp_path / "data", "--workers", "2") as served:
        await_that(lambda: len(served.workers()) == 2)
        before = set(served.workers())
        config = served.directory / "config.toml"
        with Load(served, 2) as load:
            await_that(lambda: load.total > 5, served.log)
            config.write_text(config.read_text() + "access_log = true\n")
            served.process.send_signal(signal.SIGHUP)
            await_that(
                lambda: not before & set(served.workers()) and len(served.workers()) == 2,
                served.log,
            )
            seen = load.total
            await_that(lambda: load.total > seen + 10, served.log)
        assert load.other == []
        assert load.broken == []
        assert "/v1/attest" in served.log.read_text()
        # Settings that cannot be used change nothing.
        config.write_text("nonsense = 1\n")
        served.process.send_signal(signal.SIGHUP)
        await_that(lambda: "the settings stay as they were" in served.log.read_text())
        await_that(served.answers, served.log)
    assert served.exit_code == 0


# --- the supervisor ----------------------------------------------------------------------------


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    """A kill -9 of the supervisor leaves no process that nobody looks after."""
    with Served(tmp_path / "data", "--workers", "2") as served:
        await_that(lambda: len(served.workers()) == 2)
        workers = served.workers()
        handles = [os.pidfd_open(worker) for worker in workers]
        served.process.kill()
        served.process.wait()
        for handle in handles:
            await_that(lambda handle=handle: has_ended(handle), served.log)  # type: ignore[misc]
            os.close(handle)


def has_ended(handle: int) -> bool:
    """Whether the process behind a descriptor has ended."""
    try:
        signal.pidfd_send_signal(handle, 0)
    except ProcessLookupError:
        return True
    return False


HANGING = f"""
from hwtrust_backend.app import workers
workers.SILENT_SECONDS = 8.0
{PROGRAM}
"""


def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """One whose event loop does not turn says nothing, and is not waited for for ever."""
    with Served(tmp_path / "data", "--workers", "2", program=HANGING) as served:
        await_that(lambda: len(served.workers()) == 2)
        await_that(served.answers)
        victim = served.workers()[1]
        os.kill(victim, signal.SIGSTOP)
        await_that(
            lambda: victim not in served.workers() and len(served.workers()) == 2, served.log
        )
        assert "hangs" in served.log.read_text()
    assert served.exit_code == 0


FAILING = f"""
from hwtrust_backend.app import workers
def fail(*args, **kwargs):
    raise SystemError("no server today")
workers.make_server = fail
workers.LAST_PAUSE = 0.2
{PROGRAM}
"""


def test_workers_that_never_begin_to_serve_end_it_all(tmp_path: Path) -> None:
    """A defect that no restart mends ends in exit code 1 and says what it is."""
    served = Served(tmp_path / "data", "--workers", "2", program=FAILING)
    served.install()
    served.start(wait=False)
    try:
        assert served.process.wait(60) == 1
    finally:
        served.stop()
        served.backend.database.close()
    log = served.log.read_text()
    assert "no server today" in log
    assert "hint:" in log


@pytest.mark.parametrize("workers", ["1", "2"])
def test_systemd_is_told_when_it_serves_and_when_it_stops(
    tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY once requests are answered, WATCHDOG while they are, STOPPING at the end."""
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))

        def listen() -> None:
            while "END" not in told:
                told.extend(manager.recv(4096).decode().split("\n"))

        listening = threading.Thread(target=listen)
        listening.start()
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Served(tmp_path / "data", "--workers", workers) as served:
            await_that(lambda: READY in told and "WATCHDOG=1" in told, served.log)
            assert STOPPING not in told
        notify("END")
        listening.join()
    assert told.index(READY) < told.index(STOPPING)
    assert served.exit_code == 0


def test_nobody_is_told_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager that is not there is no reason to fail."""
    for address in ("", "relative", "/nonexistent/notify", "@nobody-listens-here"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify(READY)
    assert os.environ["NOTIFY_SOCKET"] == "@nobody-listens-here"


def test_a_worker_that_was_waited_for_has_ended() -> None:
    """Two workers that die at once are both found dead before the first of them is buried."""
    process = os.posix_spawn("/bin/true", ["true"], {})
    worker = workers._Worker(number=0, process=process, said=-1, born=0, heard=0)
    os.waitid(os.P_PID, worker.process, os.WEXITED | os.WNOWAIT)
    assert workers._was_reaped(worker)
    assert workers._was_reaped(worker)
