"""Asking a device what it runs: the answer is made after the question, and is kept whole."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import event as sqlalchemy_event

from hwtrust.errors import (
    ChallengeExpiredError,
    DeviceAnswerMissingError,
    DeviceStateError,
    DeviceUnknownError,
    ForbiddenError,
)
from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import (
    ChallengeRequest,
    Finding,
    Mode,
    Severity,
    SignedTime,
    Standing,
)
from hwtrust_backend.admin.devices import retire
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.admin.queries import (
    QueryReport,
    answer_evidence,
    answered_since,
    have_signed,
    query,
    query_report,
    silence,
)
from hwtrust_backend.appraisal.queries import Answer, keep_answer
from hwtrust_backend.audit import Event, evidence_digest, trail
from hwtrust_backend.enrolment import find_device
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.push import pending
from hwtrust_backend.references import retire_release
from hwtrust_backend.results import read_jwks, verify_result
from hwtrust_backend.testing import HOUR, MINUTE, SECOND
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from hwtrust.wire.messages import AttestReply
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.appraisal.service import Verified
    from hwtrust_backend.enrolment import DeviceState
    from hwtrust_backend.testing import ManualClock

ROOT = Principal(name="cli:root", role=Role.ADMINISTRATOR, groups=None)
OPERATOR = Principal(name="token:op", role=Role.OPERATOR, groups=None)
ELSEWHERE = Principal(name="token:eu", role=Role.ADMINISTRATOR, groups=frozenset({"eu"}))
VIEWER = Principal(name="token:ro", role=Role.VIEWER, groups=None)


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device that runs release 1.0."""
    return enrolled_device(backend)


@pytest.fixture
def name(device: BackendDevice) -> str:
    """The device's name."""
    return device.name.hex()


def asked(backend: Backend, name: str, by: Principal = OPERATOR) -> int:
    """Ask a device; gives when."""
    with backend.database.transaction() as session:
        return query(session, name, by=by, now=backend.clock())


def attested(backend: Backend, device: BackendDevice, *, fresh: bool = True) -> None:
    """Have it attest, by a new challenge or by the one it has."""
    api = DirectApi(backend, device)
    if fresh:
        wanted = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
        device.next_nonce = api.challenge(wanted).nonce
    device.attest(api)


def report(backend: Backend, name: str, by: Principal = VIEWER) -> QueryReport:
    """What is shown of question and answer."""
    with backend.database.reading() as session:
        return query_report(session, name, by=by, now=backend.clock())


def answer_of(backend: Backend, name: str) -> Answer:
    """The answer that is kept."""
    found = report(backend, name).answer
    assert found is not None
    return found


# --- asking -----------------------------------------------------------------------------------


def test_a_question_wakes_the_device_and_is_recorded(backend: Backend, name: str) -> None:
    """The device is told why; the trail says who asked."""
    at = asked(backend, name)
    with backend.database.reading() as session:
        assert pending(session, [name]) == {name: "query"}
        newest = trail(session, name, limit=1)[0]
    assert (newest.event, newest.actor) == (Event.DEVICE_QUERIED.value, OPERATOR.name)
    shown = report(backend, name)
    assert (shown.asked_at, shown.asked_by, shown.answered) == (at, OPERATOR.name, False)
    assert shown.answer is None


def test_a_viewer_may_look_and_not_ask(backend: Backend, name: str) -> None:
    """Asking is an operator's; whoever does not see the group sees no device."""
    with pytest.raises(ForbiddenError):
        asked(backend, name, VIEWER)
    assert report(backend, name, VIEWER).asked_at is None
    with pytest.raises(DeviceUnknownError):
        asked(backend, name, ELSEWHERE)
    with pytest.raises(DeviceUnknownError):
        report(backend, name, ELSEWHERE)
    with backend.database.reading() as session, pytest.raises(DeviceUnknownError):
        answer_evidence(session, name, by=ELSEWHERE)


