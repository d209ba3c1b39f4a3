"""Attestations in groups: neighbours, pairs, refusals, and what is said when."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import OperationalError

from hwtrust.errors import (
    BackendBusyError,
    ChallengeUsedError,
    CsrError,
    DatabaseError,
    DeviceUnknownError,
    HwTrustError,
    IdentityCertificateError,
    IdentityError,
    MalformedError,
    SignatureError,
)
from hwtrust.wire.messages import AttestReply, AttestRequest, Standing
from hwtrust_backend.app import committer as committing
from hwtrust_backend.app.committer import Committer
from hwtrust_backend.appraisal import Asked, Groups
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.enrolment import Device, DeviceState
from hwtrust_backend.keys import KeyRole, device_of_certificate
from hwtrust_backend.publishing import Publisher
from simulators.attester import Attester, make_csr
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device, leaf_der

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.appraisal import Outcome


class DeadlockDetected(Exception):  # noqa: N818 - as the driver calls it
    """What PostgreSQL says (appendix A)."""

    sqlstate = "40P01"


@pytest.fixture
def groups(backend: Backend) -> Groups:
    """What decides."""
    return Groups(backend.attestations, backend.database, backend.clock)


@pytest.fixture
def fleet(backend: Backend) -> list[BackendDevice]:
    """Three devices that have enrolled."""
    return [enrolled_device(backend) for _ in range(3)]


def asked(backend: Backend, device: BackendDevice, *, csr: bytes = b"") -> Asked:
    """Its next attestation, over a connection with its certificate."""
    authority = backend.vault.authority(KeyRole.DEVICE_CA)
    identity = device_of_certificate(
        leaf_der(device.certificate), authority=authority, now=backend.clock()
    )
    evidence = device.evidence(device.next_nonce)
    return Asked(AttestRequest(device=device.name, evidence=evidence, csr=csr), identity)


def events_of(backend: Backend, device: BackendDevice) -> list[str]:
    """What the trail says of its attestations, oldest first."""
    decided = (Event.EVIDENCE_ACCEPTED, Event.EVIDENCE_REFUSED)
    query = (
        select(AuditRecord.event)
        .where(AuditRecord.device == device.name.hex(), AuditRecord.event.in_(decided))
        .order_by(AuditRecord.sequence)
    )
    with backend.database.reading() as session:
        return list(session.scalars(query))


def told(outcome: Outcome) -> AttestReply:
    """The reply, where there is one."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


# --- groups ------------------------------------------------------------------------------


