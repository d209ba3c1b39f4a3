"""Asking a device what it runs, and keeping its answer: one attestation, whole.

    ask ── note, wake ──▶ the device attests, by a challenge that is no older
                             └─ keep_answer ──▶ Answer, Evidence, the signed time

Rules:
1. An answer is made after its question: while one is open, evidence for a challenge
   from before it is refused as out of date, and the device gets a new challenge.
   `SLACK_MS` is for clocks of two replicas that are apart. Where they are further apart
   (`max_clock_skew`), evidence may be older by that; an answer says when its challenge was.
2. An answer holds what was quoted and certified, the time that the backend signed
   over the same challenge, and what the verdict was then. It is kept until the
   next one, whatever the device attests meanwhile.
3. Names in a log, and the release, are a device's words: they are cut and freed of
   what a terminal obeys.
4. A device that does not answer stays asked: its next attestation answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, Session, mapped_column

from hwtrust.errors import ChallengeExpiredError
from hwtrust.verify.policy import TPM
from hwtrust.wire.cel import Event, EventKind, EventLog
from hwtrust.wire.challenge import Challenge, Purpose
from hwtrust.wire.enclave import EnclaveEvidence, EnclaveReply
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import (
    AttestReply,
    Binding,
    Evidence,
    Finding,
    Mode,
    Standing,
    UpdateOrder,
)
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.db import Base, Millis
from hwtrust_backend.enrolment import NAME_DIGITS, Device, DeviceState, plain

if TYPE_CHECKING:
    from hwtrust_backend.appraisal.service import Verified

SLACK_MS: Final = 2 * SECOND
MOST_LAYERS: Final = 64
"""A release has no more; what else a log holds is counted."""
LONGEST_NAME: Final = 200


class DeviceQuery(Base):
    """The newest question to a device, and the newest answer to any."""

    __tablename__ = "device_queries"

    device: Mapped[str] = mapped_column(
        String(NAME_DIGITS), ForeignKey("devices.id"), primary_key=True
    )
    asked_at: Mapped[Millis]
    asked_by: Mapped[str] = mapped_column(String(200))
    answered_at: Mapped[int | None] = mapped_column(BigInteger)
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    """An `Answer` as JSON."""
    evidence: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    """What it was made of: the `hwtrust.wire.messages.Evidence` as JSON.

    It may have megabytes, and is read where somebody wants it: who waits looks often.
    """
    result: Mapped[str] = mapped_column(Text, default="")
    """The attestation result that was signed of it, once somebody had it signed."""


class MeasuredLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer as it was measured; `digest` is SHA-256 in hexadecimal digits.

    `changed` says that it was found to be this one while the device ran.
    """

    name: str
    version: str
    digest: str
    changed: bool = False


class QuotedPcr(msgspec.Struct, frozen=True, kw_only=True):
    """A register of the SHA-256 bank, in hexadecimal digits."""

    number: int
    value: str


class QuotedClock(msgspec.Struct, frozen=True, kw_only=True):
    """The TPM's clock (milliseconds) and counts at the quote; `safe`: it is sure of them."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a device showed when it was asked. Times are UTC milliseconds.

    Attributes:
        challenged_at: when the challenge was issued that the quote is bound to.
        answered_at: when the evidence had come and was decided on; the quote was made
            between the two.
        release: what the device claims to run; `layers` is what was measured.
        layers_left_out: how many more the log has.
        epoch: the one claimed; `counter` is what the TPM certified.
        firmware: the TPM's firmware version, in hexadecimal digits.
        clock: of an enclave there is none, as there are neither PCRs nor firmware here.
        kind: what the evidence is.
        facts: what the hardware of an enclave says.
        order: the release that it was told to take, if to take another one.
        evidence: SHA-256 of the evidence, as the audit trail names it.
        nonce: the challenge.
        time: the backend's signed statement of `answered_at` for that challenge.
    """

    asked_at: int
    asked_by: str
    challenged_at: int
    answered_at: int
    purpose: Purpose
    release: str
    layers: tuple[MeasuredLayer, ...]
    layers_left_out: int
    capped: bool
    pcrs: tuple[QuotedPcr, ...]
    epoch: int
    counter: int
    clock: QuotedClock | None
    firmware: str
    standing: Standing
    mode: Mode
    findings: tuple[Finding, ...]
    order: UpdateOrder | None
    evidence: str
    nonce: bytes
    time: Envelope
    kind: str = TPM
    facts: dict[str, Fact] = {}


