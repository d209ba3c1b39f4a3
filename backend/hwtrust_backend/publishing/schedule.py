"""When a device gets its next root: what makes one due, and when it is granted.

    trigger ──▶ due (`rotate_at`) ──▶ granted (`rotation_asked_at`) ──▶ made, at an attestation
              windows, jitter        the group's rate

    age         two thirds of the root's life are over, less a jitter of the device's own
    release     a release was accepted (`campaigns`)
    mismatch    a device that had failed is good again
    watchdog    a device that was missed is there again
    event       its application reported one that the policy names
    asked       an administrator's word

Rules:
1. A trigger never puts off what is due earlier. Age and the administrator always
   count; the others where the group's policy names them.
2. Granting reserves a moment at the group's rate, in one row that whoever grants
   locks: replicas share the rate. A device reserves once; the moment may lie
   ahead, and then the first attestation from that moment on brings the root.
3. In the last sixth of a root's life neither window nor rate holds: a limit never
   lets a root expire.
4. Locks are taken in the order device, budget.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

from sqlalchemy import String, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from hwtrust.wire.messages import Standing
from hwtrust_backend import push
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import HOUR, MINUTE
from hwtrust_backend.db import Base, Millis
from hwtrust_backend.enrolment import AnyDevice, Device, DeviceState
from hwtrust_backend.policies import Policy
from hwtrust_backend.policies.windows import next_open
from hwtrust_backend.publishing.live import AnyRoot, LiveRoot
from hwtrust_backend.publishing.models import StoredRoot
from hwtrust_backend.webhooks import Topic, announce


class Reason(StrEnum):
    """Why a root is replaced."""

    AGE = "age"
    ASKED = "asked"
    RELEASE = "release"
    MISMATCH = "mismatch"
    WATCHDOG = "watchdog"
    EVENT = "event"


_ALWAYS: Final = frozenset({Reason.AGE, Reason.ASKED})
_AT_ONCE: Final = frozenset({Reason.EVENT})
"""What one device does by itself needs no jitter; the rate holds for it all the same."""
_REASON_LENGTH: Final = 40

MISSING_MS: Final = HOUR
"""How often a root is looked at that is due on a device that is missing."""


class RotationBudget(Base):
    """How fast the roots of a group are replaced: a minute's worth of them at once, at most."""

    __tablename__ = "rotation_budgets"

    group: Mapped[str] = mapped_column(String(100), primary_key=True)
    free_at: Mapped[Millis]
    """The earliest moment that nobody has reserved; what lies behind is saved up."""


# --- what makes a root due -----------------------------------------------------------


def make_due(
    device: AnyDevice, reason: Reason, *, policy: Policy, now: int, detail: str = ""
) -> bool:
    """Note that the device's root is due; gives whether this reason counts for it.

    `detail` is told with the reason. The caller holds the device's row.
    """
    counts = reason in _ALWAYS or reason.value in policy.rotation.triggers
    if not counts or device.retired_at is not None:
        return False
    if device.rotation_asked_at is None:
        at = due_at(device.id, reason, policy=policy, now=now)
        if device.rotate_at is None or at < device.rotate_at:
            device.rotate_at = at
            device.rotation_reason = " ".join(filter(None, (reason.value, detail)))[:_REASON_LENGTH]
    return True


def due_at(device: str, reason: Reason, *, policy: Policy, now: int) -> int:
    """When what is due now may begin: in an open window, and not all devices at once."""
    windows = policy.rotation.windows
    opened = next_open(windows, now)
    span = 0 if reason in _AT_ONCE else policy.rotation.jitter_ms
    # Beyond the window's end there would be no spreading: all would meet at the next one.
    span = min(span, *(window.length_ms for window in windows)) if windows else span
    return next_open(windows, opened + jitter(device, span))


def jitter(device: str, span_ms: int) -> int:
    """A device's own part of a span, the same every time."""
    drawn = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big")
    return drawn * span_ms >> 64


