"""What would a policy do to the devices that are there? Tried on the evidence that is kept.

    document + kept evidence ── dry_run ──▶ DryRun: who would fail, and why

Rules:
1. Nothing is changed, and nothing that is told depends on when it was asked:
   clock rules are judged as of the moment in which the evidence came.
2. What is compared is the standing by this policy against the standing by the
   one in force, both from the same evidence: what changes is the policy's doing.
3. A device without kept evidence is counted, and nothing is said of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hwtrust.verify.appraise import FIRST_SIGHT
from hwtrust.verify.evidence import Claims
from hwtrust.verify.policy import Judgement, Rules, judge
from hwtrust.wire.messages import Severity, Standing
from hwtrust_backend.appraisal.stored import stored_claims
from hwtrust_backend.enrolment import Device, rules_by, rules_of
from hwtrust_backend.policies import Policy, StoredEvidence
from hwtrust_backend.references import references

EXAMPLES: Final = 20
"""Devices that are named; the others are counted."""
_PAGE: Final = 500


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
    `recovering` fail now and would not. `unreadable` evidence does not verify
    any more.
    """

    group: str
    absent: tuple[str, ...]
    examined: int
    without_evidence: int
    unreadable: int
    failing: int
    newly_failing: int
    recovering: int
    modes: dict[str, int]
    reasons: tuple[Reason, ...]
    examples: tuple[Example, ...]


def dry_run(session: Session, policy: Policy, *, group: str, limit: int | None = None) -> DryRun:
    """Hold a group's kept evidence to `policy`; at most `limit` devices (None: all)."""
    trial = rules_by(policy, references(session))
    present = rules_of(session, group).rules
    counted, modes, codes = Counter[str](), Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    examples: list[Example] = []
    for device, at, claims in islice(_all(session, group), limit):
        if claims is None:
            counted["unreadable"] += 1
            continue
        was, would = _judged(device, claims, present, at), _judged(device, claims, trial, at)
        failed = would.verdict.standing is Standing.FAILED
        failed_before = was.verdict.standing is Standing.FAILED
        counted["examined"] += 1
        counted["failing"] += failed
        counted["newly_failing"] += failed and not failed_before
        counted["recovering"] += failed_before and not failed
        modes[would.mode.value] += 1
        failures = {
            finding.code: finding.message
            for finding in would.verdict.findings
            if finding.severity is Severity.FAIL
        }
        codes.update(failures.keys())
        first = failures | first
        changed = (was.verdict.standing, was.mode) != (would.verdict.standing, would.mode)
        if changed and len(examples) < EXAMPLES:
            examples.append(_example(device, was, would, failures))
    return DryRun(
        group=group,
        absent=policy.absent,
        examined=counted["examined"],
        without_evidence=_without_evidence(session, group),
        unreadable=counted["unreadable"],
        failing=counted["failing"],
        newly_failing=counted["newly_failing"],
        recovering=counted["recovering"],
        modes=dict(modes),
        reasons=tuple(
            Reason(code=code, devices=count, message=first[code])
            for code, count in codes.most_common()
        ),
        examples=tuple(examples),
    )


def _all(session: Session, group: str) -> Iterator[tuple[Device, int, Claims | None]]:
    after = ""
    while True:
        page = list(stored_claims(session, group=group, after=after, limit=_PAGE))
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1][0].id
        # A million devices are looked at, and not all of them kept.
        session.expunge_all()


def _judged(device: Device, claims: Claims, rules: Rules, at: int) -> Judgement:
    return judge(
        claims,
        rules=rules,
        history=FIRST_SIGHT,
        epochs=frozenset({claims.counter, claims.binding.epoch}),
        locked=None if device.locked_at is None else device.lock_reason,
        now_ms=at,
    )


def _example(device: Device, was: Judgement, would: Judgement, failures: dict[str, str]) -> Example:
    return Example(
        device=device.id,
        standing=was.verdict.standing.value,
        would_be=would.verdict.standing.value,
        mode=would.mode.value,
        findings=tuple(f"{code}: {message}" for code, message in failures.items()),
    )


def _without_evidence(session: Session, group: str) -> int:
    query = (
        select(func.count())
        .select_from(Device)
        .outerjoin(StoredEvidence, StoredEvidence.device == Device.id)
        .where(Device.group == group, Device.retired_at.is_(None), StoredEvidence.device.is_(None))
    )
    return session.scalar(query) or 0
