"""Devices in the database: finding them, and noting what an appraisal came to."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    DeviceAmbiguousError,
    DeviceKindError,
    DeviceRetiredError,
    DeviceUnknownError,
)
from hwtrust.verify.appraise import History, Verdict
from hwtrust.verify.evidence import KnownDevice
from hwtrust.verify.platform import NOTHING_SEEN, PlatformClaims, PlatformState
from hwtrust.verify.policy import TPM
from hwtrust.wire.messages import Finding, Mode, Standing
from hwtrust.wire.structures import PcrSelection, Public
from hwtrust_backend.enrolment.models import Device
from hwtrust_backend.enrolment.states import AnyDevice, DeviceState

LAST_EPOCH = 2**63 - 1
"""What a BIGINT holds; no real counter comes near it."""
_SHOWN = 20

Fact = str | int | bool | list[str]
Facts = dict[str, Fact]
"""Of one device, by their names."""
_HEXADECIMAL = re.compile(r"[0-9a-f]{1,140}", re.ASCII)


class DeviceKeys(NamedTuple):
    """The part of a device's row that evidence is verified against."""

    id: str
    kind: str
    ak_public: bytes
    selection: str
    pcr: int
    counter_name: bytes

    @classmethod
    def of(cls, device: AnyDevice) -> DeviceKeys:
        """The keys of a row."""
        return cls(
            device.id,
            device.kind,
            device.ak_public,
            device.selection,
            device.pcr,
            device.counter_name,
        )

    @property
    def known(self) -> KnownDevice:
        """The same for `verify_evidence`.

        Raises:
            DeviceKindError: it is no TPM's.
        """
        require_kind(self, tpm=True)
        return _known(self)


@lru_cache(maxsize=4096)
def _known(keys: DeviceKeys) -> KnownDevice:
    return KnownDevice(
        name=bytes.fromhex(keys.id),
        ak=Public.decode_sized(keys.ak_public),
        selection=PcrSelection.parse(keys.selection),
        pcr=keys.pcr,
        counter_name=keys.counter_name,
    )


_HISTORY: Final = msgspec.json.Decoder(History)
_PLATFORM: Final = msgspec.json.Decoder(PlatformState)
_ENCODER: Final = msgspec.json.Encoder()
_KEY_COLUMNS: Final = tuple(getattr(Device, name) for name in DeviceKeys._fields)


def lock_device(session: Session, device: str) -> Device:
    """The device, with its row locked until the end of the transaction.

    Raises:
        DeviceUnknownError: it is not enrolled.
        DeviceRetiredError: it is out of service; its certificate counts no more.
    """
    row = session.get(Device, device, with_for_update=True)
    if row is None:
        raise DeviceUnknownError("this device is not enrolled here")
    if row.retired_at is not None:
        raise retired()
    return row


def require_kind(device: AnyDevice | DeviceKeys, *, tpm: bool) -> None:
    """Refuse a device that is not a TPM's, or one that is.

    Raises:
        DeviceKindError: it is of the other kind.
    """
    if tpm is not (device.kind == TPM):
        wanted = "a TPM's device" if tpm else "an enclave"
        raise DeviceKindError(f"this is for {wanted}; the device's evidence is {device.kind}")


def keys_of(session: Session, devices: Collection[str]) -> dict[str, DeviceKeys]:
    """What evidence of these devices is verified against, of those that are enrolled."""
    query = select(*_KEY_COLUMNS).where(Device.id.in_(devices))
    return {row[0]: DeviceKeys(*row) for row in session.execute(query)}


def check_may_enrol(device: Device | None) -> None:
    """Go on unless it is a device that was retired, and not readmitted since.

    Raises:
        DeviceRetiredError: it is out of service for good.
    """
    if device is not None and device.retired_at is not None and device.readmitted_at is None:
        raise retired()


def retired() -> DeviceRetiredError:
    """What a device that is out of service is told."""
    return DeviceRetiredError("this device was retired: it is out of service for good")