def age_due_at(root: AnyRoot, *, policy: Policy) -> int:
    """When a root has to be replaced for its age."""
    begun = _begun(root)
    span = min(root.not_after - begun, policy.root_lifetime_ms)
    early = jitter(root.device, min(policy.rotation.jitter_ms, span // 6))
    opened = next_open(policy.rotation.windows, begun + span * 2 // 3 - early)
    return min(opened, urgent_at(root))


def urgent_at(root: AnyRoot) -> int:
    """From when on neither window nor rate keeps a root from being replaced (rule 3)."""
    return root.not_after - (root.not_after - _begun(root)) // 6


def ask(session: Session, device: Device, *, now: int, reason: str = Reason.ASKED) -> None:
    """Grant a root at once: an administrator has asked. A waiting device is told."""
    device.rotation_asked_at, device.rotate_at = now, None
    device.rotation_reason = reason[:_REASON_LENGTH]
    push.wake(session, device.id, reason="rotation")


# --- what an attestation says of the schedule ------------------------------------------


def enrolled(device: Device, root: StoredRoot, *, policy: Policy, now: int) -> None:
    """Begin the schedule of a device that has just got its first root."""
    device.rotation_asked_at = device.silent_since = None
    device.rotate_at, device.rotation_reason = age_due_at(root, policy=policy), Reason.AGE.value
    device.watchdog_at = _missed_at(policy, now)


def attested(
    session: Session, device: DeviceState, *, before: Standing, policy: Policy, now: int
) -> None:
    """Note that a device was heard of, `before` being its standing until now."""
    device.watchdog_at = _missed_at(policy, now)
    if device.silent_since is not None:
        reason = f"silent since {device.silent_since}"
        record(session, Event.WATCHDOG_HEARD, now=now, device=device.id, reason=reason)
        data = {"kind": device.kind, "group": device.group, "since": device.silent_since}
        announce(session, Topic.HEARD, device=device.id, data=data, now=now)
        device.silent_since = None
        due, asked = device.rotate_at, device.rotation_asked_at
        if asked is None and due is not None and due - now <= MISSING_MS:
            # It was put off while nobody was there to take it, or is due soon.
            again = due_at(device.id, Reason.WATCHDOG, policy=policy, now=now)
            device.rotate_at = min(due, again)
        make_due(device, Reason.WATCHDOG, policy=policy, now=now)
    if before is Standing.FAILED and device.standing is not Standing.FAILED:
        make_due(device, Reason.MISMATCH, policy=policy, now=now)


def granted(
    session: Session, device: DeviceState, active: LiveRoot, *, policy: Policy, now: int
) -> str:
    """Why this attestation of a good device is answered with the next root; empty: it is not."""
    asked = device.rotation_asked_at
    if asked is not None and asked <= now:
        return device.rotation_reason or Reason.ASKED.value
    by_age = age_due_at(active, policy=policy)
    if asked is None and (device.rotate_at is None or by_age < device.rotate_at):
        device.rotate_at, device.rotation_reason = by_age, Reason.AGE.value
    reason = device.rotation_reason or Reason.AGE.value
    if now >= urgent_at(active):
        return reason
    if asked is None and device.rotate_at is not None and device.rotate_at <= now:
        (slot,) = reserve(session, device.group, 1, policy=policy, now=now)
        if slot <= now:
            return reason
        put_off(device, slot, active)
    return ""


def put_off(device: AnyDevice, slot: int, active: AnyRoot | None) -> None:
    """Grant the root from a reserved moment on; it is looked at again then."""
    device.rotation_asked_at = slot
    device.rotate_at = slot if active is None else min(slot, urgent_at(active))


def made(device: DeviceState) -> None:
    """Note that the next root is there: nothing is due until it is confirmed."""
    device.rotation_asked_at = device.rotate_at = None
    device.rotation_reason = ""


# --- the rate of a group -------------------------------------------------------------


def reserve(
    session: Session, group: str, count: int, *, policy: Policy, now: int
) -> tuple[int, ...]:
    """So many moments, in order, at the group's rate and in its windows; `now` at the earliest."""
    windows = policy.rotation.windows
    interval = max(MINUTE // policy.rotation.per_minute, 1)
    budget = _locked_budget(session, group)
    free = max(budget.free_at, now - MINUTE + interval)
    is_open = next_open(windows, now) == now
    slots = []
    for _ in range(count):
        at = now if is_open and free <= now else next_open(windows, max(free, now))
        slots.append(at)
        # What is saved up is used up first.
        free = (free if at == now else at) + interval
    budget.free_at = free
    session.flush()
    return tuple(slots)


def _locked_budget(session: Session, group: str) -> RotationBudget:
    query = (
        select(RotationBudget)
        .where(RotationBudget.group == group)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    budget = session.scalars(query).one_or_none()
    if budget is not None:
        return budget
    # Of replicas that get here at once, one inserts and the others wait for it.
    insert = 'INSERT INTO rotation_budgets ("group", free_at) VALUES (:name, 0)'
    session.execute(text(f"{insert} ON CONFLICT DO NOTHING"), {"name": group})
    return session.scalars(query).one()


def _begun(root: AnyRoot) -> int:
    return root.made_at if root.confirmed_at is None else root.confirmed_at


def _missed_at(policy: Policy, now: int) -> int | None:
    return now + policy.watchdog_ms if policy.watchdog_ms else None
