"""What is kept of earlier evidence never lets pass what would not pass without it."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from hwtrust.errors import HwTrustError
from hwtrust.verify import appraise as appraisal
from hwtrust.verify import evidence as verification
from hwtrust.verify import policy as policies
from hwtrust.verify import quote as quotes
from hwtrust.verify.appraise import FIRST_SIGHT, ClockRules, References, Verdict, appraise
from hwtrust.verify.evidence import Claims, verify_evidence
from hwtrust.verify.kept import Kept
from hwtrust.verify.policy import PcrRules
from hwtrust.verify.quote import pcr_digest
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import Event, EventKind, EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.structures import PcrSelection, QuoteInfo
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.wire.messages import Evidence, Finding, Release

NONCE: Final = bytes(range(40))
RELEASE: Final = make_release("1.0")
OLDER: Final = make_release("0.9")
RULES: Final = ClockRules(max_lag_ms=10**15, max_ahead_ms=10**15, max_drift=0.1, firmware_floor=0)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing seen before."""
    monkeypatch.setattr(verification, "_LOGS", Kept(most=8))
    monkeypatch.setattr(quotes, "_KEPT", Kept(most=8))
    monkeypatch.setattr(appraisal, "_APPRAISED_LOGS", Kept(most=8))
    monkeypatch.setattr(policies, "_ACCEPTED", Kept(most=8))


@pytest.fixture
def device() -> Attester:
    """A device that has loaded its release."""
    made = Attester()
    made.load(RELEASE)
    return made


def verify(device: Attester, evidence: Evidence | None = None, **changes: Any) -> Claims:  # noqa: ANN401
    """Verify as its backend does, but for `changes`."""
    expected: dict[str, Any] = {
        "device": device.known,
        "nonce": NONCE,
        "purpose": Purpose.ATTEST,
        "tls_key": device.tls_key,
    }
    evidence = device.evidence(NONCE) if evidence is None else evidence
    return verify_evidence(evidence, **(expected | changes))


def judge(claims: Claims, *releases: Release) -> Verdict:
    """Appraise by these releases, all of them accepted."""
    return appraise(
        claims,
        references=References(
            releases={release.name: release for release in releases},
            accepted=frozenset(release.name for release in releases),
        ),
        history=FIRST_SIGHT,
        epochs=frozenset({7}),
        clock_rules=RULES,
        now_ms=0,
    )


def codes(verdict: Verdict) -> list[str]:
    """The codes of its findings."""
    return [finding.code for finding in verdict.findings]


def refused(code: str, call: Callable[[], object]) -> None:
    """Assert that `call` ends in an error of this code."""
    with pytest.raises(HwTrustError) as caught:
        call()
    assert caught.value.code == code


def changed(data: bytes) -> bytes:
    """The same but for its last bit."""
    return data[:-1] + bytes([data[-1] ^ 1])


# --- the store -----------------------------------------------------------------------


def test_the_oldest_result_gives_way() -> None:
    """Memory is bounded, whatever comes."""
    kept: Kept[int, str] = Kept(most=2)
    for key in range(5):
        kept.keep(key, str(key))
    assert len(kept) == 2
    assert [kept.get(key) for key in range(5)] == [None, None, None, "3", "4"]


def test_any_number_of_threads_may_keep() -> None:
    """The bound holds, and what is found is what was kept under that key."""
    kept: Kept[int, int] = Kept(most=16)
    wrong: list[int] = []

    def work() -> None:
        for number in range(2_000):
            kept.keep(number % 40, number % 40)
            found = kept.get(number % 37)
            if found is not None and found != number % 37:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(kept) <= 16


# --- evidence ------------------------------------------------------------------------


