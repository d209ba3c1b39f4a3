"""A device's state in one structure, with the next thing to do in words.

Everything here is read from what attestations have left; nothing is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.verify.policy import TPM
from hwtrust.wire.messages import Finding, Severity, Standing
from hwtrust_backend.config.clock import spell_span
from hwtrust_backend.enrolment import (
    Device,
    KeptFailure,
    failure_of,
    findings_of,
    plain,
    step_label,
)
from hwtrust_backend.monitor.updates import Update, wanted_of
from hwtrust_backend.policies import policy_of
from hwtrust_backend.publishing import RootState, StoredRoot

_ON_ENCLAVES: Final = tuple(
    (f"{kind}:{problem}", advice)
    for problem, advice in (
        ("debug", "start it again without debug mode, and rotate whatever it has held"),
        ("absent", "add what the policy's table of its kind leaves out, and activate it"),
        ("tcb", "have the host's firmware updated, or lower what the policy asks for"),
        ("firmware", "have the host's firmware updated, or lower what the policy asks for"),
        ("", "if you changed what runs there, name it in the policy; if not, examine it"),
    )
    for kind in ("snp", "tdx", "sgx", "nitro", "cca", "azure", "nvidia")
)
"""The same of enclaves; what is worst comes first."""

_ON_PLAIN_ENCLAVES: Final = (
    ("policy:", "add what the policy of its group leaves out, and activate it"),
    ("log:violation", "a layer was changed while the enclave ran: examine it, and restart it"),
    ("log:", "restart the enclave, so that its layers are measured from the start"),
    ("epoch:", "restart the enclave, so that it asks for the present root"),
)
"""Where an enclave takes something else than what holds for a TPM's device."""

_ADVICE: Final = (
    ("policy:", "add what the policy of its group leaves out, and activate it"),
    ("log:violation", "a layer was changed while the device ran: examine it, restore, reboot"),
    ("pcr:value", "if you changed the platform, name its value in the policy; if not, examine it"),
    ("pcr:", "name the PCR in the policy of its group, or enrol it with another selection"),
    ("evidence:", "accept this kind of evidence in the policy, or move it to another group"),
    ("log:", "reboot the device, so that its layers are measured from the start"),
    ("layer:", "restore the layers from their release on the device, and reboot it"),
    ("release:outdated", "see on the device why it does not update, or give it a longer term"),
    ("release:", "accept the release here (release accept NAME), or change it on the device"),
    ("epoch:unknown", "this database is older than the device: restore the newest, or re-enrol"),
    ("epoch:", "clear the device's TPM and enrol it again, unless you know why it went back"),
    ("clock:", "the TPM was cleared, replaced or rolled back: examine it, then enrol it again"),
    ("firmware:floor", "update the TPM's firmware, or lower the floor in the policy"),
    ("firmware:absent", "add what the policy's table firmware_log leaves out, and activate it"),
    ("firmware:", "if you changed the platform, name it in the policy; if not, examine it"),
    ("ima:absent", "add what the policy's table ima leaves out, and activate it"),
    ("ima:", "compare the file with what you deployed; name it in the policy, or restore it"),
    ("register:", "restart the enclave, so that its layers are measured from the start"),
    *_ON_ENCLAVES,
)
"""What to do about a finding that fails a device, by the beginning of its code."""

_AFTER_STEP: Final = {
    "verify": "compare its layers with their release; restore them, or update it",
    "measure": "see on the device whether the layer's files are there and can be read",
    "extend": "see on the device whether its TPM answers",
    "activate": "see in the application's log on the device why the layer does not start",
    "unseal": "have it attest (device query); where that finds nothing, reboot it",
    "open": "see in its log why the key store does not open; do not delete the store",
    "stage": "see that it reaches the repository and has room on the disk; it tries again",
    "confirm": "it went back to the last release: examine the new one before it goes further",
    "watch": "a layer was changed while the device ran: examine it, restore, reboot",
    "tpm": "see whether its TPM is plugged in and answers",
    "other": "look at the code, and at the device's log",
}
"""What to do about a failure that a device reports, by its step."""


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
    kind: str
    """What its evidence is: `tpm`, or an enclave's."""
    standing: str
    since: int
    why: tuple[Finding, ...]
    release: str
    release_since: int | None
    """Since when it claims that release; absent: for longer than is known."""
    wanted: str
    """The release that it should run; empty where none can be had."""
    update: Update
    """Whether it is told to take the wanted one."""
    epoch: int
    """The epoch counter as last certified."""
    root: RootSummary | None
    offered: RootSummary | None
    root_age_ms: int
    tls_key: str
    enrolled_at: int
    attested_at: int
    overdue: bool
    group: str
    label: str
    mode: str
    locked_at: int | None
    lock_reason: str
    retired_at: int | None
    readmitted_at: int | None
    silent_since: int | None
    rotate_at: int | None
    rotation_asked_at: int | None
    rotation_reason: str
    failure: KeptFailure | None
    """What it last reported to have failed."""
    query_asked_at: int | None
    """Since when somebody waits for what it runs."""
    next_step: str


