"""Appraisal names everything that it finds, and trusts only what nothing speaks against."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from hwtrust.errors import UntrustedError
from hwtrust.verify.appraise import (
    DRIFT_SLACK_MS,
    FINDINGS,
    FIRST_SIGHT,
    LONGEST_NAME,
    MOST_OF_A_CODE,
    ClockRules,
    History,
    References,
    Verdict,
    appraise,
)
from hwtrust.verify.evidence import Claims, verify_evidence
from hwtrust.wire.cel import CAP, RELOAD, Event, EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Severity, Standing
from hwtrust.wire.states import layer_event, layer_events
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from collections.abc import Callable

NONCE: Final = bytes(range(40))
NOW: Final = 1_800_000_000_000
MINUTE: Final = 60 * 1000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

RELEASE: Final = make_release("1.0")
NEXT: Final = make_release("1.1")
RETIRED: Final = make_release("0.9", "root-of-trust", "kernel", "frontend", "extras")
REFERENCES: Final = References(
    releases={release.name: release for release in (RELEASE, NEXT, RETIRED)},
    accepted=frozenset({"1.0", "1.1"}),
)
FIRST, SECOND, THIRD = layer_events(RELEASE)
RULES: Final = ClockRules(
    max_lag_ms=5 * MINUTE, max_ahead_ms=MINUTE, max_drift=0.01, firmware_floor=0x10
)


def make_device() -> Attester:
    """A device whose clock is right, with nothing measured."""
    device = Attester()
    device.tpm.clock = msgspec.structs.replace(
        device.tpm.clock, clock=NOW, reset_count=5, restart_count=2
    )
    return device


def claims_of(device: Attester, *, epoch: int | None = None) -> Claims:
    """What its evidence says, verified."""
    return verify_evidence(
        device.evidence(NONCE, epoch=epoch),
        device=device.known,
        nonce=NONCE,
        purpose=Purpose.ATTEST,
        tls_key=device.tls_key,
    )


def judge(device: Attester, *, epoch: int | None = None, **changes: Any) -> Verdict:  # noqa: ANN401
    """Appraise a device at epoch 7, seen for the first time, with changes."""
    expected: dict[str, Any] = {
        "references": REFERENCES,
        "history": FIRST_SIGHT,
        "epochs": frozenset({7}),
        "clock_rules": RULES,
        "now_ms": NOW,
    }
    return appraise(claims_of(device, epoch=epoch), **(expected | changes))


def codes(verdict: Verdict) -> list[str]:
    """The codes of a verdict's findings, as found."""
    return [finding.code for finding in verdict.findings]


def measured(*events: Event, release: str = "1.0") -> Attester:
    """A device that has extended these events."""
    device = make_device()
    device.append(*events)
    device.release = release
    return device


def loaded() -> Attester:
    """A device that has loaded its release, and is as it should be."""
    return measured(*layer_events(RELEASE), CAP)


def violation(name: str = "kernel") -> Event:
    """What is extended where a layer was found changed."""
    return Event(EventKind.VIOLATION, name, "1.0", b"\xee" * 32)


def layer(name: str, version: str = "1.0", digest: bytes = b"\xee" * 32) -> Event:
    """Any layer."""
    return Event(EventKind.LAYER, name, version, digest)


# --- logs --------------------------------------------------------------------------------

TRUSTED_LOGS: dict[str, tuple[Event, ...]] = {
    "a load": layer_events(RELEASE),
    "a load that was capped": (*layer_events(RELEASE), CAP),
    "a load, then another of the same release": (
        *layer_events(RELEASE),
        CAP,
        RELOAD,
        *layer_events(RELEASE),
        CAP,
    ),
    "a load that was never capped, then another": (
        *layer_events(RELEASE),
        RELOAD,
        *layer_events(RELEASE),
    ),
    "a load of another release before": (
        *layer_events(NEXT),
        CAP,
        RELOAD,
        *layer_events(RELEASE),
        CAP,
    ),
    "a load of a release before that is not accepted any more": (
        *layer_events(RETIRED),
        CAP,
        RELOAD,
        *layer_events(RELEASE),
        CAP,
    ),
    "a load that was given up before its end, then another": (
        FIRST,
        SECOND,
        RELOAD,
        *layer_events(RELEASE),
        CAP,
    ),
    "a reload that was given up at once": (RELOAD, RELOAD, *layer_events(RELEASE)),
}


