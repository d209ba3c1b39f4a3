"""Enclaves enrol: with a token, with authentic evidence of an accepted state, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import func, select

from hwtrust.errors import (
    ChallengeError,
    ChallengeExpiredError,
    ChallengePurposeError,
    ChallengeUsedError,
    DeviceKindError,
    DeviceRetiredError,
    HwTrustError,
    IdentityKeyError,
    LogError,
    ReleaseKeyMissingError,
    RootObjectError,
    StaleQuoteError,
    TlsKeyRefusedError,
    TokenError,
    UntrustedError,
)
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveEnrolled,
    EnclaveKind,
    EnclaveReply,
    open_root,
)
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import (
    AttestRequest,
    ChallengeRequest,
    SignedTime,
    Standing,
    TlsKeyKind,
)
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import lock, readmit, retire
from hwtrust_backend.audit import Event
from hwtrust_backend.audit.models import AuditRecord
from hwtrust_backend.enclaves import list_authorities, remove_authority
from hwtrust_backend.enrolment import Device, EnrolmentToken
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.publishing import RootState, StoredRoot, roots_of
from hwtrust_backend.testing import DAY, MINUTE
from simulators.attester import make_csr, make_release
from simulators.backend_clients import DirectApi, enrolled_device
from simulators.enclave_clients import (
    DEBUG_POLICY,
    SNP_TABLE,
    BackendEnclave,
    DirectWay,
    another_token,
    enclave_policy,
    signed_metadata,
)
from simulators.snp_signer import POLICY

if TYPE_CHECKING:
    from collections.abc import Callable


ADMINISTRATOR = local_administrator()


def row(way: DirectWay, enclave: BackendEnclave) -> Device | None:
    """What is stored of it."""
    with way.backend.database.reading() as session:
        return session.get(Device, enclave.name.hex())


def uses(way: DirectWay) -> int:
    """How often tokens were used."""
    with way.backend.database.reading() as session:
        return session.scalar(select(func.sum(EnrolmentToken.uses))) or 0


def test_an_enclave_enrols_and_opens_its_root(way: DirectWay, token: str) -> None:
    """It gets a certificate, and a root of epoch 1 that is for its key alone."""
    enclave = BackendEnclave()
    enrolled = enclave.enrol(way, token)
    metadata = signed_metadata(enrolled.root.metadata, way.backend)
    assert enrolled.device == metadata.device == enclave.name
    assert (metadata.epoch, metadata.release) == (1, "1.0")
    assert metadata.release_key == enclave.release_key.public_key().public_bytes_raw()
    assert len(enclave.roots[1]) == 32
    device = row(way, enclave)
    assert device is not None
    assert (device.kind, device.standing, device.tls_kind) == (
        "snp",
        Standing.TRUSTED,
        TlsKeyKind.ATTESTED,
    )
    assert json.loads(device.facts or b"{}")["kind"] == "snp"
    assert enrolled.heartbeat_ms > 0


def test_the_backend_forgets_the_root(way: DirectWay, token: str) -> None:
    """What is stored of an active root is neither its bytes nor anything that holds them."""
    enclave = BackendEnclave()
    enrolled = enclave.enrol(way, token)
    with way.backend.database.reading() as session:
        (root,) = roots_of(session, enclave.name.hex())
    assert (root.state, root.reason) == (RootState.ACTIVE, "enrolment")
    assert root.public is root.duplicate is root.seed is None
    stored = msgspec.to_builtins(
        {name: getattr(root, name) for name in StoredRoot.__table__.columns.keys()}  # noqa: SIM118
    )
    assert enclave.roots[1].hex() not in repr(stored)
    assert enrolled.root.sealed


def test_a_root_opens_with_no_other_key(way: DirectWay, token: str) -> None:
    """It was sealed to the key that the evidence binds, under this metadata."""
    enclave = BackendEnclave()
    enrolled = way.post("", enclave.enrolment(way, token), EnclaveEnrolled)
    with pytest.raises(RootObjectError):
        open_root(
            enrolled.root.sealed,
            key=X25519PrivateKey.generate(),
            metadata=enrolled.root.metadata,
        )


def old(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Evidence for a challenge of long ago."""
    nonce = enclave.ask(way, Purpose.ENROL)
    way.backend.clock.advance(DAY)  # type: ignore[attr-defined]
    return enclave.evidence(nonce, purpose=Purpose.ENROL)


