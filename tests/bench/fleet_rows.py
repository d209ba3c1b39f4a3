"""What a million device rows cost beside a thousand.

    scan     due work is found and taken: 100 roots, 100 devices that are missed
    idle     the same where nothing is due
    work     it is done as well: granted and noted, each (without a goal: the rows and index
             entries of devices from all over a large table lie on pages of their own)
    lookup   a device by its name, and by the beginning of its name
    attest   one attestation, from the evidence to the durable commit

Two databases of one kind, one small and one large, with the same real devices'
worth of work. Rounds alternate between them, so that whatever else the machine
does meets both alike; a figure is the large one's median divided by the small
one's. Durable: SQLite with synchronous = FULL, PostgreSQL with fsync. Rows are
copies of a real device's, with names of their own and their times spread out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import text, update

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import AttestReply, AttestRequest, ChallengeRequest
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.appraisal import Asked, Groups
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment import Device, find_device
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.keys import KeyRole, Secret, device_of_certificate
from hwtrust_backend.monitor.due import BATCH, grant_due, note_missing, take_due
from hwtrust_backend.publishing import RotationBudget
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP, DAY, HOUR, ManualClock, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, leaf_der
from simulators.fleet_rows import add_rows
from simulators.postgres import Postgres, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.app.backend import Backend

SMALL: Final = 1000
ROUNDS: Final = 11
DEVICES: Final = 8
DUE: Final = 100
SCANS: Final = 5
LOOKUPS: Final = 100
GOALS: Final = {"scan": 1.5, "idle": 1.5, "work": None, "lookup": 1.5, "attest": 1.5}
PASSPHRASE: Final = Secret(b"protects nothing")


@dataclass
class Fleet:
    """A backend with so many device rows, some of which are real devices."""

    backend: Backend
    clock: ManualClock
    devices: list[BackendDevice]
    names: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, name: str, work: Callable[[], None], *, count: int = 1) -> None:
        """Time some work that is `count` units of it."""
        begun = time.perf_counter()
        work()
        passed = (time.perf_counter() - begun) / count
        self.seconds.setdefault(name, []).append(passed)

    def median(self, name: str) -> float:
        """Seconds of one unit."""
        return statistics.median(self.seconds[name])


def make_fleet(directory: Path, database: str, rows: int) -> Fleet:
    """A backend whose database has so many rows."""
    clock = ManualClock()
    settings = Settings(data_dir=str(directory), database=database)
    policy = policy_document(rotation={"per_minute": 60_000, "jitter": "0s"})
    install(settings, passphrase=PASSPHRASE, clock=clock, cost=CHEAP, policy=policy)
    backend = open_backend(settings, passphrase=PASSPHRASE, clock=clock)
    release = make_release()
    with backend.database.transaction() as session:
        add_release(session, release, now=clock())
        accept_release(session, release.name, now=clock())
    devices = []
    for _ in range(DEVICES):
        device = BackendDevice(backend)
        device.load(release)
        with backend.database.transaction() as session:
            allow_ek(session, device.name.hex(), label="", now=clock())
        device.enrol(DirectApi(backend))
        devices.append(device)
    now = clock()
    begun = time.perf_counter()
    names = add_rows(
        backend.database,
        template=devices[0].name.hex(),
        count=rows - DEVICES,
        # Ten days of rotations and an hour of heartbeats, none of them due in this run.
        due_at=lambda number: now + 10 * DAY + number * 10 * DAY // rows,
        missed_at=lambda number: now + 10 * HOUR + number * HOUR // rows,
    )
    settle(backend)
    seconds = time.perf_counter() - begun
    print(f"{rows} rows are there after {seconds:.0f} s", file=sys.stderr, flush=True)
    return Fleet(backend, clock, devices, names)


def settle(backend: Backend) -> None:
    """Do what a database does by itself in the days in which a fleet grows."""
    autocommit = backend.database.engine.execution_options(isolation_level="AUTOCOMMIT")
    if backend.database.is_postgresql:
        with autocommit.connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
        return
    with backend.database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        connection.rollback()
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def scan(fleet: Fleet) -> None:
    """Make some rows due, at no cost; find them, find nothing, and do what is due."""
    now = fleet.clock()
    database = fleet.backend.database
    due = random.sample(fleet.names, 2 * DUE)
    with database.transaction() as session:
        for column, names in (("rotate_at", due[:DUE]), ("watchdog_at", due[DUE:])):
            session.execute(update(Device).where(Device.id.in_(names)).values({column: now}))
        session.merge(RotationBudget(group="default", free_at=0))

    def find() -> None:
        for _ in range(SCANS):
            with database.transaction() as session:
                for column in (Device.rotate_at, Device.watchdog_at):
                    assert len(take_due(session, column, now=now, limit=BATCH)) == DUE

    def idle() -> None:
        for _ in range(SCANS):
            with database.transaction() as session:
                assert grant_due(session, now=now - HOUR) == 0
                assert note_missing(session, now=now - HOUR) == 0

    def work() -> None:
        with database.transaction() as session:
            assert grant_due(session, now=now) == DUE
        with database.transaction() as session:
            assert note_missing(session, now=now) == DUE

    fleet.measure("scan", find, count=SCANS)
    fleet.measure("idle", idle, count=SCANS)
    fleet.measure("work", work, count=2 * DUE)
    later = {"rotate_at": now + 10 * DAY, "watchdog_at": now + 10 * HOUR, "silent_since": None}
    with database.transaction() as session:
        session.execute(
            update(Device).where(Device.id.in_(due)).values(rotation_asked_at=None, **later)
        )


def look_up(fleet: Fleet) -> None:
    """Find devices, from anywhere in the table."""
    names = random.sample(fleet.names, LOOKUPS)

    def work() -> None:
        with fleet.backend.database.reading() as session:
            for name in names:
                assert session.get(Device, name) is not None
                assert find_device(session, name[:40]).id == name

    fleet.measure("lookup", work, count=LOOKUPS)


def attest(fleet: Fleet) -> None:
    """Every real device attests once."""
    backend = fleet.backend
    groups = Groups(backend.attestations, backend.database, backend.clock)
    asked = []
    for device in fleet.devices:
        request = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
        nonce = DirectApi(backend).challenge(request).nonce
        identity = device_of_certificate(
            leaf_der(device.certificate),
            authority=backend.vault.authority(KeyRole.DEVICE_CA),
            now=fleet.clock(),
        )
        evidence = device.evidence(nonce)
        asked.append(Asked(AttestRequest(device=device.name, evidence=evidence), identity))

    def work() -> None:
        for one in asked:
            (outcome,) = groups.answer([one])
            assert isinstance(outcome, AttestReply), outcome

    fleet.measure("attest", work, count=len(asked))


def report(kind: str, small: Fleet, large: Fleet, rows: int) -> None:
    """Print the figures of one kind of database."""
    for name, goal in GOALS.items():
        value = large.median(name) / small.median(name)
        told = (small.median(name) * 1e3, large.median(name) * 1e3)
        print(f"{kind} {name}: {told[0]:.3f} ms, {told[1]:.3f} ms", file=sys.stderr)
        result = {
            "name": f"fleet_rows_{name}_{kind}",
            "value": round(value, 3),
            "unit": f"of the cost with {SMALL} rows, at {rows}",
            "goal": goal,
            "ok": goal is None or value <= goal,
        }
        print(json.dumps(result), flush=True)


def measured(kind: str, rows: int, databases: tuple[str, str]) -> None:
    """Measure one kind of database."""
    with tempfile.TemporaryDirectory(prefix="fleet-rows-") as directory, ExitStack() as stack:
        fleets = []
        for database, count in zip(databases, (SMALL, rows), strict=True):
            fleet = make_fleet(Path(directory) / f"with-{count}", database, count)
            stack.callback(fleet.backend.database.close)
            fleets.append(fleet)
        for part in (scan, look_up, attest):
            for number in range(ROUNDS + 2):
                for fleet in fleets:
                    part(fleet)
                if number == 1:
                    # The first rounds fill caches.
                    for fleet in fleets:
                        fleet.seconds = {
                            name: times for name, times in fleet.seconds.items() if len(times) > 2
                        }
        report(kind, fleets[0], fleets[1], rows)


def main() -> None:
    """Measure and print, for each kind of database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    arguments = parser.parse_args()
    if arguments.only != "postgresql":
        measured("sqlite", arguments.rows, ("", ""))
    if arguments.only != "sqlite" and program("postgres") is not None:
        with Postgres.start(durable=True) as postgres:
            databases = (postgres.create(), postgres.create())
            measured("postgresql", arguments.rows, databases)


if __name__ == "__main__":
    main()
