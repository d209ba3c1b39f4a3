"""Is this device in a state that its group's policy accepts? Claims and rules in, a judgement out.

    Claims + Rules ── judge ──▶ Judgement (verdict, mode)

`appraise` finds what is wrong with a device as such; here come the rules that an
administrator sets, and what a failure does. Rules:

1. What a policy does not say refuses: each absent field is a finding that fails.
2. Every PCR that is quoted beside the application's is held against the values
   that are accepted for it, or is named as one that may hold anything.
3. Every PCR that is required is in the quote.
4. A failure locks the device unless the policy says less of its code. The
   longest beginning of a code that is named decides.
5. What no policy may make less of: a revoked or unknown epoch, an absent field,
   an administrator's lock.

Values in which the rules for PCRs find nothing are kept, by the rules of
`hwtrust.verify.kept`: the very objects, neither of which can change. A quote
whose values came before has the same object for them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from hwtrust.verify import appraise as appraisal
from hwtrust.verify.appraise import Verdict
from hwtrust.verify.kept import Kept
from hwtrust.verify.quote import KEPT
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Finding, Mode, Severity
from hwtrust.wire.states import layer_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.verify.appraise import ClockRules, History, References, Sight
    from hwtrust.verify.evidence import Claims
    from hwtrust.wire.cel import Event, EventLog

POLICY_FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "policy:absent": (Severity.FAIL, "the policy of the device's group does not say"),
        "evidence:kind": (Severity.FAIL, "evidence of this kind is not accepted"),
        "pcr:missing": (Severity.FAIL, "the quote does not cover a PCR that is required"),
        "pcr:unlisted": (Severity.FAIL, "the quote covers a PCR that the policy does not name"),
        "pcr:value": (Severity.FAIL, "a PCR holds a value that is not accepted"),
        "log:length": (Severity.FAIL, "the event log has more records than accepted"),
        "log:outdated": (Severity.FAIL, "a release that is not accepted ran before in this boot"),
        "admin:locked": (Severity.FAIL, "an administrator has locked the device"),
    }
)
"""What each code of a policy's findings means, and how it weighs."""

UNDENIABLE: Final = ("admin:", "epoch:", "policy:")
"""Codes that no policy may make less of (rule 5), by their beginnings."""

TPM: Final = "tpm"


class Effect(StrEnum):
    """What a failure does."""

    LOCKED = "locked"
    LIMITED = "limited"
    ALERT = "alert"
    """Nothing: an administrator should look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrRules:
    """Which PCRs of the SHA-256 bank a quote has, and what they may hold.

    The application's own PCR needs no rule: its log explains it.
    """

    required: frozenset[int]
    values: Mapping[int, frozenset[bytes]]
    unsafe_any: frozenset[int]
    """PCRs that may hold anything: whatever they measure is not looked at."""

    def __post_init__(self) -> None:
        # A copy, so that the same rules are the same for ever.
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRules:
    """What an event log may be like."""

    max_records: int
    outdated_loads: bool
    """Whether a release that is known and no longer accepted may have run before in this boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a policy says of evidence; `absent` names what it does not say."""

    references: References
    clock: ClockRules
    evidence: frozenset[str]
    pcrs: PcrRules
    log: LogRules
    on_failure: tuple[tuple[str, Effect], ...]
    absent: tuple[str, ...]


class Judgement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a policy's rules came to."""

    verdict: Verdict
    mode: Mode


class _Accepted(msgspec.Struct, frozen=True, eq=False):
    """Values in which these rules find nothing, `own` being the application's PCR."""

    values: Mapping[int, bytes]
    rules: PcrRules
    own: int


_ACCEPTED: Final[Kept[int, _Accepted]] = Kept(most=KEPT)
"""By where the values are in memory: no others come there while these are kept."""


