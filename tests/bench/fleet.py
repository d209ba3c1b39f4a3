"""A fleet of devices that keep their heartbeats at two replicas, while their roots are replaced.

    10,000 devices, a heartbeat every two minutes each, for five; a campaign replaces roots

The replicas are two processes of `hwtrust-backend serve`, each with its own copy of the
keys, over one database that is durable (PostgreSQL: fsync and synchronous_commit on;
SQLite: one file, synchronous = FULL). The devices are in processes of their own, sign for
real with keys in software, and have enrolled for real, by EK certificates under a test
root: by the backend's services, though, not by HTTP, with many devices in one transaction.
Each heartbeat is a new TCP connection and a new TLS 1.3 handshake with the device's own
certificate (see `simulators.heartbeats`, also for what goes wrong on purpose).

Goals: no heartbeat fails or is left out; no device is ever given two roots of one epoch,
and each has one active root in the end; every attestation that was answered is in the
audit trail, once; the trail verifies. How long an answer takes, what it costs, and what a
worker holds in memory is told and has no goal: the clients share the machine with the
replicas and the database.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.releases import accept_release
from hwtrust_backend.audit import AuditRecord, Event, verify_log
from hwtrust_backend.config import CONFIG_NAME, system_clock
from hwtrust_backend.enrolment import Device
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.policies import activate_policy, add_policy
from hwtrust_backend.publishing import RootState, StoredRoot
from hwtrust_backend.testing import policy_document
from simulators.heartbeats import Account, Beat, Fleet, Share
from simulators.postgres import Postgres, program
from simulators.served import PASSPHRASE, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

RELEASE: Final = "1.0"
GROUP: Final = "default"
TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Arguments:
    """What is asked for on the command line."""

    devices: int
    minutes: float
    heartbeat: float
    rotations: int
    workers: int
    clients: int
    database: str


@dataclass(frozen=True)
class Memory:
    """What one process holds, in MiB."""

    rss: float
    pss: float
    private: float
    peak: float


@dataclass(frozen=True)
class Used:
    """Core seconds since the machine was started."""

    replicas: tuple[float, ...]
    database: float


def parsed() -> Arguments:
    """The command line; the environment says the defaults for `scripts/bench`."""

    def default(name: str, value: str) -> str:
        return os.environ.get(f"HWTRUST_BENCH_FLEET_{name}", value)

    parser = argparse.ArgumentParser(description="A fleet at two replicas.")
    add = parser.add_argument
    add("--devices", type=int, default=default("DEVICES", "10000"))
    add("--minutes", type=float, default=default("MINUTES", "5"))
    add("--heartbeat", type=float, default=default("HEARTBEAT", "120"), help="seconds")
    add("--rotations", type=int, default=default("ROTATIONS", "600"), help="a minute, at most")
    add("--workers", type=int, default=default("WORKERS", "1"), help="of each replica")
    add("--clients", type=int, default=default("CLIENTS", "2"), help="processes of devices")
    add("--database", choices=("postgresql", "sqlite"), default=default("DATABASE", "postgresql"))
    return Arguments(**vars(parser.parse_args()))


# --- what is measured -----------------------------------------------------------------


@contextlib.contextmanager
def databases(kind: str, directory: Path) -> Iterator[tuple[str, Postgres | None]]:
    """A durable database: its URL, and its server if it has one."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'fleet.sqlite'}", None
        return
    if program("postgres") is None:
        sys.exit("PostgreSQL is not installed: scripts/setup --test")
    with Postgres.start(durable=True) as postgres:
        yield postgres.create(), postgres


@contextlib.contextmanager
def replicas(arguments: Arguments, directory: Path, database: str) -> Iterator[list[Served]]:
    """Two replicas that are up, with one policy and an accepted release."""
    workers = ("--workers", str(arguments.workers), "--log-level", "warning")
    first, second = (
        Served(directory / name, *workers, database=database) for name in ("first", "second")
    )
    first.port, second.port = quiet_ports(2)
    with contextlib.ExitStack() as stack:
        first.install()
        stack.callback(first.backend.database.close)
        stack.callback(first.backend.waiters.close)
        hold_to(first, arguments)
        shutil.copytree(first.directory, second.directory)
        config = first.directory / CONFIG_NAME
        text = config.read_text().replace(str(first.port), str(second.port))
        (second.directory / CONFIG_NAME).write_text(text)
        for served in (first, second):
            served.start(wait=False)
            stack.callback(served.stop)
        for served in (first, second):
            served.await_answer()
        yield [first, second]
    exits = [first.exit_code, second.exit_code]
    if exits != [0, 0]:
        raise AssertionError(f"the replicas ended with {exits}")


