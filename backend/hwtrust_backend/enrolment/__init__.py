"""Devices: how they come in, and what is known of them."""

from __future__ import annotations

from hwtrust_backend.enrolment.devices import (
    find_device,
    findings_of,
    history_of,
    known_device,
    list_devices,
    lock_device,
    note_verdict,
)
from hwtrust_backend.enrolment.models import (
    NAME_DIGITS,
    AllowedEk,
    Device,
    Enrolment,
    EnrolmentToken,
)
from hwtrust_backend.enrolment.service import Enrolments
from hwtrust_backend.enrolment.trust import EkAuthorities

__all__ = [
    "NAME_DIGITS",
    "AllowedEk",
    "Device",
    "EkAuthorities",
    "Enrolment",
    "EnrolmentToken",
    "Enrolments",
    "find_device",
    "findings_of",
    "history_of",
    "known_device",
    "list_devices",
    "lock_device",
    "note_verdict",
]
