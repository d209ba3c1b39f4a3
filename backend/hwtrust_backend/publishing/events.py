"""Events that an application reports, by its device or by its own server.

Rules:
1. Which kinds make a root due is the group's policy. Another kind is noted in
   the audit trail, and nothing follows.
2. A device reports so many at a time; more are refused before anything is noted.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

from hwtrust.errors import EventLimitError
from hwtrust_backend import push
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.enrolment import Device
from hwtrust_backend.policies import policy_of
from hwtrust_backend.publishing.schedule import Reason, make_due, put_off, reserve

INTERVAL_MS: Final = 10 * SECOND
"""How often a device may report an event for as long as it likes."""
AT_ONCE: Final = 6
"""How many it may report at once."""


def report_event(
    session: Session, device: Device, kind: str, *, detail: str = "", by: str = "", now: int
) -> bool:
    """Note an event of the device, whose row the caller has locked; gives whether to attest now.

    Raises:
        EventLimitError: too many events of this device.
    """
    free = max(device.event_free_at, now - (AT_ONCE - 1) * INTERVAL_MS)
    if free > now:
        message = "this device has reported too many events"
        raise EventLimitError(message, retry_after_ms=free - now)
    device.event_free_at = free + INTERVAL_MS
    policy = policy_of(session, device.group)
    due = kind in policy.rotation.events and make_due(
        device, Reason.EVENT, policy=policy, now=now, detail=kind
    )
    noted = f"{kind}: {detail}" if detail else kind
    reason = noted if due else f"{noted} (nothing follows)"
    record(session, Event.EVENT_REPORTED, now=now, device=device.id, reason=reason, actor=by)
    return due and _grant(session, device, now=now)


def _grant(session: Session, device: Device, *, now: int) -> bool:
    """Grant at once what is due at once, as the rate allows."""
    if device.rotation_asked_at is None and device.rotate_at is not None:
        if device.rotate_at > now:
            return False
        policy = policy_of(session, device.group)
        (slot,) = reserve(session, device.group, 1, policy=policy, now=now)
        put_off(device, slot, None)
    if device.rotation_asked_at is None or device.rotation_asked_at > now:
        return False
    device.rotate_at = None
    push.wake(session, device.id, reason="rotation")
    return True