def quiet_ports(count: int) -> list[int]:
    """Ports that no outgoing connection of this machine is given: below the ephemeral ones."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(first - 10_000, first)  # noqa: S311 - any one will do
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def hold_to(served: Served, arguments: Arguments) -> None:
    """Put the policy of this run into force."""
    document = policy_document(
        heartbeat=f"{max(round(arguments.heartbeat), 1)}s",
        watchdog="12h",
        rotation={"jitter": "0s", "per_minute": arguments.rotations},
    )
    with served.backend.database.transaction() as session:
        now = system_clock()
        stored = add_policy(session, GROUP, document, by="bench", now=now)
        activate_policy(session, GROUP, stored.version, signers={}, by="bench", now=now)


def shares_of(arguments: Arguments, served: list[Served]) -> list[Share]:
    """The devices, shared out between the clients' processes."""
    first = served[0]
    return [
        Share(
            settings=first.backend.settings,
            passphrase=PASSPHRASE.reveal(),
            trust=first.trust,
            ports=tuple(one.port for one in served),
            number=number,
            shares=arguments.clients,
            devices=arguments.devices,
            heartbeat_s=arguments.heartbeat,
            seconds=arguments.minutes * 60,
        )
        for number in range(arguments.clients)
    ]


def start_rotations(served: Served) -> None:
    """Accept the release anew: a campaign replaces every root, at the group's rate."""
    with served.backend.database.transaction() as session:
        accept_release(session, RELEASE, by=local_administrator(), now=system_clock())


def workers_of(served: Served) -> list[int]:
    """The processes that serve."""
    return served.workers() or [served.process.pid]


def core_seconds(process: int, *, with_ended_children: bool = False) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended_children else 13])) / TICK


