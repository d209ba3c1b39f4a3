"""A record as it is hashed into the tree, exported and shown.

    entry = each field behind its length in four bytes:
            "hwtrust audit v2" | number | time | event | device | actor | reason | evidence

Rules:
1. One record has one encoding, and no two records share one: every field has its
   length, numbers have eight bytes.
2. The number is hashed with the rest: a record cannot change its place.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.wire.codec import u64
from hwtrust.wire.enclave import EnclaveEvidence
from hwtrust.wire.messages import Evidence
from hwtrust_backend.audit.merkle import leaf_hash
from hwtrust_backend.audit.models import AuditRecord

_LABEL: Final = b"hwtrust audit v2"
_LAST: Final = 2**63 - 1

Number = Annotated[int, Meta(ge=0, le=_LAST)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One decision. `at` is UTC milliseconds; `evidence` is a SHA-256 in hexadecimal, or empty."""

    sequence: Annotated[int, Meta(ge=1, le=_LAST)]
    at: Number
    event: str
    device: str
    actor: str
    reason: str
    evidence: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]

    def leaf(self) -> bytes:
        """The hash of this record in the tree."""
        return hash_of(
            self.sequence,
            at=self.at,
            event=self.event,
            device=self.device,
            actor=self.actor,
            reason=self.reason,
            evidence=bytes.fromhex(self.evidence),
        )


def evidence_digest(evidence: Evidence | EnclaveEvidence) -> bytes:
    """How the trail names a piece of evidence: SHA-256 of the message's JSON."""
    return hashlib.sha256(msgspec.json.encode(evidence)).digest()


def entry_of(row: AuditRecord) -> Entry:
    """A stored record."""
    return Entry(
        sequence=row.sequence,
        at=row.at,
        event=row.event,
        device=row.device,
        actor=row.actor,
        reason=row.reason,
        evidence=row.evidence.hex(),
    )


def hash_of(
    sequence: int,
    *,
    at: int,
    event: str,
    device: str,
    actor: str,
    reason: str,
    evidence: bytes,
) -> bytes:
    """The hash of a record in the tree."""
    fields = (
        _LABEL,
        u64(sequence),
        u64(at),
        event.encode(),
        device.encode(),
        actor.encode(),
        reason.encode(),
        evidence,
    )
    return leaf_hash(b"".join([len(field).to_bytes(4, "big") + field for field in fields]))
