"""Enclaves attest: what they get for it, what follows for their roots, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from hwtrust.errors import (
    ChallengeError,
    ChallengeExpiredError,
    ChallengePurposeError,
    ChallengeUsedError,
    ChannelBindingError,
    DeviceRetiredError,
    DeviceUnknownError,
    HwTrustError,
    IdentityError,
    IdentityKeyError,
    LogError,
    ReleaseKeyMissingError,
    StaleQuoteError,
    TlsKeyRefusedError,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEvidence,
    EnclaveKind,
    EnclaveReply,
)
from hwtrust.wire.enclaves.dcap import TdReport
from hwtrust.wire.logs.firmware import EventType
from hwtrust.wire.messages import ChallengeReply, Mode, Standing
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import lock, retire, unlock
from hwtrust_backend.admin.queries import answer_evidence, query, query_report
from hwtrust_backend.admin.rules import try_policy
from hwtrust_backend.appraisal.dry_run import DryRun
from hwtrust_backend.audit import Event
from hwtrust_backend.audit.models import AuditRecord
from hwtrust_backend.enrolment import Device
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.policies import StoredEvidence
from hwtrust_backend.publishing import RootState, note_recovery, roots_of
from hwtrust_backend.references import accept_release, add_release, retire_release
from hwtrust_backend.testing import DAY, HOUR, MINUTE
from simulators.attester import make_release
from simulators.dcap_signer import td_report
from simulators.enclave_clients import (
    DEBUG_POLICY,
    PCR,
    SNP_TABLE,
    BackendEnclave,
    DirectWay,
    enclave_policy,
    rotate,
    row,
    signed_metadata,
)
from simulators.firmware_log import Firmware
from simulators.snp_signer import POLICY

if TYPE_CHECKING:
    from collections.abc import Callable


ADMINISTRATOR = local_administrator()
TD = TdReport.decode(td_report())
TDX_TABLE: dict[str, Any] = {
    "accepted_tcb_statuses": ["UpToDate"],
    "tcb_evaluation_data_number_floor": 18,
    "mr_td": [TD.mr_td.hex()],
    "mr_seam": [TD.mr_seam.hex()],
    "unsafe_any_rtmr": ["0", "1", "2", "3"],
    "xfam": [f"0x{TD.xfam:016x}"],
    "tee_tcb_svn_floor": TD.tee_tcb_svn.hex(),
}


def states(way: DirectWay, enclave: BackendEnclave) -> dict[int, RootState]:
    """Its roots, by epoch."""
    with way.backend.database.reading() as session:
        return {root.epoch: root.state for root in roots_of(session, enclave.name.hex())}


def codes(reply: EnclaveReply) -> list[str]:
    """Of its findings."""
    return [finding.code for finding in reply.findings]


# --- what a good one gets ----------------------------------------------------------------


def test_a_good_enclave_attests_and_gets_no_root_that_is_not_due(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """It is told the time and the next challenge; what its hardware said is kept."""
    before = row(way, enclave)
    reply = enclave.attest(way)
    assert (reply.standing, reply.mode, reply.findings) == (Standing.TRUSTED, Mode.NORMAL, ())
    assert (reply.root, reply.certificate, reply.update) == (None, "", None)
    assert reply.heartbeat_ms > 0
    assert reply.offline_grace_ms > 0
    after = row(way, enclave)
    assert after.attested_at > before.attested_at
    assert (after.counter, after.kind) == (1, "snp")
    assert (
        json.loads(after.facts or b"")["report_data"]
        != json.loads(before.facts or b"")["report_data"]
    )
    with way.backend.database.reading() as session:
        kept = session.get_one(StoredEvidence, enclave.name.hex())
    assert msgspec.json.decode(kept.content, type=EnclaveEvidence).kind is EnclaveKind.SNP


def test_a_long_firmware_log_does_not_fill_the_row_of_its_enclave(
    way: DirectWay, token: str, hold_to_document: Callable[[str], None]
) -> None:
    """The host writes the log, and every list of enclaves reads what was said."""
    firmware = Firmware("sha384", confidential=True)
    firmware.measure(2, EventType.IPL, b"kernel_cmdline: " + b"x" * 999, b"long")
    for at in range(2000):
        firmware.measure(2, EventType.IPL, b"kernel_cmdline: %d" % at + b"x" * 99, b"%d" % at)
    values = {f"rtmr{number}": value for number, value in firmware.rtmrs.items()}
    enclave = BackendEnclave(EnclaveKind.TDX)
    enclave.firmware_log = firmware.raw
    hold_to_document(enclave_policy(tdx=TDX_TABLE))
    enclave.enrol(way, token, report=values)
    enclave.attest(way, report=values)
    facts = json.loads(row(way, enclave).facts or b"")
    assert facts["firmware_secure_boot"] == "unknown"
    assert len(row(way, enclave).facts or b"") < 64 * 1024
    lists = [fact for fact in facts.values() if isinstance(fact, list)]
    assert max(map(len, lists)) == 64
    assert max(len(text) for fact in lists for text in fact) == 256
    assert not any(name.startswith(("firmware_pcr_", "firmware_rtmr_")) for name in facts)


def test_a_heartbeat_that_says_nothing_new_is_not_kept_again(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """The kept evidence is that which told something."""
    enclave.attest(way)
    with way.backend.database.reading() as session:
        first = session.get_one(StoredEvidence, enclave.name.hex()).at
    enclave.attest(way)
    with way.backend.database.reading() as session:
        assert session.get_one(StoredEvidence, enclave.name.hex()).at == first


def test_the_next_root_comes_when_an_administrator_asks(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """It is offered until the evidence names its epoch, and then it is the only one."""
    rotate(way, enclave)
    reply = enclave.attest(way)
    assert reply.root is not None
    metadata = signed_metadata(reply.root.metadata, way.backend)
    assert (metadata.epoch, metadata.device) == (2, enclave.name)
    assert states(way, enclave) == {1: RootState.ACTIVE, 2: RootState.OFFERED}
    again = enclave.attest(way)
    assert again.root == reply.root
    enclave.take(reply.root)
    assert enclave.attest(way).root is None
    assert states(way, enclave) == {1: RootState.RETIRED, 2: RootState.ACTIVE}
    assert row(way, enclave).counter == 2


def test_the_next_root_comes_when_the_last_one_is_old(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """After two thirds of its life, by the schedule of all devices."""
    way.backend.clock.advance(21 * DAY)  # type: ignore[attr-defined]
    reply = enclave.session(way)
    assert (reply.root, bool(reply.certificate)) == (None, True)
    assert enclave.attest(way).root is not None


def test_an_enclave_that_has_no_root_gets_one_at_once(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """Whatever it held in memory is gone; the epoch that it had is over once it has the next."""
    enclave.restart()
    reply = enclave.attest(way)
    assert reply.root is not None
    assert enclave.take(reply.root) == 2
    enclave.attest(way)
    assert states(way, enclave) == {1: RootState.RETIRED, 2: RootState.ACTIVE}


def test_what_was_offered_to_a_lost_key_is_left_out(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """Nobody can open it any more: the next epoch is made for the new key."""
    rotate(way, enclave)
    lost = enclave.attest(way).root
    enclave.restart()
    reply = enclave.attest(way)
    assert lost is not None
    assert reply.root is not None
    assert enclave.take(reply.root) == 3
    assert states(way, enclave)[2] is RootState.RETIRED
    assert codes(enclave.attest(way, epoch=2)) == ["epoch:unknown"]
    enclave.attest(way)
    assert states(way, enclave)[3] is RootState.ACTIVE


def test_an_epoch_that_is_over_is_revoked(way: DirectWay, enclave: BackendEnclave) -> None:
    """A restored or copied enclave that names it is locked, and is told why."""
    rotate(way, enclave)
    root = enclave.attest(way).root
    assert root is not None
    enclave.take(root)
    enclave.attest(way)
    reply = enclave.attest(way, epoch=1)
    assert (codes(reply), reply.standing, reply.mode) == (
        ["epoch:revoked"],
        Standing.FAILED,
        Mode.LOCKED,
    )
    assert reply.root is None
    assert row(way, enclave).counter == 2
    assert enclave.attest(way).standing is Standing.TRUSTED


def test_an_epoch_that_nobody_made_is_unknown(way: DirectWay, enclave: BackendEnclave) -> None:
    """Its next root is neither confirmed nor counted on by what it says."""
    assert codes(enclave.attest(way, epoch=7)) == ["epoch:unknown"]
    assert codes(enclave.attest(way, epoch=2**63 - 1)) == ["epoch:unknown"]
    assert row(way, enclave).counter == 1


def test_a_failed_enclave_confirms_nothing(way: DirectWay, enclave: BackendEnclave) -> None:
    """What code says that is not accepted does not end the epoch of code that is."""
    rotate(way, enclave)
    assert enclave.attest(way).root is not None
    reply = enclave.attest(way, epoch=2, report={"policy": POLICY | DEBUG_POLICY})
    assert codes(reply) == ["snp:debug"]
    assert states(way, enclave) == {1: RootState.ACTIVE, 2: RootState.OFFERED}


def test_an_incomplete_enclave_gets_no_root(way: DirectWay, enclave: BackendEnclave) -> None:
    """Nothing but the verdict keeps a root from being opened."""
    rotate(way, enclave)
    enclave.load(make_release(), layers=1)
    reply = enclave.attest(way)
    assert (reply.standing, reply.root) == (Standing.INCOMPLETE, None)
    assert states(way, enclave) == {1: RootState.ACTIVE}


def test_a_certificate_that_ran_out_is_renewed_for_the_same_key(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """A session gives a certificate, and no root."""
    way.backend.clock.advance(2 * DAY)  # type: ignore[attr-defined]
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    with pytest.raises(IdentityError):
        enclave.attest(way)
    rotate(way, enclave)
    # It takes no key to seal a root to, as there is none.
    reply = enclave.session(way, release_key=b"")
    assert reply.certificate
    assert reply.root is None
    assert enclave.attest(way).root is not None


# --- what is refused ---------------------------------------------------------------------


def reused(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence that was answered before."""
    evidence = enclave.evidence(enclave.next_nonce)
    enclave.attest(way, evidence)
    return evidence, enclave.certificate


