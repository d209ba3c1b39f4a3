"""Everything that is known of one device."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust_backend.admin.devices import device_named
from hwtrust_backend.admin.principals import Principal
from hwtrust_backend.audit import Entry, entry_of, trail
from hwtrust_backend.enrolment import Facts, facts_of
from hwtrust_backend.monitor import DeviceSummary, RootSummary, root_summary, summary_of
from hwtrust_backend.policies import list_groups, versions_in_force
from hwtrust_backend.publishing import roots_of

TRAIL_LENGTH: Final = 50


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a device."""

    summary: DeviceSummary
    facts: Facts
    """What an enclave's hardware said of it last, or the logs of a TPM's device; or nothing."""
    ek_source: str
    selection: str
    application_pcr: int
    base_epoch: int
    policy: str
    """The policy of its group; empty where the group has none in force."""
    policy_version: int | None
    watchdog_at: int | None
    """When it is missed, unless it attests before."""
    roots: tuple[RootSummary, ...]
    trail: tuple[Entry, ...]
    """The newest audit records, newest first."""


def device_report(session: Session, prefix: str, *, by: Principal, now: int) -> DeviceReport:
    """Everything about the one device whose name begins with `prefix`.

    Raises:
        DeviceUnknownError, DeviceAmbiguousError: not exactly one device.
    """
    device = device_named(session, prefix, by=by)
    policies = {group.name: group.policy for group in list_groups(session)}
    policy = policies.get(device.group, "")
    in_force = versions_in_force(session).get(policy)
    return DeviceReport(
        summary=summary_of(session, device, now=now),
        facts=facts_of(device),
        ek_source=device.ek_source,
        selection=device.selection,
        application_pcr=device.pcr,
        base_epoch=device.base_epoch,
        policy=policy,
        policy_version=None if in_force is None else in_force.version,
        watchdog_at=device.watchdog_at,
        roots=tuple(root_summary(root) for root in roots_of(session, device.id)),
        trail=tuple(entry_of(row) for row in trail(session, device.id, limit=TRAIL_LENGTH)),
    )
