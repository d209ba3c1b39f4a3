"""Writing the audit trail: what a transaction decides goes to the log as it commits.

    record() ── kept with the session ──▶ commit: lock the head, append all, move it

Rules:
1. A record is written in the transaction of what it records: no verdict
   without its record, no record of what was rolled back, be it a savepoint's.
2. All records of a transaction are appended together, as the last it does: the
   head's lock, which puts writers in line, is held for that moment only.
3. No secret and no token goes into a reason.
4. Whoever can write the database can write another trail. What that person cannot
   write are tree heads signed by the audit key: keep some of them elsewhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, insert, update
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.orm import Session, SessionTransaction

from hwtrust.errors import HwTrustError
from hwtrust_backend.audit.entries import hash_of
from hwtrust_backend.audit.events import Event
from hwtrust_backend.audit.models import ACTOR_LIMIT, DEVICE_LIMIT, RECORDS, TREE
from hwtrust_backend.audit.tiles import tree_of, write_tiles
from hwtrust_backend.observe import metrics
from hwtrust_backend.observe.logs import safe

REASON_LIMIT: Final = 2000

_log = logging.getLogger("hwtrust_backend")

_KEY: Final = "hwtrust_backend.audit"
_INSERT: Final = insert(RECORDS)
_MOVE: Final = (
    update(TREE)
    .where(TREE.c.id == 1)
    .values(size=bindparam("new_size"), frontier=bindparam("new_frontier"))
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that waits for the commit, and the savepoint that it was made in."""

    fields: dict[str, Any]
    savepoint: SessionTransaction | None


@dataclass(slots=True)
class _Buffer:
    """The records of a session's transaction, oldest first."""

    records: list[_Waiting] = field(default_factory=list)
    released: SessionTransaction | None = None
    """The innermost savepoint when a commit was last announced."""
    written: list[str] = field(default_factory=list)
    """Events that were appended, and are counted once they are committed."""


def record(
    session: Session,
    event: Event,
    *,
    now: int,
    device: str = "",
    reason: str = "",
    evidence: bytes = b"",
    actor: str = "",
) -> None:
    """Append a record to the trail when the caller's transaction commits; until then it is unseen.

    `evidence` is a SHA-256 or empty; `actor` is empty for a device or the backend itself.
    """
    if not session.in_transaction():
        # The record belongs to the transaction that begins with it.
        session.connection()
    buffer: _Buffer = session.info.setdefault(_KEY, _Buffer())
    fields = {
        "at": now,
        "event": event.value,
        "device": _plain(device, DEVICE_LIMIT),
        "actor": _plain(actor, ACTOR_LIMIT),
        "reason": _plain(reason, REASON_LIMIT),
        "evidence": evidence,
    }
    buffer.records.append(_Waiting(fields, session.get_nested_transaction()))


def record_refusal(
    session: Session,
    event: Event,
    error: HwTrustError,
    *,
    now: int,
    device: str,
    evidence: bytes,
) -> None:
    """Record, and log, that a device was refused, with the error's code and message.

    A message may repeat what the device has sent.
    """
    name, reason = device[:DEVICE_LIMIT], f"{error.code}: {safe(error.message)}"
    _log.info("%s %s %s", event, name, reason)
    record(session, event, now=now, device=name, reason=reason, evidence=evidence)


@sqlalchemy_event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    buffer: _Buffer | None = session.info.get(_KEY)
    if buffer is None or not buffer.records:
        return
    savepoint = session.get_nested_transaction()
    if savepoint is not None and buffer.released is not savepoint:
        # A savepoint is released, and all may still be rolled back: appending waits. Where
        # instead an outer transaction commits with this savepoint open, SQLAlchemy releases
        # the savepoint first, which announces a second commit inside of it.
        buffer.released = savepoint
        return
    session.flush()
    waiting = [item.fields for item in buffer.records]
    buffer.records.clear()
    _append(session, waiting)
    buffer.written += [fields["event"] for fields in waiting]


@sqlalchemy_event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    buffer: _Buffer | None = session.info.get(_KEY)
    if buffer is not None:
        for name in buffer.written:
            metrics.DECISIONS.inc(event=name)
        buffer.written.clear()


@sqlalchemy_event.listens_for(Session, "after_soft_rollback")
def _after_rollback(session: Session, transaction: SessionTransaction) -> None:
    buffer: _Buffer | None = session.info.get(_KEY)
    if buffer is not None and transaction.nested:
        kept = [item for item in buffer.records if not _within(item.savepoint, transaction)]
        buffer.records[:] = kept


@sqlalchemy_event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_KEY, None)


def _within(savepoint: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while savepoint is not None:
        if savepoint is outer:
            return True
        savepoint = savepoint.parent
    return False


def _append(session: Session, waiting: list[dict[str, Any]]) -> None:
    """Give the records their numbers and hashes; one statement for all of them."""
    connection = session.connection()
    frontier = tree_of(connection, lock=True)
    size, rows, leaves = frontier.size, [], []
    for sequence, fields in enumerate(waiting, size + 1):
        leaf = hash_of(sequence, **fields)
        frontier.append(leaf)
        leaves.append(leaf)
        rows.append({"sequence": sequence, "leaf": leaf, **fields})
    write_tiles(connection, size=size, leaves=leaves)
    connection.execute(_INSERT, rows)
    connection.execute(_MOVE, {"new_size": frontier.size, "new_frontier": frontier.encode()})


def _plain(text: str, limit: int) -> str:
    """What every database stores as it is: no NUL, nothing that is no UTF-8."""
    sound = text.encode("utf-8", "replace").decode()
    return sound.replace("\0", "\N{REPLACEMENT CHARACTER}")[:limit]
