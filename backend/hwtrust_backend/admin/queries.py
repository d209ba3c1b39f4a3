"""Asking a device what it runs, and looking at what it last answered.

    viewer      looks at the last answer
    operator    asks

Rules:
1. A question is in the audit trail with the name of who asked; what answers it is
   an attestation, which is there too, with the digest of its evidence.
2. An attestation result is signed of an answer while that is the device's newest
   attestation; its nonce is the digest of the evidence, so it is about no other.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import DeviceAnswerMissingError, DeviceStateError, DeviceUnknownError
from hwtrust.verify.policy import TPM
from hwtrust.wire.enclave import EnclaveEvidence
from hwtrust.wire.messages import Evidence
from hwtrust_backend import push
from hwtrust_backend.admin.devices import device_named
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.appraisal.queries import Answer, DeviceQuery, answer_of
from hwtrust_backend.appraisal.queries import ask as ask_device
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import spell_span, utc_text
from hwtrust_backend.enrolment import KeptFailure, failure_of, lock_device
from hwtrust_backend.monitor import Update, wanted_of
from hwtrust_backend.results import Results

REASON: Final = "query"
"""Why a device is woken."""

LONGEST_WAIT: Final = 55
"""Seconds: below what proxies and firewalls let a silent connection live."""

_EVIDENCE: Final = msgspec.json.Decoder(Evidence)
_OF_ENCLAVE: Final = msgspec.json.Decoder(EnclaveEvidence)


class QueryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a device was asked, and what it last answered. Times are UTC milliseconds.

    Attributes:
        asked_at: when it was asked last; absent: never.
        answered: whether the answer below is to that question.
        attested_at: when it was last heard of; `silent_since`: when it was found missing.
        wanted: the release that it should run; empty where none can be had.
        update: whether it is told to take that.
        failure: what it last reported to have failed.
        answer: the newest answer, to whichever question.
        result: the attestation result (EAR) that was signed of that answer; empty
            where nobody had it signed.
    """

    device: str
    asked_at: int | None
    asked_by: str
    answered: bool
    attested_at: int
    silent_since: int | None
    wanted: str
    update: Update
    failure: KeptFailure | None
    answer: Answer | None
    result: str


def query(session: Session, prefix: str, *, by: Principal, now: int, reason: str = "") -> int:
    """Ask a device what it runs, and wake it; gives when it was asked, UTC milliseconds.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: it is retired.
    """
    by.require(Role.OPERATOR)
    found = device_named(session, prefix, by=by)
    if found.retired_at is not None:
        since = utc_text(found.retired_at)
        message = f"this device is retired since {since}; readmit lets it enrol again"
        raise DeviceStateError(message, device=found.id)
    device = lock_device(session, found.id)
    if not by.sees(device.group):
        raise DeviceUnknownError("no such device")
    asked_at = ask_device(session, device, by=by.name, now=now)
    record(session, Event.DEVICE_QUERIED, now=now, device=device.id, reason=reason, actor=by.name)
    push.wake(session, device.id, reason=REASON)
    return asked_at


def query_report(session: Session, prefix: str, *, by: Principal, now: int) -> QueryReport:
    """What a device was asked, and what it last answered.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
    """
    device = device_named(session, prefix, by=by)
    row = session.get(DeviceQuery, device.id)
    answer = answer_of(row)
    wanted = wanted_of(session, device, now=now)
    return QueryReport(
        device=device.id,
        asked_at=None if row is None else row.asked_at,
        asked_by="" if row is None else row.asked_by,
        answered=row is not None and answer is not None and answer.asked_at >= row.asked_at,
        attested_at=device.attested_at,
        silent_since=device.silent_since,
        wanted=wanted.release,
        update=wanted.update,
        failure=failure_of(device),
        answer=answer,
        result="" if row is None else row.result,
    )


def answered_since(session: Session, device: str, asked_at: int) -> bool:
    """Whether a device has answered the question of that time, or a later one."""
    row = session.get(DeviceQuery, device, populate_existing=True)
    answer = answer_of(row)
    return answer is not None and answer.asked_at >= asked_at


def answer_evidence(session: Session, prefix: str, *, by: Principal) -> Evidence | EnclaveEvidence:
    """The evidence that the newest answer was made of.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceAnswerMissingError: it has never answered.
    """
    device = device_named(session, prefix, by=by)
    row = session.get(DeviceQuery, device.id)
    if row is None or row.evidence is None:
        raise DeviceAnswerMissingError("this device has not answered a question yet")
    return (_EVIDENCE if device.kind == TPM else _OF_ENCLAVE).decode(row.evidence)


def have_signed(
    session: Session, device: str, *, results: Results, by: Principal, now: int
) -> None:
    """Keep an attestation result of the newest answer, if there is none yet and it still counts.

    Raises:
        DeviceUnknownError, DeviceRetiredError: there is no such device in service.
    """
    by.require(Role.OPERATOR)
    current = lock_device(session, device)
    row = session.get(DeviceQuery, device, populate_existing=True)
    answer = answer_of(row)
    if row is None or answer is None or row.result or answer.answered_at != current.attested_at:
        return
    issued = results.issue(
        session, device, nonce=bytes.fromhex(answer.evidence), audience="", by=by.name, now=now
    )
    row.result = issued.result


def silence(report: QueryReport, *, now: int) -> str:
    """Since when a device that does not answer was not heard of, in words."""
    last = f"it was last heard of {utc_text(report.attested_at)}"
    span = spell_span(max(now - report.attested_at, 0))
    if report.silent_since is None:
        return f"{last}, {span} ago"
    return f"{last}, {span} ago, and is missed since {utc_text(report.silent_since)}"
