"""Devices in the database: finding them, and noting what an appraisal came to."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import DeviceAmbiguousError, DeviceUnknownError
from hwtrust.verify.appraise import History, Verdict
from hwtrust.verify.evidence import KnownDevice
from hwtrust.wire.messages import Finding, Standing
from hwtrust.wire.structures import PcrSelection, Public
from hwtrust_backend.enrolment.models import Device

LAST_EPOCH = 2**63 - 1
"""What a BIGINT holds; no real counter comes near it."""
_SHOWN = 20


def lock_device(session: Session, device: str) -> Device:
    """The device, with its row locked until the end of the transaction.

    Raises:
        DeviceUnknownError: it is not enrolled.
    """
    row = session.get(Device, device, with_for_update=True)
    if row is None:
        raise DeviceUnknownError("this device is not enrolled here")
    return row


def find_device(session: Session, prefix: str) -> Device:
    """The one device whose name (hexadecimal) begins with `prefix`.

    Raises:
        DeviceUnknownError: there is none.
        DeviceAmbiguousError: there is more than one.
    """
    begin = prefix.lower()
    query = select(Device).where(Device.id.startswith(begin, autoescape=True)).limit(2)
    found = list(session.scalars(query))
    if not begin or not found:
        raise DeviceUnknownError(f"no device has a name that begins with {prefix[:_SHOWN]!r}")
    if len(found) > 1:
        raise DeviceAmbiguousError(f"more than one device has a name that begins with {prefix!r}")
    return found[0]


def list_devices(session: Session) -> list[Device]:
    """Every device, by name."""
    return list(session.scalars(select(Device).order_by(Device.id)))


def known_device(device: Device) -> KnownDevice:
    """What `verify_evidence` needs to know of it."""
    return KnownDevice(
        name=device.name,
        ak=Public.decode_sized(device.ak_public),
        selection=PcrSelection.parse(device.selection),
        pcr=device.pcr,
        counter_name=device.counter_name,
    )


def history_of(device: Device) -> History:
    """What the next appraisal compares with."""
    return msgspec.json.decode(device.history, type=History)


def findings_of(device: Device) -> tuple[Finding, ...]:
    """What the last appraisal found."""
    return msgspec.json.decode(device.findings, type=tuple[Finding, ...])


def note_verdict(device: Device, verdict: Verdict, *, now: int) -> None:
    """Store what an appraisal came to.

    The history stays as it was where the device failed: a reset count that fell
    must still have fallen at the next attestation.
    """
    claims = verdict.claims
    if device.standing is not verdict.standing:
        device.standing, device.standing_since = verdict.standing, now
    device.findings = msgspec.json.encode(verdict.findings)
    device.attested_at = now
    device.release = claims.binding.release
    device.counter = min(claims.counter, LAST_EPOCH)
    if verdict.standing is not Standing.FAILED:
        device.history = msgspec.json.encode(History.of(claims, observed_ms=now))
