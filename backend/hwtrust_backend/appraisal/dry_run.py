"""What would a policy do to the devices that are there? Tried on the evidence that is kept.

    document + kept evidence ── dry_run ──▶ DryRun: who would fail, and why

Rules:
1. Nothing is changed, and nothing that is told depends on when it was asked:
   clock rules are judged as of the moment in which the evidence came, the term of
   a release as of the last attestation, which said the same.
2. What is compared is the standing by this policy against the standing by the
   one in force, both from the same evidence: what changes is the policy's doing.
3. A device without kept evidence is counted, and nothing is said of it.
4. A device whose TLS key the policy refuses would not even get a verdict: it fails.
5. Logs of firmware and kernel are not kept, but what was found in them is. By other
   rules for them a device is not complete until it has sent them again: it is counted.
6. An enclave's evidence is verified as of the moment in which it came, by what
   enclaves are verified by now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hwtrust.errors import TlsKeyRefusedError
from hwtrust.verify.appraise import FINDINGS, FIRST_SIGHT
from hwtrust.verify.enclaves.judge import ENCLAVE_FINDINGS, judge_enclave
from hwtrust.verify.enclaves.kinds import FINDINGS as KIND_FINDINGS
from hwtrust.verify.enclaves.kinds import EnclaveTrust
from hwtrust.verify.evidence import Claims
from hwtrust.verify.platform import ALL_FINDINGS, appraise_platform
from hwtrust.verify.policy import POLICY_FINDINGS, Rules, judge
from hwtrust.wire.messages import Finding, Mode, Severity, Standing
from hwtrust_backend.appraisal.service import accepted_kind
from hwtrust_backend.appraisal.stored import KeptEnclave, stored_claims
from hwtrust_backend.enrolment import Device, known_releases, platform_of, rules_by, rules_of
from hwtrust_backend.policies import Policy, StoredEvidence

EXAMPLES: Final = 20
"""Devices that are named; the others are counted."""
_PAGE: Final = 500
_REFUSED_KEY: Final = "TLS keys of this kind are not accepted"


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A device whose standing or mode would change."""

    device: str
    standing: str
    would_be: str
    mode: str
    findings: tuple[str, ...]
    """`code: message`, of what fails."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why devices would fail: a finding's code, and how many have it."""

    code: str
    devices: int
    message: str
    """The finding of the first of them."""


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would come to.

    `examined` devices had evidence kept, `without_evidence` had none; `failing`
    would fail, `newly_failing` of them do not fail by the policy in force, and
    `recovering` fail now and would not. `incomplete` would neither fail nor get a
    root: layers, or logs that it asks for, are missing. `unreadable` evidence does
    not verify any more.
    """

    group: str
    summary: str
    """The same in one sentence, for people."""
    absent: tuple[str, ...]
    examined: int
    without_evidence: int
    unreadable: int
    failing: int
    newly_failing: int
    recovering: int
    incomplete: int
    modes: dict[str, int]
    reasons: tuple[Reason, ...]
    examples: tuple[Example, ...]


def dry_run(
    session: Session,
    policy: Policy,
    *,
    group: str,
    trust: EnclaveTrust,
    limit: int | None = None,
) -> DryRun:
    """Hold a group's kept evidence to `policy`; at most `limit` devices (None: all).

    `trust` is what enclaves are verified by.
    """
    trial = rules_by(policy, known_releases(session))
    present = rules_of(session, group)
    counted, modes, codes = Counter[str](), Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    examples: list[Example] = []
    for device, at, claims in islice(_all(session, group, trust), limit):
        if claims is None:
            counted["unreadable"] += 1
            continue
        was = _outcome(device, claims, present.policy, present.rules, at)
        would = _outcome(device, claims, policy, trial, at)
        failed = would.standing is Standing.FAILED
        failed_before = was.standing is Standing.FAILED
        counted["examined"] += 1
        counted["failing"] += failed
        counted["newly_failing"] += failed and not failed_before
        counted["recovering"] += failed_before and not failed
        counted["incomplete"] += would.standing is Standing.INCOMPLETE
        modes[would.mode.value] += 1
        codes.update(dict.fromkeys(finding.code for finding in would.failures).keys())
        for finding in would.failures:
            first.setdefault(finding.code, finding.message)
        changed = (was.standing, was.mode) != (would.standing, would.mode)
        if changed and len(examples) < EXAMPLES:
            examples.append(_example(device, was, would))
    return DryRun(
        group=group,
        summary=_summary(counted, codes, policy.absent),
        absent=policy.absent,
        examined=counted["examined"],
        without_evidence=_without_evidence(session, group),
        unreadable=counted["unreadable"],
        failing=counted["failing"],
        newly_failing=counted["newly_failing"],
        recovering=counted["recovering"],
        incomplete=counted["incomplete"],
        modes=dict(modes),
        reasons=tuple(
            Reason(code=code, devices=count, message=first[code])
            for code, count in codes.most_common()
        ),
        examples=tuple(examples),
    )


def _all(
    session: Session, group: str, trust: EnclaveTrust
) -> Iterator[tuple[Device, int, Claims | KeptEnclave | None]]:
    after = ""
    while True:
        page = list(stored_claims(session, group=group, after=after, limit=_PAGE, trust=trust))
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1][0].id
        # A million devices are looked at, and not all of them kept.
        session.expunge_all()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a policy makes of a device."""

    standing: Standing
    mode: Mode
    failures: tuple[Finding, ...]


