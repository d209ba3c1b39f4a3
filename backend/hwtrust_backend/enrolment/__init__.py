"""Devices: how they come in, and what is known of them."""

from __future__ import annotations

from hwtrust_backend.enrolment.authorities import EkAuthorities
from hwtrust_backend.enrolment.devices import (
    DeviceKeys,
    Fact,
    Facts,
    facts_of,
    find_device,
    findings_of,
    history_of,
    keys_of,
    known_device,
    list_devices,
    lock_device,
    note_findings,
    note_platform,
    note_verdict,
    platform_of,
    require_kind,
    retired,
)
from hwtrust_backend.enrolment.failures import (
    KeptFailure,
    failure_of,
    note_failure,
    plain,
    settle,
    spelled,
    step_label,
)
from hwtrust_backend.enrolment.kinds import DeviceKind
from hwtrust_backend.enrolment.models import (
    NAME_DIGITS,
    AllowedEk,
    Device,
    EkAuthority,
    EnclaveAuthority,
    Enrolment,
    EnrolmentToken,
)
from hwtrust_backend.enrolment.rules import (
    GroupRules,
    Releases,
    known_releases,
    rules_by,
    rules_of,
)
from hwtrust_backend.enrolment.service import Enrolments, forget_expired
from hwtrust_backend.enrolment.states import (
    AnyDevice,
    DeviceState,
    lock_states,
    write_states,
)

__all__ = [
    "NAME_DIGITS",
    "AllowedEk",
    "AnyDevice",
    "Device",
    "DeviceKeys",
    "DeviceKind",
    "DeviceState",
    "EkAuthorities",
    "EkAuthority",
    "EnclaveAuthority",
    "Enrolment",
    "EnrolmentToken",
    "Enrolments",
    "Fact",
    "Facts",
    "GroupRules",
    "KeptFailure",
    "Releases",
    "facts_of",
    "failure_of",
    "find_device",
    "findings_of",
    "forget_expired",
    "history_of",
    "keys_of",
    "known_device",
    "known_releases",
    "list_devices",
    "lock_device",
    "lock_states",
    "note_failure",
    "note_findings",
    "note_platform",
    "note_verdict",
    "plain",
    "platform_of",
    "require_kind",
    "retired",
    "rules_by",
    "rules_of",
    "settle",
    "spelled",
    "step_label",
    "write_states",
]