def test_a_retired_device_is_not_asked(backend: Backend, name: str) -> None:
    """It would be refused whatever it says; a question that was open is closed."""
    asked(backend, name)
    with backend.database.transaction() as session:
        retire(session, name, reason="sold", by=ROOT, now=backend.clock())
    with pytest.raises(DeviceStateError):
        asked(backend, name)
    with backend.database.reading() as session:
        assert find_device(session, name).query_asked_at is None


def test_who_waits_does_not_read_the_evidence_of_the_last_answer(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """It may have megabytes, and whoever waits looks four times a second."""
    asked(backend, name)
    attested(backend, device)
    at, said = asked(backend, name), []

    def note(*given: Any) -> None:  # noqa: ANN401 - as the event has them
        said.append(given[2])

    sqlalchemy_event.listen(backend.database.engine, "before_cursor_execute", note)
    try:
        with backend.database.reading() as session:
            assert not answered_since(session, name, at)
    finally:
        sqlalchemy_event.remove(backend.database.engine, "before_cursor_execute", note)
    assert any("device_queries.answer" in one for one in said)
    assert not any("evidence" in one for one in said)


# --- what counts as an answer ----------------------------------------------------------------


def test_evidence_from_before_the_question_is_no_answer(
    backend: Backend, device: BackendDevice, name: str, clock: ManualClock
) -> None:
    """The device is sent for a new challenge; by that one it answers."""
    clock.advance(MINUTE)
    at = asked(backend, name)
    with pytest.raises(ChallengeExpiredError) as caught:
        attested(backend, device, fresh=False)
    assert caught.value.code == "challenge:expired"
    assert report(backend, name).answer is None
    attested(backend, device)
    answer = answer_of(backend, name)
    assert at <= answer.challenged_at <= answer.answered_at
    with backend.database.reading() as session:
        assert answered_since(session, name, at)
        assert not answered_since(session, name, at + 1)


def test_without_a_question_any_good_challenge_is_taken(
    backend: Backend, device: BackendDevice, name: str, clock: ManualClock
) -> None:
    """Only a question asks for a newer one, and only until it is answered; nothing is kept."""
    clock.advance(MINUTE)
    attested(backend, device, fresh=False)
    assert report(backend, name).answer is None
    asked(backend, name)
    attested(backend, device)
    clock.advance(MINUTE)
    attested(backend, device, fresh=False)


def test_a_question_by_a_clock_that_is_ahead_keeps_nobody_from_attesting(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """The command line may run where the clock is wrong; the device attests all the same."""
    with backend.database.transaction() as session:
        query(session, name, by=ROOT, now=backend.clock() + HOUR)
    attested(backend, device, fresh=False)
    assert report(backend, name).answered


def test_a_question_by_a_replica_whose_clock_is_just_ahead_takes_the_challenge_that_is_there(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """Replicas' clocks are never quite the same; a second is no age of a challenge."""
    with backend.database.transaction() as session:
        query(session, name, by=ROOT, now=backend.clock() + SECOND)
    attested(backend, device, fresh=False)
    assert report(backend, name).answered


def test_one_answer_answers_all_who_have_asked(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """Two questions are one attestation; the second is later than the first, whatever the clock."""
    first = asked(backend, name)
    with backend.database.transaction() as session:
        second = query(session, name, by=ROOT, now=first - HOUR)
    assert second > first
    attested(backend, device)
    with backend.database.reading() as session:
        assert answered_since(session, name, first)
        assert answered_since(session, name, second)


def test_a_device_that_was_away_answers_when_it_is_back(
    backend: Backend, device: BackendDevice, name: str, clock: ManualClock
) -> None:
    """A question stays open; what is said meanwhile is since when the device is silent."""
    asked(backend, name)
    clock.advance(3 * HOUR)
    device.tpm.advance(3 * HOUR)
    shown = report(backend, name)
    assert "3h" in silence(shown, now=backend.clock())
    missed = msgspec.structs.replace(shown, silent_since=0)
    assert "1970-01-01" in silence(missed, now=backend.clock())
    attested(backend, device)
    assert report(backend, name).answered


def test_a_device_that_has_failed_answers_by_its_session(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """Without a certificate too it shows what it runs, and what it was found to be."""
    device.certificate = ""
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "6.6", b"\7" * 32))
    asked(backend, name)
    device.session(DirectApi(backend, device))
    answer = answer_of(backend, name)
    assert (answer.purpose, answer.standing) == (Purpose.SESSION, Standing.FAILED)
    kernel = next(layer for layer in answer.layers if layer.name == "kernel")
    assert (kernel.version, kernel.digest, kernel.changed) == ("6.6", "07" * 32, True)
    assert any(finding.code == "log:violation" for finding in answer.findings)


# --- what an answer holds -----------------------------------------------------------------------


def test_an_answer_holds_what_was_quoted(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """Layers from the log, PCRs, clock and counter from the TPM, and the verdict of then."""
    asked(backend, name)
    attested(backend, device)
    answer = answer_of(backend, name)
    expected = make_release().layers
    assert [(one.name, one.version, one.digest) for one in answer.layers] == [
        (one.name, one.version, one.digest.hex()) for one in expected
    ]
    assert {pcr.number: pcr.value for pcr in answer.pcrs} == {
        number: value.hex() for number, value in device.values.items()
    }
    assert (answer.release, answer.epoch, answer.counter) == ("1.0", device.counter, device.counter)
    assert (answer.standing, answer.mode, answer.findings) == (Standing.TRUSTED, Mode.NORMAL, ())
    assert answer.clock is not None
    assert (answer.clock.clock, answer.clock.safe) == (device.tpm.clock.clock, True)
    assert answer.capped


def test_an_answer_is_bound_to_its_quote_and_a_signed_time(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """Evidence, challenge and time can be checked by whoever has the trust anchor."""
    asked(backend, name)
    attested(backend, device)
    answer = answer_of(backend, name)
    with backend.database.reading() as session:
        evidence = answer_evidence(session, name, by=VIEWER)
    assert evidence_digest(evidence).hex() == answer.evidence
    assert hashlib.sha256(msgspec.json.encode(evidence)).hexdigest() == answer.evidence
    assert evidence.binding.nonce == answer.nonce
    key = backend.vault.signer(KeyRole.METADATA).public_key
    time = unseal(answer.time, SignedTime, key=key)
    assert (time.device, time.nonce, time.utc_ms) == (
        device.name,
        answer.nonce,
        answer.answered_at,
    )


def test_an_answer_stays_its_own_when_the_device_attests_again(
    backend: Backend, device: BackendDevice, name: str, clock: ManualClock
) -> None:
    """It shows the quote that it was asked for, not a later one, nor one that was kept before."""
    asked(backend, name)
    attested(backend, device)
    before = answer_of(backend, name)
    clock.advance(MINUTE)
    device.tpm.advance(MINUTE)
    attested(backend, device)
    assert answer_of(backend, name) == before
    asked(backend, name)
    assert not report(backend, name).answered
    attested(backend, device)
    newer = answer_of(backend, name)
    assert before.clock is not None
    assert newer.clock is not None
    assert newer.clock.clock > before.clock.clock


def test_an_answer_tells_of_the_last_load_alone(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """What ran before a reload is in the log too, and does not run any more."""
    newer = make_release("2.0")
    device.load(newer)
    asked(backend, name)
    attested(backend, device)
    digests = [one.digest for one in answer_of(backend, name).layers]
    assert digests == [one.digest.hex() for one in newer.layers]


def test_a_deviating_answer_shows_mode_and_findings(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """What is out of date fails by the policy, and the answer says so."""
    with backend.database.transaction() as session:
        retire_release(session, "1.0", now=backend.clock())
    asked(backend, name)
    attested(backend, device)
    answer = answer_of(backend, name)
    assert answer.standing is Standing.FAILED
    assert [finding.code for finding in answer.findings] == ["release:refused"]
    assert answer.mode is not Mode.NORMAL


def test_names_of_a_log_are_freed_of_what_a_terminal_obeys(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """A log is a device's words."""
    device.append(LogEvent(EventKind.LAYER, "a\x1b[2Jb", "1\n2", b"\7" * 32))
    asked(backend, name)
    attested(backend, device)
    last = answer_of(backend, name).layers[-1]
    assert last.name == "a\N{REPLACEMENT CHARACTER}[2Jb"
    assert last.version == "1\N{REPLACEMENT CHARACTER}2"


def test_the_release_that_a_device_names_is_freed_of_what_a_terminal_obeys(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """It is claimed, and shown to whoever has asked."""
    device.release = "1\x1b[2J"
    asked(backend, name)
    attested(backend, device)
    assert answer_of(backend, name).release == "1\N{REPLACEMENT CHARACTER}[2J"


def test_a_long_log_is_cut_and_counted(backend: Backend, device: BackendDevice, name: str) -> None:
    """A device cannot fill the page of whoever asks."""
    device.append(*(LogEvent(EventKind.LAYER, f"n{n}", "1", b"\7" * 32) for n in range(70)))
    asked(backend, name)
    attested(backend, device)
    answer = answer_of(backend, name)
    assert (len(answer.layers), answer.layers_left_out) == (64, 9)


def test_findings_are_freed_of_what_a_terminal_obeys(
    backend: Backend, device: BackendDevice, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some repeat what a device has said."""
    said = Finding(code="azure:vm", severity=Severity.FAIL, message="its id is \x1b[2J")

    def keep(
        at: Session, state: DeviceState, of: Verified, reply: AttestReply, *, now: int
    ) -> None:
        keep_answer(at, state, of, msgspec.structs.replace(reply, findings=(said,)), now=now)

    monkeypatch.setattr("hwtrust_backend.appraisal.service.keep_answer", keep)
    asked(backend, name)
    attested(backend, device)
    (found,) = answer_of(backend, name).findings
    assert found.message == "its id is \N{REPLACEMENT CHARACTER}[2J"


def test_long_names_in_a_log_are_cut(backend: Backend, device: BackendDevice, name: str) -> None:
    """Each name and version keeps what a page has room for."""
    device.append(LogEvent(EventKind.LAYER, "n" * 1000, "1" * 1000, b"\7" * 32))
    asked(backend, name)
    attested(backend, device)
    last = answer_of(backend, name).layers[-1]
    assert (last.name, last.version) == ("n" * 200, "1" * 200)


def test_there_is_no_evidence_without_an_answer(backend: Backend, name: str) -> None:
    """Asked or not, nothing is made up."""
    asked(backend, name)
    with backend.database.reading() as session, pytest.raises(DeviceAnswerMissingError) as caught:
        answer_evidence(session, name, by=VIEWER)
    assert caught.value.code == "device:query:none"


# --- the signed result ------------------------------------------------------------------------


def test_a_result_is_signed_of_the_answer_and_kept(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """Its nonce is the digest of the answer's evidence; it is signed once."""
    asked(backend, name)
    attested(backend, device)
    for _ in range(2):
        with backend.database.transaction() as session:
            have_signed(session, name, results=backend.results, by=OPERATOR, now=backend.clock())
    shown = report(backend, name)
    assert shown.answer is not None
    with backend.database.reading() as session:
        keys = read_jwks(msgspec.json.encode(backend.results.keys.published(session)))
        records = [row.event for row in trail(session, name, limit=50)]
    claims = verify_result(
        shown.result,
        keys=keys,
        nonce=bytes.fromhex(shown.answer.evidence),
        audience=None,
        any_status=False,
        now=backend.clock(),
    )
    assert claims.sub == name
    assert records.count(Event.RESULT_ISSUED.value) == 1


def test_no_result_is_signed_of_an_answer_that_is_not_the_newest_attestation(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """A result tells of the last attestation; it must not pass for one about another."""
    asked(backend, name)
    attested(backend, device)
    attested(backend, device)
    with backend.database.transaction() as session:
        have_signed(session, name, results=backend.results, by=OPERATOR, now=backend.clock())
    assert report(backend, name).result == ""


def test_a_viewer_has_nothing_signed(backend: Backend, name: str) -> None:
    """Signing leaves a record, and is for those who may ask."""
    with backend.database.transaction() as session, pytest.raises(ForbiddenError):
        have_signed(session, name, results=backend.results, by=VIEWER, now=backend.clock())
