"""Several replicas over one database: one device never gets two roots, whoever answers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.errors import (
    ChallengeExpiredError,
    ChallengeUsedError,
    ClockSkewError,
    IdentityCertificateError,
)
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import AttestRequest, ChallengeRequest, Standing
from hwtrust.wire.root import RootMetadata
from hwtrust.wire.statement import Statement
from hwtrust_backend.app.background import run_once
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment import Device, lock_device
from hwtrust_backend.monitor import clock_skew
from hwtrust_backend.monitor.due import grant_due, note_missing
from hwtrust_backend.publishing import roots_of, schedule
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP, DAY, HOUR, MINUTE, SECOND, ManualClock, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device
from simulators.fleet_rows import add_rows
from simulators.replica import PASSPHRASE, Errand, Outcome, race, run_errand
from simulators.vendor import KERNEL, Vendor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend

REPLICAS = 3
PER_MINUTE = 30


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """What all replicas share."""
    return Settings(data_dir=str(tmp_path / "data"), database=database_url)


@pytest.fixture
def open_replica(settings: Settings) -> Iterator[Callable[[ManualClock], Backend]]:
    """Opens one more replica, with a clock of its own."""
    policy = policy_document(
        rotation={"per_minute": PER_MINUTE, "jitter": "0s"},
    )
    install(settings, passphrase=PASSPHRASE, clock=ManualClock(), cost=CHEAP, policy=policy)
    opened: list[Backend] = []

    def one_more(clock: ManualClock) -> Backend:
        opened.append(open_backend(settings, passphrase=PASSPHRASE, clock=clock))
        return opened[-1]

    yield one_more
    for backend in opened:
        backend.waiters.close()
        backend.database.close()


@pytest.fixture
def backend(open_replica: Callable[[ManualClock], Backend]) -> Backend:
    """The replica whose clock is right; it accepts release 1.0."""
    opened = open_replica(ManualClock())
    release = make_release()
    with opened.database.transaction() as session:
        add_release(session, release, now=opened.clock())
        accept_release(session, release.name, now=opened.clock())
    return opened


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(backend)


@pytest.fixture
def racing_threads(
    open_replica: Callable[[ManualClock], Backend],
) -> Callable[[list[Errand]], list[Outcome]]:
    """Does errands at the same moment, by threads with a backend each."""

    def by_threads(errands: list[Errand]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(errands)
        barrier = threading.Barrier(len(errands))

        def work(number: int, errand: Errand) -> None:
            replica = open_replica(ManualClock(errand.now))
            barrier.wait()
            outcomes[number] = run_errand(replica, errand)

        threads = [
            threading.Thread(target=work, args=(number, errand))
            for number, errand in enumerate(errands)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [outcome for outcome in outcomes if outcome is not None]

    return by_threads


@pytest.fixture(params=["threads", "processes"])
def racing(
    request: pytest.FixtureRequest,
    settings: Settings,
    racing_threads: Callable[[list[Errand]], list[Outcome]],
) -> Callable[[list[Errand]], list[Outcome]]:
    """Does errands at the same moment, by threads or by processes of their own."""
    if request.param == "threads":
        return racing_threads
    return lambda errands: race(settings, errands)


def ask(backend: Backend, device: BackendDevice) -> None:
    """What an administrator does."""
    with backend.database.transaction() as session:
        schedule.ask(session, lock_device(session, device.name.hex()), now=backend.clock())


def evidence(device: BackendDevice, nonce: bytes) -> AttestRequest:
    """An attestation for one challenge."""
    return AttestRequest(device=device.name, evidence=device.evidence(nonce))


def challenge_of(backend: Backend, device: BackendDevice) -> bytes:
    """One more challenge for the device."""
    asked = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
    return DirectApi(backend).challenge(asked).nonce


def attesting(backend: Backend, device: BackendDevice, nonce: bytes) -> Errand:
    """The errand of answering this attestation."""
    return Errand(
        kind="attest",
        now=backend.clock() + SECOND,
        request=evidence(device, nonce),
        certificate=device.certificate,
    )


def epochs_of(backend: Backend, device: BackendDevice) -> list[int]:
    """The epochs of all roots of the device."""
    with backend.database.reading() as session:
        return [root.epoch for root in roots_of(session, device.name.hex())]


def count_of(backend: Backend, event: Event) -> int:
    """How often something is in the trail."""
    with backend.database.reading() as session:
        return session.query(AuditRecord).filter(AuditRecord.event == event.value).count()


def objects_in(outcomes: list[Outcome]) -> set[bytes]:
    """The Names of the root objects that were delivered."""
    payloads = [outcome.metadata for outcome in outcomes if outcome.metadata]
    return {msgspec.json.decode(payload, type=RootMetadata).object_name for payload in payloads}


# --- one root, whoever answers (96) -----------------------------------------------------------


def test_replicas_that_get_the_same_attestation_answer_it_once(
    backend: Backend,
    device: BackendDevice,
    racing: Callable[[list[Errand]], list[Outcome]],
) -> None:
    """One makes the next root; to the others the challenge is used."""
    ask(backend, device)
    errand = attesting(backend, device, device.next_nonce)
    outcomes = racing([errand] * REPLICAS)
    refused = [ChallengeUsedError.code] * (REPLICAS - 1)
    assert sorted(outcome.code for outcome in outcomes) == ["", *refused]
    assert epochs_of(backend, device) == [7, 8]
    assert len(objects_in(outcomes)) == 1
    assert count_of(backend, Event.ROOT_MADE) == 2


def test_replicas_that_get_different_attestations_deliver_the_same_root(
    backend: Backend,
    device: BackendDevice,
    racing_threads: Callable[[list[Errand]], list[Outcome]],
) -> None:
    """Whichever come through, the device has one root of its next epoch."""
    ask(backend, device)
    errands = [attesting(backend, device, challenge_of(backend, device)) for _ in range(REPLICAS)]
    outcomes = racing_threads(errands)
    assert {outcome.code for outcome in outcomes} <= {"", ChallengeUsedError.code}
    assert sum(not outcome.code for outcome in outcomes) >= 1
    assert all(outcome.metadata for outcome in outcomes if not outcome.code)
    assert len(objects_in(outcomes)) == 1
    assert epochs_of(backend, device) == [7, 8]


def test_replicas_share_due_work_and_the_group_s_rate(
    backend: Backend,
    device: BackendDevice,
    racing: Callable[[list[Errand]], list[Outcome]],
) -> None:
    """Each device is granted once, and all replicas together grant what one would."""
    now = backend.clock()
    count = 150
    add_rows(
        backend.database,
        template=device.name.hex(),
        count=count,
        due_at=lambda number: now - number,
        missed_at=lambda _: None,
    )
    outcomes = racing([Errand(kind="grant", now=now)] * REPLICAS)
    # Who found all rows held by another leaves them to it.
    while run_errand(backend, Errand(kind="grant", now=now)).count:
        continue
    assert max(outcome.count for outcome in outcomes) > 0
    with backend.database.reading() as session:
        slots = [at for (at,) in session.query(Device.rotation_asked_at) if at is not None]
    assert len(slots) == count
    assert sum(at <= now for at in slots) == PER_MINUTE
    later = [at for at in slots if at > now]
    assert len(set(later)) == len(later)
    interval = MINUTE // PER_MINUTE
    assert max(later) - now <= (count - PER_MINUTE + 1) * interval


def test_replicas_note_a_missing_device_once(
    backend: Backend,
    device: BackendDevice,
    racing_threads: Callable[[list[Errand]], list[Outcome]],
) -> None:
    """One record, one event, however many look."""
    with backend.database.transaction() as session:
        lock_device(session, device.name.hex()).watchdog_at = backend.clock()
    outcomes = racing_threads([Errand(kind="miss", now=backend.clock())] * REPLICAS)
    assert sum(outcome.count for outcome in outcomes) == 1
    assert count_of(backend, Event.WATCHDOG_MISSED) == 1


def test_due_work_that_another_replica_holds_is_passed_over(
    backend: Backend,
    device: BackendDevice,
    open_replica: Callable[[ManualClock], Backend],
) -> None:
    """No replica waits for another: what one is at, the others leave to it."""
    if not backend.database.is_postgresql:
        pytest.skip("SQLite has one writer at a time")
    other = open_replica(ManualClock())
    now = backend.clock()
    with backend.database.transaction() as session:
        row = lock_device(session, device.name.hex())
        row.rotate_at = row.watchdog_at = now
    with backend.database.transaction() as session:
        lock_device(session, device.name.hex())
        with other.database.transaction() as theirs:
            assert grant_due(theirs, now=now) == 0
            assert note_missing(theirs, now=now) == 0


# --- a clock that is off (100) ----------------------------------------------------------------

OFF = pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["ahead", "behind"])


@OFF
def test_a_replica_whose_clock_is_off_decides_nothing(
    backend: Backend,
    device: BackendDevice,
    open_replica: Callable[[ManualClock], Backend],
    off: int,
) -> None:
    """It is measured against the database's clock, and refuses with an error of its own."""
    if not backend.database.is_postgresql:
        pytest.skip("with SQLite there is one machine and one clock")
    clock = ManualClock()
    wrong = open_replica(clock)
    clock.advance(off)
    with backend.database.transaction() as session:
        row = lock_device(session, device.name.hex())
        row.rotate_at = row.watchdog_at = backend.clock() - MINUTE
    run_once(wrong)
    assert abs(clock_skew(wrong.database, clock) - off) < 30 * SECOND
    with backend.database.reading() as session:
        row = session.get_one(Device, device.name.hex())
        assert (row.rotation_asked_at, row.silent_since) == (None, None)
    ask(backend, device)
    with pytest.raises(ClockSkewError) as caught:
        device.attest(DirectApi(wrong, device))
    assert caught.value.code == "backend:clock"
    assert epochs_of(backend, device) == [7]
    # The challenge is not used up by that.
    assert device.attest(DirectApi(backend, device)).root is not None


