"""Which release a device is ordered to run, how long that can wait, and what else it may run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.verify.appraise import FIRST_SIGHT, ClockRules, References
from hwtrust.verify.evidence import verify_evidence
from hwtrust.verify.policy import (
    Effect,
    LogRules,
    Order,
    PcrRules,
    Rules,
    Term,
    UpdateRules,
    judge,
    order,
    second_release,
)
from hwtrust.wire.cel import CAP, RELOAD, Event, EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Mode, Severity, Standing
from hwtrust.wire.states import layer_event
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from hwtrust.verify.evidence import Claims
    from hwtrust.verify.policy import Judgement

NONCE: Final = bytes(range(40))
DAY: Final = 24 * 3_600_000
FIRST_ACCEPTED, SECOND_ACCEPTED, THIRD_ACCEPTED = 100 * DAY, 110 * DAY, 115 * DAY
TERM: Final = 14 * DAY
RELEASES: Final = {name: make_release(name) for name in ("0.9", "1.0", "2.0", "3.0")}
ACCEPTED: Final = {"1.0": FIRST_ACCEPTED, "2.0": SECOND_ACCEPTED}


def rules(
    accepted_at: dict[str, int] | None = None,
    *,
    published: tuple[str, ...] = ("1.0", "2.0"),
    within_ms: int | None = TERM,
) -> Rules:
    """A policy that accepts these releases, with a term."""
    accepted_at = ACCEPTED if accepted_at is None else accepted_at
    return Rules(
        references=References(releases=RELEASES, accepted=frozenset(accepted_at)),
        updates=UpdateRules.of(accepted_at, published=published, within_ms=within_ms),
        clock=ClockRules(max_lag_ms=10**15, max_ahead_ms=10**15, max_drift=1.0, firmware_floor=0),
        evidence=frozenset({"tpm"}),
        pcrs=PcrRules(required=frozenset(), values={}, unsafe_any=frozenset(range(24))),
        log=LogRules(max_records=100, outdated_loads=True),
        on_failure=(("", Effect.LOCKED),),
        absent=(),
    )


def running(name: str) -> Attester:
    """A device that runs the release of that name."""
    device = Attester()
    device.load(RELEASES.get(name, make_release(name)))
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


def judged(device: Attester, held_to: Rules, *, now_ms: int = SECOND_ACCEPTED) -> Judgement:
    """What the rules make of a device."""
    return judge(
        claims_of(device),
        rules=held_to,
        history=FIRST_SIGHT,
        epochs=frozenset({device.counter}),
        locked=None,
        now_ms=now_ms,
    )


def ordered(device: Attester, held_to: Rules, *, now_ms: int = SECOND_ACCEPTED) -> Order | None:
    """What the device is ordered."""
    judgement = judged(device, held_to, now_ms=now_ms)
    return order(claims_of(device), judgement, rules=held_to, now_ms=now_ms)


def codes(judgement: Judgement) -> set[str]:
    """Which findings there are."""
    return {finding.code for finding in judgement.verdict.findings}


# --- wanted, newer, terms ----------------------------------------------------------------

ALL: Final = {"1.0": 1, "2.0": 2, "3.0": 3}

WANTED: Final[dict[str, tuple[dict[str, int], tuple[str, ...], str | None, set[str]]]] = {
    "all can be had": (ALL, ("1.0", "2.0", "3.0"), "3.0", set()),
    "the newest cannot be had": (ALL, ("1.0", "2.0"), "2.0", {"3.0"}),
    "none can be had": (ALL, (), None, set()),
    "none is accepted": ({}, ("1.0", "2.0"), None, set()),
    "one that is not accepted can be had": ({"1.0": 1}, ("1.0", "2.0"), "1.0", set()),
    "an older one was accepted again": ({"1.0": 4, "2.0": 2}, ("1.0", "2.0"), "1.0", set()),
}


@pytest.mark.parametrize("case", WANTED)
def test_wanted_is_what_was_accepted_last_of_what_can_be_had(case: str) -> None:
    """Names say nothing of what is newer, and what devices cannot get is not wanted of them."""
    accepted_at, published, wanted, newer = WANTED[case]
    made = UpdateRules.of(accepted_at, published=published, within_ms=None)
    assert made.wanted == wanted
    assert made.newer == newer


def test_a_term_begins_with_the_next_newer_release() -> None:
    """Releases that follow each other quickly give nobody more time; the newest has no term."""
    accepted_at = {"3.0": THIRD_ACCEPTED, **ACCEPTED}
    assert UpdateRules.of(accepted_at, published=(), within_ms=TERM).terms == {
        "1.0": Term(begun_ms=SECOND_ACCEPTED, over_ms=SECOND_ACCEPTED + TERM),
        "2.0": Term(begun_ms=THIRD_ACCEPTED, over_ms=THIRD_ACCEPTED + TERM),
    }


def test_a_policy_without_a_term_gives_every_accepted_release_for_ever() -> None:
    """Nothing is outdated, and no order is forced for its age."""
    held_to = rules(within_ms=None)
    assert held_to.updates.terms == {}
    assert codes(judged(running("1.0"), held_to, now_ms=10**15)) == set()
    assert ordered(running("1.0"), held_to, now_ms=10**15) == Order(release="2.0", forced=False)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 2**62)),
    st.frozensets(st.sampled_from(["a", "b", "c", "d"])),
    st.none() | st.integers(1, 2**40),
)
def test_the_wanted_release_has_a_term_only_beside_a_newer_one(
    accepted_at: dict[str, int], published: frozenset[str], within_ms: int | None
) -> None:
    """Whatever is accepted and published, an order leads to what is accepted and can be had."""
    made = UpdateRules.of(accepted_at, published=published, within_ms=within_ms)
    assert made.newer <= set(accepted_at)
    assert made.wanted not in made.newer
    if made.wanted is None:
        assert not published & set(accepted_at)
    else:
        assert made.wanted in published & set(accepted_at)
        assert made.newer.isdisjoint(published)
        assert (made.wanted in made.terms) == (within_ms is not None and bool(made.newer))


# --- the finding ----------------------------------------------------------------------------


def test_an_older_release_may_run_until_its_term_is_over() -> None:
    """To the millisecond; the newest one may run for ever."""
    over = SECOND_ACCEPTED + TERM
    assert codes(judged(running("1.0"), rules(), now_ms=over - 1)) == set()
    late = judged(running("1.0"), rules(), now_ms=over)
    assert codes(late) == {"release:outdated"}
    assert late.verdict.standing is Standing.FAILED
    assert late.mode is Mode.LOCKED
    assert codes(judged(running("2.0"), rules(), now_ms=10**15)) == set()


@pytest.mark.parametrize(
    ("effect", "mode", "severity"),
    [
        (Effect.LIMITED, Mode.LIMITED, Severity.FAIL),
        (Effect.ALERT, Mode.NORMAL, Severity.ALERT),
    ],
)
def test_a_policy_says_what_a_term_that_is_over_does(
    effect: Effect, mode: Mode, severity: Severity
) -> None:
    """Locked unless it says less."""
    held_to = replace(rules(), on_failure=(("release:outdated", effect),))
    judgement = judged(running("1.0"), held_to, now_ms=SECOND_ACCEPTED + TERM)
    assert judgement.mode is mode
    assert [finding.severity for finding in judgement.verdict.findings] == [severity]


def test_evidence_from_long_ago_is_outdated_by_when_the_device_still_ran_it() -> None:
    """What was kept of a device says what it ran until it was heard of last."""
    device = running("1.0")
    judgement = judge(
        claims_of(device),
        rules=rules(),
        history=FIRST_SIGHT,
        epochs=frozenset({device.counter}),
        locked=None,
        now_ms=FIRST_ACCEPTED,
        term_ms=SECOND_ACCEPTED + TERM,
    )
    assert codes(judgement) == {"release:outdated"}


# --- orders ---------------------------------------------------------------------------------


def deviating(name: str) -> Attester:
    """A device with another layer than the release that it claims."""
    device = running(name)
    device.append(RELOAD, layer_event(make_release("evil").layers[0]))
    return device


def violated(name: str) -> Attester:
    """A device whose layer was changed while it ran."""
    device = running(name)
    device.append(Event(EventKind.VIOLATION, "kernel", name, bytes(32)))
    return device


HALF: Final = SECOND_ACCEPTED + TERM // 2
FORCED: Final = Order(release="2.0", forced=True)
ASKED: Final = Order(release="2.0", forced=False)

ORDERS: Final[dict[str, tuple[Attester, Rules, int, Order | None]]] = {
    "it runs the wanted one": (running("2.0"), rules(), HALF, None),
    "it runs an older one": (running("1.0"), rules(), SECOND_ACCEPTED, ASKED),
    "just before half of the term": (running("1.0"), rules(), HALF - 1, ASKED),
    "from half of the term on": (running("1.0"), rules(), HALF, FORCED),
    "the term is over": (running("1.0"), rules(), SECOND_ACCEPTED + TERM, FORCED),
    "what it runs is not accepted": (running("0.9"), rules(), HALF, FORCED),
    "what it runs is not known": (running("7.7"), rules(), HALF, FORCED),
    "an older one with a layer that differs": (deviating("1.0"), rules(), SECOND_ACCEPTED, FORCED),
    "the wanted one with a layer that differs": (deviating("2.0"), rules(), HALF, FORCED),
    "the wanted one with a layer that was changed": (violated("2.0"), rules(), HALF, FORCED),
    "nothing can be had": (deviating("1.0"), rules(published=()), HALF, None),
    "it runs a newer one than can be had": (
        running("3.0"),
        rules({**ACCEPTED, "3.0": THIRD_ACCEPTED}),
        THIRD_ACCEPTED + TERM,
        None,
    ),
    "a newer one than can be had, with a layer that differs": (
        deviating("3.0"),
        rules({**ACCEPTED, "3.0": THIRD_ACCEPTED}),
        THIRD_ACCEPTED,
        FORCED,
    ),
    "a newer one that was retired": (running("3.0"), rules(), THIRD_ACCEPTED, FORCED),
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_device_is_ordered_what_it_should_run(case: str) -> None:
    """And told whether it may put that off."""
    device, held_to, now_ms, expected = ORDERS[case]
    assert ordered(device, held_to, now_ms=now_ms) == expected


def test_findings_that_are_no_deviation_order_nothing() -> None:
    """A device that runs the wanted release and fails for another reason has nothing to update."""
    held_to = replace(rules(), evidence=frozenset())
    device = running("2.0")
    assert judged(device, held_to).verdict.standing is Standing.FAILED
    assert ordered(device, held_to) is None


def test_a_deviation_that_a_policy_only_alerts_of_is_repaired_all_the_same() -> None:
    """What is made less of still speaks of another layer than the release's."""
    held_to = replace(rules(), on_failure=(("", Effect.ALERT),))
    assert judged(violated("2.0"), held_to).verdict.standing is Standing.TRUSTED
    assert ordered(violated("2.0"), held_to) == FORCED