def summary_of(session: Session, device: Device, *, now: int) -> DeviceSummary:
    """All that a list of devices shows."""
    (summary,) = summaries_of(session, [device], now=now)
    return summary


def summaries_of(
    session: Session, devices: Sequence[Device], *, now: int
) -> tuple[DeviceSummary, ...]:
    """The same for a page of devices, with one query for all of their roots."""
    known: dict[str, list[StoredRoot]] = {device.id: [] for device in devices}
    living = (RootState.ACTIVE, RootState.OFFERED)
    query = select(StoredRoot).where(StoredRoot.device.in_(known), StoredRoot.state.in_(living))
    for root in session.scalars(query):
        known[root.device].append(root)
    return tuple(_summary(session, device, known[device.id], now=now) for device in devices)


def _summary(
    session: Session, device: Device, living: Iterable[StoredRoot], *, now: int
) -> DeviceSummary:
    roots = {root.state: root for root in living}
    active, offered = roots.get(RootState.ACTIVE), roots.get(RootState.OFFERED)
    findings = findings_of(device)
    wanted = wanted_of(session, device, now=now)
    overdue = now - device.attested_at > policy_of(session, device.group).watchdog_ms
    return DeviceSummary(
        device=device.id,
        kind=device.kind,
        standing=device.standing.value,
        since=device.standing_since,
        why=findings,
        release=plain(device.release),
        release_since=device.release_since,
        wanted=wanted.release,
        update=wanted.update,
        epoch=device.counter,
        root=None if active is None else root_summary(active),
        offered=None if offered is None else root_summary(offered),
        root_age_ms=0 if active is None else now - active.made_at,
        tls_key=device.tls_kind.value,
        enrolled_at=device.enrolled_at,
        attested_at=device.attested_at,
        overdue=overdue,
        group=device.group,
        label=device.label,
        mode=device.mode.value,
        locked_at=device.locked_at,
        lock_reason=device.lock_reason,
        retired_at=device.retired_at,
        readmitted_at=device.readmitted_at,
        silent_since=device.silent_since,
        rotate_at=device.rotate_at,
        rotation_asked_at=device.rotation_asked_at,
        rotation_reason=device.rotation_reason,
        failure=failure_of(device),
        query_asked_at=device.query_asked_at,
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
    if device.retired_at is not None:
        waits = "wait until it enrols again" if device.readmitted_at is not None else "nothing"
        return f"{waits}: it is retired"
    if device.locked_at is not None:
        return "unlock it, once what it was locked for is settled"
    if device.standing is Standing.FAILED:
        return advice_on(findings, device.kind)
    if overdue:
        silent = spell_span(now - device.attested_at)
        return f"silent for {silent}: check that it runs and reaches the backend"
    failure = failure_of(device)
    if failure is not None and failure.over_at is None:
        return advice_on_failure(failure)
    return _of_good(device, findings, offered, now=now)


def _of_good(
    device: Device, findings: tuple[Finding, ...], offered: StoredRoot | None, *, now: int
) -> str:
    """The next step for a device that is heard of, and that nothing speaks against."""
    if offered is not None:
        waited = spell_span(now - offered.made_at)
        return f"nothing: root {offered.epoch} was offered {waited} ago, the device will take it"
    if device.rotation_asked_at is not None:
        return "nothing: the next root goes out with the next attestation"
    if device.standing is Standing.INCOMPLETE:
        return "wait until all layers are loaded; if that lasts, look at the device"
    alerts = [finding.code for finding in findings if finding.severity is Severity.ALERT]
    return f"look at {', '.join(alerts)}" if alerts else "nothing"


def advice_on_failure(failure: KeptFailure) -> str:
    """The next step for a device that reports a failure, by the step of it."""
    advice = _AFTER_STEP[step_label(failure.step)]
    return f"it reports that {failure.step} failed: {advice}"


def advice_on(findings: tuple[Finding, ...], kind: str = TPM) -> str:
    """The next step for a device of a kind that has failed: of its findings, what comes first."""
    for prefix, advice in _ADVICE if kind == TPM else (*_ON_PLAIN_ENCLAVES, *_ADVICE):
        for finding in findings:
            if finding.severity is Severity.FAIL and finding.code.startswith(prefix):
                return advice
    return "look at the device"
