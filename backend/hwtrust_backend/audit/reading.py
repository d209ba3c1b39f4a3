"""Reading the audit trail: pages of records, and proofs of what they say.

Only what is committed is seen. A proof is made from a few tiles of hashes and the
newest records, however long the trail is.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import AuditProofError, AuditRecordUnknownError
from hwtrust.wire.envelope import Envelope
from hwtrust_backend.audit.entries import Entry, entry_of
from hwtrust_backend.audit.heads import envelope_of, newest_head
from hwtrust_backend.audit.merkle import Frontier, consistency_proof, inclusion_proof
from hwtrust_backend.audit.models import AuditRecord
from hwtrust_backend.audit.tiles import StoredNodes, tree_of

_ESCAPE = "\\"


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a record is in the tree: RFC 9162 §2.1.3, its leaf is number `sequence - 1`.

    `head` is the signed tree head whose root it leads to; absent, where none has been
    signed since the record was written.
    """

    record: Entry
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    head: Envelope | None


class Consistency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That the tree of `size` records begins with the tree of `old` ones: RFC 9162 §2.1.4."""

    old: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]


def trail(session: Session, device: str, *, limit: int) -> list[AuditRecord]:
    """The newest records of a device, newest first."""
    return page_of_records(session, before=None, limit=limit, device=device)


def page_of_records(
    session: Session,
    *,
    before: int | None,
    limit: int,
    device: str | None = None,
    event: str | None = None,
    actor: str | None = None,
    since: int | None = None,
) -> list[AuditRecord]:
    """Records with numbers below `before`, newest first.

    `event` is a code, in which `*` stands for anything; `since` is UTC milliseconds.
    """
    query = select(AuditRecord)
    if before is not None:
        query = query.where(AuditRecord.sequence < before)
    if device is not None:
        query = query.where(AuditRecord.device == device)
    if event is not None:
        query = query.where(AuditRecord.event.like(_pattern(event), escape=_ESCAPE))
    if actor is not None:
        query = query.where(AuditRecord.actor == actor)
    if since is not None:
        query = query.where(AuditRecord.at >= since)
    return list(session.scalars(query.order_by(AuditRecord.sequence.desc()).limit(limit)))


def proof_of(session: Session, sequence: int) -> Proof:
    """Prove that a record is in the tree: the newest signed one, else the one as it stands.

    Raises:
        AuditRecordUnknownError: there is no such record.
        AuditError: what the proof is made of was changed.
    """
    row = session.get(AuditRecord, sequence)
    tree = tree_of(session)
    if row is None or not 1 <= sequence <= tree.size:
        message = f"the audit trail has no record {sequence}"
        raise AuditRecordUnknownError(message, record=sequence)
    size, root, head = tree.size, tree.root(), newest_head(session)
    envelope: Envelope | None = None
    if head is not None and sequence <= head.size <= tree.size:
        size, root, envelope = head.size, head.root, envelope_of(head)
    hashes = inclusion_proof(StoredNodes(session, size), sequence - 1, size)
    return Proof(record=entry_of(row), size=size, root=root, hashes=hashes, head=envelope)


def decode_proof(content: bytes) -> Proof:
    """A proof from outside, not yet verified.

    Raises:
        AuditProofError: it is none.
    """
    try:
        return msgspec.json.decode(content, type=Proof)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AuditProofError("the file is no proof of an audit record") from error


def consistency(session: Session, old: int, *, size: int | None = None) -> Consistency:
    """Prove that the tree still begins as it did with `old` records.

    To the tree of `size` records, as a signed head names it; absent: to the whole.

    Raises:
        AuditRecordUnknownError: the trail never had as many records.
        AuditError: what the proof is made of was changed.
    """
    tree = tree_of(session)
    wanted = tree.size if size is None else size
    if not 0 <= old <= wanted <= tree.size:
        message = f"the audit trail has {tree.size} records, not {max(old, wanted)}"
        raise AuditRecordUnknownError(message, record=old)
    nodes = StoredNodes(session, wanted)
    root = tree.root() if wanted == tree.size else root_at(session, wanted)
    hashes = consistency_proof(nodes, old, wanted)
    return Consistency(old=old, size=wanted, root=root, hashes=hashes)


def root_at(session: Session, size: int) -> bytes:
    """The root that the tree had with its first `size` records."""
    nodes = StoredNodes(session, size)
    peaks, begin = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            peaks.append(nodes(level, begin >> level))
            begin += 1 << level
    return Frontier(size, peaks).root()


def _pattern(event: str) -> str:
    for special in (_ESCAPE, "%", "_"):
        event = event.replace(special, _ESCAPE + special)
    return event.replace("*", "%")