def test_a_replica_whose_clock_is_right_again_goes_on(
    backend: Backend, device: BackendDevice, open_replica: Callable[[ManualClock], Backend]
) -> None:
    """What an administrator has to do is set the clock."""
    if not backend.database.is_postgresql:
        pytest.skip("with SQLite there is one machine and one clock")
    clock = ManualClock()
    wrong = open_replica(clock)
    for off, is_right in ((HOUR, False), (-HOUR, True)):
        clock.advance(off)
        run_once(wrong)
        assert wrong.clock_watch.is_right is is_right
    assert device.attest(DirectApi(wrong, device)).standing is Standing.TRUSTED


@OFF
def test_a_challenge_of_a_replica_whose_clock_is_off_is_out_of_date(
    backend: Backend,
    device: BackendDevice,
    open_replica: Callable[[ManualClock], Backend],
    off: int,
) -> None:
    """Before anybody has noticed, too: a challenge is never good for longer than its lifetime."""
    clock = ManualClock()
    wrong = open_replica(clock)
    clock.advance(off)
    nonce = challenge_of(wrong, device)
    with pytest.raises(ChallengeExpiredError):
        device.attest(DirectApi(backend, device), device.evidence(nonce))
    # To a replica that is behind, the device's certificate is not valid yet.
    with pytest.raises((ChallengeExpiredError, IdentityCertificateError)):
        device.attest(DirectApi(wrong, device), device.evidence(challenge_of(backend, device)))


