"""Checking the whole audit trail against itself, and against what was signed.

    records ──▶ leaves ──▶ tiles, frontier, root ──▶ every signed tree head

(1) Records are numbered in a row from 1, and each gives the leaf that it has.
(2) Every full tile is there, with the leaves or the roots below it, and no other.
(3) The stored size and frontier are those of the records; nothing lies behind them.
(4) Every signed head, stored or kept elsewhere, is signed by the audit key and has
    the root that the trail had at its size.

Rules:
1. Reading is in batches: memory does not grow with the trail. What is appended
   while this runs is left for the next time.
2. The first thing that is wrong ends it, with the number of the record.
3. (1) to (3) find what was changed by somebody who does not know how the trail is
   made. Who does can change all of it to fit, but not the heads of (4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Row, ScalarSelect, func, literal, or_, select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    AuditHeadForgedError,
    AuditProofError,
    AuditRecordChangedError,
    AuditRecordMissingError,
    AuditRecordSurplusError,
    AuditStateError,
    AuditTileError,
    MalformedError,
)
from hwtrust.wire.envelope import Envelope
from hwtrust_backend.audit.entries import hash_of
from hwtrust_backend.audit.heads import (
    Promises,
    TreeHead,
    cut_short,
    envelope_of,
    open_head,
    open_heads,
)
from hwtrust_backend.audit.merkle import Frontier, check_inclusion, root_of, split
from hwtrust_backend.audit.models import RECORDS, AuditHead, AuditRecord, AuditSignedHead, AuditTile
from hwtrust_backend.audit.reading import Proof
from hwtrust_backend.audit.tiles import HEIGHT, WIDTH, tree_of

BATCH: Final = 512
_BEFORE_ALL: Final = -(2**63)
_LEVELS: Final = 63 // HEIGHT


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked. `heads` counts the signed heads, `signed` is the largest one's size."""

    size: int
    root: bytes
    heads: int
    signed: int


def verify_log(
    session: Session, *, key: ec.EllipticCurvePublicKey, kept: Sequence[Envelope]
) -> Report:
    """Recalculate the trail, and compare it with all that is stored and signed.

    `kept` are tree heads that were kept elsewhere.

    Raises:
        AuditError: something was changed; the class and `record` say what and where.
    """
    tree = tree_of(session)
    promises = Promises(open_heads(kept, key=key), _stored_heads(session, key, tree.size))
    found, tiles = Frontier(), _Tiles(session)
    promises.compare(found)
    for row in _records(session, tree.size):
        leaf = _checked_leaf(row, found.size + 1)
        found.append(leaf)
        tiles.add(leaf)
        promises.compare(found)
    if found.size != tree.size:
        number = found.size + 1
        raise AuditRecordMissingError(f"record {number} of the trail is missing", record=number)
    promises.finish(found)
    tiles.finish()
    if found.hashes != tree.hashes:
        message = "the stored frontier of the audit trail is not that of its records"
        raise AuditStateError(message, record=tree.size)
    _check_surplus(session)
    _check_no_larger_head(session, key)
    return Report(tree.size, found.root(), promises.count, promises.largest)


def check_proof(proof: Proof, *, key: ec.EllipticCurvePublicKey) -> TreeHead:
    """Verify that a record is in a tree that the backend has signed; gives the signed head.

    Raises:
        AuditHeadForgedError: the head is missing, or not signed by `key`.
        AuditProofError: the record is not in that tree.
    """
    if proof.head is None:
        raise AuditHeadForgedError("the proof leads to no signed tree head")
    head = open_head(proof.head, key=key)
    check_inclusion(
        proof.record.leaf(),
        index=proof.record.sequence - 1,
        size=head.size,
        root=head.root,
        proof=proof.hashes,
    )
    if (proof.size, proof.root) != (head.size, head.root):
        raise AuditProofError("a proof names another tree than its signed head")
    return head