def judge(
    claims: Claims,
    *,
    rules: Rules,
    history: History | Literal[Sight.FIRST],
    epochs: frozenset[int],
    locked: str | None,
    now_ms: int,
) -> Judgement:
    """Appraise `claims` by `rules`; `now_ms` is UTC.

    `epochs` are the accepted values of the counter, `locked` an administrator's
    reason where the device is locked by hand.
    """
    base = appraisal.appraise(
        claims,
        references=rules.references,
        history=history,
        epochs=epochs,
        clock_rules=rules.clock,
        now_ms=now_ms,
    )
    found = list(base.findings)
    if rules.absent:
        found.extend(_of_absent(rules.absent))
    if TPM not in rules.evidence:
        found.append(_finding("evidence:kind", f"evidence of kind {TPM} is not accepted"))
    _of_pcrs(found, claims.pcrs, rules.pcrs, claims.device.pcr)
    _of_log(found, claims.log, rules)
    if locked is not None:
        found.append(_finding("admin:locked", locked or "an administrator has locked the device"))
    if not found:
        return Judgement(verdict=base, mode=Mode.NORMAL)
    effects = [_effect(finding, rules) for finding in found]
    findings = tuple(
        _downgraded(finding) if effect is Effect.ALERT else finding
        for finding, effect in zip(found, effects, strict=True)
    )
    mode = Mode.NORMAL
    if Effect.LOCKED in effects:
        mode = Mode.LOCKED
    elif Effect.LIMITED in effects:
        mode = Mode.LIMITED
    return Judgement(verdict=appraisal.with_findings(base, findings), mode=mode)


def _effect(finding: Finding, rules: Rules) -> Effect | None:
    if finding.severity is not Severity.FAIL:
        return None
    if finding.code.startswith(UNDENIABLE):
        return Effect.LOCKED
    named = [item for item in rules.on_failure if finding.code.startswith(item[0])]
    return max(named, key=lambda item: len(item[0]))[1] if named else Effect.LOCKED


def _downgraded(finding: Finding) -> Finding:
    return Finding(code=finding.code, severity=Severity.ALERT, message=finding.message)


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=POLICY_FINDINGS[code][0], message=message)


def _of_absent(absent: tuple[str, ...]) -> Iterator[Finding]:
    # (1): absent fields.
    for name in absent:
        yield _finding("policy:absent", f"the policy says nothing of {name}")


def _of_pcrs(found: list[Finding], values: Mapping[int, bytes], rules: PcrRules, own: int) -> None:
    place = id(values)
    kept = _ACCEPTED.get(place)
    if kept is not None and kept.values is values and kept.rules is rules and kept.own == own:
        return
    findings = (*_of_values(values, rules, own), *_of_required(values, rules))
    found.extend(findings)
    if not findings:
        _ACCEPTED.keep(place, _Accepted(values, rules, own))


def _of_values(values: Mapping[int, bytes], rules: PcrRules, own: int) -> Iterator[Finding]:
    for number, value in values.items():
        if number == own or number in rules.unsafe_any:
            continue
        # (2): values.
        accepted = rules.values.get(number)
        if accepted is None:
            yield _finding("pcr:unlisted", f"the policy names no value for PCR {number}")
        elif value not in accepted:
            yield _finding("pcr:value", f"PCR {number} holds {value.hex()}, which is not accepted")


def _of_required(values: Mapping[int, bytes], rules: PcrRules) -> Iterator[Finding]:
    # (3): required.
    for number in sorted(rules.required.difference(values)):
        yield _finding("pcr:missing", f"the quote does not cover PCR {number}")


def _of_log(found: list[Finding], log: EventLog, rules: Rules) -> None:
    count = len(log.records)
    if count > rules.log.max_records:
        message = f"the event log has {count} records, accepted are {rules.log.max_records}"
        found.append(_finding("log:length", message))
    if not rules.log.outdated_loads and log.was_reloaded:
        outdated = sum(not _accepted(load, rules.references) for load in _earlier(log.events))
        if outdated:
            message = f"{outdated} earlier loads of this boot are of no accepted release"
            found.append(_finding("log:outdated", message))


def _earlier(events: tuple[Event, ...]) -> Iterator[tuple[Event, ...]]:
    """The layers of each load of this boot but the last."""
    load: list[Event] = []
    for event in events:
        if event.kind is EventKind.RELOAD:
            yield tuple(load)
            load = []
        elif event.kind is EventKind.LAYER:
            load.append(event)


def _accepted(load: tuple[Event, ...], references: References) -> bool:
    return any(
        layer_events(references.releases[name])[: len(load)] == load for name in references.accepted
    )