# --- the second release -----------------------------------------------------------------------

SECOND: Final[dict[str, tuple[str, str, int, bool]]] = {
    "the next one": ("2.0", "1.0", SECOND_ACCEPTED, True),
    "the last one within its term": ("1.0", "2.0", SECOND_ACCEPTED + TERM - 1, True),
    "the last one after its term": ("1.0", "2.0", SECOND_ACCEPTED + TERM, False),
    "the running one": ("2.0", "2.0", SECOND_ACCEPTED, False),
    "one that is not accepted": ("0.9", "2.0", SECOND_ACCEPTED, False),
    "one that nobody knows": ("7.7", "2.0", SECOND_ACCEPTED, False),
    "none": ("", "2.0", SECOND_ACCEPTED, False),
}


@pytest.mark.parametrize("case", SECOND)
def test_leave_for_a_second_release_is_for_what_could_run_itself(case: str) -> None:
    """What a device asks for has to be accepted, and not out of date."""
    name, runs, now_ms, granted = SECOND[case]
    found = second_release(name, running=runs, rules=rules(), now_ms=now_ms)
    assert found == (RELEASES[name] if granted else None)


def test_leave_for_a_second_release_needs_its_reference_values() -> None:
    """A name in a policy is not enough."""
    held_to = replace(
        rules(), references=References(releases={}, accepted=frozenset({"1.0", "2.0"}))
    )
    assert second_release("2.0", running="1.0", rules=held_to, now_ms=0) is None


def test_a_device_that_ran_both_releases_in_one_boot_passes() -> None:
    """A live switch and a return leave a log that is good by both."""
    device = running("1.0")
    device.append(RELOAD, *map(layer_event, RELEASES["2.0"].layers), CAP)
    device.append(RELOAD, *map(layer_event, RELEASES["1.0"].layers), CAP)
    assert codes(judged(device, rules())) == set()