@dataclass(slots=True)
class _Tiles:
    """The hashes of each level since its last full tile."""

    session: Session
    levels: list[list[bytes]] = field(default_factory=lambda: [[]])
    counts: list[int] = field(default_factory=lambda: [0])

    def add(self, leaf: bytes) -> None:
        """Add a leaf; a tile that is full with it is compared with the stored one."""
        level, item = 0, leaf
        while True:
            if level == len(self.levels):
                self.levels.append([])
                self.counts.append(0)
            hashes = self.levels[level]
            hashes.append(item)
            if len(hashes) < WIDTH:
                return
            item = self._compare(level, hashes)
            hashes.clear()
            level += 1

    def finish(self) -> None:
        """No tile may be there that the records do not fill."""
        for level in range(_LEVELS + 1):
            # What was appended since is in the size by now: its tiles are no surplus.
            full = _size() // (1 << (HEIGHT * (level + 1))) if level < _LEVELS else literal(0)
            at = AuditTile.level == level if level < _LEVELS else AuditTile.level >= level
            query = select(AuditTile.level, AuditTile.number).where(
                or_(AuditTile.level < 0, at & or_(AuditTile.number < 0, AuditTile.number >= full))
            )
            surplus = self.session.execute(query.limit(1)).one_or_none()
            if surplus is not None:
                message = f"tile {surplus.number} at level {surplus.level} is none of the trail's"
                raise AuditTileError(message, level=surplus.level, number=surplus.number)

    def _compare(self, level: int, hashes: list[bytes]) -> bytes:
        number = self.counts[level]
        self.counts[level] += 1
        root, width = root_of(hashes), 1 << (HEIGHT * level)
        first = number * WIDTH * width + 1
        stored = self.session.execute(
            select(AuditTile.hashes, AuditTile.root).where(
                AuditTile.level == level, AuditTile.number == number
            )
        ).one_or_none()
        if stored is None:
            message = f"tile {number} at level {level} of the audit trail is missing"
            raise AuditTileError(message, level=level, number=number, record=first)
        if (stored.hashes, stored.root) == (b"".join(hashes), root):
            return root
        known = split(stored.hashes)
        other = [
            at for at, pair in enumerate(zip(hashes, known, strict=False)) if len(set(pair)) > 1
        ]
        record = first + other[0] * width if other else first
        if len(known) == WIDTH and other and root_of(known) == stored.root:
            # The tile is whole: it still holds what the record was when it was written.
            message = f"the audit trail was changed at record {record}"
            raise AuditRecordChangedError(message, record=record)
        message = f"tile {number} at level {level} of the audit trail was changed"
        raise AuditTileError(message, level=level, number=number, record=record)


def _records(session: Session, size: int) -> Iterator[Row[Any]]:
    """The records up to that number, in order, some at a time."""
    columns = RECORDS.c
    after = _BEFORE_ALL
    while True:
        query = (
            select(*columns)
            .where(columns.sequence > after, columns.sequence <= size)
            .order_by(columns.sequence)
            .limit(BATCH)
        )
        rows = session.execute(query).all()
        if not rows:
            return
        yield from rows
        after = rows[-1].sequence


def _checked_leaf(row: Row[Any], expected: int) -> bytes:
    if row.sequence < expected:
        message = f"record {row.sequence} was never appended to the audit trail"
        raise AuditRecordSurplusError(message, record=row.sequence)
    if row.sequence > expected:
        message = f"record {expected} of the audit trail is missing"
        raise AuditRecordMissingError(message, record=expected)
    try:
        leaf = hash_of(
            row.sequence,
            at=row.at,
            event=row.event,
            device=row.device,
            actor=row.actor,
            reason=row.reason,
            evidence=row.evidence,
        )
    except (MalformedError, TypeError, AttributeError):
        # SQLite keeps a value of any type in any column, where somebody has put one.
        leaf = b""
    if leaf != row.leaf:
        message = f"the audit trail was changed at record {row.sequence}"
        raise AuditRecordChangedError(message, record=row.sequence)
    return leaf


def _check_surplus(session: Session) -> None:
    query = select(func.min(AuditRecord.sequence)).where(AuditRecord.sequence > _size())
    number = session.scalar(query)
    if number is not None:
        message = f"record {number} was never appended to the audit trail"
        raise AuditRecordSurplusError(message, record=number)


def _stored_heads(
    session: Session, key: ec.EllipticCurvePublicKey, size: int
) -> Iterator[TreeHead]:
    """The stored heads up to that size, each verified, some at a time."""
    after = _BEFORE_ALL
    while True:
        query = (
            select(AuditSignedHead)
            .where(AuditSignedHead.size > after, AuditSignedHead.size <= size)
            .order_by(AuditSignedHead.size)
            .limit(BATCH)
        )
        rows = session.scalars(query).all()
        if not rows:
            return
        for row in rows:
            session.expunge(row)
            yield _opened(row, key)
        after = rows[-1].size


def _check_no_larger_head(session: Session, key: ec.EllipticCurvePublicKey) -> None:
    query = (
        select(AuditSignedHead)
        .where(AuditSignedHead.size > _size())
        .order_by(AuditSignedHead.size)
        .limit(1)
    )
    row = session.scalars(query).one_or_none()
    if row is not None:
        raise cut_short(_opened(row, key), tree_of(session).size)


def _opened(row: AuditSignedHead, key: ec.EllipticCurvePublicKey) -> TreeHead:
    head = open_head(envelope_of(row), key=key)
    if (head.size, head.root, head.utc_ms) != (row.size, row.root, row.utc_ms):
        message = f"the stored tree head of {row.size} records is not what was signed"
        raise AuditHeadForgedError(message, record=row.size)
    return head


def _size() -> ScalarSelect[int]:
    """The size as it stands at the statement that this becomes part of."""
    return select(AuditHead.size).where(AuditHead.id == 1).scalar_subquery()
