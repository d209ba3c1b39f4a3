"""What is done to one device, and by whom.

    viewer          sees it
    operator        labels, rotates, locks, unlocks
    administrator   moves to another group, retires, readmits

Rules:
1. A device of a group that the principal does not see is unknown.
2. No device is ever deleted: its roots and its trail say what has been.
3. A retired device is refused, whatever certificate it shows. Readmitted, it may
   enrol again, and is in service from then on.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from hwtrust.errors import DeviceStateError, DeviceUnknownError
from hwtrust.wire.messages import Mode
from hwtrust_backend import publishing, push
from hwtrust_backend.admin.fields import label_of, reason_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import utc_text
from hwtrust_backend.enrolment import Device, find_device, take_out_of_service
from hwtrust_backend.policies import group_of
from hwtrust_backend.publishing import schedule
from hwtrust_backend.webhooks import Topic, announce


def device_named(session: Session, prefix: str, *, by: Principal) -> Device:
    """The one device, of those that `by` sees, whose name begins with `prefix`.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one.
    """
    by.require(Role.VIEWER)
    return find_device(session, prefix, groups=by.groups)


def change_device(
    session: Session,
    prefix: str,
    *,
    label: str | None = None,
    group: str | None = None,
    by: Principal,
    now: int,
) -> Device:
    """Give a device another label, or move it to another group.

    The group's policy counts from its next attestation on.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        PolicyUnknownError: there is no such group.
    """
    by.require(Role.OPERATOR)
    device = _locked(session, prefix, by)
    changes = []
    if label is not None and label != device.label:
        device.label = label_of(label)
        changes.append(f"label {device.label!r}")
    if group is not None and group != device.group:
        by.require(Role.ADMINISTRATOR)
        changes.append(f"group {device.group} to {see_group(session, group, by=by)}")
        device.group = group
    if changes:
        reason = ", ".join(changes)
        record(
            session, Event.DEVICE_CHANGED, now=now, device=device.id, reason=reason, actor=by.name
        )
    return device


def ask_rotation(
    session: Session, prefix: str, *, by: Principal, now: int, reason: str = ""
) -> Device:
    """Have the next good attestation of a device answered with its next root.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: it is retired.
    """
    by.require(Role.OPERATOR)
    why = label_of(reason)
    device = _in_service(_locked(session, prefix, by))
    schedule.ask(session, device, now=now)
    _note(session, Event.ROTATION_ASKED, device, why, by=by, now=now)
    return device


def report_event(
    session: Session, prefix: str, *, kind: str, detail: str, by: Principal, now: int
) -> bool:
    """Note an event that an application's server reports of a device; gives whether it is woken.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: it is retired.
        EventLimitError: too many events of this device.
    """
    by.require(Role.OPERATOR)
    device = _in_service(_locked(session, prefix, by))
    return publishing.report_event(session, device, kind, detail=detail, by=by.name, now=now)


def lock(session: Session, prefix: str, *, reason: str, by: Principal, now: int) -> Device:
    """Lock a device: it fails from now on, gets no root and no approval, and is told why.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: it is retired.
    """
    by.require(Role.OPERATOR)
    why = reason_of(reason)
    device = _in_service(_locked(session, prefix, by))
    device.locked_at = now if device.locked_at is None else device.locked_at
    device.lock_reason, device.mode = why, Mode.LOCKED
    _note(session, Event.DEVICE_LOCKED, device, device.lock_reason, by=by, now=now)
    _announce(session, Topic.LOCKED, device, why, by=by, now=now)
    push.wake(session, device.id, reason="locked")
    return device


def unlock(session: Session, prefix: str, *, by: Principal, now: int, reason: str = "") -> Device:
    """Lift a lock: the next attestation decides what the device may do.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: nobody has locked it.
    """
    by.require(Role.OPERATOR)
    why = label_of(reason)
    device = _in_service(_locked(session, prefix, by))
    if device.locked_at is None:
        raise DeviceStateError("no administrator has locked this device")
    device.locked_at, device.lock_reason = None, ""
    _note(session, Event.DEVICE_UNLOCKED, device, why, by=by, now=now)
    _announce(session, Topic.UNLOCKED, device, why, by=by, now=now)
    push.wake(session, device.id, reason="unlocked")
    return device


def retire(session: Session, prefix: str, *, reason: str, by: Principal, now: int) -> Device:
    """Take a device out of service for good.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: it is retired already.
    """
    by.require(Role.ADMINISTRATOR)
    why = reason_of(reason)
    device = _in_service(_locked(session, prefix, by))
    take_out_of_service(device, now=now)
    _note(session, Event.DEVICE_RETIRED, device, why, by=by, now=now)
    _announce(session, Topic.RETIRED, device, why, by=by, now=now)
    return device


def readmit(session: Session, prefix: str, *, reason: str, by: Principal, now: int) -> Device:
    """Let a retired device enrol again; until it has, it stays refused.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
        DeviceStateError: it is not retired.
    """
    by.require(Role.ADMINISTRATOR)
    why = reason_of(reason)
    device = _locked(session, prefix, by)
    if device.retired_at is None:
        raise DeviceStateError("this device is not retired")
    device.readmitted_at = now
    _note(session, Event.DEVICE_READMITTED, device, why, by=by, now=now)
    _announce(session, Topic.READMITTED, device, why, by=by, now=now)
    return device


def see_group(session: Session, group: str, *, by: Principal) -> str:
    """The group's name, if it exists for this principal.

    Raises:
        PolicyUnknownError: there is none.
    """
    return group_of(session, group if by.sees(group) else "").name


def _locked(session: Session, prefix: str, by: Principal) -> Device:
    """The device with its row locked, as `by` sees it now.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one.
    """
    found = find_device(session, prefix, groups=by.groups)
    device = session.get(Device, found.id, with_for_update=True, populate_existing=True)
    if device is None or not by.sees(device.group):
        raise DeviceUnknownError("no such device")
    return device


def _in_service(device: Device) -> Device:
    if device.retired_at is not None:
        since = utc_text(device.retired_at)
        message = f"this device is retired since {since}; readmit lets it enrol again"
        raise DeviceStateError(message, device=device.id)
    return device


def _note(
    session: Session, event: Event, device: Device, reason: str, *, by: Principal, now: int
) -> None:
    record(session, event, now=now, device=device.id, reason=reason, actor=by.name)


def _announce(
    session: Session, topic: Topic, device: Device, reason: str, *, by: Principal, now: int
) -> None:
    data = {"kind": device.kind, "group": device.group, "by": by.name, "reason": reason}
    announce(session, topic, device=device.id, data=data, now=now)
