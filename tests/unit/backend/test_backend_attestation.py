"""What evidence comes to, and what a device gets for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.errors import (
    ChallengeExpiredError,
    ChallengeForgedError,
    ChallengePurposeError,
    ChallengeUsedError,
    ChannelBindingError,
    DeviceUnknownError,
    HwTrustError,
    IdentityCertificateError,
    IdentityError,
    IdentityKeyError,
    TlsKeyRefusedError,
)
from hwtrust.verify.evidence import verify_evidence
from hwtrust.wire import challenge
from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import AttestRequest, Standing
from hwtrust.wire.root import RootMetadata, authorization, increment_ref, root_ref
from hwtrust.wire.states import approved_states
from hwtrust_backend.admin import ask_rotation, device_report, local_administrator
from hwtrust_backend.app.setup import open_backend
from hwtrust_backend.audit import AuditRecord, Event, verify_log
from hwtrust_backend.enrolment import lock_states
from hwtrust_backend.keys import KeyRole, Secret
from hwtrust_backend.policies import DEFAULT_DOCUMENT, read_policy
from hwtrust_backend.publishing import RootState, StoredRoot, roots_of
from hwtrust_backend.publishing.service import MOVE_WINDOW_MS
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import DAY, HOUR, MINUTE
from simulators.attester import make_csr, make_release
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.wire.messages import AttestReply
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.config import Settings
    from hwtrust_backend.testing import ManualClock

PASSPHRASE = Secret(b"protects nothing")


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(backend)


@pytest.fixture
def api(backend: Backend, device: BackendDevice) -> DirectApi:
    """The backend as the device sees it, over a connection with its certificate."""
    return DirectApi(backend, device)


def last_event(backend: Backend) -> AuditRecord:
    """The newest audit record."""
    with backend.database.reading() as session:
        newest = session.query(AuditRecord).order_by(AuditRecord.sequence.desc()).first()
        assert newest is not None
        return newest


def pass_time(device: BackendDevice, clock: ManualClock, milliseconds: int) -> None:
    """Let time pass on both sides."""
    clock.advance(milliseconds)
    device.tpm.advance(milliseconds)


def ask_for_rotation(backend: Backend, device: BackendDevice) -> None:
    """What `hwtrust-backend rotate` does."""
    with backend.database.transaction() as session:
        ask_rotation(session, device.name.hex(), by=local_administrator(), now=backend.clock())


# --- what a good device gets -------------------------------------------------------


def test_a_good_device_gets_a_longer_approval(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """The approval opens the current root, in exactly the release's states, for the grace."""
    reply = device.attest(api)
    assert reply.standing is Standing.TRUSTED
    assert reply.root is None
    assert reply.approval is not None
    ref = root_ref(device.name, device.counter)
    opened = authorization(reply.approval, ref, policy_key=device.policy_public)
    assert opened.ref == ref
    expected = approved_states(
        make_release(),
        other=None,
        selection=device.selection,
        values=device.values,
        pcr=device.pcr,
    )
    assert reply.approval.branches == expected
    grace = read_policy(DEFAULT_DOCUMENT).offline_grace_ms
    assert reply.approval.not_after == device.tpm.clock.clock + grace
    assert reply.approval.counter_name == device.index.name


def test_an_approval_is_reckoned_in_the_device_s_own_clock(
    device: BackendDevice, api: DirectApi, backend: Backend
) -> None:
    """A clock that local software pushed years ahead costs an alert, not the device (59)."""
    device.tpm.advance(5 * 365 * DAY)
    reply = device.attest(api)
    assert reply.standing is Standing.TRUSTED
    assert "clock:ahead" in {finding.code for finding in reply.findings}
    assert reply.approval is not None
    grace = read_policy(DEFAULT_DOCUMENT).offline_grace_ms
    assert reply.approval.not_after == device.tpm.clock.clock + grace


def test_an_approval_ends_with_the_root(
    device: BackendDevice, api: DirectApi, clock: ManualClock, backend: Backend
) -> None:
    """The grace is cut where the root's own life ends earlier."""
    pass_time(device, clock, 29 * DAY)
    device.next_nonce = session_nonce(backend, device, Purpose.ATTEST)
    reply = device.attest(api)
    assert reply.approval is not None
    assert 0 < reply.approval.not_after - device.tpm.clock.clock <= DAY


