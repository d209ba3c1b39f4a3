"""The evidence of each device that is kept, so that a policy can be tried on it.

Rules:
1. Kept is the newest evidence that told something new: another log, other PCRs,
   another release, epoch or firmware, another standing. A heartbeat that says
   what the last one said is not written down again.
2. What is read back is verified again: a database that was changed convinces
   nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import HwTrustError, IdentityKeyError, LogError, MalformedError
from hwtrust.verify.enclaves.kinds import EnclaveClaims, EnclaveTrust, verify_enclave
from hwtrust.verify.evidence import Claims, verify_evidence
from hwtrust.verify.kept import Kept
from hwtrust.verify.policy import TPM
from hwtrust.verify.quote import KEPT
from hwtrust.wire.cel import EventLog
from hwtrust.wire.codec import u64
from hwtrust.wire.enclave import EnclaveEvidence, enclave_name
from hwtrust.wire.messages import Binding, Evidence, Standing
from hwtrust_backend.enrolment import Device, DeviceState, known_device
from hwtrust_backend.policies import StoredEvidence

_DECODER: Final = msgspec.json.Decoder(Evidence)
_ENCLAVE_DECODER: Final = msgspec.json.Decoder(EnclaveEvidence)


def told(claims: Claims, standing: Standing) -> bytes:
    """A digest of all that an appraisal looks at, but for the clock, and of what it came to."""
    parts = (
        standing.encode(),
        claims.binding.log_digest,
        claims.binding.release.encode(),
        u64(claims.binding.epoch),
        u64(claims.counter),
        u64(claims.firmware_version),
        _values_digest(claims.pcrs),
    )
    return _digest(parts)


def _digest(parts: Iterable[bytes]) -> bytes:
    """SHA-256 of parts, each behind its length in eight bytes."""
    sized = [len(part).to_bytes(8, "big") + part for part in parts]
    return hashlib.sha256(b"".join(sized)).digest()


class _Digested(msgspec.Struct, frozen=True, eq=False):
    """Values of PCRs, and a digest of them."""

    values: Mapping[int, bytes]
    digest: bytes


_DIGESTED: Final[Kept[int, _Digested]] = Kept(most=KEPT)
"""By where the values are in memory: no others come there while these are kept."""


def _values_digest(values: Mapping[int, bytes]) -> bytes:
    # A device quotes the same values at every heartbeat, and gets the same object for them.
    place = id(values)
    kept = _DIGESTED.get(place)
    if kept is None or kept.values is not values:
        parts = [bytes([number]) + value for number, value in sorted(values.items())]
        kept = _Digested(values, _digest(parts))
        _DIGESTED.keep(place, kept)
    return kept.digest


def keep_evidence(
    session: Session, device: DeviceState, evidence: Evidence, claims: Claims, *, now: int
) -> None:
    """Keep `evidence` if it tells something new; `claims` is what it was verified to."""
    digest = told(claims, device.standing)
    if device.evidence_told == digest:
        return
    device.evidence_told = digest
    kept = StoredEvidence(
        device=device.id,
        at=now,
        nonce=evidence.binding.nonce,
        # The logs of firmware and kernel are long, and what they came to is remembered.
        content=msgspec.json.encode(msgspec.structs.replace(evidence, firmware_log=b"", ima=None)),
    )
    # What else has changed is written once, at the commit.
    with session.no_autoflush:
        session.merge(kept)


@dataclass(frozen=True, slots=True)
class KeptEnclave:
    """What an enclave's kept evidence says. Only `enclave_of` makes it."""

    claims: EnclaveClaims
    binding: Binding
    log: EventLog


def stored_claims(
    session: Session, *, group: str | None, after: str, limit: int, trust: EnclaveTrust
) -> Iterator[tuple[Device, int, Claims | KeptEnclave | None]]:
    """Devices of a group (None: of all) with when their kept evidence came, and what it says.

    By name, from the first after `after`. Each is verified anew, enclaves by `trust`; None stands
    where what is kept does not hold any more.
    """
    query = (
        select(Device, StoredEvidence)
        .join(StoredEvidence, StoredEvidence.device == Device.id)
        .where(Device.id > after, Device.retired_at.is_(None))
        .order_by(Device.id)
        .limit(limit)
    )
    if group is not None:
        query = query.where(Device.group == group)
    for device, stored in session.execute(query):
        try:
            if device.kind == TPM:
                yield device, stored.at, claims_of(device, stored)
            else:
                yield device, stored.at, enclave_of(device, stored, trust=trust)
        except HwTrustError:
            yield device, stored.at, None


def enclave_of(device: Device, stored: StoredEvidence, *, trust: EnclaveTrust) -> KeptEnclave:
    """What kept evidence of an enclave says, verified anew as of when it came.

    Raises:
        EvidenceError, WireError: it does not hold any more.
    """
    try:
        evidence = _ENCLAVE_DECODER.decode(stored.content)
    except msgspec.MsgspecError as error:
        message = "the kept evidence is damaged"
        raise MalformedError(message, structure="EnclaveEvidence") from error
    binding = evidence.binding
    if enclave_name(evidence.kind, binding.tls_key).hex() != device.id:
        raise IdentityKeyError("the kept evidence is another enclave's")
    if hashlib.sha256(evidence.log).digest() != binding.log_digest:
        raise LogError("the kept event log is not the one that the enclave bound")
    claims = verify_enclave(
        evidence.evidence,
        kind=evidence.kind,
        report_data=binding.report_data(),
        now_ms=stored.at,
        trust=trust,
    )
    return KeptEnclave(claims, binding, EventLog.decode(evidence.log))


def claims_of(device: Device, stored: StoredEvidence) -> Claims:
    """What kept evidence says, verified anew.

    Raises:
        EvidenceError, WireError: it does not hold any more.
    """
    try:
        evidence = _DECODER.decode(stored.content)
    except msgspec.MsgspecError as error:
        raise MalformedError("the kept evidence is damaged", structure="Evidence") from error
    return verify_evidence(
        evidence,
        device=known_device(device),
        nonce=stored.nonce,
        purpose=evidence.binding.purpose,
        tls_key=evidence.binding.tls_key,
    )
