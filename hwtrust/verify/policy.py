"""Is this device in a state that its group's policy accepts? Claims and rules in, a judgement out.

    Claims + Rules ── judge ──▶ Judgement (verdict, mode)
    Judgement + Rules ── order ──▶ the release to run instead, if any

`appraise` finds what is wrong with a device as such; here come the rules that an
administrator sets, and what a failure does. Rules:

1. What a policy does not say refuses: each absent field is a finding that fails.
2. Every PCR that is quoted beside the application's is held against the values
   that are accepted for it, or a log of firmware or kernel explains it
   (`hwtrust.verify.platform`), or it is named as one that may hold anything.
3. Every PCR that is required is in the quote.
4. A failure locks the device unless the policy says less of its code. The
   longest beginning of a code that is named decides.
5. What no policy may make less of: a revoked or unknown epoch, an absent field, also
   one of a table of its own, an administrator's lock.
6. From the moment in which a newer release is accepted, an older accepted one has
   its term. When that is over, it fails.
7. A device is ordered to the wanted release where it runs another, and where its
   layers are not those of the release that it claims. It is never ordered back:
   what is accepted, and was accepted after the wanted one, may stay.
8. An order is forced where what runs is not accepted, is not as it should be, or
   has come to the second half of its term: so it is forced before it fails.
9. Leave for a second release is given if that is accepted and its term is not over.

Values in which the rules for PCRs find nothing are kept, by the rules of
`hwtrust.verify.kept`: the very objects, neither of which can change. A quote
whose values came before has the same object for them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec

from hwtrust.verify import appraise as appraisal
from hwtrust.verify.appraise import Verdict
from hwtrust.verify.kept import Kept
from hwtrust.verify.platform import not_shown
from hwtrust.verify.quote import KEPT
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Finding, Mode, Severity
from hwtrust.wire.states import layer_events

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from hwtrust.verify.appraise import ClockRules, History, References, Sight
    from hwtrust.verify.evidence import Claims
    from hwtrust.verify.platform import PlatformClaims, PlatformRules
    from hwtrust.wire.cel import Event, EventLog
    from hwtrust.wire.messages import Release

POLICY_FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "policy:absent": (Severity.FAIL, "the policy of the device's group does not say"),
        "evidence:kind": (Severity.FAIL, "evidence of this kind is not accepted"),
        "pcr:missing": (Severity.FAIL, "the quote does not cover a PCR that is required"),
        "pcr:unlisted": (Severity.FAIL, "the quote covers a PCR that the policy does not name"),
        "pcr:value": (Severity.FAIL, "a PCR holds a value that is not accepted"),
        "log:length": (Severity.FAIL, "the event log has more records than accepted"),
        "log:outdated": (Severity.FAIL, "a release that is not accepted ran before in this boot"),
        "release:outdated": (Severity.FAIL, "the term to update to a newer release is over"),
        "admin:locked": (Severity.FAIL, "an administrator has locked the device"),
    }
)
"""What each code of a policy's findings means, and how it weighs."""

UNDENIABLE: Final = ("admin:", "epoch:", "policy:")
"""Codes that no policy may make less of (rule 5), by their beginnings."""

ABSENT_FIELD: Final = ":absent"
"""What the code of an absent field in a policy's tables ends with: not denied either."""