def made_up(enclave: BackendEnclave, _: DirectWay) -> Any:  # noqa: ANN401
    """Evidence for a challenge that nobody issued."""
    return enclave.evidence(bytes(40), purpose=Purpose.ENROL)


def for_another(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Evidence for the challenge of another enclave."""
    nonce = BackendEnclave().ask(way, Purpose.ENROL)
    return enclave.evidence(nonce, purpose=Purpose.ENROL)


def for_another_purpose(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Evidence that was made to enrol, by its binding, for a challenge of another kind."""
    enclave_known = enclave.ask(way, Purpose.ENROL)
    return enclave.evidence(enclave_known, purpose=Purpose.ATTEST)


def unbound(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Evidence whose binding was changed after it was made: another key to seal roots to."""
    made = enclave.evidence(enclave.ask(way, Purpose.ENROL), purpose=Purpose.ENROL)
    thief = X25519PrivateKey.generate().public_key().public_bytes_raw()
    binding = msgspec.structs.replace(made.binding, release_key=thief)
    return msgspec.structs.replace(made, binding=binding)


def another_log(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Evidence with another log than the one that it binds."""
    made = enclave.evidence(enclave.ask(way, Purpose.ENROL), purpose=Purpose.ENROL)
    enclave.load(make_release("2.0"))
    return msgspec.structs.replace(made, log=enclave.log.encode())


def no_release_key(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Evidence that names no key to seal roots to."""
    nonce = enclave.ask(way, Purpose.ENROL)
    return enclave.evidence(nonce, purpose=Purpose.ENROL, release_key=b"")


def short_release_key(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """A key that is none, by its size."""
    nonce = enclave.ask(way, Purpose.ENROL)
    return enclave.evidence(nonce, purpose=Purpose.ENROL, release_key=bytes(31))


def weak_release_key(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """A point of low order: whatever is sealed to it, everybody opens."""
    nonce = enclave.ask(way, Purpose.ENROL)
    return enclave.evidence(nonce, purpose=Purpose.ENROL, release_key=bytes(32))


def debugged(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """A guest whose host may debug it."""
    nonce = enclave.ask(way, Purpose.ENROL)
    report = {"policy": POLICY | DEBUG_POLICY}
    return enclave.evidence(nonce, purpose=Purpose.ENROL, report=report)


def another_image(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """A guest of another launch measurement."""
    nonce = enclave.ask(way, Purpose.ENROL)
    return enclave.evidence(nonce, purpose=Purpose.ENROL, report={"measurement": bytes(48)})


def other_layers(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Layers of another release than the one that is claimed."""
    enclave.load(make_release("2.0"))
    enclave.release = "1.0"
    return enclave.evidence(enclave.ask(way, Purpose.ENROL), purpose=Purpose.ENROL)


def unknown_release(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """A release that nobody knows."""
    enclave.load(make_release("2.0"))
    return enclave.evidence(enclave.ask(way, Purpose.ENROL), purpose=Purpose.ENROL)


def incomplete(enclave: BackendEnclave, way: DirectWay) -> Any:  # noqa: ANN401
    """Not all layers are loaded yet."""
    enclave.load(make_release(), layers=1)
    return enclave.evidence(enclave.ask(way, Purpose.ENROL), purpose=Purpose.ENROL)


REFUSED: dict[str, tuple[Any, type[HwTrustError]]] = {
    "an old challenge": (old, ChallengeError),
    "a challenge that nobody issued": (made_up, ChallengeError),
    "another enclave's challenge": (for_another, ChallengeError),
    "a binding for another purpose": (for_another_purpose, ChallengeError),
    "a release key put in afterwards": (unbound, StaleQuoteError),
    "another log": (another_log, LogError),
    "no release key": (no_release_key, ReleaseKeyMissingError),
    "a release key that is too short": (short_release_key, ReleaseKeyMissingError),
    "a release key that anybody opens": (weak_release_key, ReleaseKeyMissingError),
    "a guest that is debugged": (debugged, UntrustedError),
    "a guest of another image": (another_image, UntrustedError),
    "layers of another release": (other_layers, UntrustedError),
    "a release that nobody knows": (unknown_release, UntrustedError),
    "an incomplete load": (incomplete, UntrustedError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing_but_its_record(
    way: DirectWay, token: str, case: str
) -> None:
    """No device, no root, no certificate; the token can still be used."""
    make, error = REFUSED[case]
    enclave = BackendEnclave()
    evidence = make(enclave, way)
    if case == "an old challenge":
        token = another_token(way)
    with pytest.raises(error) as raised:
        way.post("", enclave.enrolment(way, token, evidence), EnclaveEnrolled)
    assert isinstance(raised.value, HwTrustError)
    assert row(way, enclave) is None
    assert uses(way) == 0
    with way.backend.database.reading() as session:
        last = session.scalars(select(AuditRecord).order_by(AuditRecord.sequence.desc())).first()
        assert session.scalar(select(func.count()).select_from(StoredRoot)) == 0
    assert last is not None
    assert (last.event, last.device) == (Event.ENROLMENT_REFUSED, enclave.name.hex())
    assert raised.value.code in last.reason


def test_evidence_enrols_once(way: DirectWay, token: str) -> None:
    """The same message again, with a token that is good, meets the nonce that it has used."""
    enclave = BackendEnclave()
    message = enclave.enrolment(way, token)
    way.post("", message, EnclaveEnrolled)
    with pytest.raises(TokenError):
        way.post("", message, EnclaveEnrolled)
    again = msgspec.structs.replace(message, token=another_token(way))
    with pytest.raises(ChallengeUsedError):
        way.post("", again, EnclaveEnrolled)
    assert uses(way) == 1


@pytest.mark.parametrize("purpose", [Purpose.ATTEST, Purpose.SESSION])
def test_evidence_that_was_made_for_something_else_does_not_enrol(
    way: DirectWay, token: str, purpose: Purpose
) -> None:
    """Whoever keeps what an enclave has shown cannot enrol it anew by that."""
    enclave = BackendEnclave()
    enclave.enrol(way, token)
    evidence = enclave.evidence(enclave.ask(way, purpose), purpose=purpose)
    with pytest.raises(ChallengePurposeError):
        way.post("", enclave.enrolment(way, another_token(way), evidence), EnclaveEnrolled)
    assert uses(way) == 1


def test_an_enrolment_has_the_time_that_the_settings_give(way: DirectWay, token: str) -> None:
    """Not that of every other challenge."""
    backend, enclave = way.backend, BackendEnclave()
    settings = msgspec.structs.replace(backend.settings, enrolment_lifetime_ms=MINUTE)
    way.backend = replace(backend, enclaves=replace(backend.enclaves, settings=settings))
    message = enclave.enrolment(way, token)
    backend.clock.advance(MINUTE)  # type: ignore[attr-defined]
    with pytest.raises(ChallengeExpiredError):
        way.post("", message, EnclaveEnrolled)
    enclave.enrol(way, token)


def test_the_time_is_signed_for_the_challenge_that_was_answered(way: DirectWay, token: str) -> None:
    """No earlier answer sets an enclave's clock back, nor does that to another one."""
    enclave = BackendEnclave()
    message = enclave.enrolment(way, token)
    enrolled = way.post("", message, EnclaveEnrolled)
    key = way.backend.vault.signer(KeyRole.METADATA).public_key
    time = unseal(enrolled.time, SignedTime, key=key)
    assert (time.device, time.nonce) == (enclave.name, message.evidence.binding.nonce)
    assert 0 < way.backend.clock() - time.utc_ms < MINUTE
    enclave.certificate, enclave.next_nonce = enrolled.certificate, enrolled.challenge
    reply = enclave.attest(way)
    time = unseal(reply.time, SignedTime, key=key)
    assert (time.device, time.nonce) == (enclave.name, enrolled.challenge)


@pytest.mark.parametrize("bad", ["", "nobody issued this"])
def test_every_enrolment_takes_a_token(way: DirectWay, bad: str) -> None:
    """No vendor says which machine an enclave is."""
    with pytest.raises(TokenError):
        BackendEnclave().enrol(way, bad)


def test_a_token_enrols_one_enclave(way: DirectWay, token: str) -> None:
    """Another one needs its own."""
    BackendEnclave().enrol(way, token)
    with pytest.raises(TokenError):
        BackendEnclave().enrol(way, token)


def test_the_certificate_is_for_the_key_that_the_evidence_names(way: DirectWay, token: str) -> None:
    """Whoever relays an enclave's evidence gets nothing for a key of their own."""
    enclave = BackendEnclave()
    thief = ec.generate_private_key(ec.SECP256R1())
    message = enclave.enrolment(way, token)
    with pytest.raises(IdentityKeyError):
        way.post("", msgspec.structs.replace(message, csr=make_csr(thief)), EnclaveEnrolled)
    assert row(way, enclave) is None
    assert uses(way) == 0


POLICIES: dict[str, tuple[dict[str, Any], type[HwTrustError], str]] = {
    "another kind is accepted": ({"evidence": ["tdx"]}, UntrustedError, "evidence:kind"),
    "its table is empty": ({"snp": {}}, UntrustedError, "snp:absent"),
    "its TCB is too old": (
        {"snp": SNP_TABLE | {"tcb": {"Genoa": dict(SNP_TABLE["tcb"]["Genoa"], snp=24)}}},
        UntrustedError,
        "snp:tcb",
    ),
    "no such TLS key is accepted": ({"tls_keys": ["tpm"]}, TlsKeyRefusedError, ""),
    "a shorter log is accepted": (
        {"log": {"max_records": 1, "outdated_loads": True}},
        UntrustedError,
        "log:length",
    ),
}


@pytest.mark.parametrize("case", POLICIES)
def test_what_the_policy_does_not_accept_is_not_enrolled(
    way: DirectWay, token: str, hold_to_document: Callable[[str], None], case: str
) -> None:
    """The verdict names what it is."""
    changes, error, code = POLICIES[case]
    hold_to_document(enclave_policy(**changes))
    enclave = BackendEnclave()
    with pytest.raises(error) as raised:
        enclave.enrol(way, token)
    assert code in str(raised.value)
    assert row(way, enclave) is None


def test_a_kind_without_a_table_is_not_accepted(
    way: DirectWay, token: str, hold_to_document: Callable[[str], None]
) -> None:
    """That it is among the accepted kinds is not enough."""
    hold_to_document(enclave_policy(evidence=["snp"], snp=None))
    with pytest.raises(UntrustedError) as raised:
        BackendEnclave().enrol(way, token)
    assert "policy:absent" in str(raised.value)


def test_what_is_said_of_tpms_may_be_absent(
    way: DirectWay, token: str, hold_to_document: Callable[[str], None]
) -> None:
    """An enclave has neither clock nor firmware nor PCRs of a TPM."""
    hold_to_document(enclave_policy(clock=None, firmware=None, pcrs=None))
    BackendEnclave().enrol(way, token)


def test_without_its_root_nothing_is_authentic(way: DirectWay, token: str) -> None:
    """Test roots count for as long as an administrator has them there."""
    with way.backend.database.transaction() as session:
        (row_of_roots,) = [r for r in list_authorities(session) if r.kind == "unsafe-roots"]
        remove_authority(session, row_of_roots.id, now=way.backend.clock())
    with pytest.raises(HwTrustError) as raised:
        BackendEnclave().enrol(way, token)
    assert raised.value.code.startswith("evidence:snp")


def test_the_log_has_to_explain_the_register_that_the_policy_names(
    way: DirectWay, token: str, hold_to_document: Callable[[str], None]
) -> None:
    """A kind that measures, and whose evidence holds something else, is not accepted."""
    hold_to_document(enclave_policy(tdx={}, enclaves={"register": "rtmr3"}))
    with pytest.raises(UntrustedError) as raised:
        BackendEnclave(EnclaveKind.TDX).enrol(way, token)
    assert "register:log" in str(raised.value)
    # SEV-SNP measures nothing while it runs.
    BackendEnclave().enrol(way, token)


def test_an_enclave_that_keeps_its_key_may_enrol_again(way: DirectWay, token: str) -> None:
    """It is the same device, and its next epoch is none that it had."""
    enclave = BackendEnclave()
    enclave.enrol(way, token)
    enclave.restart()
    enclave.enrol(way, another_token(way))
    assert enclave.epoch == 2
    with way.backend.database.reading() as session:
        states = {root.epoch: root.state for root in roots_of(session, enclave.name.hex())}
    assert states == {1: RootState.RETIRED, 2: RootState.ACTIVE}


def test_a_retired_enclave_enrols_once_it_is_readmitted(way: DirectWay, token: str) -> None:
    """As a TPM's device."""
    enclave = BackendEnclave()
    enclave.enrol(way, token)
    name, backend = enclave.name.hex(), way.backend
    with backend.database.transaction() as session:
        retire(session, name, reason="sold", by=ADMINISTRATOR, now=backend.clock())
    with pytest.raises(DeviceRetiredError):
        enclave.enrol(way, another_token(way))
    with backend.database.transaction() as session:
        readmit(session, name, reason="back", by=ADMINISTRATOR, now=backend.clock())
    enclave.enrol(way, another_token(way))


def test_a_lock_outlasts_an_enrolment(way: DirectWay, token: str) -> None:
    """A locked enclave gets no root by enrolling anew."""
    enclave = BackendEnclave()
    enclave.enrol(way, token)
    backend = way.backend
    with backend.database.transaction() as session:
        lock(session, enclave.name.hex(), reason="stolen", by=ADMINISTRATOR, now=backend.clock())
    with pytest.raises(UntrustedError) as raised:
        enclave.enrol(way, another_token(way))
    assert "admin:locked" in str(raised.value)


def test_a_tpm_and_an_enclave_do_not_share_their_ways(
    way: DirectWay, token: str, hold_to_document: Callable[[str], None]
) -> None:
    """Each is told by a typed error that this is for the other kind."""
    enclave = BackendEnclave()
    enclave.enrol(way, token)
    hold_to_document(enclave_policy(evidence=["tpm", "snp"]))
    backend = way.backend
    asked = ChallengeRequest(device=enclave.name, purpose=Purpose.ATTEST)
    with pytest.raises(DeviceKindError):
        DirectApi(backend).challenge(asked)
    tpm = enrolled_device(backend)
    evidence = tpm.evidence(enclave.ask(way, Purpose.SESSION), purpose=Purpose.SESSION)
    relabelled = AttestRequest(device=enclave.name, evidence=evidence)
    with pytest.raises(DeviceKindError):
        DirectApi(backend).attest(relabelled)
    message = EnclaveAttest(device=tpm.name, evidence=enclave.evidence(enclave.next_nonce))
    with pytest.raises(DeviceKindError):
        way.post("", message, EnclaveReply, certificate=tpm.certificate)