Fact = str | int | bool | list[str]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What an attestation has shown that an answer tells of, whatever showed it."""

    kind: str
    nonce: Challenge
    binding: Binding
    log: EventLog
    pcrs: Mapping[int, bytes]
    counter: int
    clock: QuotedClock | None
    firmware: str
    facts: dict[str, Fact]
    evidence: Evidence | EnclaveEvidence
    digest: bytes


_ANSWER: Final = msgspec.json.Decoder(Answer)


def ask(session: Session, device: Device, *, by: str, now: int) -> int:
    """Have the next attestation of a device kept as an answer; gives when it was asked.

    The caller holds the device's row, and wakes it.
    """
    row = session.get(DeviceQuery, device.id)
    if row is None:
        row = DeviceQuery(device=device.id, asked_at=0, result="")
        session.add(row)
    # Later than every question before, whosever clock they were asked by.
    row.asked_at, row.asked_by = max(now, row.asked_at + 1), by
    device.query_asked_at = row.asked_at
    return row.asked_at


def require_answers(device: DeviceState, nonce: Challenge, *, now: int) -> None:
    """Refuse evidence that was made before the question that is open.

    Raises:
        ChallengeExpiredError: its challenge is older.
    """
    asked = device.query_asked_at
    # One who asked by a clock that is ahead must not keep the device from attesting.
    if asked is not None and asked <= now + SLACK_MS and nonce.issued + SLACK_MS < asked:
        message = "the device is asked for a new attestation, by a new challenge"
        raise ChallengeExpiredError(message, issued=nonce.issued)


def keep_answer(
    session: Session, device: DeviceState, verified: Verified, reply: AttestReply, *, now: int
) -> None:
    """Keep what answers a question, if one is open."""
    if device.query_asked_at is not None:
        keep_shown(session, device, _shown_by_tpm(verified), reply, now=now)


def _shown_by_tpm(verified: Verified) -> Shown:
    claims, clock = verified.claims, verified.claims.clock
    return Shown(
        kind=TPM,
        nonce=verified.nonce,
        binding=claims.binding,
        log=claims.log,
        pcrs=claims.pcrs,
        counter=claims.counter,
        clock=QuotedClock(
            clock=clock.clock,
            reset_count=clock.reset_count,
            restart_count=clock.restart_count,
            safe=clock.safe,
        ),
        firmware=f"{claims.firmware_version:016x}",
        facts={},
        evidence=verified.request.evidence,
        digest=verified.digest,
    )


def keep_shown(
    session: Session,
    device: DeviceState,
    shown: Shown,
    reply: AttestReply | EnclaveReply,
    *,
    now: int,
) -> None:
    """Keep what was shown as the answer to the question that is open."""
    binding, nonce = shown.binding, shown.nonce
    with session.no_autoflush:
        row = session.get(DeviceQuery, device.id)
        asked, device.query_asked_at = device.query_asked_at, None
        if row is None or asked is None:
            return
        layers = _layers(shown.log.events)
        answer = Answer(
            asked_at=asked,
            asked_by=row.asked_by,
            challenged_at=nonce.issued,
            answered_at=now,
            purpose=binding.purpose,
            release=plain(binding.release),
            layers=tuple(islice(layers, MOST_LAYERS)),
            layers_left_out=max(len(layers) - MOST_LAYERS, 0),
            capped=any(event.kind is EventKind.CAP for event in _last_load(shown.log.events)),
            pcrs=tuple(
                QuotedPcr(number=number, value=value.hex())
                for number, value in sorted(shown.pcrs.items())
            ),
            epoch=binding.epoch,
            counter=shown.counter,
            clock=shown.clock,
            firmware=shown.firmware,
            standing=reply.standing,
            mode=reply.mode,
            findings=tuple(
                msgspec.structs.replace(one, message=plain(one.message)) for one in reply.findings
            ),
            order=reply.update,
            evidence=shown.digest.hex(),
            nonce=nonce.nonce,
            time=reply.time,
            kind=shown.kind,
            facts=shown.facts,
        )
        row.answer, row.answered_at = msgspec.json.encode(answer), now
        row.evidence, row.result = msgspec.json.encode(shown.evidence), ""


def answer_of(row: DeviceQuery | None) -> Answer | None:
    """The answer that is kept, if there is one."""
    return None if row is None or row.answer is None else _ANSWER.decode(row.answer)


def _last_load(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """What came after the last reload: that is what runs now."""
    reloads = [place for place, event in enumerate(events) if event.kind is EventKind.RELOAD]
    return events[reloads[-1] + 1 :] if reloads else events


def _layers(events: tuple[Event, ...]) -> list[MeasuredLayer]:
    last = _last_load(events)
    changed = {event.name: event for event in last if event.kind is EventKind.VIOLATION}
    loaded = [event for event in last if event.kind is EventKind.LAYER]
    # A layer that was found changed later is what it was found to be, not what was loaded.
    return [
        MeasuredLayer(
            name=plain(event.name[:LONGEST_NAME]),
            version=plain(found.version[:LONGEST_NAME]),
            digest=found.digest.hex(),
            changed=found is not event,
        )
        for event in loaded
        for found in (changed.get(event.name, event),)
    ]
