"""A device's state in one structure, with the next thing to do in words.

Everything here is read from what attestations have left; nothing is decided.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Finding, Severity, Standing
from hwtrust_backend.config.clock import spell_span
from hwtrust_backend.enrolment import Device, findings_of
from hwtrust_backend.publishing import RootState, StoredRoot, roots_of

_ADVICE: Final = (
    ("log:violation", "a layer was changed while the device ran: examine it, restore, reboot"),
    ("log:", "reboot the device, so that its layers are measured from the start"),
    ("layer:", "restore the layers from their release on the device, and reboot it"),
    ("release:", "accept the release here (release accept NAME), or change it on the device"),
    ("epoch:unknown", "this database is older than the device: restore the newest, or re-enrol"),
    ("epoch:", "clear the device's TPM and enrol it again, unless you know why it went back"),
    ("clock:", "the TPM was cleared, replaced or rolled back: examine it, then enrol it again"),
    ("firmware:", "update the TPM's firmware, or lower clock.firmware_floor"),
)
"""What to do about a finding that fails a device, by the beginning of its code."""


class RootSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One root of a device. Times are UTC milliseconds."""

    epoch: int
    state: str
    release: str
    reason: str
    made_at: int
    not_after: int


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line about a device. Times are UTC milliseconds."""

    device: str
    standing: str
    since: int
    why: tuple[Finding, ...]
    release: str
    epoch: int
    """The epoch counter as last certified."""
    root: RootSummary | None
    offered: RootSummary | None
    root_age_ms: int
    tls_key: str
    enrolled_at: int
    attested_at: int
    overdue: bool
    next_step: str


def summary_of(
    session: Session, device: Device, *, now: int, offline_grace_ms: int
) -> DeviceSummary:
    """All that a list of devices shows."""
    roots = {root.state: root for root in roots_of(session, device.id)}
    active, offered = roots.get(RootState.ACTIVE), roots.get(RootState.OFFERED)
    findings = findings_of(device)
    overdue = now - device.attested_at > offline_grace_ms
    return DeviceSummary(
        device=device.id,
        standing=device.standing.value,
        since=device.standing_since,
        why=findings,
        release=device.release,
        epoch=device.counter,
        root=None if active is None else root_summary(active),
        offered=None if offered is None else root_summary(offered),
        root_age_ms=0 if active is None else now - active.made_at,
        tls_key=device.tls_kind.value,
        enrolled_at=device.enrolled_at,
        attested_at=device.attested_at,
        overdue=overdue,
        next_step=_next_step(device, findings, offered, overdue=overdue, now=now),
    )


def root_summary(root: StoredRoot) -> RootSummary:
    """What is known of a root; what is inside nobody knows any more."""
    return RootSummary(
        epoch=root.epoch,
        state=root.state.value,
        release=root.release,
        reason=root.reason,
        made_at=root.made_at,
        not_after=root.not_after,
    )


def _next_step(
    device: Device,
    findings: tuple[Finding, ...],
    offered: StoredRoot | None,
    *,
    overdue: bool,
    now: int,
) -> str:
    if device.standing is Standing.FAILED:
        return _advice(findings)
    if overdue:
        silent = spell_span(now - device.attested_at)
        return f"silent for {silent}: check that it runs and reaches the backend"
    if offered is not None:
        waited = spell_span(now - offered.made_at)
        return f"nothing: root {offered.epoch} was offered {waited} ago, the device will take it"
    if device.rotation_asked_at is not None:
        return "nothing: the next root goes out with the next attestation"
    if device.standing is Standing.INCOMPLETE:
        return "wait until all layers are loaded; if that lasts, look at the device"
    alerts = [finding.code for finding in findings if finding.severity is Severity.ALERT]
    return f"look at {', '.join(alerts)}" if alerts else "nothing"


def _advice(findings: tuple[Finding, ...]) -> str:
    for prefix, advice in _ADVICE:
        for finding in findings:
            if finding.severity is Severity.FAIL and finding.code.startswith(prefix):
                return advice
    return "look at the device"