def test_every_reply_carries_the_next_challenge(device: BackendDevice, api: DirectApi) -> None:
    """One round trip an attestation: each uses the nonce of the reply before."""
    nonces = {device.attest(api).challenge for _ in range(3)}
    assert len(nonces) == 3


def test_a_certificate_is_renewed_for_the_evidence_s_key(
    device: BackendDevice, api: DirectApi
) -> None:
    """A request in the attestation gets a new certificate, for that key and no other."""
    first = device.certificate
    assert device.attest(api, csr=True).certificate not in {"", first}
    evidence = device.evidence(device.next_nonce)
    csr = make_csr(SoftwareTpm().tls_key)
    with pytest.raises(IdentityKeyError) as caught:
        api.attest(AttestRequest(device=device.name, evidence=evidence, csr=csr))
    assert caught.value.code == "identity:key:mismatch"


# --- challenges --------------------------------------------------------------------


def session_nonce(
    backend: Backend, device: BackendDevice, purpose: Purpose, *, age: int = 0
) -> bytes:
    """A nonce that this backend issued to this device, `age` milliseconds ago."""
    key = backend.vault.challenge_key.reveal()
    now = backend.clock() - age
    return challenge.issue(key=key, device=device.name, purpose=purpose, now_ms=now)


def test_a_nonce_is_accepted_once(device: BackendDevice, api: DirectApi) -> None:
    """The same evidence again is a replay (15)."""
    evidence = device.evidence(device.next_nonce)
    device.attest(api, evidence)
    with pytest.raises(ChallengeUsedError) as caught:
        device.attest(api, evidence)
    assert caught.value.code == "challenge:used"