DEVIATIONS: Final = ("layer:", "log:violation")
"""Codes of findings by which a device does not run what it claims, by their beginnings."""

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
    explained: frozenset[int] = frozenset()
    """PCRs that a log explains, which has rules of its own."""

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
class Term:
    """From when to when a release may run beside a newer one, UTC milliseconds."""

    begun_ms: int
    over_ms: int

    def is_pressing(self, now_ms: int) -> bool:
        """Whether half of it is over: time to update, before the device is refused."""
        return 2 * now_ms >= self.begun_ms + self.over_ms

    def is_over(self, now_ms: int) -> bool:
        """Whether the release may not run any more."""
        return now_ms >= self.over_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRules:
    """Which release devices should run, and until when older ones may.

    `wanted` is None where there is none to be had. `newer` are the accepted releases
    that were accepted after it.
    """

    wanted: str | None
    newer: frozenset[str]
    terms: Mapping[str, Term]

    @classmethod
    def of(
        cls, accepted_at: Mapping[str, int], *, published: Collection[str], within_ms: int | None
    ) -> Self:
        """What follows from when each accepted release was accepted, and which can be had.

        Wanted is the one of the published that was accepted last. A term begins with
        the next newer release, not with the newest one: however fast they follow each
        other, it ends. `within_ms` is how long it is; None: there are none.
        """
        in_order = sorted(accepted_at, key=lambda name: accepted_at[name])
        wanted = next((name for name in reversed(in_order) if name in published), None)
        newer = () if wanted is None else in_order[in_order.index(wanted) + 1 :]
        terms = {}
        if within_ms is not None:
            for older, next_one in pairwise(in_order):
                begun = accepted_at[next_one]
                terms[older] = Term(begun_ms=begun, over_ms=begun + within_ms)
        return cls(wanted=wanted, newer=frozenset(newer), terms=MappingProxyType(terms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The release that a device is to run; whether it may put that off."""

    release: str
    forced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a policy says of evidence; `absent` names what it does not say."""

    references: References
    updates: UpdateRules
    clock: ClockRules
    evidence: frozenset[str]
    pcrs: PcrRules
    log: LogRules
    on_failure: tuple[tuple[str, Effect], ...]
    absent: tuple[str, ...]
    platform: PlatformRules | None = None
    """What the logs of firmware and kernel are held to; None: no log is asked for."""


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
    term_ms: int | None = None,
    platform: PlatformClaims | None = None,
) -> Judgement:
    """Appraise `claims` by `rules`; `now_ms` is UTC.

    `epochs` are the accepted values of the counter, `locked` an administrator's
    reason where the device is locked by hand. Evidence that came long ago is judged
    as of then; `term_ms` is when the device was last known to run what it says.
    `platform` is what its logs of firmware and kernel came to, by the same rules; None:
    nothing was looked at, and where the rules ask for logs, that is found.
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
        found.extend(of_absent(rules.absent))
    if TPM not in rules.evidence:
        found.append(of_kind(TPM))
    _of_pcrs(found, claims.pcrs, rules.pcrs, claims.device.pcr)
    of_log(found, claims.log, rules)
    if rules.platform is not None:
        found.extend(not_shown(rules.platform) if platform is None else platform.findings)
    if rules.updates.terms:
        of_term(found, claims.binding.release, rules, now_ms if term_ms is None else term_ms)
    if locked is not None:
        found.append(of_lock(locked))
    if not found:
        return Judgement(verdict=base, mode=Mode.NORMAL)
    findings, mode = weighed(found, rules)
    return Judgement(verdict=appraisal.with_findings(base, findings), mode=mode)


def weighed(found: list[Finding], rules: Rules) -> tuple[tuple[Finding, ...], Mode]:
    """The findings as a policy weighs them, and what a device may do by them (rules 4 and 5)."""
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
    return findings, mode


def of_lock(reason: str) -> Finding:
    """That an administrator has locked the device, for this reason."""
    return _finding("admin:locked", reason or "an administrator has locked the device")


def of_kind(kind: str) -> Finding:
    """That evidence of this kind is not accepted."""
    return _finding("evidence:kind", f"evidence of kind {kind} is not accepted")


def order(claims: Claims, judgement: Judgement, *, rules: Rules, now_ms: int) -> Order | None:
    """The release that a device is to run instead of what it runs, by rules 7 and 8."""
    findings = judgement.verdict.findings
    return order_by(claims.binding.release, findings, rules=rules, now_ms=now_ms)


def order_by(
    running: str, findings: tuple[Finding, ...], *, rules: Rules, now_ms: int
) -> Order | None:
    """The same for what a device ran when it was last heard of, and what was found then."""
    updates = rules.updates
    wanted = updates.wanted
    if wanted is None:
        return None
    deviates = any(finding.code.startswith(DEVIATIONS) for finding in findings)
    # (7): another release, or not as it should be.
    if not deviates and (running == wanted or running in updates.newer):
        return None
    # (8): forced.
    term = updates.terms.get(running)
    pressing = term is not None and term.is_pressing(now_ms)
    accepted = running in rules.references.accepted
    return Order(release=wanted, forced=deviates or not accepted or pressing)


def second_release(name: str, *, running: str, rules: Rules, now_ms: int) -> Release | None:
    """The release `name` beside the running one, if leave may be given for it too (rule 9)."""
    if name == running or name not in rules.references.accepted:
        return None
    term = rules.updates.terms.get(name)
    if term is not None and term.is_over(now_ms):
        return None
    return rules.references.releases.get(name)


def _effect(finding: Finding, rules: Rules) -> Effect | None:
    if finding.severity is not Severity.FAIL:
        return None
    if is_undeniable(finding.code):
        return Effect.LOCKED
    named = [item for item in rules.on_failure if finding.code.startswith(item[0])]
    return max(named, key=lambda item: len(item[0]))[1] if named else Effect.LOCKED


def is_undeniable(code: str) -> bool:
    """Whether no policy may make less of a finding (rule 5)."""
    return code.startswith(UNDENIABLE) or code.endswith(ABSENT_FIELD)


def _downgraded(finding: Finding) -> Finding:
    return Finding(code=finding.code, severity=Severity.ALERT, message=finding.message)


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=POLICY_FINDINGS[code][0], message=message)


def of_absent(absent: Iterable[str]) -> Iterator[Finding]:
    """What a policy does not say."""
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
            if number in rules.explained:
                continue
            yield _finding("pcr:unlisted", f"the policy names no value for PCR {number}")
        elif value not in accepted:
            yield _finding("pcr:value", f"PCR {number} holds {value.hex()}, which is not accepted")


def _of_required(values: Mapping[int, bytes], rules: PcrRules) -> Iterator[Finding]:
    # (3): required.
    for number in sorted(rules.required.difference(values)):
        yield _finding("pcr:missing", f"the quote does not cover PCR {number}")


def of_term(found: list[Finding], name: str, rules: Rules, now_ms: int) -> None:
    """Add that the time to replace a release is over."""
    # (6): term.
    term = rules.updates.terms.get(name)
    if term is not None and term.is_over(now_ms):
        message = f"the release {name!r} was to be replaced by a newer one before now"
        found.append(_finding("release:outdated", message))


def of_log(found: list[Finding], log: EventLog, rules: Rules) -> None:
    """Add what a policy says against an event log."""
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