def used(served: list[Served], postgres: Postgres | None) -> Used:
    """What the replicas and the database have used so far."""
    database = 0.0
    if postgres is not None:
        pid = (postgres.directory / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        database = core_seconds(int(pid), with_ended_children=True)
        for child in children:
            with contextlib.suppress(OSError):  # it has ended, and counts with its parent now
                database += core_seconds(int(child))
    each = (sum(core_seconds(pid) for pid in workers_of(one)) for one in served)
    return Used(tuple(each), database)


def memory(process: int) -> Memory:
    """What a process holds now, and the most that it held."""
    found: dict[str, float] = {}
    for name in ("smaps_rollup", "status"):
        for line in Path(f"/proc/{process}/{name}").read_text().splitlines():
            key, _, rest = line.partition(":")
            if rest.endswith(" kB"):
                found[key] = int(rest.split()[0]) / 1024
    private = found["Private_Clean"] + found["Private_Dirty"]
    return Memory(found["Rss"], found["Pss"], private, found["VmHWM"])


# --- what is checked afterwards ----------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """What the database says beside what devices were told."""

    double_roots: list[str]
    lost: int
    repeated: int
    unexplained: int
    """Attestations that were accepted, and of which no device knows."""
    records: int
    rotations: int


def audited(session: Session, served: Served, account: Account) -> Audit:
    """Compare the database with what devices were told, and verify the audit trail.

    Raises:
        AuditError: the trail is not what it was.
    """
    key = served.backend.vault.signer(KeyRole.AUDIT).public_key
    report = verify_log(session, key=key, kept=())
    query = select(AuditRecord.device, AuditRecord.evidence).where(
        AuditRecord.event == Event.EVIDENCE_ACCEPTED.value
    )
    kept = Counter((device, evidence) for device, evidence in session.execute(query))
    told = {
        (device, digest) for device, digests in account.acknowledged.items() for digest in digests
    }
    made = session.query(StoredRoot).count() - len(account.roots)
    return Audit(
        double_roots=account.double_roots + doubled(session, account),
        lost=sum(one not in kept for one in told),
        repeated=sum(count > 1 for count in kept.values()) + account.counts["both"],
        unexplained=sum(one not in told for one in kept),
        records=report.size,
        rotations=made,
    )


def doubled(session: Session, account: Account) -> list[str]:
    """Devices of which the database has another root than they have, or not one active root."""
    stored: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
    active: defaultdict[str, list[int]] = defaultdict(list)
    columns = (StoredRoot.device, StoredRoot.epoch, StoredRoot.object_name, StoredRoot.state)
    for device, epoch, name, state in session.execute(select(*columns)):
        stored[device][epoch] = name
        if state is RootState.ACTIVE:
            active[device].append(epoch)
    found = []
    for device in session.scalars(select(Device.id)):
        for epoch, name in account.roots[device].items():
            if stored[device].get(epoch) != name:
                found.append(f"{device}: epoch {epoch}, in the database")
        if active[device] != [account.epochs[device]]:
            found.append(f"{device}: active are {active[device]}")
    return found


# --- the report ---------------------------------------------------------------------------


def say(name: str, value: float, unit: str, *, goal: float | None = None, ok: bool = True) -> None:
    """Print one result."""
    result = {"name": f"fleet_{name}", "value": value, "unit": unit, "goal": goal, "ok": ok}
    print(json.dumps(result), flush=True)


def note(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def percentile(beats: list[Beat], part: Callable[[Beat], float], percent: float) -> float:
    """So many percent of the heartbeats took at most these milliseconds."""
    ordered = sorted(map(part, beats))
    return round(ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000, 1)


def report(arguments: Arguments, account: Account, audit: Audit) -> None:
    """Print what the devices were told, and what became of it."""
    seconds, beats = arguments.minutes * 60, account.beats
    wanted = arguments.devices / arguments.heartbeat
    rate = len(beats) / seconds
    errors = account.errors.total()
    note(f"{dict(sorted(account.counts.items()))}; {audit.records} records of the trail verify")
    for why, count in account.errors.most_common(20):
        note(f"{count} x {why}")
    for why in audit.double_roots[:20]:
        note(why)
    say("attestations", len(beats), "answered", goal=1, ok=bool(beats))
    say("rate", round(rate, 1), "a second", goal=round(wanted, 1), ok=rate >= 0.98 * wanted)
    skipped, confirmed = account.counts["skipped"], account.counts["confirmed"]
    say("skipped", skipped, "heartbeats", goal=0, ok=not skipped)
    say("errors", errors, "heartbeats", goal=0, ok=not errors)
    say("double_roots", len(audit.double_roots), "roots", goal=0, ok=not audit.double_roots)
    say("lost_verdicts", audit.lost, "attestations", goal=0, ok=not audit.lost)
    say("repeated_verdicts", audit.repeated, "attestations", goal=0, ok=not audit.repeated)
    unexplained = audit.unexplained - errors
    say("unexplained_verdicts", audit.unexplained, "attestations", goal=0, ok=unexplained <= 0)
    say("rotations_made", audit.rotations, "roots", goal=1, ok=audit.rotations >= 1)
    say("rotations_confirmed", confirmed, "roots", goal=1, ok=confirmed >= 1)


def report_times(account: Account) -> None:
    """Print how long heartbeats took; a new connection and its handshake are part of each."""
    beats = account.beats
    for name, part in (
        ("heartbeat", lambda beat: beat.whole),
        ("handshake", lambda beat: beat.handshake),
        ("request", lambda beat: beat.request),
        ("client_late", lambda beat: beat.late),
    ):
        for percent in (50, 99):
            say(f"{name}_p{percent}", percentile(beats, part, percent), "ms")
    longest, mean = max(beat.whole for beat in beats), statistics.mean(beat.whole for beat in beats)
    note(f"the longest heartbeat took {longest * 1000:.0f} ms, the mean {mean * 1000:.1f} ms")


def report_cost(count: int, before: Used, after: Used, account: Account) -> None:
    """Print what an attestation cost, in the cores' time."""
    names = ("first", "second")
    for name, begun, ended in zip(names, before.replicas, after.replicas, strict=True):
        say(f"core_{name}_replica", round(ended - begun, 1), "core seconds")
    together = sum(after.replicas) - sum(before.replicas)
    say("core_replicas", round(together / count * 1000, 2), "core ms an attestation")
    database = after.database - before.database
    say("core_database", round(database / count * 1000, 2), "core ms an attestation")
    say("core_devices", round(account.core_seconds / count * 1000, 2), "core ms an attestation")


def report_memory(held: list[tuple[str, Memory]]) -> None:
    """Print what each worker holds."""
    for name, one in held:
        say(f"memory_rss_{name}", round(one.rss, 1), "MiB")
        say(f"memory_pss_{name}", round(one.pss, 1), "MiB")
        note(f"{name}: private {one.private:.1f} MiB, at most {one.peak:.1f} MiB resident")


def run(arguments: Arguments, directory: Path) -> None:
    """Set up, let the fleet live, and report."""
    with (
        databases(arguments.database, directory) as (database, postgres),
        replicas(arguments, directory, database) as served,
    ):
        fleet = Fleet(shares_of(arguments, served))
        try:
            note(f"{arguments.devices} devices enrolled in {fleet.enrolled():.0f} s")
            before = used(served, postgres)
            fleet.begin()
            start_rotations(served[0])
            account = fleet.account()
        finally:
            fleet.stop()
        after = used(served, postgres)
        held = [
            (f"{name}_worker_{number}", memory(pid))
            for name, one in zip(("first", "second"), served, strict=True)
            for number, pid in enumerate(workers_of(one))
        ]
        begun = time.monotonic()
        with served[0].backend.database.reading() as session:
            audit = audited(session, served[0], account)
        note(f"compared and verified in {time.monotonic() - begun:.1f} s")
        for one in served:
            log = one.log.read_text()
            note(f"{one.log.name}: {len(log.splitlines())} lines{': ' if log else ''}{log[-2000:]}")
        report(arguments, account, audit)
        if account.beats:
            report_times(account)
            report_cost(len(account.beats), before, after, account)
        report_memory(held)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        run(parsed(), Path(directory))


if __name__ == "__main__":
    main()
