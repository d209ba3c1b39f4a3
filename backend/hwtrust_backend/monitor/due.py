"""Due work: devices that are missed or gone, and roots whose time has come.

Rules:
1. Work is found by an index on its time, some rows at a time, and rows that another
   replica holds are passed over: the cost is of what is due, not of the fleet.
2. Every unit is done in its own transaction with all that follows from it, so that
   whoever dies in between leaves it for the next.
3. A device that is missing takes no part of its group's rate until it is back.
4. An enclave of a kind that cannot seal has its root in memory alone. Silent for longer
   than a root and the grace after it last, it holds none, and there is nothing that it
   could go on with: it is retired. One that an administrator has locked stays.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from hwtrust_backend import push
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import utc_text
from hwtrust_backend.enrolment import Device, DeviceKind, take_out_of_service
from hwtrust_backend.policies import policy_of
from hwtrust_backend.publishing import RootState, StoredRoot
from hwtrust_backend.publishing.schedule import MISSING_MS, put_off, reserve
from hwtrust_backend.webhooks import Topic, announce

BATCH: Final = 200
"""Devices of one transaction."""

WITHOUT_SEALER: Final = frozenset({DeviceKind.TDX, DeviceKind.NITRO, DeviceKind.CCA})
"""Kinds that keep nothing beyond their process."""


def note_missing(session: Session, *, now: int, limit: int = BATCH) -> int:
    """Note the devices that should have attested by now; gives how many were looked at."""
    missing = take_due(session, Device.watchdog_at, now=now, limit=limit)
    for device in missing:
        device.watchdog_at = None
        if device.retired_at is not None or device.silent_since is not None:
            continue
        device.silent_since = now
        reason = f"last heard of at {utc_text(device.attested_at)}"
        record(session, Event.WATCHDOG_MISSED, now=now, device=device.id, reason=reason)
        data = {"kind": device.kind, "group": device.group, "attested_at": device.attested_at}
        announce(session, Topic.SILENT, device=device.id, data=data, now=now)
    return len(missing)


def retire_gone(session: Session, *, now: int, limit: int = BATCH) -> int:
    """Retire the enclaves that are gone for good (rule 4); gives how many."""
    gone = (
        Device.kind.in_(sorted(WITHOUT_SEALER)),
        Device.silent_since.is_not(None),
        Device.retired_at.is_(None),
        Device.locked_at.is_(None),
    )
    found: list[Device] = []
    # Groups in one order, so that no two transactions wait for each other.
    for group in session.scalars(select(Device.group).where(*gone).distinct().order_by("group")):
        policy = policy_of(session, group)
        if not policy.root_lifetime_ms:
            # It says nothing of it, and so nothing follows.
            continue
        before = now - policy.root_lifetime_ms - policy.offline_grace_ms
        query = select(Device).where(*gone, Device.group == group, Device.attested_at < before)
        query = query.limit(limit - len(found)).with_for_update(skip_locked=True)
        found += session.scalars(query)
    for device in found:
        take_out_of_service(device, now=now)
        heard = utc_text(device.attested_at)
        reason = f"{device.kind} seals nothing, and was last heard of at {heard}"
        record(session, Event.ENCLAVE_GONE, now=now, device=device.id, reason=reason)
        data = {"kind": device.kind, "group": device.group, "by": "", "reason": reason}
        announce(session, Topic.RETIRED, device=device.id, data=data, now=now)
    return len(found)


def grant_due(session: Session, *, now: int, limit: int = BATCH) -> int:
    """Grant the roots that are due, at each group's rate; gives how many were looked at.

    Whoever waits is told. Every device that was looked at is done with, or due later.
    """
    due = take_due(session, Device.rotate_at, now=now, limit=limit)
    ready: list[Device] = []
    asking: defaultdict[str, list[Device]] = defaultdict(list)
    for device in due:
        if device.retired_at is not None:
            device.rotate_at = None
        elif device.silent_since is not None:
            device.rotate_at = now + MISSING_MS
        elif device.rotation_asked_at is None:
            asking[device.group].append(device)
        else:
            ready.append(device)
    # Groups in one order, so that no two transactions wait for each other.
    for group in sorted(asking):
        ready += _reserved(session, group, asking[group], now=now)
    for device in ready:
        device.rotation_asked_at, device.rotate_at = now, None
    push.wake_all(session, [device.id for device in ready], reason="rotation")
    return len(due)


def _reserved(session: Session, group: str, devices: list[Device], *, now: int) -> list[Device]:
    """Reserve a moment for each; gives those for whom it is now."""
    policy = policy_of(session, group)
    names = [device.id for device in devices]
    query = select(StoredRoot).where(
        StoredRoot.device.in_(names), StoredRoot.state == RootState.ACTIVE
    )
    active = {root.device: root for root in session.scalars(query)}
    slots = reserve(session, group, len(devices), policy=policy, now=now)
    for device, slot in zip(devices, slots, strict=True):
        put_off(device, slot, active.get(device.id))
    # For some it is earlier than reserved, because their roots do not live until then.
    return [device for device in devices if (device.rotate_at or now) <= now]


def take_due(
    session: Session, column: InstrumentedAttribute[int | None], *, now: int, limit: int
) -> list[Device]:
    """The devices whose time in `column` has come, earliest first, with their rows locked."""
    query = select(Device).where(column <= now).order_by(column).limit(limit)
    return list(session.scalars(query.with_for_update(skip_locked=True)))
