"""Which release a device should run, and whether it is told to: as its next attestation will."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from sqlalchemy.orm import Session

from hwtrust.verify.policy import order_by
from hwtrust_backend.enrolment import Device, findings_of, rules_of


class Update(StrEnum):
    """What a device that does not run the wanted release is told."""

    NONE = "none"
    """Nothing: it runs what is wanted, or may stay with what it runs."""
    ORDERED = "ordered"
    FORCED = "forced"
    """It updates at once, or is locked."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The release that a device should run; empty where none can be had."""

    release: str
    update: Update


def wanted_of(session: Session, device: Device, *, now: int) -> Wanted:
    """The release that is wanted of a device, by its group's policy and its last attestation."""
    rules = rules_of(session, device.group).rules
    found = order_by(device.release, findings_of(device), rules=rules, now_ms=now)
    update = Update.NONE if found is None else Update.FORCED if found.forced else Update.ORDERED
    return Wanted(release=rules.updates.wanted or "", update=update)