def take_out_of_service(device: Device, *, now: int) -> None:
    """Retire a device: it is neither waited for any more, nor owed anything."""
    device.retired_at, device.readmitted_at = now, None
    device.rotation_asked_at = device.rotate_at = None
    device.watchdog_at = device.silent_since = None
    device.query_asked_at = device.failing_since = None
    device.rotation_reason = ""


def find_device(session: Session, prefix: str, *, groups: frozenset[str] | None = None) -> Device:
    """The one device, of some groups, whose name (hexadecimal) begins with `prefix`.

    Raises:
        DeviceUnknownError: there is none.
        DeviceAmbiguousError: there is more than one.
    """
    begin = prefix.lower()
    found: list[Device] = []
    if _HEXADECIMAL.fullmatch(begin):
        # A range, which every database finds by the primary key; no digit comes behind "f".
        query = select(Device).where(Device.id >= begin, Device.id < begin + "g")
        if groups is not None:
            query = query.where(Device.group.in_(sorted(groups)))
        found = list(session.scalars(query.order_by(Device.id).limit(2)))
    if not found:
        raise DeviceUnknownError(f"no device has a name that begins with {prefix[:_SHOWN]!r}")
    if len(found) > 1:
        raise DeviceAmbiguousError(f"more than one device has a name that begins with {begin!r}")
    return found[0]


def list_devices(session: Session) -> list[Device]:
    """Every device, by name."""
    return list(session.scalars(select(Device).order_by(Device.id)))


def known_device(device: Device) -> KnownDevice:
    """What `verify_evidence` needs to know of it.

    Raises:
        DeviceKindError: it is no TPM's.
    """
    return DeviceKeys.of(device).known


def history_of(device: DeviceState) -> History:
    """What the next appraisal compares with."""
    return _HISTORY.decode(device.history)


def platform_of(device: AnyDevice) -> PlatformState:
    """What is remembered of its logs of firmware and kernel."""
    return NOTHING_SEEN if device.platform is None else _PLATFORM.decode(device.platform)


def note_platform(device: DeviceState, platform: PlatformClaims) -> None:
    """Remember what its logs came to, for the next attestation and for people."""
    device.platform = _ENCODER.encode(platform.state)
    facts = platform.facts()
    if facts:
        known = {} if device.facts is None else msgspec.json.decode(device.facts, type=Facts)
        device.facts = _ENCODER.encode(known | facts)


def findings_of(device: Device) -> tuple[Finding, ...]:
    """What the last appraisal found."""
    return msgspec.json.decode(device.findings, type=tuple[Finding, ...])


def facts_of(device: Device) -> Facts:
    """What an enclave's hardware, or a TPM device's logs, said of it last, in the field's terms."""
    return {} if device.facts is None else msgspec.json.decode(device.facts, type=Facts)


def note_findings(
    device: AnyDevice,
    standing: Standing,
    findings: tuple[Finding, ...],
    mode: Mode,
    *,
    release: str,
    now: int,
) -> None:
    """Store what was found at `now` of a device, and what it claims to run."""
    if device.standing is not standing:
        device.standing, device.standing_since = standing, now
    device.mode = mode
    device.findings = _ENCODER.encode(findings)
    if device.release != release:
        device.release, device.release_since = release, now
    device.attested_at = now


def note_verdict(device: DeviceState, verdict: Verdict, mode: Mode, *, now: int) -> None:
    """Store what an appraisal came to.

    The history stays as it was where the device failed: a reset count that fell
    must still have fallen at the next attestation.
    """
    claims, standing = verdict.claims, verdict.standing
    release = claims.binding.release
    note_findings(device, standing, verdict.findings, mode, release=release, now=now)
    device.counter = min(claims.counter, LAST_EPOCH)
    if standing is not Standing.FAILED:
        device.history = _ENCODER.encode(History.of(claims, observed_ms=now))