def test_a_group_is_one_transaction_for_all(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """Every device gets its own good answer, and one commit is enough."""
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    group = [asked(backend, device) for device in fleet]
    event.listen(backend.database.engine, "commit", count)
    replies = [told(outcome) for outcome in groups.answer(group)]
    assert commits == 1
    for device, reply in zip(fleet, replies, strict=True):
        assert reply.standing is Standing.TRUSTED
        assert reply.approval is not None
        assert events_of(backend, device) == [Event.EVIDENCE_ACCEPTED]
        device.next_nonce = reply.challenge
    again = groups.answer([asked(backend, device) for device in fleet])
    assert [told(outcome).standing for outcome in again] == [Standing.TRUSTED] * 3


def remembered(backend: Backend, groups: Groups, device: BackendDevice) -> BackendDevice:
    """The device, once its keys are known from an attestation."""
    (outcome,) = groups.answer([asked(backend, device)])
    device.next_nonce = told(outcome).challenge
    return device


def given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first transaction be given up, as PostgreSQL does at a deadlock."""
    prepare, left = Publisher.prepare, [DeadlockDetected()]

    def once(self: Publisher, session: Session, devices: Sequence[str]) -> None:
        if left:
            raise OperationalError("", {}, left.pop())
        prepare(self, session, devices)

    monkeypatch.setattr(Publisher, "prepare", once)


def test_evidence_by_a_replaced_key_is_refused_when_it_is_done_again_too(
    backend: Backend, groups: Groups, fleet: list[BackendDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica has enrolled the device anew: its old key convinces at no attempt."""
    device = remembered(backend, groups, fleet[0])
    with backend.database.transaction() as session:
        row = session.get_one(Device, device.name.hex())
        row.ak_public = fleet[1].tpm.ak.encode_sized()
    given_up_once(monkeypatch)
    (refused,) = groups.answer([asked(backend, device)])
    assert isinstance(refused, SignatureError)


def test_evidence_by_a_new_key_is_accepted_when_it_is_done_again_too(
    backend: Backend, groups: Groups, fleet: list[BackendDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was remembered of the device before does not count at any attempt."""
    device = remembered(backend, groups, fleet[0])
    with backend.database.transaction() as session:
        row = session.get_one(Device, device.name.hex())
        mine, row.ak_public = row.ak_public, fleet[1].tpm.ak.encode_sized()
    groups.answer([asked(backend, device)])
    with backend.database.transaction() as session:
        session.get_one(Device, device.name.hex()).ak_public = mine
    given_up_once(monkeypatch)
    (accepted,) = groups.answer([asked(backend, device)])
    assert told(accepted).standing is Standing.TRUSTED


def test_a_row_that_is_locked_for_long_holds_up_nobody_else(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """Who waits for a lock in vain fails alone."""
    if not backend.database.is_postgresql:
        pytest.skip("SQLite locks no rows")
    backend.database.close()

    @event.listens_for(backend.database.engine, "connect")
    def soon(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's
        connection.execute("SET lock_timeout = '200ms'")
        connection.commit()

    group = [asked(backend, device) for device in fleet]
    with backend.database.transaction() as session:
        row = select(Device.id).where(Device.id == fleet[0].name.hex())
        session.execute(row.with_for_update())
        outcomes = groups.answer(group)
    assert isinstance(outcomes[0], DatabaseError)
    assert [told(outcome).standing for outcome in outcomes[1:]] == [Standing.TRUSTED] * 2


def test_what_has_not_changed_is_not_written(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """Heartbeats that say what the last ones said change when a device was heard, and no more."""
    for device in fleet:
        device.attest(DirectApi(backend, device))
    written: list[tuple[str, object]] = []

    def note(*args: object) -> None:
        if str(args[2]).startswith("UPDATE devices"):
            written.append((str(args[2]), args[5]))

    event.listen(backend.database.engine, "before_cursor_execute", note)
    replies = [told(outcome) for outcome in groups.answer([asked(backend, one) for one in fleet])]
    assert [reply.standing for reply in replies] == [Standing.TRUSTED] * 3
    ((statement, together),) = written
    assert together is True
    columns = statement.partition(" SET ")[2].partition(" WHERE ")[0].split(", ")
    assert {column.partition("=")[0].strip('"') for column in columns} == {
        "attested_at",
        "history",
        "nonce_issued",
        "watchdog_at",
    }


def used_nonce(backend: Backend, device: BackendDevice) -> Asked:
    """Evidence that was answered already."""
    late = asked(backend, device)
    device.attest(DirectApi(backend, device))
    return late


def foreign_signature(backend: Backend, device: BackendDevice) -> Asked:
    """A quote of which one bit was changed."""
    good = asked(backend, device)
    quote = good.request.evidence.quote
    broken = msgspec.structs.replace(quote, signature=quote.signature[:-1] + b"\x00")
    evidence = msgspec.structs.replace(good.request.evidence, quote=broken)
    return replace(good, request=msgspec.structs.replace(good.request, evidence=evidence))


def malformed_statement(backend: Backend, device: BackendDevice) -> Asked:
    """Authentic evidence in which the device says of itself what nobody can read."""
    good = asked(backend, device)
    binding = msgspec.structs.replace(good.request.evidence.binding, statement=b"{")
    evidence = device.evidence(binding.nonce, binding=binding)
    return replace(good, request=msgspec.structs.replace(good.request, evidence=evidence))


def no_certificate(backend: Backend, device: BackendDevice) -> Asked:
    """An attestation over a connection that shows nobody."""
    return replace(asked(backend, device), identity=None)


def refused_certificate(backend: Backend, device: BackendDevice) -> Asked:
    """An attestation whose client certificate is out of date."""
    return replace(
        asked(backend, device), identity=None, refusal=IdentityCertificateError("expired")
    )


def bad_csr(backend: Backend, device: BackendDevice) -> Asked:
    """A certificate request that is none: found only after the verdict."""
    return asked(backend, device, csr=b"no request")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (used_nonce, ChallengeUsedError.code),
        (foreign_signature, SignatureError.code),
        (malformed_statement, MalformedError.code),
        (no_certificate, IdentityError.code),
        (refused_certificate, IdentityCertificateError.code),
        (bad_csr, CsrError.code),
    ],
    ids=[
        *("used nonce", "changed signature", "malformed statement", "no certificate"),
        *("old certificate", "bad CSR"),
    ],
)
def test_a_bad_attestation_harms_no_neighbour(
    backend: Backend,
    groups: Groups,
    fleet: list[BackendDevice],
    make: Callable[[Backend, BackendDevice], Asked],
    code: str,
) -> None:
    """It is refused with its record and changes nothing; those around it are answered."""
    first, bad, last = fleet
    group = [asked(backend, first), make(backend, bad), asked(backend, last)]
    with backend.database.reading() as session:
        before = session.get_one(Device, bad.name.hex()).attested_at
    outcomes = groups.answer(group)
    assert isinstance(outcomes[1], HwTrustError)
    assert outcomes[1].code == code
    for device, outcome in ((first, outcomes[0]), (last, outcomes[2])):
        assert told(outcome).standing is Standing.TRUSTED
        assert events_of(backend, device) == [Event.EVIDENCE_ACCEPTED]
    assert events_of(backend, bad)[-1] == Event.EVIDENCE_REFUSED
    with backend.database.reading() as session:
        assert session.get_one(Device, bad.name.hex()).attested_at == before


def test_a_refused_request_for_a_certificate_leaves_the_nonce(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """Everything up to the refusal is taken back: the same challenge can be answered well."""
    device = fleet[0]
    (outcome,) = groups.answer([bad_csr(backend, device)])
    assert isinstance(outcome, CsrError)
    (second,) = groups.answer([asked(backend, device, csr=make_csr(device.tpm.tls_key))])
    assert told(second).certificate


def test_two_of_one_device_are_two_in_a_row(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """The second meets the nonce that the first has used up, in the same group."""
    twice = asked(backend, fleet[0])
    good, bad = groups.answer([twice, twice])
    assert told(good).standing is Standing.TRUSTED
    assert isinstance(bad, ChallengeUsedError)
    assert events_of(backend, fleet[0]) == [Event.EVIDENCE_ACCEPTED, Event.EVIDENCE_REFUSED]


def test_two_of_one_device_make_one_root(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """The second is offered the root that the first has made (94)."""
    device = fleet[0]
    with backend.database.transaction() as session:
        statement = update(Device).where(Device.id == device.name.hex())
        session.execute(statement.values(rotation_asked_at=1))
    first = asked(backend, device)
    device.next_nonce = backend.attestations._issue(
        device.name, first.request.evidence.binding.purpose, backend.clock()
    )
    replies = [told(outcome) for outcome in groups.answer([first, asked(backend, device)])]
    roots = [reply.root for reply in replies]
    assert roots[0] is not None
    assert roots[1] is not None
    assert roots[0].metadata == roots[1].metadata


def test_an_unknown_device_leaves_no_record(backend: Backend, groups: Groups) -> None:
    """Anybody can name one: the trail does not grow by it."""
    stranger = BackendDevice(backend)
    request = AttestRequest(device=stranger.name, evidence=stranger.evidence(bytes(40)))
    (outcome,) = groups.answer([Asked(request, None, refusal=None)])
    assert isinstance(outcome, (DeviceUnknownError, IdentityError))
    with backend.database.reading() as session:
        named = session.scalars(
            select(AuditRecord).where(AuditRecord.event == Event.EVIDENCE_ACCEPTED)
        ).all()
    assert named == []


def test_something_unforeseen_concerns_one_alone(
    backend: Backend,
    groups: Groups,
    fleet: list[BackendDevice],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A defect met with one device rolls its group back, and then has that device to itself."""
    kind = type(backend.attestations)
    decide, victim = kind.decide, fleet[1].name.hex()

    def failing(*args: object, **kwargs: object) -> AttestReply:
        reply = decide(*args, **kwargs)  # type: ignore[arg-type]
        if isinstance(args[2], DeviceState) and args[2].id == victim:
            raise ZeroDivisionError
        return reply

    monkeypatch.setattr(kind, "decide", failing)
    outcomes = groups.answer([asked(backend, device) for device in fleet])
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert [events_of(backend, device) for device in fleet] == [
        [Event.EVIDENCE_ACCEPTED],
        [],
        [Event.EVIDENCE_ACCEPTED],
    ]


@pytest.mark.parametrize("remembered", [True, False])
def test_old_keys_decide_nothing(
    backend: Backend, groups: Groups, fleet: list[BackendDevice], *, remembered: bool
) -> None:
    """A device that has enrolled anew is verified by its new keys, also where it was known."""
    device = fleet[0]
    good = asked(backend, device)
    known = groups._keys
    if remembered:
        (outcome,) = groups.answer([good])
        device.next_nonce = told(outcome).challenge
        good = asked(backend, device)
        name = device.name.hex()
        other = fleet[1].tpm.ak.encode_sized()
        known[name] = known[name]._replace(ak_public=other)
    (outcome,) = groups.answer([good])
    assert told(outcome).standing is Standing.TRUSTED
    with backend.database.transaction() as session:
        row = session.get_one(Device, device.name.hex())
        row.ak_public = fleet[1].tpm.ak.encode_sized()
    device.next_nonce = told(outcome).challenge
    (refused,) = groups.answer([asked(backend, device)])
    assert isinstance(refused, HwTrustError)


def test_nobody_is_answered_before_the_commit(
    backend: Backend, groups: Groups, fleet: list[BackendDevice]
) -> None:
    """A commit that fails is an error for the whole group, and nothing has happened (97)."""

    def fail(_: object) -> None:
        raise DatabaseError("the disk is full")

    group = [asked(backend, device) for device in fleet]
    event.listen(backend.database.engine, "commit", fail)
    try:
        outcomes = groups.answer(group)
    finally:
        event.remove(backend.database.engine, "commit", fail)
    assert [type(outcome) for outcome in outcomes] == [DatabaseError] * 3
    assert [events_of(backend, device) for device in fleet] == [[], [], []]
    assert [told(outcome).standing for outcome in groups.answer(group)] == [Standing.TRUSTED] * 3


def test_a_database_that_is_down_is_asked_once_a_group(
    backend: Backend, groups: Groups, fleet: list[BackendDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying it again for each attestation would only make all of them wait."""
    tries = 0
    run = type(backend.database).run

    def broken(database: object, _: object) -> object:
        nonlocal tries
        tries += 1

        def work(session: object) -> None:
            session.execute(text("SELECT * FROM nothing_of_that_name"))  # type: ignore[attr-defined]

        return run(database, work)  # type: ignore[arg-type]

    monkeypatch.setattr(type(backend.database), "run", broken)
    monkeypatch.setattr(type(backend.database), "is_down", lambda *_: True)
    outcomes = groups.answer([asked(backend, device) for device in fleet])
    assert (tries, [type(outcome) for outcome in outcomes]) == (1, [DatabaseError] * 3)


# --- the committer -----------------------------------------------------------------------


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, group: Sequence[Asked]) -> list[Outcome]:
        """Wait, and refuse all: a refusal is an answer."""
        self.sizes.append(len(group))
        self.begun.set()
        if not self.go.wait(30):
            raise TimeoutError
        return [IdentityError("refused") for _ in group]


def waiting(count: int) -> list[Asked]:
    """So many attestations; what they say does not matter."""
    request = AttestRequest(device=b"nobody", evidence=Attester().evidence(bytes(40)))
    return [Asked(request, None)] * count


async def turns(count: int = 20) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_comes_meanwhile_is_the_next_group() -> None:
    """The first does not wait for others; the others wait for it and go together."""
    slow = Slow()
    committer = Committer(slow, group_limit=4)

    async def run() -> list[object]:
        one, *rest = waiting(7)
        tasks = [asyncio.create_task(committer.submit(one))]
        await asyncio.to_thread(slow.begun.wait, 30)
        tasks += [asyncio.create_task(committer.submit(other)) for other in rest]
        await turns()
        assert not any(task.done() for task in tasks)
        slow.go.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    answers = asyncio.run(run())
    committer.close()
    assert {type(answer) for answer in answers} == {IdentityError}
    assert slow.sizes == [1, 4, 2]


def test_a_group_waits_a_moment_to_be_as_large_as_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those who were just answered come again: they share a commit with who came meanwhile."""
    # No clock decides here: only that as many have come as were there before.
    monkeypatch.setattr(committing, "GATHER_SECONDS", 3600.0)
    slow = Slow()
    committer = Committer(slow)

    async def run() -> list[object]:
        tasks = [asyncio.create_task(committer.submit(one)) for one in waiting(3)]
        await asyncio.to_thread(slow.begun.wait, 30)
        tasks += [asyncio.create_task(committer.submit(one)) for one in waiting(1)]
        await turns()
        slow.go.set()
        answers: list[object] = list(await asyncio.gather(*tasks[:3], return_exceptions=True))
        await turns()
        assert slow.sizes == [3]
        again = [asyncio.create_task(committer.submit(one)) for one in waiting(3)]
        return answers + list(await asyncio.gather(*tasks[3:], *again, return_exceptions=True))

    answers = asyncio.run(run())
    committer.close()
    assert {type(answer) for answer in answers} == {IdentityError}
    assert slow.sizes == [3, 4]


def test_a_group_does_not_wait_for_those_who_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that attests once has the next ones wait no longer than the moment."""
    monkeypatch.setattr(committing, "GATHER_SECONDS", 0.0)
    slow = Slow()
    slow.go.set()
    committer = Committer(slow)

    async def run() -> None:
        for count in (3, 1):
            asked = [committer.submit(one) for one in waiting(count)]
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(run())
    committer.close()
    assert slow.sizes == [3, 1]


def test_a_full_queue_is_a_typed_refusal_that_says_when_to_come_again() -> None:
    """More than the backend takes at once is turned away, and nobody who waits suffers."""
    slow = Slow()
    committer = Committer(slow, group_limit=1, queue_limit=2)

    async def run() -> list[object]:
        first, *rest = waiting(4)
        tasks = [asyncio.create_task(committer.submit(first))]
        await asyncio.to_thread(slow.begun.wait, 30)
        tasks += [asyncio.create_task(committer.submit(other)) for other in rest[:2]]
        await turns()
        with pytest.raises(BackendBusyError) as caught:
            await committer.submit(rest[2])
        assert caught.value.code == "backend:busy"
        assert caught.value.data["seconds"] == 2
        slow.go.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    answers = asyncio.run(run())
    committer.close()
    assert [type(answer) for answer in answers] == [IdentityError] * 3


def test_stopping_answers_what_was_taken_and_takes_nothing_new() -> None:
    """A graceful stop drains the queue."""
    slow = Slow()
    committer = Committer(slow, group_limit=2)

    async def run() -> list[object]:
        attestations = waiting(6)
        tasks = [asyncio.create_task(committer.submit(one)) for one in attestations[:5]]
        await asyncio.to_thread(slow.begun.wait, 30)
        closing = asyncio.create_task(asyncio.to_thread(committer.close))
        while not committer._closed:  # noqa: ASYNC110 - it is set by a thread
            await asyncio.sleep(0)
        with pytest.raises(BackendBusyError):
            await committer.submit(attestations[5])
        slow.go.set()
        await closing
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    answers = asyncio.run(run())
    assert [type(answer) for answer in answers] == [IdentityError] * 5
    assert sum(slow.sizes) == 5


def test_a_defect_is_an_answer_too() -> None:
    """Whatever goes wrong, nobody waits for ever, and the thread goes on."""
    fails = [True]

    def answer(group: Sequence[Asked]) -> list[Outcome]:
        if fails.pop():
            raise ZeroDivisionError
        return [IdentityError("refused") for _ in group]

    committer = Committer(answer)
    (one,) = waiting(1)

    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await committer.submit(one)
        fails.append(False)
        with pytest.raises(IdentityError):
            await committer.submit(one)

    asyncio.run(run())
    committer.close()


def test_whoever_has_gone_is_not_waited_for() -> None:
    """A request that was given up harms nobody in its group."""
    slow = Slow()
    committer = Committer(slow)

    async def run() -> object:
        one, two = waiting(2)
        gone, stays = (asyncio.create_task(committer.submit(item)) for item in (one, two))
        await asyncio.to_thread(slow.begun.wait, 30)
        gone.cancel()
        slow.go.set()
        (answer,) = await asyncio.gather(stays, return_exceptions=True)
        return answer

    assert isinstance(asyncio.run(run()), IdentityError)
    committer.close()