@pytest.mark.parametrize("case", TRUSTED_LOGS)
def test_a_device_is_trusted_after(case: str) -> None:
    """Loads and live reloads of known releases, the last one complete, are as they should be."""
    verdict = judge(measured(*TRUSTED_LOGS[case]))
    assert codes(verdict) == []
    assert verdict.standing is Standing.TRUSTED
    verdict.require_trusted()


INCOMPLETE_LOGS: dict[str, tuple[list[str], tuple[Event, ...]]] = {
    "51: nothing was measured": (["log:empty"], ()),
    "one layer is missing": (["log:incomplete"], (FIRST, SECOND)),
    "a reload has only begun": (
        ["log:incomplete"],
        (*layer_events(RELEASE), CAP, RELOAD, FIRST),
    ),
    "a reload has not begun to measure": (
        ["log:incomplete"],
        (*layer_events(RELEASE), CAP, RELOAD),
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE_LOGS)
def test_a_device_is_incomplete_while(case: str) -> None:
    """Nothing speaks against the device, and it gets nothing yet."""
    expected, events = INCOMPLETE_LOGS[case]
    verdict = judge(measured(*events))
    assert codes(verdict) == expected
    assert verdict.standing is Standing.INCOMPLETE
    with pytest.raises(UntrustedError):
        verdict.require_trusted()


FAILED_LOGS: dict[str, tuple[list[str], tuple[Event, ...]]] = {
    "a layer has another digest": (
        ["layer:mismatch"],
        (FIRST, layer("kernel"), THIRD),
    ),
    "a layer has another version": (
        ["layer:mismatch"],
        (FIRST, msgspec.structs.replace(SECOND, version="0.1"), THIRD),
    ),
    "two layers are exchanged": (["layer:order", "layer:order"], (SECOND, FIRST, THIRD)),
    "a layer is loaded twice": (["layer:order"], (*layer_events(RELEASE), THIRD)),
    "a layer is left out": (["layer:order", "log:incomplete"], (FIRST, THIRD)),
    "a layer is put in the place of another": (
        ["layer:unknown"],
        (FIRST, layer("implant"), THIRD),
    ),
    "a layer is put in between": (
        ["layer:unknown", "layer:order", "layer:order"],
        (FIRST, layer("implant"), SECOND, THIRD),
    ),
    "a layer is put on top": (["layer:unknown"], (*layer_events(RELEASE), layer("implant"))),
    "the layers are those of another release": (
        ["layer:mismatch"] * 3,
        layer_events(NEXT),
    ),
    "the layers of the claimed release ran before, and those of another run now": (
        ["layer:mismatch"] * 3,
        (*layer_events(RELEASE), CAP, RELOAD, *layer_events(NEXT), CAP),
    ),
    "a layer was found changed while loading": (
        ["log:violation", "log:incomplete"],
        (FIRST, violation()),
    ),
    "a layer was found changed while running": (
        ["log:violation"],
        (*layer_events(RELEASE), CAP, violation()),
    ),
    "a layer was found changed before the last reload": (
        ["log:violation"],
        (*layer_events(RELEASE), CAP, violation(), RELOAD, *layer_events(RELEASE), CAP),
    ),
    "the load goes on after a violation": (
        ["log:violation", "log:grammar", "log:grammar"],
        (FIRST, violation(), SECOND, THIRD),
    ),
    "it is capped before its last layer": (
        ["log:incomplete", "log:grammar"],
        (FIRST, SECOND, CAP),
    ),
    "it is capped twice": (["log:grammar"], (*layer_events(RELEASE), CAP, CAP)),
    "a layer follows the cap": (["log:grammar"], (FIRST, SECOND, CAP, THIRD)),
    "an earlier load was capped before its last layer": (
        ["log:grammar"],
        (FIRST, CAP, RELOAD, *layer_events(RELEASE)),
    ),
    "an earlier load was capped before its first layer": (
        ["log:grammar"],
        (CAP, RELOAD, *layer_events(RELEASE)),
    ),
    "an earlier load went on after its cap": (
        ["log:grammar"],
        (FIRST, SECOND, CAP, THIRD, RELOAD, *layer_events(RELEASE)),
    ),
    "an earlier load was of no known release": (
        ["log:earlier"],
        (FIRST, layer("implant"), RELOAD, *layer_events(RELEASE)),
    ),
    "an earlier load had a layer too many": (
        ["log:earlier"],
        (*layer_events(RELEASE), layer("implant"), RELOAD, *layer_events(RELEASE)),
    ),
    "an earlier load mixed two releases": (
        ["log:earlier"],
        (FIRST, layer_event(NEXT.layers[1]), RELOAD, *layer_events(RELEASE)),
    ),
    "a cap names a layer": (
        ["log:grammar"],
        (*layer_events(RELEASE), Event(EventKind.CAP, "implant")),
    ),
    "a reload names a layer": (
        ["log:grammar"],
        (Event(EventKind.RELOAD, "implant"), *layer_events(RELEASE)),
    ),
}


@pytest.mark.parametrize("case", FAILED_LOGS)
def test_a_device_fails_when(case: str) -> None:
    """What was measured is not what a good load of the release measures."""
    expected, events = FAILED_LOGS[case]
    verdict = judge(measured(*events))
    assert codes(verdict) == expected
    assert verdict.standing is Standing.FAILED
    with pytest.raises(UntrustedError) as caught:
        verdict.require_trusted()
    assert caught.value.code == "evidence:verdict:untrusted"
    assert caught.value.data["findings"] == ", ".join(expected)


def test_a_mismatch_says_what_was_expected_and_what_was_found() -> None:
    """A person can go and look at the right layer."""
    (finding,) = judge(measured(FIRST, layer("kernel", "6.6"), THIRD)).findings
    for part in ("kernel", "6.6", "ee" * 32, SECOND.version, SECOND.digest.hex()):
        assert part in finding.message


def test_a_violation_names_its_layer() -> None:
    """A person can go and look at the right layer."""
    (finding,) = judge(measured(*layer_events(RELEASE), CAP, violation("frontend"))).findings
    assert "frontend" in finding.message


def test_a_hostile_log_does_not_make_a_long_verdict() -> None:
    """53: many findings are counted, long names are cut."""
    device = measured(*layer_events(RELEASE), *(CAP,) * 500, violation("x" * 5_000))
    verdict = judge(device)
    grammar = [finding for finding in verdict.findings if finding.code == "log:grammar"]
    assert len(grammar) == MOST_OF_A_CODE + 1
    assert str(499 - MOST_OF_A_CODE) in grammar[-1].message
    assert all(len(finding.message) < 4 * LONGEST_NAME for finding in verdict.findings)
    assert verdict.standing is Standing.FAILED


def test_as_many_findings_as_a_release_has_layers_are_told() -> None:
    """Only what is beyond is counted; a name that is long, but not too long, is whole."""
    device = measured(*layer_events(RELEASE), CAP, *(CAP,) * MOST_OF_A_CODE)
    assert codes(judge(device)) == ["log:grammar"] * MOST_OF_A_CODE
    (finding,) = judge(measured(*layer_events(RELEASE), violation("x" * LONGEST_NAME))).findings
    assert repr("x" * LONGEST_NAME) in finding.message


def test_a_hostile_earlier_load_does_not_make_a_long_message() -> None:
    """53: of many layers in one finding only some are named."""
    implants = (layer("x" * 5_000) for _ in range(500))
    verdict = judge(measured(*implants, RELOAD, *layer_events(RELEASE)))
    (finding,) = verdict.findings
    assert finding.code == "log:earlier"
    assert len(finding.message) < 2 * MOST_OF_A_CODE * LONGEST_NAME


# --- releases ------------------------------------------------------------------------------


def test_a_release_that_nobody_knows_is_not_trusted() -> None:
    """What is claimed has to be in the references; its layers cannot be compared."""
    verdict = judge(measured(*layer_events(RELEASE), CAP, release="9.9"))
    assert codes(verdict) == ["release:unknown"]
    assert verdict.standing is Standing.FAILED


def test_a_release_that_was_accepted_but_is_not_known_is_not_trusted() -> None:
    """A name on the list of accepted ones is worth nothing without its layers."""
    references = References(releases={}, accepted=frozenset({"1.0"}))
    assert codes(judge(loaded(), references=references)) == ["release:unknown"]


def test_a_release_that_is_known_and_not_accepted_is_not_trusted() -> None:
    """A retired release fails, though every layer of it is as it was published."""
    verdict = judge(measured(*layer_events(RETIRED), CAP, release="0.9"))
    assert codes(verdict) == ["release:refused"]
    assert verdict.standing is Standing.FAILED


def test_nothing_accepted_means_nothing_is_trusted() -> None:
    """An empty list refuses; it does not switch the check off."""
    references = replace(REFERENCES, accepted=frozenset())
    assert codes(judge(loaded(), references=references)) == ["release:refused"]


# --- epochs --------------------------------------------------------------------------------

EPOCHS: dict[str, tuple[list[str], frozenset[int], int]] = {
    "the counter's own": ([], frozenset({7}), 7),
    "the counter's own, with the next one offered": ([], frozenset({7, 8}), 7),
    "the next one, which is offered": ([], frozenset({7, 8}), 8),
    "the next one, which is not offered": (["epoch:mismatch"], frozenset({7}), 8),
    "one that skips an epoch": (["epoch:mismatch"], frozenset({7, 8, 9}), 9),
    "one that the counter has revoked": (["epoch:mismatch"], frozenset({6, 7}), 6),
    "its own, but the counter should have moved": (["epoch:revoked"], frozenset({8}), 7),
    "its own, but the counter has moved by itself": (["epoch:unknown"], frozenset({6}), 7),
    "its own, between accepted ones": (["epoch:unknown"], frozenset({6, 8}), 7),
    "its own, with none accepted": (["epoch:unknown"], frozenset(), 7),
}


@pytest.mark.parametrize("case", EPOCHS)
def test_the_claimed_epoch_is(case: str) -> None:
    """The certified counter decides, and the claim must agree with it."""
    expected, epochs, claimed = EPOCHS[case]
    verdict = judge(loaded(), epoch=claimed, epochs=epochs)
    assert codes(verdict) == expected
    assert verdict.standing is (Standing.FAILED if expected else Standing.TRUSTED)


def test_a_counter_that_is_not_accepted_is_told_with_what_is() -> None:
    """A person sees at once which way the two have gone apart."""
    (finding,) = judge(loaded(), epochs=frozenset({6, 8})).findings
    assert "7" in finding.message
    assert "6, 8" in finding.message
    (finding,) = judge(loaded(), epochs=frozenset()).findings
    assert "none" in finding.message


# --- clock -----------------------------------------------------------------------------------


def clocked(clock: int = NOW, *, resets: int = 5, restarts: int = 2, safe: bool = True) -> Attester:
    """A good device whose TPM says this of its clock."""
    device = loaded()
    device.tpm.clock = msgspec.structs.replace(
        device.tpm.clock, clock=clock, reset_count=resets, restart_count=restarts, safe=safe
    )
    return device


def seen(clock: int = NOW - DAY, *, ago: int = DAY, resets: int = 5, restarts: int = 2) -> History:
    """What the device said last, and how long ago."""
    return History(
        clock=clock,
        reset_count=resets,
        restart_count=restarts,
        firmware_version=Attester().tpm.firmware_version,
        observed_ms=NOW - ago,
    )


LOST: Final = DAY // 100 + DRIFT_SLACK_MS

CLOCKS: dict[str, tuple[list[str], Callable[[], Attester], Callable[[], History]]] = {
    "a day later": ([], clocked, seen),
    "at once": ([], clocked, lambda: seen(NOW, ago=0)),
    "55: after suspend and reboot, its restart count lower": (
        [],
        lambda: clocked(resets=6, restarts=0),
        seen,
    ),
    "after a resume": ([], lambda: clocked(restarts=3), seen),
    "after it was off for a while": (
        ["clock:behind"],
        lambda: clocked(NOW - 2 * HOUR, resets=6),
        seen,
    ),
    "after it was suspended for a while": (
        ["clock:behind"],
        lambda: clocked(NOW - 2 * HOUR, restarts=3),
        seen,
    ),
    "after a reset, when its clock was set as it should": (
        [],
        lambda: clocked(NOW, resets=6),
        lambda: seen(1_000),
    ),
    "when its lagging clock was set as it should": ([], clocked, lambda: seen(1_000)),
    "57: when its clock went back": (
        ["clock:backward"],
        lambda: clocked(NOW - 1),
        lambda: seen(NOW, ago=0),
    ),
    "57: when its clock went back over a resume": (
        ["clock:backward"],
        lambda: clocked(NOW - 1, restarts=3),
        lambda: seen(NOW, ago=0),
    ),
    "when its restart count fell without a reset": (
        ["clock:backward"],
        lambda: clocked(restarts=1),
        seen,
    ),
    "54: when its reset count fell": (["clock:reset-fell"], lambda: clocked(resets=4), seen),
    "58: when it was cleared": (
        ["clock:behind", "clock:reset-fell"],
        lambda: clocked(1_000, resets=0, restarts=0),
        seen,
    ),
    "56: after a power cut": (
        ["clock:unsafe", "clock:rewound"],
        lambda: clocked(NOW - 1, resets=6, restarts=0, safe=False),
        lambda: seen(NOW, ago=0),
    ),
    "57: when its clock is too slow": (
        ["clock:behind", "clock:drift"],
        lambda: clocked(NOW - LOST - 1),
        seen,
    ),
    "when its clock is slow, within the bounds": (
        ["clock:behind"],
        lambda: clocked(NOW - LOST),
        seen,
    ),
    "57: when its clock is too fast, while it lags": (
        ["clock:behind", "clock:drift"],
        lambda: clocked(NOW - DAY),
        lambda: seen(NOW - 2 * DAY - LOST - 1),
    ),
    "when its clock is fast, within the bounds, while it lags": (
        ["clock:behind"],
        lambda: clocked(NOW - DAY),
        lambda: seen(NOW - 2 * DAY - LOST),
    ),
    "57: when its clock is too fast over a reset": (
        ["clock:behind", "clock:drift"],
        lambda: clocked(NOW - DAY, resets=6),
        lambda: seen(NOW - 2 * DAY - LOST - 1),
    ),
    "59: when local software pushed its clock years ahead": (
        ["clock:ahead", "clock:drift"],
        lambda: clocked(NOW + 1_000 * DAY),
        seen,
    ),
    "59: years ahead, a day later": (
        ["clock:ahead"],
        lambda: clocked(NOW + 1_000 * DAY),
        lambda: seen(NOW + 999 * DAY),
    ),
    "100: as a replica sees it whose clock is an hour behind": (
        ["clock:ahead"],
        lambda: clocked(NOW + HOUR),
        lambda: seen(NOW + HOUR, ago=-HOUR - MINUTE),
    ),
}


@pytest.mark.parametrize("case", CLOCKS)
def test_a_device_is_seen_again(case: str) -> None:
    """What no TPM does fails; what happens to a TPM alerts; what is normal passes."""
    expected, device, history = CLOCKS[case]
    verdict = judge(device(), history=history())
    assert codes(verdict) == expected
    failed = any(FINDINGS[code][0] is Severity.FAIL for code in expected)
    assert verdict.standing is (Standing.FAILED if failed else Standing.TRUSTED)


LIMITS: dict[str, tuple[list[str], int]] = {
    "as far behind as it may": ([], NOW - 5 * MINUTE),
    "further behind": (["clock:behind"], NOW - 5 * MINUTE - 1),
    "as far ahead as it may": ([], NOW + MINUTE),
    "further ahead": (["clock:ahead"], NOW + MINUTE + 1),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_clock_of_a_device_seen_first_is(case: str) -> None:
    """Without a history, the backend's clock is the only measure."""
    expected, clock = LIMITS[case]
    verdict = judge(clocked(clock))
    assert codes(verdict) == expected
    assert verdict.standing is Standing.TRUSTED


def test_a_clock_set_to_just_inside_of_what_is_right_is_no_drift() -> None:
    """A device sets its clock by the signed time, and is late by the time of a message."""
    for clock in (NOW - 5 * MINUTE, NOW + MINUTE):
        assert codes(judge(clocked(clock), history=seen(1_000))) == []


def test_a_clock_set_to_just_outside_of_what_is_right_is_drift() -> None:
    """Only a clock that is right now can have been set as it should."""
    for clock, code in ((NOW - 5 * MINUTE - 1, "clock:behind"), (NOW + MINUTE + 1, "clock:ahead")):
        verdict = judge(clocked(clock), history=seen(1_000))
        assert codes(verdict) == [code, "clock:drift"]


SPELLINGS: dict[int, str] = {
    3 * DAY: "3.0 days",
    2 * DAY: "2.0 days",
    30 * HOUR: "30.0 hours",
    2 * HOUR: "2.0 hours",
    2 * HOUR - 6_000: "119.9 minutes",
    2 * MINUTE: "2.0 minutes",
    90_500: "90.5 seconds",
}


@pytest.mark.parametrize("ahead", SPELLINGS)
def test_a_time_is_told_in_a_unit_for_people(ahead: int) -> None:
    """Nobody counts milliseconds."""
    (finding,) = judge(clocked(NOW + ahead)).findings
    assert SPELLINGS[ahead] in finding.message


def test_a_history_is_what_the_claims_say() -> None:
    """What is kept of one appraisal is what the next one compares with."""
    device = clocked(NOW - 7)
    history = History.of(claims_of(device), observed_ms=NOW)
    assert history == History(
        clock=NOW - 7,
        reset_count=5,
        restart_count=2,
        firmware_version=device.tpm.firmware_version,
        observed_ms=NOW,
    )
    assert judge(device, history=history).standing is Standing.TRUSTED


# --- firmware ----------------------------------------------------------------------------------


def test_another_firmware_alerts() -> None:
    """An update is normal, and an administrator should know of it."""
    verdict = judge(loaded(), history=replace(seen(), firmware_version=1))
    assert codes(verdict) == ["firmware:changed"]
    assert verdict.standing is Standing.TRUSTED


def test_a_firmware_below_the_floor_fails() -> None:
    """A TPM with known holes is not trusted, whatever it measures."""
    device = loaded()
    device.tpm.firmware_version = 0x10
    assert codes(judge(device)) == []
    device.tpm.firmware_version = 0x0F
    verdict = judge(device)
    assert codes(verdict) == ["firmware:floor"]
    assert verdict.standing is Standing.FAILED


# --- verdicts ----------------------------------------------------------------------------------


def test_a_verdict_holds_every_finding() -> None:
    """Log, release, epoch, clock and firmware are all looked at, whatever fails first."""
    device = measured(FIRST, layer("kernel"), CAP, violation())
    device.tpm.clock = msgspec.structs.replace(
        device.tpm.clock, clock=NOW + DAY, reset_count=1, safe=False
    )
    device.tpm.firmware_version = 1
    verdict = judge(
        device,
        epoch=3,
        epochs=frozenset({9}),
        references=replace(REFERENCES, accepted=frozenset()),
        history=seen(),
    )
    assert codes(verdict) == [
        "log:violation",
        "layer:mismatch",
        "log:incomplete",
        "log:grammar",
        "release:refused",
        "epoch:revoked",
        "epoch:mismatch",
        "clock:unsafe",
        "clock:ahead",
        "clock:reset-fell",
        "firmware:changed",
        "firmware:floor",
    ]


def test_a_failure_outweighs_what_is_incomplete() -> None:
    """A device that fails is not merely unfinished."""
    verdict = judge(measured(FIRST, violation()))
    assert {finding.severity for finding in verdict.findings} == {
        Severity.FAIL,
        Severity.INCOMPLETE,
    }
    assert verdict.standing is Standing.FAILED


def test_an_untrusted_verdict_names_what_it_is_for_and_no_alerts() -> None:
    """The error says why, in codes."""
    verdict = judge(measured(FIRST), now_ms=NOW + DAY)
    assert codes(verdict) == ["log:incomplete", "clock:behind"]
    with pytest.raises(UntrustedError) as caught:
        verdict.require_trusted()
    assert caught.value.data["findings"] == "log:incomplete"


def test_a_verdict_is_of_its_claims() -> None:
    """Whoever acts on a verdict acts on the device that was appraised."""
    device = loaded()
    claims = claims_of(device)
    verdict = appraise(
        claims,
        references=REFERENCES,
        history=FIRST_SIGHT,
        epochs=frozenset({7}),
        clock_rules=RULES,
        now_ms=NOW,
    )
    assert verdict.claims is claims


def test_a_verdict_cannot_be_made_otherwise() -> None:
    """An empty list of findings from elsewhere is no trust."""
    verdict = judge(loaded())
    with pytest.raises(TypeError):
        Verdict(claims=verdict.claims, findings=(), appraised=object())
    with pytest.raises((TypeError, ValueError)):
        msgspec.structs.replace(verdict, findings=())


def test_every_documented_code_is_found_and_no_other() -> None:
    """The table of codes is what the module gives, with the severity that it says."""
    verdicts = [
        *(judge(measured(*events)) for _, events in FAILED_LOGS.values()),
        *(judge(measured(*events)) for _, events in INCOMPLETE_LOGS.values()),
        *(judge(device(), history=history()) for _, device, history in CLOCKS.values()),
        *(judge(loaded(), epoch=claimed, epochs=epochs) for _, epochs, claimed in EPOCHS.values()),
        judge(measured(release="9.9")),
        judge(measured(release="0.9")),
        judge(loaded(), history=replace(seen(), firmware_version=1)),
        judge(loaded(), clock_rules=replace(RULES, firmware_floor=2**64)),
    ]
    found = {
        (finding.code, finding.severity) for verdict in verdicts for finding in verdict.findings
    }
    assert found == {(code, severity) for code, (severity, _) in FINDINGS.items()}
    assert all(finding.message for verdict in verdicts for finding in verdict.findings)


def test_every_code_has_a_meaning_of_its_own() -> None:
    """A code is documented in one sentence, and no two codes by the same."""
    meanings = [meaning for _, meaning in FINDINGS.values()]
    assert len(set(meanings)) == len(meanings)
    assert all(code.count(":") == 1 and code == code.lower() for code in FINDINGS)