def test_evidence_seen_again_comes_to_the_same_claims(
    device: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is kept, and without it."""
    evidence = device.evidence(NONCE)
    first = verify(device, evidence)
    again = verify(device, evidence)
    assert again == first
    assert again.log is first.log
    assert again.quote.pcrs is first.quote.pcrs
    monkeypatch.setattr(verification, "_LOGS", Kept(most=8))
    monkeypatch.setattr(quotes, "_KEPT", Kept(most=8))
    anew = verify(device, evidence)
    assert anew == first
    assert anew.log is not first.log


SPOILT: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "another signature of the quote": (
        "evidence:signature:invalid",
        lambda e: msgspec.structs.replace(
            e, quote=msgspec.structs.replace(e.quote, signature=changed(e.quote.signature))
        ),
    ),
    "another signature of the counter": (
        "evidence:signature:invalid",
        lambda e: msgspec.structs.replace(
            e, counter=msgspec.structs.replace(e.counter, signature=changed(e.counter.signature))
        ),
    ),
    "another log": (
        "evidence:log:mismatch",
        lambda e: msgspec.structs.replace(e, log=changed(e.log)),
    ),
    "another value of a PCR": (
        "evidence:pcrs:mismatch",
        lambda e: msgspec.structs.replace(e, pcrs={**e.pcrs, 7: changed(e.pcrs[7])}),
    ),
    "a value of a PCR less": (
        "evidence:pcrs:mismatch",
        lambda e: msgspec.structs.replace(
            e, pcrs={number: value for number, value in e.pcrs.items() if number != 7}
        ),
    ),
    "values of PCRs exchanged": (
        "evidence:pcrs:mismatch",
        lambda e: msgspec.structs.replace(e, pcrs={**e.pcrs, 0: e.pcrs[7], 7: e.pcrs[0]}),
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_evidence_that_was_seen_is_refused_with(case: str, device: Attester) -> None:
    """What passed before lends nothing to what differs from it."""
    code, spoil = SPOILT[case]
    evidence = device.evidence(NONCE)
    verify(device, evidence)
    refused(code, lambda: verify(device, spoil(evidence)))
    verify(device, evidence)


def test_evidence_that_was_seen_answers_no_other_challenge(device: Attester) -> None:
    """A replay is a replay, however often its parts were seen."""
    evidence = device.evidence(NONCE)
    verify(device, evidence)
    refused("evidence:nonce:mismatch", lambda: verify(device, evidence, nonce=bytes(40)))


def test_a_kept_log_is_of_its_pcr_alone(device: Attester) -> None:
    """The PCR is a part of the key: rule 9 was checked for that one."""
    raw = device.log.encode()
    digest = hashlib.sha256(raw).digest()
    assert verification.replayed(raw, digest=digest, pcr=12)[1] == device.log.value()
    refused("evidence:log:mismatch", lambda: verification.replayed(raw, digest=digest, pcr=11))


def test_a_log_that_is_refused_is_not_kept(device: Attester) -> None:
    """It is refused anew, each time."""
    raw = EventLog().appended(Event(EventKind.CAP), pcr=12, banks=(Alg.SHA1,)).encode()
    evidence = device.evidence(NONCE, log=raw)
    for _ in range(2):
        refused("evidence:log:mismatch", lambda: verify(device, evidence))
    assert len(verification._LOGS) == 0


def test_a_long_log_is_not_kept(device: Attester) -> None:
    """A hostile device cannot fill the memory with logs of many megabytes."""
    device.append(Event(EventKind.LAYER, "x" * verification.LONGEST_KEPT, "", b""))
    claims = verify(device)
    assert judge(claims, RELEASE).findings
    assert len(verification._LOGS) == 0
    assert len(appraisal._APPRAISED_LOGS) == 0


OTHER_SIGNED: dict[str, tuple[PcrSelection, Alg]] = {
    "another selection": (PcrSelection.parse("sha256:0,7,13"), Alg.SHA256),
    "another bank": (PcrSelection.parse("sha384:0,7,12"), Alg.SHA256),
    "another hash": (PcrSelection.parse("sha256:0,7,12"), Alg.SHA384),
}


@pytest.mark.parametrize("case", OTHER_SIGNED)
def test_kept_values_do_not_answer_for(case: str) -> None:
    """The digest alone is not all that values follow from."""
    selection = PcrSelection.parse("sha256:0,7,12")
    pcrs = {Alg.SHA256: {number: bytes([number]) * 32 for number in (0, 7, 12)}}
    digest = pcr_digest(pcrs, selection, Alg.SHA256)
    quotes._vouched_for(pcrs, QuoteInfo(selection, digest), Alg.SHA256)
    assert len(quotes._KEPT) == 1
    other, hash_ = OTHER_SIGNED[case]
    refused(
        "evidence:pcrs:mismatch",
        lambda: quotes._vouched_for(pcrs, QuoteInfo(other, digest), hash_),
    )


def test_values_that_are_wrong_are_not_kept() -> None:
    """Only what has the signed digest is."""
    selection = PcrSelection.parse("sha256:0")
    info = QuoteInfo(selection, bytes(32))
    refused(
        "evidence:pcrs:mismatch",
        lambda: quotes._vouched_for({Alg.SHA256: {0: bytes(32)}}, info, Alg.SHA256),
    )
    assert len(quotes._KEPT) == 0


# --- appraisal -----------------------------------------------------------------------


def test_what_a_log_came_to_is_found_again(
    device: Attester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same findings with what is kept, and without it."""
    device.append(Event(EventKind.VIOLATION, "kernel", "6.1", bytes(32)))
    claims = verify(device)
    first = judge(claims, RELEASE)
    assert "log:violation" in codes(first)
    assert judge(claims, RELEASE).findings == first.findings
    monkeypatch.setattr(appraisal, "_APPRAISED_LOGS", Kept(most=8))
    assert judge(claims, RELEASE).findings == first.findings


def test_a_release_of_the_same_name_and_other_content_is_appraised_anew(device: Attester) -> None:
    """The content of the release is a part of the key, not its name alone."""
    claims = verify(device)
    assert codes(judge(claims, RELEASE)) == []
    other = msgspec.structs.replace(RELEASE, layers=make_release("other").layers)
    assert "layer:mismatch" in codes(judge(claims, other))
    assert codes(judge(claims, RELEASE)) == []


def test_an_earlier_load_is_appraised_anew_when_another_release_is_forgotten() -> None:
    """Where a log has earlier loads, all known releases are a part of the key."""
    device = Attester()
    device.load(OLDER)
    device.load(RELEASE)
    claims = verify(device)
    assert codes(judge(claims, RELEASE, OLDER)) == []
    assert codes(judge(claims, RELEASE)) == ["log:earlier"]
    assert codes(judge(claims, RELEASE, OLDER)) == []


def test_a_release_that_becomes_known_is_appraised_anew(device: Attester) -> None:
    """That there was no such release is not kept against it."""
    claims = verify(device)
    assert codes(judge(claims)) == ["release:unknown"]
    assert codes(judge(claims, RELEASE)) == []
    assert codes(judge(claims)) == ["release:unknown"]


def test_releases_that_change_in_place_are_noticed() -> None:
    """What is kept is a copy."""
    device = Attester()
    device.load(OLDER)
    device.load(RELEASE)
    claims = verify(device)
    releases = {"1.0": RELEASE, "0.9": OLDER}
    accepted = frozenset({"1.0", "0.9"})
    references = References(releases=releases, accepted=accepted)
    expected: dict[str, Any] = {
        "history": FIRST_SIGHT,
        "epochs": frozenset({7}),
        "clock_rules": RULES,
        "now_ms": 0,
    }
    assert codes(appraise(claims, references=references, **expected)) == []
    del releases["0.9"]
    assert codes(appraise(claims, references=references, **expected)) == ["log:earlier"]


def test_findings_are_of_the_log_itself_and_not_of_the_digest_beside_it(device: Attester) -> None:
    """Where to look follows from the digest, what to believe from the log."""
    claims = verify(device)
    assert codes(judge(claims, RELEASE)) == []
    references = References(releases={"1.0": RELEASE}, accepted=frozenset({"1.0"}))
    violated = device.log.appended(
        Event(EventKind.VIOLATION, "kernel"), pcr=12, banks=(Alg.SHA256,)
    )

    findings = appraisal.of_whole_log(
        violated, digest=claims.binding.log_digest, claimed="1.0", references=references
    )
    assert [finding.code for finding in findings] == ["log:violation"]


# --- policy --------------------------------------------------------------------------


def pcr_codes(claims: Claims, rules: PcrRules, *, own: int = 12) -> list[str]:
    """What the rules for PCRs find."""
    found: list[Finding] = []
    policies._of_pcrs(found, claims.pcrs, rules, own)
    return [finding.code for finding in found]


def pcr_rules(claims: Claims, **changes: bytes) -> PcrRules:
    """Rules by which the PCRs of `claims` hold what they should, but for `changes`."""
    values = {**claims.pcrs, **{int(name[1:]): value for name, value in changes.items()}}
    return PcrRules(
        required=frozenset({0}),
        values={number: frozenset({value}) for number, value in values.items()},
        unsafe_any=frozenset(),
    )


def test_values_that_are_accepted_are_so_by_the_same_rules_alone(device: Attester) -> None:
    """Another version of a policy looks at them anew."""
    claims = verify(device)
    rules = pcr_rules(claims)
    for _ in range(2):
        assert pcr_codes(claims, rules) == []
    assert len(policies._ACCEPTED) == 1
    assert pcr_codes(claims, pcr_rules(claims, p7=bytes(32))) == ["pcr:value"]
    assert pcr_codes(claims, rules) == []


def test_values_that_are_accepted_are_so_for_one_application_pcr(device: Attester) -> None:
    """The PCR that no rule looks at is a part of what was found."""
    claims = verify(device)
    rules = pcr_rules(claims, p12=bytes(32))
    assert pcr_codes(claims, rules) == []
    assert pcr_codes(claims, rules, own=7) == ["pcr:value"]


def test_values_that_are_accepted_lend_nothing_to_others(device: Attester) -> None:
    """Not even where these lie at the same place."""
    claims = verify(device)
    rules = pcr_rules(claims)
    assert pcr_codes(claims, rules) == []
    kept = policies._ACCEPTED.get(id(claims.pcrs))
    assert kept is not None
    device.platform[7] = bytes(31) + b"\1"
    others = verify(device)
    policies._ACCEPTED.keep(id(others.pcrs), kept)
    assert pcr_codes(others, rules) == ["pcr:value"]


def test_values_that_are_refused_are_not_kept(device: Attester) -> None:
    """They are refused anew each time."""
    claims = verify(device)
    rules = pcr_rules(claims, p7=bytes(32))
    for _ in range(2):
        assert pcr_codes(claims, rules) == ["pcr:value"]
    assert len(policies._ACCEPTED) == 0


def test_rules_do_not_change_with_what_they_were_made_of(device: Attester) -> None:
    """The same rules are the same for ever: they hold a copy."""
    claims = verify(device)
    values = {number: frozenset({value}) for number, value in claims.pcrs.items()}
    rules = PcrRules(required=frozenset(), values=values, unsafe_any=frozenset())
    values[7] = frozenset()
    assert pcr_codes(claims, rules) == []
    assert rules.values[7] == {claims.pcrs[7]}
