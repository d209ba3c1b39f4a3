"""Asking for a rotation, and everything that is known of a device."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust_backend.audit import Event, record, trail
from hwtrust_backend.enrolment import Device, find_device, list_devices
from hwtrust_backend.monitor import DeviceSummary, RootSummary, root_summary, summary_of
from hwtrust_backend.publishing import roots_of

TRAIL_LENGTH: Final = 50


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One audit record."""

    sequence: int
    at: int
    event: str
    reason: str
    evidence: str


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a device."""

    summary: DeviceSummary
    ek_source: str
    selection: str
    application_pcr: int
    base_epoch: int
    roots: tuple[RootSummary, ...]
    trail: tuple[AuditLine, ...]
    """The newest audit records, newest first."""


def device_summaries(
    session: Session, *, now: int, offline_grace_ms: int
) -> tuple[DeviceSummary, ...]:
    """Every device in one line each, by name."""
    return tuple(
        summary_of(session, device, now=now, offline_grace_ms=offline_grace_ms)
        for device in list_devices(session)
    )


def device_report(
    session: Session, prefix: str, *, now: int, offline_grace_ms: int
) -> DeviceReport:
    """Everything about the one device whose name begins with `prefix`.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
    """
    device = find_device(session, prefix)
    lines = tuple(
        AuditLine(
            sequence=row.sequence,
            at=row.at,
            event=row.event,
            reason=row.reason,
            evidence=row.evidence.hex(),
        )
        for row in trail(session, device.id, limit=TRAIL_LENGTH)
    )
    return DeviceReport(
        summary=summary_of(session, device, now=now, offline_grace_ms=offline_grace_ms),
        ek_source=device.ek_source,
        selection=device.selection,
        application_pcr=device.pcr,
        base_epoch=device.base_epoch,
        roots=tuple(root_summary(root) for root in roots_of(session, device.id)),
        trail=lines,
    )


def ask_rotation(session: Session, prefix: str, *, now: int) -> Device:
    """Have the next good attestation of a device answered with its next root.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
    """
    device = find_device(session, prefix)
    device.rotation_asked_at = now
    record(session, Event.ROTATION_ASKED, now=now, device=device.id)
    return device
