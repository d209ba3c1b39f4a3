"""Writing and checking the audit trail.

    digest(n) = SHA-256(number | time | event | device | reason | evidence | digest(n - 1))

Rules:
1. A record is written in the transaction of what it records: no verdict
   without its record, no record of what was rolled back.
2. No secret and no token goes into a reason.
3. An edited, dropped or reordered record breaks the chain. Whoever can write
   the database can recompute all of it: keep the newest digest elsewhere too.
"""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hwtrust.errors import AuditError
from hwtrust.wire.codec import u32, u64
from hwtrust_backend.audit.events import Event
from hwtrust_backend.audit.models import AuditHead, AuditRecord

GENESIS: Final = bytes(32)
REASON_LIMIT: Final = 2000


def record(
    session: Session,
    event: Event,
    *,
    now: int,
    device: str = "",
    reason: str = "",
    evidence: bytes = b"",
) -> AuditRecord:
    """Append a record to the trail; it is there once the caller's transaction commits."""
    # The update comes first: it locks the head, so that no two writers see one number.
    moved = session.execute(
        update(AuditHead).where(AuditHead.id == 1).values(sequence=AuditHead.sequence + 1),
        execution_options={"synchronize_session": False},
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise AuditError("the audit trail has no head")
    head = session.scalars(
        select(AuditHead).where(AuditHead.id == 1).execution_options(populate_existing=True)
    ).one()
    written = AuditRecord(
        sequence=head.sequence,
        at=now,
        event=event.value,
        device=device,
        reason=reason[:REASON_LIMIT],
        evidence=evidence,
        previous=head.digest,
    )
    written.digest = _digest(written)
    head.digest = written.digest
    session.add(written)
    session.flush()
    return written


def trail(session: Session, device: str, *, limit: int) -> list[AuditRecord]:
    """The newest records of a device, newest first."""
    query = select(AuditRecord).where(AuditRecord.device == device)
    return list(session.scalars(query.order_by(AuditRecord.sequence.desc()).limit(limit)))


def check_chain(session: Session) -> int:
    """Recalculate the whole chain and give the number of records.

    Raises:
        AuditError: a record was edited, dropped or reordered.
    """
    previous, count = GENESIS, 0
    query = select(AuditRecord).order_by(AuditRecord.sequence)
    for row in session.scalars(query.execution_options(yield_per=500)):
        count += 1
        if row.sequence != count or row.previous != previous or _digest(row) != row.digest:
            message = f"the audit trail was changed at record {row.sequence}"
            raise AuditError(message, record=row.sequence)
        previous = row.digest
    head = session.get(AuditHead, 1)
    if head is None or (head.sequence, head.digest) != (count, previous):
        raise AuditError("records are missing at the end of the audit trail", record=count)
    return count


def _digest(row: AuditRecord) -> bytes:
    fields = (
        b"hwtrust audit v1",
        u64(row.sequence),
        u64(row.at),
        row.event.encode(),
        row.device.encode(),
        row.reason.encode(),
        row.evidence,
        row.previous,
    )
    return hashlib.sha256(b"".join(u32(len(field)) + field for field in fields)).digest()
