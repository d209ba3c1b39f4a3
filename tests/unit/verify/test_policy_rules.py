"""A policy's rules add what they find, and say what a failure does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from hwtrust.verify.appraise import FINDINGS, FIRST_SIGHT, ClockRules, References
from hwtrust.verify.evidence import Claims, verify_evidence
from hwtrust.verify.policy import (
    POLICY_FINDINGS,
    UNDENIABLE,
    Effect,
    Judgement,
    LogRules,
    PcrRules,
    Rules,
    UpdateRules,
    judge,
)
from hwtrust.wire.cel import Event, EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Mode, Severity, Standing
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from collections.abc import Callable

NONCE: Final = bytes(range(40))
RELEASE: Final = make_release("1.0")
RETIRED: Final = make_release("0.9")
UNLOOKED_AT: Final = PcrRules(required=frozenset(), values={}, unsafe_any=frozenset({0, 7}))
RULES: Final = Rules(
    references=References(releases={"1.0": RELEASE, "0.9": RETIRED}, accepted=frozenset({"1.0"})),
    updates=UpdateRules.of({"1.0": 0}, published=(), within_ms=None),
    clock=ClockRules(max_lag_ms=10**15, max_ahead_ms=10**15, max_drift=1.0, firmware_floor=0),
    evidence=frozenset({"tpm"}),
    pcrs=UNLOOKED_AT,
    log=LogRules(max_records=100, outdated_loads=True),
    on_failure=(("", Effect.LOCKED),),
    absent=(),
)


def loaded(*, before: str = "") -> Attester:
    """A device that runs release 1.0, after another one in the same boot if one is named."""
    device = Attester()
    if before:
        device.load(make_release(before))
    device.load(RELEASE)
    return device


def claims_of(device: Attester) -> Claims:
    """What its evidence says, verified."""
    return verify_evidence(
        device.evidence(NONCE),
        device=device.known,
        nonce=NONCE,
        purpose=Purpose.ATTEST,
        tls_key=device.tls_key,
    )


def judged(device: Attester, *, locked: str | None = None, **rules: Any) -> Judgement:  # noqa: ANN401
    """What the good rules, but for `rules`, make of a device."""
    return judge(
        claims_of(device),
        rules=replace(RULES, **rules),
        history=FIRST_SIGHT,
        epochs=frozenset({device.counter}),
        locked=locked,
        now_ms=0,
    )


def codes(judgement: Judgement) -> set[str]:
    """Which findings there are."""
    return {finding.code for finding in judgement.verdict.findings}


def test_a_good_device_passes_a_complete_policy() -> None:
    """Nothing is found, and nothing is restricted."""
    judgement = judged(loaded())
    assert judgement.verdict.findings == ()
    assert judgement.verdict.standing is Standing.TRUSTED
    assert judgement.mode is Mode.NORMAL


REFUSED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "a field that the policy does not have": ("policy:absent", {"absent": ("clock.max_lag",)}),
    "no kind of evidence is accepted": ("evidence:kind", {"evidence": frozenset()}),
    "another kind of evidence is accepted": ("evidence:kind", {"evidence": frozenset({"snp"})}),
    "a PCR that the policy does not name": (
        "pcr:unlisted",
        {"pcrs": replace(UNLOOKED_AT, unsafe_any=frozenset({0}))},
    ),
    "a PCR with another value": (
        "pcr:value",
        {"pcrs": PcrRules(required=frozenset(), values={0: frozenset({bytes(32)})},
                          unsafe_any=frozenset({7}))},
    ),
    "a PCR that may have no value at all": (
        "pcr:value",
        {"pcrs": PcrRules(required=frozenset(), values={0: frozenset()},
                          unsafe_any=frozenset({7}))},
    ),
    "a required PCR that is not quoted": (
        "pcr:missing",
        {"pcrs": replace(UNLOOKED_AT, required=frozenset({4}))},
    ),
    "a log that is too long": ("log:length", {"log": LogRules(max_records=3, outdated_loads=True)}),
    "a release that the policy does not take": (
        "release:refused",
        {"references": replace(RULES.references, accepted=frozenset())},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_policy_refuses_fails_and_locks(case: str) -> None:
    """Each rule has its finding, fails the device, and locks it where nothing less is said."""
    code, rules = REFUSED[case]
    judgement = judged(loaded(), **rules)
    assert codes(judgement) == {code}
    assert judgement.verdict.standing is Standing.FAILED
    assert judgement.mode is Mode.LOCKED


def test_accepted_values_of_platform_pcrs_pass() -> None:
    """A PCR passes with any of its accepted values, and need not be named as unlooked-at."""
    device = loaded()
    pcrs = PcrRules(
        required=frozenset({0, 7}),
        values={
            0: frozenset({bytes(32), device.platform[0]}),
            7: frozenset({device.platform[7]}),
        },
        unsafe_any=frozenset(),
    )
    assert judged(device, pcrs=pcrs).verdict.findings == ()


def test_the_application_s_own_pcr_needs_no_value() -> None:
    """Its log explains it: no rule names PCR 12 in any of these tests."""
    assert 12 in claims_of(loaded()).pcrs
    assert judged(loaded()).verdict.findings == ()


def test_an_outdated_release_earlier_in_the_boot_counts_where_the_policy_says_so() -> None:
    """What is not accepted any more may still be in memory."""
    device = loaded(before="0.9")
    assert codes(judged(device)) == set()
    strict = judged(device, log=LogRules(max_records=100, outdated_loads=False))
    assert codes(strict) == {"log:outdated"}
    assert strict.verdict.standing is Standing.FAILED
    again = judged(loaded(before="1.0"), log=LogRules(max_records=100, outdated_loads=False))
    assert codes(again) == set()


def test_an_administrator_s_lock_fails_a_good_device() -> None:
    """Locked is locked, with the reason that was given, whatever the evidence says."""
    judgement = judged(loaded(), locked="stolen")
    assert codes(judgement) == {"admin:locked"}
    assert judgement.verdict.findings[0].message == "stolen"
    assert judgement.mode is Mode.LOCKED


# --- what a failure does ---------------------------------------------------------------


def spoilt(device: Attester) -> Attester:
    """The device with a layer that was changed while it ran."""
    device.append(Event(EventKind.VIOLATION, "kernel", "1.0", bytes(32)))
    return device


EFFECTS: Final[dict[str, tuple[tuple[tuple[str, Effect], ...], Mode, Standing]]] = {
    "nothing is said": ((), Mode.LOCKED, Standing.FAILED),
    "the default is less": ((("", Effect.LIMITED),), Mode.LIMITED, Standing.FAILED),
    "the code is less than the default": (
        (("", Effect.LOCKED), ("log:", Effect.LIMITED)),
        Mode.LIMITED,
        Standing.FAILED,
    ),
    "the longest beginning decides": (
        (("log:violation", Effect.LOCKED), ("log:", Effect.LIMITED), ("", Effect.ALERT)),
        Mode.LOCKED,
        Standing.FAILED,
    ),
    "an alert only": ((("log:", Effect.ALERT),), Mode.NORMAL, Standing.TRUSTED),
}


@pytest.mark.parametrize("case", EFFECTS)
def test_a_failure_does_what_the_policy_says_of_its_code(case: str) -> None:
    """Limited, locked, or an alert that changes nothing."""
    on_failure, mode, standing = EFFECTS[case]
    judgement = judged(spoilt(loaded()), on_failure=on_failure)
    assert (judgement.mode, judgement.verdict.standing) == (mode, standing)
    assert "log:violation" in codes(judgement)


def test_the_worst_of_two_failures_decides() -> None:
    """Limited for one finding does not soften another."""
    judgement = judged(
        spoilt(loaded()),
        on_failure=(("", Effect.LOCKED), ("log:", Effect.LIMITED)),
        evidence=frozenset(),
    )
    assert judgement.mode is Mode.LOCKED


UNDENIED: Final[dict[str, Callable[[Attester], dict[str, Any]]]] = {
    "policy:absent": lambda _: {"absent": ("pcrs",)},
    "admin:locked": lambda _: {"locked": "by hand"},
}


@pytest.mark.parametrize("code", UNDENIED)
def test_nothing_makes_less_of_what_may_not_be_made_less_of(code: str) -> None:
    """A policy that would only alert still locks for these codes."""
    device = loaded()
    changes = UNDENIED[code](device)
    judgement = judged(device, on_failure=(("", Effect.ALERT), (code, Effect.ALERT)), **changes)
    assert codes(judgement) == {code}
    assert judgement.mode is Mode.LOCKED
    assert judgement.verdict.standing is Standing.FAILED


def test_nothing_makes_less_of_a_revoked_epoch() -> None:
    """The counter decides, not a policy."""
    device = loaded()
    judgement = judge(
        claims_of(device),
        rules=replace(RULES, on_failure=(("", Effect.ALERT), ("epoch:", Effect.ALERT))),
        history=FIRST_SIGHT,
        epochs=frozenset({device.counter + 1}),
        locked=None,
        now_ms=0,
    )
    assert codes(judgement) == {"epoch:revoked"}
    assert judgement.mode is Mode.LOCKED


def test_an_alert_only_failure_is_an_alert_and_still_told() -> None:
    """The finding stays, weighs less, and keeps its words."""
    strict = judged(spoilt(loaded())).verdict.findings
    alert = judged(spoilt(loaded()), on_failure=(("", Effect.ALERT),)).verdict.findings
    assert {finding.severity for finding in strict} == {Severity.FAIL}
    assert {finding.severity for finding in alert} == {Severity.ALERT}
    assert [(item.code, item.message) for item in strict] == [
        (item.code, item.message) for item in alert
    ]


def test_what_is_an_alert_by_itself_locks_nothing() -> None:
    """Though the policy locks on every failure: it is none."""
    judgement = judged(loaded(), clock=replace(RULES.clock, max_ahead_ms=0))
    assert {finding.severity for finding in judgement.verdict.findings} == {Severity.ALERT}
    assert (judgement.verdict.standing, judgement.mode) == (Standing.TRUSTED, Mode.NORMAL)


def test_a_log_may_be_as_long_as_the_policy_says() -> None:
    """And not by one record longer."""
    device = loaded()
    count = len(claims_of(device).log.records)
    for most, found in ((count, set()), (count - 1, {"log:length"})):
        judgement = judged(device, log=LogRules(max_records=most, outdated_loads=True))
        assert codes(judgement) == found


def test_rules_do_not_change_with_what_they_were_made_of() -> None:
    """What was judged by them is kept for as long as they are the same."""
    values = {0: frozenset({bytes(32)})}
    rules = PcrRules(required=frozenset(), values=values, unsafe_any=frozenset())
    values[0] = frozenset()
    assert rules.values == {0: frozenset({bytes(32)})}


def test_the_codes_of_policies_and_of_appraisal_are_apart() -> None:
    """No code means two things, and each policy code fails."""
    assert not set(POLICY_FINDINGS) & set(FINDINGS)
    assert {severity for severity, _ in POLICY_FINDINGS.values()} == {Severity.FAIL}
    assert all(any(code.startswith(start) for code in (*FINDINGS, *POLICY_FINDINGS))
               for start in UNDENIABLE)  # fmt: skip
