"""The audit trail as administrators read it.

A principal that is limited to groups reads what concerns the devices that it sees
now. What concerns no device is for those who see all of them.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import AuditHeadMissingError, AuditRecordUnknownError
from hwtrust.wire.envelope import Envelope
from hwtrust_backend.admin.fields import Number
from hwtrust_backend.admin.paging import LONGEST_PAGE, cursor_of, key_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.audit import (
    AuditRecord,
    Consistency,
    Entry,
    Proof,
    consistency,
    entry_of,
    envelope_of,
    newest_head,
    page_of_records,
    proof_of,
)
from hwtrust_backend.enrolment import Device

WINDOW: Final = 500
"""Records that are asked for at a time on behalf of who sees a part of them."""
_ROUNDS: Final = 20


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to list; what is absent filters nothing.

    Attributes:
        event: a code, in which `*` stands for anything.
        since: UTC milliseconds.
    """

    device: str | None = None
    event: str | None = None
    actor: str | None = None
    since: int | None = None


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some records, newest first. A page may be short and still have a next one."""

    records: tuple[Entry, ...]
    next: str | None


class SignedHead(msgspec.Struct, frozen=True, kw_only=True):
    """The newest signed tree head."""

    size: int
    root: bytes
    envelope: Envelope
    """What the audit key has signed."""


def audit_page(
    session: Session,
    wanted: AuditFilter,
    *,
    by: Principal,
    cursor: str | None = None,
    limit: int = 50,
) -> AuditPage:
    """A page of the trail, newest first, from `cursor` on.

    Raises:
        CursorError: the cursor is none.
    """
    by.require(Role.VIEWER)
    limit = max(1, min(limit, LONGEST_PAGE))
    before: int | None = None if cursor is None else key_of(cursor, Number)
    if by.groups is None:
        rows = _records(session, wanted, before, limit + 1)
        follows = rows[limit - 1].sequence if len(rows) > limit else None
        return _page(rows[:limit], follows)
    shown: list[AuditRecord] = []
    for _ in range(_ROUNDS):
        rows = _records(session, wanted, before, WINDOW)
        seen = _devices_seen(session, {row.device for row in rows}, by)
        for row in rows:
            if row.device in seen:
                shown.append(row)
            before = row.sequence
            if len(shown) == limit:
                return _page(shown, before)
        if len(rows) < WINDOW:
            return _page(shown, None)
    return _page(shown, before)


def audit_record(session: Session, sequence: int, *, by: Principal) -> Proof:
    """A record, with the proof that it is in the log.

    Raises:
        AuditRecordUnknownError: there is none.
    """
    by.require(Role.VIEWER)
    row = session.get(AuditRecord, sequence)
    hidden = by.groups is not None and (
        row is None or row.device not in _devices_seen(session, {row.device}, by)
    )
    if row is None or hidden:
        raise AuditRecordUnknownError(f"the audit trail has no record {sequence}", record=sequence)
    return proof_of(session, sequence)


def audit_head(session: Session, *, by: Principal) -> SignedHead:
    """The newest signed tree head, to be kept elsewhere.

    Raises:
        AuditHeadMissingError: none has been signed yet.
    """
    by.require(Role.VIEWER)
    head = newest_head(session)
    if head is None:
        raise AuditHeadMissingError("no tree head has been signed yet")
    return SignedHead(size=head.size, root=head.root, envelope=envelope_of(head))


def audit_consistency(
    session: Session, old: int, size: int | None, *, by: Principal
) -> Consistency:
    """The proof that the log still begins as it did with `old` records.

    Raises:
        AuditRecordUnknownError: it never had as many.
    """
    by.require(Role.VIEWER)
    return consistency(session, old, size=size)


def _records(
    session: Session, wanted: AuditFilter, before: int | None, limit: int
) -> list[AuditRecord]:
    return page_of_records(
        session,
        before=before,
        limit=limit,
        device=wanted.device,
        event=wanted.event,
        actor=wanted.actor,
        since=wanted.since,
    )


def _devices_seen(session: Session, devices: set[str], by: Principal) -> set[str]:
    groups = sorted(by.groups or ())
    query = select(Device.id).where(Device.id.in_(devices - {""}), Device.group.in_(groups))
    return set(session.scalars(query))


def _page(rows: list[AuditRecord], follows: int | None) -> AuditPage:
    return AuditPage(
        records=tuple(entry_of(row) for row in rows),
        next=None if follows is None else cursor_of(follows),
    )