def _outcome(
    device: Device, claims: Claims | KeptEnclave, policy: Policy, rules: Rules, at: int
) -> _Outcome:
    found = (
        _of_enclave(device, claims, policy, rules, at)
        if isinstance(claims, KeptEnclave)
        else _of_tpm(device, claims, rules, at)
    )
    try:
        accepted_kind(policy, device, claims.binding.tls_key)
    except TlsKeyRefusedError as error:
        # (4): it is refused before it is judged.
        refused = Finding(code=error.code, severity=Severity.FAIL, message=error.message)
        return _Outcome(Standing.FAILED, Mode.LOCKED, (refused, *found.failures))
    return found


def _of_tpm(device: Device, claims: Claims, rules: Rules, at: int) -> _Outcome:
    platform = None
    if rules.platform is not None:
        # (5): what is remembered.
        platform = appraise_platform(
            claims, firmware_log=b"", ima=None, rules=rules.platform, known=platform_of(device)
        )
    judgement = judge(
        claims,
        rules=rules,
        platform=platform,
        history=FIRST_SIGHT,
        epochs=frozenset({claims.counter, claims.binding.epoch}),
        locked=_lock_of(device),
        now_ms=at,
        term_ms=max(at, device.attested_at),
    )
    verdict = judgement.verdict
    return _Outcome(verdict.standing, judgement.mode, _failures(verdict.findings))


def _of_enclave(
    device: Device, kept: KeptEnclave, policy: Policy, rules: Rules, at: int
) -> _Outcome:
    judgement = judge_enclave(
        kept.claims,
        binding=kept.binding,
        log=kept.log,
        rules=rules,
        enclaves=policy.enclaves,
        register=policy.register,
        epochs=frozenset({kept.binding.epoch}),
        locked=_lock_of(device),
        # Nothing but the term of a release is judged by it.
        now_ms=max(at, device.attested_at),
    )
    return _Outcome(judgement.standing, judgement.mode, _failures(judgement.findings))


def _lock_of(device: Device) -> str | None:
    return None if device.locked_at is None else device.lock_reason


def _failures(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.severity is Severity.FAIL)


def _example(device: Device, was: _Outcome, would: _Outcome) -> Example:
    return Example(
        device=device.id,
        standing=was.standing.value,
        would_be=would.standing.value,
        mode=would.mode.value,
        findings=tuple(f"{finding.code}: {finding.message}" for finding in would.failures),
    )


def _summary(counted: Counter[str], codes: Counter[str], absent: tuple[str, ...]) -> str:
    examined, failing, new = (counted[name] for name in ("examined", "failing", "newly_failing"))
    if not examined:
        return "there is no evidence of this group's devices that this policy could be tried on"
    waiting = counted["incomplete"]
    still = f"; {_devices(waiting)} would be incomplete, without layers or logs" if waiting else ""
    if not failing:
        return f"this policy would fail none of {_devices(examined)}{still}"
    reasons = [f"{_meaning(code, absent)} ({count})" for code, count in codes.most_common()]
    now = f"{new} of them do not fail now" if new else "as they do now"
    return (
        f"this policy would fail {_devices(failing)} of {examined} ({now}), "
        f"because {'; '.join(reasons)}{still}"
    )


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _meaning(code: str, absent: tuple[str, ...]) -> str:
    if code == "policy:absent":
        return f"it says nothing of {', '.join(absent)}"
    for table in (FINDINGS, POLICY_FINDINGS, ALL_FINDINGS, ENCLAVE_FINDINGS, KIND_FINDINGS):
        if code in table:
            return table[code][1]
    return _REFUSED_KEY


def _without_evidence(session: Session, group: str) -> int:
    query = (
        select(func.count())
        .select_from(Device)
        .outerjoin(StoredEvidence, StoredEvidence.device == Device.id)
        .where(Device.group == group, Device.retired_at.is_(None), StoredEvidence.device.is_(None))
    )
    return session.scalar(query) or 0
