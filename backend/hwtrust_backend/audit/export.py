"""The audit trail as a file that is checked without the backend.

JSON Lines, UTF-8, one object a line:

    {"format": "hwtrust audit v2"}
    {"record": {"sequence": 1, "at": …, "event": …, "device": …, "actor": …,
                "reason": …, "evidence": "hex or empty"}}
    …                                             every record, in order
    {"head": {"origin": …, "size": n, "root": "base64", "utc_ms": …},
     "envelope": {"payloadType": …, "payload": …, "signatures": […]}}

The hash of a record is that of `entries`, the tree over them that of `merkle`, the
envelope that of DSSE. `head` repeats what the envelope says, for people.

Rules:
1. An export ends with the newest signed tree head, and holds the records that it
   covers: nothing in it is unsigned.
2. Checking needs the audit public key alone. Only the envelope's content counts.
3. Writing and checking take memory for some records, not for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    AuditExportError,
    AuditHeadForgedError,
    AuditHeadInconsistentError,
    AuditHeadMissingError,
    AuditRecordMissingError,
    AuditRecordSurplusError,
    MalformedError,
)
from hwtrust.wire.envelope import Envelope
from hwtrust_backend.audit.entries import Entry, entry_of
from hwtrust_backend.audit.heads import (
    Promises,
    TreeHead,
    envelope_of,
    newest_head,
    open_head,
    open_heads,
)
from hwtrust_backend.audit.merkle import Frontier
from hwtrust_backend.audit.models import AuditRecord

FORMAT: Final = "hwtrust audit v2"
LINE_LIMIT: Final = 64 * 1024
"""A line is refused beyond this; no record comes near."""
BATCH: Final = 512

Kind = TypeVar("Kind", bound=msgspec.Struct)


class _First(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    record: Entry


class _Last(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: TreeHead
    envelope: Envelope


def export_log(session: Session, *, key: ec.EllipticCurvePublicKey) -> Iterator[bytes]:
    """The lines of an export, each with its line feed.

    Raises:
        AuditHeadMissingError: no tree head was ever signed.
        AuditHeadForgedError: the newest one is not signed by `key`.
        AuditRecordMissingError: the trail does not hold what the head covers.
    """
    newest = newest_head(session)
    if newest is None:
        raise AuditHeadMissingError("no tree head of the audit trail has been signed yet")
    envelope = envelope_of(newest)
    head = open_head(envelope, key=key)
    yield _encoded(_First(FORMAT))
    after = 0
    while after < head.size:
        query = (
            select(AuditRecord)
            .where(AuditRecord.sequence > after, AuditRecord.sequence <= head.size)
            .order_by(AuditRecord.sequence)
            .limit(BATCH)
        )
        rows = session.scalars(query).all()
        if not rows:
            number = after + 1
            message = f"record {number} of the audit trail is missing"
            raise AuditRecordMissingError(message, record=number)
        for row in rows:
            session.expunge(row)
            yield _encoded(_Line(entry_of(row)))
        after = rows[-1].sequence
    yield _encoded(_Last(head, envelope))


def check_export(
    lines: Iterable[bytes], *, key: ec.EllipticCurvePublicKey, kept: Sequence[Envelope]
) -> TreeHead:
    """Verify an export, line by line; gives the signed tree head at its end.

    `kept` are tree heads that were kept elsewhere.

    Raises:
        AuditExportError: it is no export, or is cut short.
        AuditRecordMissingError: a record is missing, or not in its place.
        AuditRecordSurplusError: a record is there twice.
        AuditHeadForgedError: the head is not signed by `key`.
        AuditHeadInconsistentError: the records are not those that were signed.
    """
    tree, promises = Frontier(), Promises(open_heads(kept, key=key))
    source = enumerate(lines, 1)
    number, line = next(source, (1, b""))
    if _decoded(line, _First, number).format != FORMAT:
        raise AuditExportError("the file is no export of an audit trail", line=number)
    for number, line in source:
        if line.startswith(b'{"head"'):
            last = _decoded(line, _Last, number)
            if next(source, None) is not None:
                raise AuditExportError("an export goes on behind its tree head", line=number + 1)
            promises.finish(tree)
            return _checked_head(last, tree, key)
        _append(tree, _decoded(line, _Line, number).record, number)
        promises.compare(tree)
    raise AuditExportError("an export ends without a tree head", line=number)


def _append(tree: Frontier, entry: Entry, number: int) -> None:
    expected = tree.size + 1
    if entry.sequence > expected:
        message = f"record {expected} of the export is missing"
        raise AuditRecordMissingError(message, record=expected)
    if entry.sequence < expected:
        message = f"record {entry.sequence} of the export is there twice"
        raise AuditRecordSurplusError(message, record=entry.sequence)
    try:
        tree.append(entry.leaf())
    except (MalformedError, UnicodeEncodeError) as error:
        raise AuditExportError(f"line {number} of the export is no record", line=number) from error


def _checked_head(last: _Last, tree: Frontier, key: ec.EllipticCurvePublicKey) -> TreeHead:
    head = open_head(last.envelope, key=key)
    if head != last.head:
        raise AuditHeadForgedError("the tree head of the export is not what was signed")
    if (head.size, head.root) != (tree.size, tree.root()):
        message = (
            f"the export's {tree.size} records are not the {head.size} whose tree head was signed"
        )
        raise AuditHeadInconsistentError(message, record=1, last=head.size)
    return head


def _encoded(line: msgspec.Struct) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _decoded(line: bytes, kind: type[Kind], number: int) -> Kind:
    if len(line) > LINE_LIMIT:
        raise AuditExportError(f"line {number} of the export is too long", line=number)
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"line {number} of the export is not what belongs there"
        raise AuditExportError(message, line=number) from error