@OFF
def test_a_clock_that_is_off_grants_nothing_twice(
    backend: Backend,
    device: BackendDevice,
    open_replica: Callable[[ManualClock], Backend],
    off: int,
) -> None:
    """Before anybody has noticed: what one replica has granted, the other goes on with."""
    clock = ManualClock()
    wrong = open_replica(clock)
    clock.advance(off)
    # The root is due in half an hour: to the replica that is ahead it is due already.
    with backend.database.transaction() as session:
        lock_device(session, device.name.hex()).rotate_at = backend.clock() + 30 * MINUTE
    for replica in (wrong, backend, wrong):
        with replica.database.transaction() as session:
            grant_due(session, now=replica.clock())
    ahead = off > 0
    with backend.database.reading() as session:
        row = session.get_one(Device, device.name.hex())
        assert (row.rotation_asked_at is not None) is ahead
    backend_clock = backend.clock
    assert isinstance(backend_clock, ManualClock)
    backend_clock.advance(2 * HOUR)
    clock.advance(2 * HOUR)
    device.tpm.advance(2 * HOUR)
    for _ in range(2):
        device.next_nonce = challenge_of(backend, device)
        assert device.attest(DirectApi(backend, device)).root is not None
    assert epochs_of(backend, device) == [7, 8]


def test_a_device_that_was_noted_missing_wrongly_is_heard_of_again(
    backend: Backend, device: BackendDevice, open_replica: Callable[[ManualClock], Backend]
) -> None:
    """A clock that is ahead, before anybody has noticed: the next attestation mends it."""
    clock = ManualClock()
    wrong = open_replica(clock)
    clock.advance(HOUR)
    with wrong.database.transaction() as session:
        assert note_missing(session, now=clock()) == 1
    with backend.database.reading() as session:
        assert session.get_one(Device, device.name.hex()).silent_since is not None
    assert device.attest(DirectApi(backend, device)).standing is Standing.TRUSTED
    with backend.database.reading() as session:
        row = session.get_one(Device, device.name.hex())
        assert row.silent_since is None
        assert row.watchdog_at is not None
        assert 0 < row.watchdog_at - backend.clock() <= DAY


# --- releases ----------------------------------------------------------------------------------


def test_what_one_replica_is_told_of_releases_the_other_answers_by(
    backend: Backend,
    device: BackendDevice,
    open_replica: Callable[[ManualClock], Backend],
    tmp_path: Path,
) -> None:
    """No order and no leave by rules that are not in force any more."""
    other = open_replica(ManualClock(backend.clock()))
    vendor = Vendor(backend, tmp_path)
    vendor.begin()
    device.statement = Statement(other="2.0")

    def answered() -> tuple[str, int]:
        reply = device.attest(DirectApi(other, device))
        assert reply.approval is not None
        return reply.update.release if reply.update else "", len(reply.approval.branches)

    assert answered() == ("", 2)
    vendor.publish("2.0", KERNEL)
    assert answered() == ("", 2)
    with backend.database.transaction() as session:
        accept_release(session, "2.0", now=backend.clock())
    assert answered() == ("2.0", 6)
    vendor.revoke("2.0")
    assert answered() == ("", 2)
