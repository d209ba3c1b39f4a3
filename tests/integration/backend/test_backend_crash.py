"""Power cuts of a backend under load: of a replica, and of PostgreSQL itself (97, 98).

load ──▶ kill -9 ──▶ what was acknowledged is there, and every verdict has its record
"""

from __future__ import annotations

import http.client
import multiprocessing
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, cast

import pytest
from sqlalchemy import func, select

from hwtrust.errors import ChallengeUsedError, DatabaseError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest, Standing, TrustAnchor
from hwtrust_backend.audit import AuditRecord, Event, evidence_digest
from hwtrust_backend.db import Database
from hwtrust_backend.enrolment import Device
from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, HttpApi, RefusedByHttpError
from simulators.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

DEVICES = 4
BEFORE_THE_KILL = 12
"""Attestations that are acknowledged before."""
PATIENCE_S = 60
UNLIMITED = {"address": 0, "credentials": 0, "device": 0, "total": 0}

_context = multiprocessing.get_context("forkserver")
# What takes long to import, and is installed: the server does not see pytest's own sys.path.
_context.set_forkserver_preload(["hwtrust_backend.testing"])


@dataclass(frozen=True)
class Remote:
    """A backend in another process, as `HttpApi` needs it."""

    url: str
    trust: TrustAnchor


@dataclass
class Caller:
    """A device that attests again and again, and remembers what was acknowledged."""

    device: BackendDevice
    acknowledged: list[bytes] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def attest(self, server: BackendServer) -> Standing:
        """Attest once; a challenge that was answered without our knowing is replaced."""
        api = HttpApi(server, self.device)
        evidence = self.device.evidence(self.device.next_nonce)
        try:
            reply = self.device.attest(api, evidence)
        except RefusedByHttpError as error:
            self.refused.append((error.status, error.code))
            if error.code != ChallengeUsedError.code:
                raise
            asked = ChallengeRequest(device=self.device.name, purpose=Purpose.ATTEST)
            self.device.next_nonce = api.challenge(asked).nonce
            return self.attest(server)
        self.acknowledged.append(evidence_digest(evidence))
        return reply.standing


class Load:
    """All devices at once, until it is told to end."""

    def __init__(self, server: BackendServer, callers: list[Caller]) -> None:
        self._server = server
        self._callers = callers
        self._end = threading.Event()
        self._counted = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in callers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def await_acknowledged(self, count: int) -> None:
        """Return once so many more were acknowledged."""
        for _ in range(count):
            assert self._counted.acquire(timeout=PATIENCE_S)

    def _run(self, caller: Caller) -> None:
        while not self._end.is_set():
            try:
                caller.attest(self._server)
            except (OSError, http.client.HTTPException, RefusedByHttpError):
                continue  # nothing was acknowledged
            self._counted.release()


def callers_of(server: BackendServer) -> list[Caller]:
    """Devices that have enrolled."""
    server.accept(make_release())
    callers = []
    for _ in range(DEVICES):
        device = BackendDevice(server.backend)
        device.load(make_release())
        server.allow_ek(device.name)
        device.enrol(DirectApi(server.backend))
        callers.append(Caller(device))
    return callers


def check_nothing_was_lost(database: Database, callers: list[Caller]) -> None:
    """What was acknowledged is in the trail, and what devices stand at has its record."""
    with database.reading() as session:
        for caller in callers:
            row = session.get_one(Device, caller.device.name.hex())
            records = session.scalars(
                select(AuditRecord)
                .where(AuditRecord.device == row.id)
                .where(AuditRecord.event == Event.EVIDENCE_ACCEPTED)
                .order_by(AuditRecord.sequence)
            ).all()
            assert set(caller.acknowledged) <= {record.evidence for record in records}
            assert row.attested_at == records[-1].at
        count, newest = session.execute(
            select(func.count(), func.max(AuditRecord.sequence)).select_from(AuditRecord)
        ).one()
        assert count == newest


# --- a replica ---------------------------------------------------------------------------


def serve(pipe: Connection, directory: Path, database: str) -> None:
    """A replica, in a process of its own."""
    with BackendServer(directory, database=database, rates=UNLIMITED) as server:
        pipe.send(Remote(server.url, server.trust))
        pipe.recv()


class Replica:
    """A replica that is killed, at the latest when its block ends."""

    def __init__(self, directory: Path, database: str) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=serve, args=(theirs, directory, database))

    def __enter__(self) -> Self:
        self._process.start()
        assert self._pipe.poll(PATIENCE_S)
        self.server = cast("BackendServer", self._pipe.recv())
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._process.kill()
        self._process.join()


@pytest.fixture
def durable_url(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A database that survives the end of any process."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'backend.sqlite'}"
        return
    request.getfixturevalue("postgres")  # or the test is skipped
    with Postgres.start(durable=True) as server:
        yield server.create()


def test_a_replica_killed_under_load_loses_nothing_acknowledged(
    tmp_path: Path, durable_url: str
) -> None:
    """After kill -9 every answer that a device had is in the database, and it goes on (98)."""
    directory = tmp_path / "data"
    with BackendServer(directory, database=durable_url) as first:
        callers = callers_of(first)
    with Replica(directory, durable_url) as replica, Load(replica.server, callers) as load:
        load.await_acknowledged(BEFORE_THE_KILL)
        replica.kill()
    database = Database(durable_url)
    check_nothing_was_lost(database, callers)
    database.close()
    with Replica(directory, durable_url) as replica:
        server = replica.server
        assert [caller.attest(server) for caller in callers] == [Standing.TRUSTED] * DEVICES


# --- PostgreSQL --------------------------------------------------------------------------


def test_postgresql_killed_under_load_loses_nothing_acknowledged(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Without a database devices read a typed 503; once it is back all goes on (97, 98)."""
    assert postgres.directory.exists()
    with (
        Postgres.start(durable=True) as victim,
        BackendServer(tmp_path / "data", database=victim.create(), rates=UNLIMITED) as server,
    ):
        callers = callers_of(server)
        with Load(server, callers) as load:
            load.await_acknowledged(BEFORE_THE_KILL)
            victim.kill()
            refused = sum(len(caller.refused) for caller in callers)
            while sum(len(caller.refused) for caller in callers) < refused + DEVICES:
                signal.sigtimedwait([], 0.01)
            victim.run()
            load.await_acknowledged(BEFORE_THE_KILL)
        check_nothing_was_lost(server.backend.database, callers)
        seen = {one for caller in callers for one in caller.refused}
        assert (503, DatabaseError.code) in seen
        assert seen <= {(503, DatabaseError.code), (403, ChallengeUsedError.code)}
        assert [caller.attest(server) for caller in callers] == [Standing.TRUSTED] * DEVICES
