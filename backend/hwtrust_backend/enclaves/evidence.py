"""An enclave's evidence: is it authentic, and an answer to us? What of it is kept?

    EnclaveEvidence ── verify ──▶ Authentic ── judge ──▶ judgement, findings

Rules, in the order in which they are checked (the code carries their numbers):

1. device    the binding's TLS key, and the kind, make the name of the device.
2. purpose   the binding is for what the evidence is used for.
3. nonce     it answers a challenge of ours to this device, for this purpose, in time.
4. log       the event log is the one that the binding names.
5. evidence  the hardware vouches for the binding (`hwtrust.verify.enclaves.kinds`).
6. log       the log is one of ours; a statement in the binding can be read.

Nothing of the log is decoded before the binding is known to be vouched for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import ChallengePurposeError, IdentityKeyError, LogError
from hwtrust.verify.enclaves.judge import EnclaveJudgement, judge_enclave
from hwtrust.verify.enclaves.kinds import EnclaveClaims, EnclaveTrust, verify_enclave
from hwtrust.wire import challenge
from hwtrust.wire.cel import EventLog
from hwtrust.wire.challenge import Challenge, Purpose
from hwtrust.wire.codec import u64
from hwtrust.wire.enclave import EnclaveEvidence, enclave_name
from hwtrust.wire.messages import Binding
from hwtrust.wire.statement import Statement, decode_statement
from hwtrust_backend.appraisal.queries import Fact, Shown
from hwtrust_backend.audit import evidence_digest
from hwtrust_backend.enrolment import DeviceState, GroupRules
from hwtrust_backend.policies import StoredEvidence

_FLEETING: Final = frozenset(
    {
        "age_ms",
        "challenge",
        "extra_data",
        "gpu_nonce",
        "nonce",
        "public_key",
        "qualifying_data",
        "report_data",
        "signature",
        "timestamp",
        "user_data",
    }
)
"""Facts that are others in every evidence, and tell nothing new of the enclave."""


_MOST_VALUES: Final = 64
_LONGEST_VALUE: Final = 256
_LONGEST_TEXT: Final = 4096
"""Of a fact that is kept: a firmware log can be long, and the guest's own host writes it."""
_EXTENDED: Final = ("firmware_pcr_", "firmware_rtmr_")
"""Facts that are every digest of a log; they are not kept."""


@dataclass(frozen=True, slots=True)
class Authentic:
    """Evidence that is an enclave's own, for a challenge of ours. Only `verify` makes it."""

    evidence: EnclaveEvidence
    claims: EnclaveClaims
    log: EventLog
    nonce: Challenge
    statement: Statement
    digest: bytes
    """Of the evidence, as the audit trail names it."""
    facts: dict[str, Fact]

    @property
    def binding(self) -> Binding:
        """What the hardware vouches for."""
        return self.evidence.binding


def opened(
    evidence: EnclaveEvidence,
    *,
    device: bytes,
    purpose: Purpose,
    key: bytes,
    lifetime_ms: int = challenge.LIFETIME_MS,
    now: int,
) -> Challenge:
    """The challenge of ours that evidence says to answer; nothing of it is believed yet.

    `key` is the one that challenges are made with.

    Raises:
        IdentityKeyError: it is another enclave's.
        ChallengeError: the challenge is not ours, not for this, or too old.
    """
    binding = evidence.binding
    # (1): device.
    if not compare_digest(enclave_name(evidence.kind, binding.tls_key), device):
        raise IdentityKeyError("the evidence names the TLS key of another enclave")
    # (2): purpose.
    if binding.purpose is not purpose:
        raise ChallengePurposeError(f"the evidence is for {binding.purpose}, not for {purpose}")
    # (3): nonce.
    return challenge.check(
        binding.nonce,
        key=key,
        device=device,
        purpose=purpose,
        now_ms=now,
        lifetime_ms=lifetime_ms,
    )


def verify(
    evidence: EnclaveEvidence, nonce: Challenge, *, trust: EnclaveTrust, now: int
) -> Authentic:
    """Is the evidence authentic? `nonce` is what `opened` gave.

    Raises:
        LogError: the log is another than the one that the binding names.
        EvidenceError, WireError: it is not authentic, or malformed.
    """
    binding = evidence.binding
    # (4): log.
    if not compare_digest(hashlib.sha256(evidence.log).digest(), binding.log_digest):
        raise LogError("the event log is not the one that the enclave bound into its evidence")
    # (5): evidence.
    claims = verify_enclave(
        evidence.evidence,
        kind=evidence.kind,
        report_data=binding.report_data(),
        now_ms=now,
        trust=trust,
    )
    # (6): log and statement.
    return Authentic(
        evidence=evidence,
        claims=claims,
        log=EventLog.decode(evidence.log),
        nonce=nonce,
        statement=decode_statement(binding.statement),
        digest=evidence_digest(evidence),
        facts=_facts(claims),
    )


def judged(
    found: Authentic,
    held_to: GroupRules,
    *,
    epochs: frozenset[int],
    locked: str | None,
    now: int,
) -> EnclaveJudgement:
    """What a group's policy makes of it."""
    return judge_enclave(
        found.claims,
        binding=found.binding,
        log=found.log,
        rules=held_to.rules,
        enclaves=held_to.policy.enclaves,
        register=held_to.policy.register,
        epochs=epochs,
        locked=locked,
        now_ms=now,
    )


def keep_evidence(session: Session, device: DeviceState, found: Authentic, *, now: int) -> None:
    """Keep the evidence if it tells something new, and what the hardware said in any case."""
    device.facts = msgspec.json.encode(found.facts)
    digest = _told(device, found)
    if device.evidence_told == digest:
        return
    device.evidence_told = digest
    kept = StoredEvidence(
        device=device.id,
        at=now,
        nonce=found.binding.nonce,
        content=msgspec.json.encode(found.evidence),
    )
    # What else has changed is written once, at the commit.
    with session.no_autoflush:
        session.merge(kept)


def shown(found: Authentic) -> Shown:
    """The same for an answer to an administrator."""
    return Shown(
        kind=found.claims.kind.value,
        nonce=found.nonce,
        binding=found.binding,
        log=found.log,
        pcrs={},
        counter=found.binding.epoch,
        clock=None,
        firmware="",
        facts=found.facts,
        evidence=found.evidence,
        digest=found.digest,
    )


def _facts(claims: EnclaveClaims) -> dict[str, Fact]:
    kept: dict[str, Fact] = {}
    for name, value in claims.facts().items():
        if name.startswith(_EXTENDED):
            continue
        if isinstance(value, list):
            kept[name] = [text[:_LONGEST_VALUE] for text in value[:_MOST_VALUES]]
        else:
            kept[name] = value[:_LONGEST_TEXT] if isinstance(value, str) else value
    return kept


def _told(device: DeviceState, found: Authentic) -> bytes:
    lasting = {name: fact for name, fact in found.facts.items() if name not in _FLEETING}
    binding = found.binding
    parts = (
        device.standing.encode(),
        binding.log_digest,
        binding.release.encode(),
        u64(binding.epoch),
        binding.release_key,
        msgspec.json.encode(lasting, order="deterministic"),
    )
    return hashlib.sha256(b"".join(u64(len(part)) + part for part in parts)).digest()