def test_an_older_nonce_is_refused_after_a_newer_one(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Nonces of one device are accepted in the order of their issue only (14)."""
    old = device.next_nonce
    device.next_nonce = session_nonce(backend, device, Purpose.ATTEST)
    device.attest(api)
    with pytest.raises(ChallengeUsedError):
        device.attest(api, device.evidence(old))


def test_of_two_answers_to_one_nonce_one_is_accepted(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Two replicas get the same evidence at once: the database lets one of them use it (15)."""
    message = AttestRequest(device=device.name, evidence=device.evidence(device.next_nonce))
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def run() -> None:
        barrier.wait()
        try:
            api.attest(message)
        except HwTrustError as error:
            outcomes.append(error.code)
        else:
            outcomes.append("accepted")

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["accepted", "challenge:used"]


def test_evidence_that_is_not_authentic_uses_no_nonce_up(
    device: BackendDevice, api: DirectApi
) -> None:
    """Somebody else's bad evidence cannot void a device's challenge."""
    good = device.evidence(device.next_nonce)
    bad = msgspec.structs.replace(good, log=b"")
    with pytest.raises(HwTrustError) as caught:
        device.attest(api, bad)
    assert caught.value.code == "evidence:log:mismatch"
    assert device.attest(api, good).standing is Standing.TRUSTED


def test_a_nonce_must_be_ours_for_this_device_and_purpose_and_in_time(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Forged, another device's, another purpose's, stale (14, 16, 17, 20)."""
    other = enrolled_device(backend)
    cases: dict[str, tuple[bytes, type[HwTrustError]]] = {
        "random": (os.urandom(40), ChallengeForgedError),
        "of another device": (other.next_nonce, ChallengeForgedError),
        "for another purpose": (
            session_nonce(backend, device, Purpose.SESSION),
            ChallengePurposeError,
        ),
        "stale": (
            session_nonce(backend, device, Purpose.ATTEST, age=16 * MINUTE),
            ChallengeExpiredError,
        ),
        "from the future": (
            session_nonce(backend, device, Purpose.ATTEST, age=-2 * MINUTE),
            ChallengeExpiredError,
        ),
    }
    for case, (nonce, expected) in cases.items():
        with pytest.raises(HwTrustError) as caught:
            device.attest(api, device.evidence(nonce))
        assert type(caught.value) is expected, case
        assert last_event(backend).event == Event.EVIDENCE_REFUSED
        assert expected.code in last_event(backend).reason


# --- who is calling ----------------------------------------------------------------


def test_an_attestation_without_a_certificate_is_refused(
    backend: Backend, device: BackendDevice
) -> None:
    """Leave for a root goes over a channel that shows who is there."""
    with pytest.raises(IdentityError) as caught:
        device.attest(DirectApi(backend))
    assert caught.value.code == "identity:missing"


def test_a_session_gives_a_certificate_and_no_root(backend: Backend, device: BackendDevice) -> None:
    """Without a certificate a device gets one, its standing and the time, nothing else."""
    ask_for_rotation(backend, device)
    reply = device.session(DirectApi(backend))
    assert reply.certificate
    assert (reply.root, reply.approval) == (None, None)
    assert device.attest(DirectApi(backend, device)).root is not None


def test_a_device_cannot_attest_with_another_device_s_certificate(
    backend: Backend, device: BackendDevice
) -> None:
    """The certificate's device is the one that attests, or nobody."""
    other = enrolled_device(backend)
    with pytest.raises(IdentityKeyError) as caught:
        device.attest(DirectApi(backend, other))
    assert caught.value.code == "identity:key:mismatch"


def test_a_quote_for_another_tls_key_is_refused(
    device: BackendDevice, api: DirectApi, backend: Backend
) -> None:
    """A quote that was relayed into another TLS session is worth nothing there (80)."""
    device.tpm.tls_key = SoftwareTpm().tls_key
    with pytest.raises(ChannelBindingError) as caught:
        device.attest(api)
    assert caught.value.code == "evidence:tls-key:mismatch"
    assert last_event(backend).event == Event.EVIDENCE_REFUSED


def test_an_expired_certificate_is_refused(
    device: BackendDevice, api: DirectApi, clock: ManualClock
) -> None:
    """Certificates end by the backend's clock (82)."""
    pass_time(device, clock, 31 * DAY)
    with pytest.raises(IdentityCertificateError) as caught:
        device.attest(api)
    assert caught.value.code == "identity:certificate:refused"


def test_a_key_kind_that_is_not_accepted_gets_no_session(
    backend: Backend, hold_to: Callable[..., None], device: BackendDevice
) -> None:
    """Where only keys in the TPM are accepted, one in memory gets no certificate, and no leave."""
    hold_to(tls_keys=["tpm"])
    assert device.session(DirectApi(backend)).certificate
    device.tpm.tls_key = SoftwareTpm().tls_key
    with pytest.raises(TlsKeyRefusedError):
        device.session(DirectApi(backend))
    hold_to(tls_keys=["tpm", "attested"])
    assert device.session(DirectApi(backend)).certificate
    assert device.attest(DirectApi(backend, device)).approval
    hold_to(tls_keys=["tpm"])
    with pytest.raises(TlsKeyRefusedError):
        device.attest(DirectApi(backend, device))


def test_an_unknown_device_is_unknown(backend: Backend) -> None:
    """A device that never enrolled gets no challenge, and leaves no audit record."""
    stranger = BackendDevice(backend)
    before = last_event(backend).sequence
    with pytest.raises(DeviceUnknownError) as caught:
        stranger.session(DirectApi(backend))
    assert caught.value.code == "device:unknown"
    assert last_event(backend).sequence == before


def test_evidence_of_an_unknown_device_is_refused_without_a_challenge_too(
    backend: Backend, device: BackendDevice
) -> None:
    """Whoever sends evidence at once, with a challenge of another's, is unknown all the same."""
    stranger = BackendDevice(backend)
    evidence = stranger.evidence(device.next_nonce, purpose=Purpose.SESSION)
    with pytest.raises(DeviceUnknownError) as caught:
        DirectApi(backend).attest(AttestRequest(device=stranger.name, evidence=evidence))
    assert caught.value.code == "device:unknown"


def test_evidence_for_a_session_is_no_attestation(device: BackendDevice, api: DirectApi) -> None:
    """What was bound to another purpose gets no leave, though its challenge was for this one."""
    evidence = device.evidence(device.next_nonce, purpose=Purpose.SESSION)
    with pytest.raises(ChallengePurposeError) as caught:
        api.attest(AttestRequest(device=device.name, evidence=evidence))
    assert caught.value.code == "challenge:purpose"


def test_a_certificate_tells_nothing_of_which_other_devices_there_are(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Whose it is is looked at before any device is, so that an unknown one is refused alike."""
    for other in (enrolled_device(backend), BackendDevice(backend)):
        evidence = other.evidence(device.next_nonce)
        with pytest.raises(IdentityKeyError) as caught:
            api.attest(AttestRequest(device=other.name, evidence=evidence))
        assert caught.value.code == "identity:key:mismatch"


# --- a device that fails -------------------------------------------------------------


def test_a_failed_device_gets_its_findings_and_nothing_else(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """No approval, no root, no certificate; the verdict is stored with its reasons."""
    ask_for_rotation(backend, device)
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "1.0", bytes(32)))
    reply = device.attest(api, csr=True)
    assert reply.standing is Standing.FAILED
    assert "log:violation" in {finding.code for finding in reply.findings}
    assert (reply.approval, reply.root, reply.certificate) == (None, None, "")
    with backend.database.reading() as session:
        report = device_report(session, device.name.hex()[:20], by=local_administrator(), now=1)
        assert report.summary.standing == "failed"
        assert report.summary.next_step.startswith("a layer was changed")
        assert "log:violation" in report.trail[0].reason
        assert len(roots_of(session, device.name.hex())) == 1


def test_a_reset_count_that_fell_stays_a_finding(device: BackendDevice, api: DirectApi) -> None:
    """What a failed device says does not become what the next appraisal compares with (54)."""
    device.tpm.reset()
    device.tpm.reset()
    assert device.attest(api).standing is Standing.TRUSTED
    fallen = device.tpm.clock
    device.tpm.clock = type(fallen)(fallen.clock, 1, 0, safe=True)
    for _ in range(2):
        reply = device.attest(api)
        assert "clock:reset-fell" in {finding.code for finding in reply.findings}
        assert reply.standing is Standing.FAILED


def test_a_device_that_has_not_loaded_everything_is_incomplete(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Nothing speaks against it: it gets leave, and the list says to wait."""
    device.reset()
    reply = device.attest(api)
    assert reply.standing is Standing.INCOMPLETE
    assert reply.approval is not None
    with backend.database.reading() as session:
        report = device_report(
            session, device.name.hex(), by=local_administrator(), now=backend.clock()
        )
    assert report.summary.next_step.startswith("wait")


# --- rotation ------------------------------------------------------------------------


def offered(reply: AttestReply) -> tuple[int, bytes]:
    """Epoch and object of the root in a reply."""
    assert reply.root is not None
    return reply.root.approval.epoch, reply.root.public


def test_a_root_is_rotated_when_two_thirds_of_its_life_are_over(
    backend: Backend, device: BackendDevice, clock: ManualClock
) -> None:
    """Not before; then offered until the counter shows it, then the only one."""
    api = DirectApi(backend, device)
    pass_time(device, clock, 19 * DAY)
    device.session(DirectApi(backend))
    assert device.attest(api).root is None
    pass_time(device, clock, DAY + HOUR)
    device.session(DirectApi(backend))
    reply = device.attest(api)
    assert offered(reply)[0] == device.counter + 1
    assert reply.approval is not None
    assert reply.approval.epoch == device.counter
    root = reply.root
    assert root is not None
    (increment,) = root.increments
    ref = increment_ref(device.name)
    allowed = authorization(increment, ref, policy_key=device.policy_public)
    assert allowed.ref == ref
    metadata_key = backend.vault.signer(KeyRole.METADATA).public_key
    metadata = unseal(root.metadata, RootMetadata, key=metadata_key)
    assert metadata.epoch == device.counter + 1
    again = device.attest(api)
    assert offered(again) == offered(reply)
    assert again.root is not None
    assert again.root.metadata == root.metadata
    device.rotate()
    after = device.attest(api)
    assert after.standing is Standing.TRUSTED
    assert after.root is None
    assert after.approval is not None
    assert after.approval.epoch == device.counter
    with backend.database.reading() as session:
        states = {root.epoch: root.state for root in roots_of(session, device.name.hex())}
    assert states == {7: RootState.RETIRED, 8: RootState.ACTIVE}


def test_an_administrator_can_ask_for_a_rotation(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """The next attestation offers the next root, once."""
    ask_for_rotation(backend, device)
    assert offered(device.attest(api))[0] == 8
    device.rotate()
    assert device.attest(api).root is None
    assert device.attest(api).root is None


def test_a_root_that_was_confirmed_leaves_the_database(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Nothing that could open a key store is stored once the device has its next root."""
    ask_for_rotation(backend, device)
    device.attest(api)
    device.rotate()
    device.attest(api)
    with backend.database.reading() as session:
        roots = roots_of(session, device.name.hex())
        assert [root.state for root in roots] == [RootState.RETIRED, RootState.ACTIVE]
        assert {(root.public, root.duplicate, root.seed) for root in roots} == {(None, None, None)}


def test_an_old_epoch_is_refused_once_the_new_one_is_confirmed(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """After the confirmation E + 1 alone is accepted: a TPM does not count down."""
    ask_for_rotation(backend, device)
    device.attest(api)
    device.rotate()
    device.attest(api)
    device.counter -= 1
    reply = device.attest(api)
    assert reply.standing is Standing.FAILED
    assert "epoch:revoked" in {finding.code for finding in reply.findings}
    assert reply.approval is None


def test_the_publisher_gives_nothing_for_a_counter_that_is_not_the_active_root_s(
    backend: Backend, device: BackendDevice
) -> None:
    """Whatever appraisal says: leave and roots follow from the certified counter alone."""
    device.counter += 2
    evidence = device.evidence(device.next_nonce)
    claims = verify_evidence(
        evidence,
        device=device.known,
        nonce=device.next_nonce,
        purpose=Purpose.ATTEST,
        tls_key=device.tls_key,
    )
    ask_for_rotation(backend, device)
    with backend.database.transaction() as session:
        name = device.name.hex()
        state = lock_states(session, [name])[name]
        given = backend.publisher.follow(
            session,
            state,
            claims=claims,
            release=make_release(),
            other=None,
            policy=read_policy(DEFAULT_DOCUMENT),
            now=backend.clock(),
        )
        assert given == (None, None)
        assert len(roots_of(session, name)) == 1


def test_racing_attestations_make_one_root(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Threads that attest at once are all offered the same root (96)."""
    ask_for_rotation(backend, device)
    messages = []
    for _ in range(4):
        nonce = session_nonce(backend, device, Purpose.ATTEST)
        messages.append(AttestRequest(device=device.name, evidence=device.evidence(nonce)))
    barrier = threading.Barrier(len(messages))
    found: list[tuple[int, bytes]] = []

    def run(message: AttestRequest) -> None:
        barrier.wait()
        try:
            found.append(offered(api.attest(message)))
        except ChallengeUsedError:
            return

    threads = [threading.Thread(target=run, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found
    assert len(set(found)) == 1
    with backend.database.reading() as session:
        assert session.query(StoredRoot).filter_by(epoch=8).count() == 1


def test_a_root_that_nobody_took_is_dated_anew(
    backend: Backend, device: BackendDevice, clock: ManualClock
) -> None:
    """An offer that has nearly expired gets new metadata: the same object, the same epoch."""
    ask_for_rotation(backend, device)
    api = DirectApi(backend, device)
    first = device.attest(api)
    pass_time(device, clock, 25 * DAY)
    device.session(DirectApi(backend))
    second = device.attest(api)
    assert offered(second) == offered(first)
    metadata_key = backend.vault.signer(KeyRole.METADATA).public_key
    dates = []
    for reply in (first, second):
        assert reply.root is not None
        dates.append(unseal(reply.root.metadata, RootMetadata, key=metadata_key))
    assert dates[1].not_after > dates[0].not_after
    assert dates[1].object_name == dates[0].object_name


def test_a_new_root_counts_for_a_device_whose_clock_is_behind(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Its metadata begin five minutes before they were made."""
    ask_for_rotation(backend, device)
    reply = device.attest(api)
    assert reply.root is not None
    metadata_key = backend.vault.signer(KeyRole.METADATA).public_key
    metadata = unseal(reply.root.metadata, RootMetadata, key=metadata_key)
    assert backend.clock() - metadata.not_before >= 5 * MINUTE


def test_an_offer_follows_the_device_to_its_new_release(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """A device takes no root for another release than its own: the metadata follows it."""
    ask_for_rotation(backend, device)
    first = device.attest(api)
    release = make_release("2.0")
    with backend.database.transaction() as session:
        add_release(session, release, now=backend.clock())
        accept_release(session, release.name, now=backend.clock())
    device.load(release)
    second = device.attest(api)
    assert offered(second) == offered(first)
    assert second.root is not None
    metadata_key = backend.vault.signer(KeyRole.METADATA).public_key
    assert unseal(second.root.metadata, RootMetadata, key=metadata_key).release == "2.0"


def test_a_device_that_was_away_until_its_root_expired_can_move_its_keys(
    backend: Backend, device: BackendDevice, clock: ManualClock
) -> None:
    """It gets the next root and, for an hour, the old one: without it its keys were lost."""
    pass_time(device, clock, 100 * DAY)
    device.session(DirectApi(backend))
    reply = device.attest(DirectApi(backend, device))
    assert offered(reply)[0] == 8
    assert reply.approval is not None
    assert reply.approval.epoch == 7
    assert reply.approval.not_after == device.tpm.clock.clock + MOVE_WINDOW_MS
    with backend.database.reading() as session:
        rows = session.query(AuditRecord).filter_by(event=Event.APPROVAL_EXTENDED)
        assert rows.count() == 1


def test_a_device_that_was_away_opens_its_expired_root_for_no_more_than_the_grace(
    backend: Backend,
    device: BackendDevice,
    clock: ManualClock,
    hold_to: Callable[..., None],
) -> None:
    """The last approval, too, ends where the policy's grace does."""
    hold_to(offline_grace="30m")
    pass_time(device, clock, 100 * DAY)
    device.session(DirectApi(backend))
    reply = device.attest(DirectApi(backend, device))
    assert reply.approval is not None
    assert reply.approval.epoch == 7
    assert reply.approval.not_after == device.tpm.clock.clock + 30 * MINUTE


def test_a_restored_database_gives_no_epoch_twice(
    backend: Backend,
    settings: Settings,
    device: BackendDevice,
    save_database: Callable[[], Callable[[], None]],
) -> None:
    """A device beyond every known epoch fails, and the old database makes no root for it (68)."""
    restore = save_database()
    api = DirectApi(backend, device)
    for _ in range(2):
        ask_for_rotation(backend, device)
        device.attest(api)
        device.rotate()
        device.attest(api)
    backend.database.close()
    restore()
    restored = open_backend(settings, passphrase=PASSPHRASE, clock=backend.clock)
    try:
        ask_for_rotation(restored, device)
        reply = device.attest(DirectApi(restored, device))
        assert reply.standing is Standing.FAILED
        assert "epoch:unknown" in {finding.code for finding in reply.findings}
        assert (reply.root, reply.approval) == (None, None)
        with restored.database.reading() as session:
            assert session.query(AuditRecord).filter_by(event=Event.EPOCH_UNKNOWN).count() == 1
            report = device_report(
                session, device.name.hex(), by=local_administrator(), now=restored.clock()
            )
        assert report.summary.next_step.startswith("this database is older")
    finally:
        restored.database.close()


# --- the trail -----------------------------------------------------------------------


def test_no_verdict_without_its_record(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """Verdicts and refusals are in the trail with the evidence's digest, and the trail is whole."""
    device.attest(api)
    record = last_event(backend)
    assert record.event == Event.EVIDENCE_ACCEPTED
    assert len(record.evidence) == 32
    with backend.database.reading() as session:
        key = backend.vault.signer(KeyRole.AUDIT).public_key
        assert verify_log(session, key=key, kept=()).size == record.sequence