def older(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence for a challenge from before the one that was answered."""
    nonce = enclave.ask(way, Purpose.ATTEST)
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    enclave.attest(way)
    return enclave.evidence(nonce), enclave.certificate


def too_old(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence for a challenge whose time is over."""
    way.backend.clock.advance(HOUR // 2)  # type: ignore[attr-defined]
    return enclave.evidence(enclave.next_nonce), enclave.certificate


def anothers_nonce(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence for the challenge of another enclave."""
    return enclave.evidence(other(way).next_nonce), enclave.certificate


def of_a_session(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence that was made for a session, over a connection that may get a root."""
    nonce = enclave.ask(way, Purpose.SESSION)
    return enclave.evidence(nonce, purpose=Purpose.SESSION), enclave.certificate


def of_an_enrolment(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence that was made to enrol, in the place of that for a session."""
    nonce = enclave.ask(way, Purpose.ENROL)
    return enclave.evidence(nonce, purpose=Purpose.ENROL), ""


def without_certificate(_: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """An attestation by whoever holds the evidence."""
    return enclave.evidence(enclave.next_nonce), ""


def anothers_certificate(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence relayed over another device's session."""
    return enclave.evidence(enclave.next_nonce), other(way).certificate


def anothers_id(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """An enclave's own evidence, under the name of another one."""
    stranger = BackendEnclave()
    nonce = enclave.ask(way, Purpose.SESSION)
    return stranger.evidence(nonce, purpose=Purpose.SESSION), ""


def anothers_key_bound(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence that binds another TLS key than the connection's."""
    stranger = BackendEnclave()
    nonce = enclave.ask(way, Purpose.ATTEST)
    return enclave.evidence(nonce, tls_key=stranger.spki), enclave.certificate


def not_bound(_: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """A binding with another epoch than the one that was vouched for."""
    made = enclave.evidence(enclave.next_nonce)
    binding = msgspec.structs.replace(made.binding, epoch=0)
    return msgspec.structs.replace(made, binding=binding), enclave.certificate


def stolen_root(_: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """A release key of somebody else, put into the binding afterwards."""
    made = enclave.evidence(enclave.next_nonce)
    thief = X25519PrivateKey.generate().public_key().public_bytes_raw()
    binding = msgspec.structs.replace(made.binding, release_key=thief)
    return msgspec.structs.replace(made, binding=binding), enclave.certificate


def another_kind(way: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """Evidence of another kind for the same key."""
    nonce = enclave.ask(way, Purpose.ATTEST)
    binding = enclave.binding(nonce)
    td = BackendEnclave(EnclaveKind.TDX)
    td.log = enclave.log
    return td.over(binding), enclave.certificate


def log_exchanged(_: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """A log that the binding does not name."""
    made = enclave.evidence(enclave.next_nonce)
    return msgspec.structs.replace(made, log=b""), enclave.certificate


def no_release_key(_: DirectWay, enclave: BackendEnclave) -> tuple[EnclaveEvidence, str]:
    """No key to seal roots to."""
    return enclave.evidence(enclave.next_nonce, release_key=b""), enclave.certificate


def other(way: DirectWay) -> BackendEnclave:
    """Another enclave that has enrolled."""
    with way.backend.database.transaction() as session:
        token = create_token(session, label="", lifetime_ms=HOUR, now=way.backend.clock())
    made = BackendEnclave()
    made.enrol(way, token)
    return made


REFUSED: dict[str, tuple[Any, type[HwTrustError]]] = {
    "evidence that was answered": (reused, ChallengeUsedError),
    "an older challenge than the last": (older, ChallengeUsedError),
    "a challenge whose time is over": (too_old, ChallengeError),
    "another enclave's challenge": (anothers_nonce, ChallengeError),
    "evidence for a session": (of_a_session, ChallengePurposeError),
    "evidence to enrol": (of_an_enrolment, ChallengePurposeError),
    "no certificate": (without_certificate, IdentityError),
    "another device's certificate": (anothers_certificate, IdentityKeyError),
    "evidence under another's name": (anothers_id, IdentityKeyError),
    "another TLS key than the connection's": (anothers_key_bound, IdentityKeyError),
    "a binding that was changed": (not_bound, StaleQuoteError),
    "another key to seal roots to": (stolen_root, StaleQuoteError),
    "evidence of another kind": (another_kind, IdentityKeyError),
    "another log": (log_exchanged, LogError),
    "no key to seal roots to": (no_release_key, ReleaseKeyMissingError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(
    way: DirectWay, enclave: BackendEnclave, case: str
) -> None:
    """Neither the device nor its roots; the next good evidence is taken."""
    make, error = REFUSED[case]
    evidence, certificate = make(way, enclave)
    before = msgspec.to_builtins(vars_of(row(way, enclave)))
    rotate_wanted = states(way, enclave)
    with pytest.raises(error) as raised:
        enclave.attest(way, evidence, certificate=certificate)
    assert isinstance(raised.value, HwTrustError)
    assert msgspec.to_builtins(vars_of(row(way, enclave))) == before
    assert states(way, enclave) == rotate_wanted
    with way.backend.database.reading() as session:
        last = session.scalars(select(AuditRecord).order_by(AuditRecord.sequence.desc())).first()
    assert last is not None
    assert last.event == Event.EVIDENCE_REFUSED
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    assert enclave.attest(way).standing is Standing.TRUSTED


def vars_of(device: Device) -> dict[str, Any]:
    """All columns."""
    return {column.name: getattr(device, column.name) for column in Device.__table__.columns}


def test_evidence_is_no_use_on_another_connection_of_the_same_enclave(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """The certificate names the device, and its key has to be the one that is bound."""
    thief = BackendEnclave()
    message = EnclaveAttest(
        device=enclave.name,
        evidence=enclave.evidence(enclave.next_nonce),
    )
    forged = forged_certificate(way, enclave, thief)
    with pytest.raises(ChannelBindingError):
        way.post("", message, EnclaveReply, certificate=forged)


def forged_certificate(way: DirectWay, enclave: BackendEnclave, thief: BackendEnclave) -> str:
    """A certificate of this backend for the device, and for another key than its own."""
    from hwtrust_backend.keys import KeyRole, issue_device_certificate  # noqa: PLC0415
    from simulators.attester import make_csr  # noqa: PLC0415

    vault = way.backend.vault
    return issue_device_certificate(
        make_csr(thief.tls_key),
        tls_key=thief.spki,
        device=enclave.name,
        signer=vault.signer(KeyRole.DEVICE_CA),
        authority=vault.authority(KeyRole.DEVICE_CA),
        now=way.backend.clock(),
        lifetime_ms=DAY,
    ).pem


def test_who_is_not_enrolled_gets_no_challenge_to_attest(way: DirectWay) -> None:
    """Nor is its evidence looked at."""
    stranger = BackendEnclave()
    asked = EnclaveChallengeRequest(
        kind=EnclaveKind.SNP, tls_key=stranger.spki, purpose=Purpose.SESSION
    )
    with pytest.raises(DeviceUnknownError):
        way.post("", asked, ChallengeReply)
    with pytest.raises(DeviceUnknownError):
        stranger.attest(way, stranger.evidence(bytes(40), purpose=Purpose.SESSION))


# --- verdicts ----------------------------------------------------------------------------

FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "it is debugged": ({"report": {"policy": POLICY | DEBUG_POLICY}}, "snp:debug"),
    "it was launched as something else": (
        {"report": {"measurement": bytes(48)}},
        "snp:measurement",
    ),
    "it claims a release that nobody knows": ({"release": "9.9"}, "release:unknown"),
}


@pytest.mark.parametrize("case", FAILING)
def test_an_enclave_that_fails_is_told_and_gets_nothing(
    way: DirectWay, enclave: BackendEnclave, case: str
) -> None:
    """Neither root nor certificate; it is noted, and what the hardware said too."""
    changes, code = FAILING[case]
    rotate(way, enclave)
    reply = enclave.attest(way, csr=True, **changes)
    assert code in codes(reply)
    assert (reply.standing, reply.mode) == (Standing.FAILED, Mode.LOCKED)
    assert (reply.root, reply.certificate) == (None, "")
    device = row(way, enclave)
    assert device.standing is Standing.FAILED
    assert enclave.attest(way).root is not None


def test_a_layer_that_was_changed_is_found(way: DirectWay, enclave: BackendEnclave) -> None:
    """As of a TPM's device, and the order to repair it too where there is one."""
    found = LogEvent(EventKind.VIOLATION, "kernel", "1.0", bytes(32))
    enclave.log = enclave.log.appended(found, pcr=PCR, banks=(Alg.SHA256,))
    assert "log:violation" in codes(enclave.attest(way))


def test_a_policy_may_say_less_of_a_finding(
    way: DirectWay, enclave: BackendEnclave, hold_to_document: Callable[[str], None]
) -> None:
    """Its codes are known to `on_failure`."""
    table = SNP_TABLE | {"guest_svn_minimum": 9}
    effects = {"default": "locked", "snp:guest-svn": "limited"}
    hold_to_document(enclave_policy(snp=table, on_failure=effects))
    reply = enclave.attest(way)
    assert (codes(reply), reply.mode) == (["snp:guest-svn"], Mode.LIMITED)
    assert reply.root is None


def test_a_kind_of_tls_key_that_is_not_accepted_any_more_is_refused(
    way: DirectWay, enclave: BackendEnclave, hold_to_document: Callable[[str], None]
) -> None:
    """No TPM holds an enclave's."""
    hold_to_document(enclave_policy(tls_keys=["tpm"]))
    with pytest.raises(TlsKeyRefusedError):
        enclave.attest(way)


def test_a_release_that_is_retired_fails(way: DirectWay, enclave: BackendEnclave) -> None:
    """And one that is accepted later brings the next root, as for every device."""
    backend = way.backend
    with backend.database.transaction() as session:
        add_release(session, make_release("2.0"), now=backend.clock())
        accept_release(session, "2.0", now=backend.clock())
        retire_release(session, "1.0", now=backend.clock())
    assert codes(enclave.attest(way)) == ["release:refused"]
    enclave.load(make_release("2.0"))
    reply = enclave.attest(way)
    assert reply.standing is Standing.TRUSTED
    assert row(way, enclave).release == "2.0"


def test_a_locked_enclave_is_told_so(way: DirectWay, enclave: BackendEnclave) -> None:
    """Until the lock is lifted it gets no root."""
    backend, name = way.backend, enclave.name.hex()
    rotate(way, enclave)
    with backend.database.transaction() as session:
        lock(session, name, reason="stolen", by=ADMINISTRATOR, now=backend.clock())
    reply = enclave.attest(way)
    assert (codes(reply), reply.mode, reply.root) == (["admin:locked"], Mode.LOCKED, None)
    with backend.database.transaction() as session:
        unlock(session, name, by=ADMINISTRATOR, now=backend.clock())
    assert enclave.attest(way).root is not None


def test_a_retired_enclave_is_refused(way: DirectWay, enclave: BackendEnclave) -> None:
    """Whatever certificate it shows."""
    backend = way.backend
    with backend.database.transaction() as session:
        retire(session, enclave.name.hex(), reason="sold", by=ADMINISTRATOR, now=backend.clock())
    with pytest.raises(DeviceRetiredError):
        enclave.attest(way)


def test_an_enclave_answers_what_it_runs(way: DirectWay, enclave: BackendEnclave) -> None:
    """The answer has its layers and what its hardware says, and its evidence."""
    backend, name = way.backend, enclave.name.hex()
    backend.clock.advance(MINUTE)  # type: ignore[attr-defined]
    with backend.database.transaction() as session:
        query(session, name, by=ADMINISTRATOR, now=backend.clock())
    # It was challenged before it was asked.
    with pytest.raises(ChallengeExpiredError):
        enclave.attest(way)
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    enclave.attest(way)
    with backend.database.reading() as session:
        report = query_report(session, name, by=ADMINISTRATOR, now=backend.clock())
        evidence = answer_evidence(session, name, by=ADMINISTRATOR)
    assert report.answer is not None
    assert (report.answer.kind, report.answer.clock, report.answer.pcrs) == ("snp", None, ())
    assert report.answer.facts["product"] == "Genoa"
    assert report.answer.counter == 1
    assert [layer.name for layer in report.answer.layers] == ["root-of-trust", "kernel", "frontend"]
    assert isinstance(evidence, EnclaveEvidence)


def tried(way: DirectWay, document: str) -> DryRun:
    """What a document would do to the enclaves that are there."""
    with way.backend.database.reading() as session:
        return try_policy(session, document, group="default", limit=None, by=ADMINISTRATOR)


def test_a_dry_run_judges_enclaves_by_their_kept_evidence(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """By hardware, kind, key and release, as of the moment in which it came."""
    enclave.attest(way)
    way.backend.clock.advance(5000 * DAY)  # type: ignore[attr-defined]
    found = tried(way, enclave_policy())
    assert (found.examined, found.unreadable, found.failing) == (1, 0, 0)
    assert found.modes == {"normal": 1}
    refused = {
        "snp:measurement": enclave_policy(snp=SNP_TABLE | {"measurements": ["00" * 48]}),
        "evidence:kind": enclave_policy(evidence=["tpm", "tdx"]),
        "release:refused": enclave_policy(releases=["2.0"]),
        TlsKeyRefusedError.code: enclave_policy(tls_keys=["tpm"]),
    }
    for code, document in refused.items():
        found = tried(way, document)
        assert (found.failing, found.newly_failing) == (1, 1)
        assert [reason.code for reason in found.reasons] == [code]
        assert [example.device for example in found.examples] == [enclave.name.hex()]


def test_a_dry_run_believes_no_kept_evidence_that_was_changed(
    way: DirectWay, enclave: BackendEnclave, token: str
) -> None:
    """Neither another binding, nor another log, nor another enclave's evidence."""
    del token
    enclave.attest(way)
    name = enclave.name.hex()
    with way.backend.database.reading() as session:
        kept = session.get_one(StoredEvidence, name).content
    evidence = msgspec.json.decode(kept, type=EnclaveEvidence)
    other = msgspec.structs.replace(evidence.binding, release="9.9")
    forged = {
        "another binding": msgspec.structs.replace(evidence, binding=other),
        "another log": msgspec.structs.replace(evidence, log=b""),
        "another enclave's": BackendEnclave().evidence(bytes(32)),
    }
    contents = {case: msgspec.json.encode(forgery) for case, forgery in forged.items()}
    for case, content in {**contents, "no evidence": b"{}"}.items():
        with way.backend.database.transaction() as session:
            session.get_one(StoredEvidence, name).content = content
        found = tried(way, enclave_policy())
        assert (found.examined, found.unreadable) == (0, 1), case


# --- after a restore ---------------------------------------------------------------------


def test_an_epoch_that_a_restored_database_forgot_is_taken_over(
    way: DirectWay, enclave: BackendEnclave, save_database: Callable[[], Callable[[], None]]
) -> None:
    """It is believed of code that is accepted, and replaced at once by one that nobody had."""
    restore = save_database()
    rotate(way, enclave)
    root = enclave.attest(way).root
    assert root is not None
    enclave.take(root)
    enclave.attest(way)
    way.backend.database.close()
    restore()
    with way.backend.database.transaction() as session:
        note_recovery(session, by="test", note="", now=way.backend.clock())
    with pytest.raises(ChallengeExpiredError):
        enclave.attest(way)
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    reply = enclave.attest(way)
    assert reply.standing is Standing.TRUSTED
    assert reply.root is not None
    assert enclave.take(reply.root) == 4
    assert codes(enclave.attest(way, epoch=2**40)) == ["epoch:unknown"]
