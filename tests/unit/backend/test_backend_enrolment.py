"""Who may enrol, and with what."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    CredentialError,
    EkUnknownError,
    EnrolmentEpochError,
    EnrolmentOrderError,
    EnrolmentUnknownError,
    HwTrustError,
    KeyAttributesError,
    TlsKeyRefusedError,
    TokenError,
    UntrustedError,
)
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import (
    EnrolBegin,
    EnrolKey,
    SignedTime,
    Standing,
    TlsKeyKind,
)
from hwtrust.wire.root import RootMetadata, authorization, root_ref
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.app.setup import trust_anchor
from hwtrust_backend.audit import AuditRecord, Event, evidence_digest
from hwtrust_backend.enrolment import Device, Enrolment, EnrolmentToken, forget_expired
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.enrolment.tokens import create_token, revoke_token
from hwtrust_backend.enrolment.trust import allow_ek, remove_ek
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.publishing import StoredRoot
from hwtrust_backend.references import retire_release
from hwtrust_backend.testing import DAY, HOUR, MINUTE
from simulators.attester import make_csr, make_release
from simulators.backend_clients import BackendDevice, DirectApi, leaf_der
from simulators.ek_authority import EkAuthority
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.testing import ManualClock


def ready_device(backend: Backend, **arguments: object) -> BackendDevice:
    """A device that has loaded release 1.0."""
    device = BackendDevice(backend, **arguments)  # type: ignore[arg-type]
    device.load(make_release())
    return device


def allow(backend: Backend, device: BackendDevice) -> None:
    """Put a device's EK on the allow-list."""
    with backend.database.transaction() as session:
        allow_ek(session, device.name.hex(), label="lab", now=backend.clock())


def trust_vendor(backend: Backend, vendor: EkAuthority) -> None:
    """Import a vendor's CA certificates."""
    for file in vendor.files:
        with backend.database.transaction() as session:
            backend.enrolments.authorities.add(
                session, file, kind=AuthorityKind.CERTIFICATES, now=backend.clock()
            )


def events(backend: Backend) -> list[str]:
    """The codes of the audit trail, oldest first."""
    with backend.database.reading() as session:
        rows = session.query(AuditRecord).order_by(AuditRecord.sequence)
        return [row.event for row in rows]


def test_an_allow_listed_ek_enrols_without_a_token(backend: Backend) -> None:
    """What an administrator has named needs nothing else, and gets certificate and root."""
    device = ready_device(backend)
    allow(backend, device)
    enrolled = device.enrol(DirectApi(backend))
    metadata_key = backend.vault.signer(KeyRole.METADATA).public_key
    metadata = unseal(enrolled.root.metadata, RootMetadata, key=metadata_key)
    assert (metadata.device, metadata.epoch) == (device.name, device.counter)
    assert metadata.storage_key == device.tpm.storage.name
    time = unseal(enrolled.time, SignedTime, key=metadata_key)
    assert time.device == device.name
    ref = root_ref(device.name, device.counter)
    opened = authorization(enrolled.root.approval, ref, policy_key=device.policy_public)
    assert opened.key_name == device.policy_public.name
    with backend.database.reading() as session:
        stored = session.get(Device, device.name.hex())
        assert stored is not None
        assert stored.standing is Standing.TRUSTED
    assert events(backend)[-3:] == [
        Event.CERTIFICATE_ISSUED,
        Event.ROOT_MADE,
        Event.ENROLMENT_ACCEPTED,
    ]


def test_an_enrolment_leaves_the_digest_of_its_evidence(backend: Backend) -> None:
    """The trail names what was decided on."""
    device = ready_device(backend)
    allow(backend, device)
    api = DirectApi(backend)
    enrolment, last = device.enrolment(api)
    api.finish(enrolment, last)
    with backend.database.reading() as session:
        query = session.query(AuditRecord).where(AuditRecord.event == Event.ENROLMENT_ACCEPTED)
        assert query.one().evidence == evidence_digest(last.evidence)


def test_a_root_is_not_in_the_database(backend: Backend) -> None:
    """Nothing that could open a key store is stored once the device has its first root."""
    device = ready_device(backend)
    allow(backend, device)
    device.enrol(DirectApi(backend))
    with backend.database.reading() as session:
        (root,) = session.query(StoredRoot)
        assert (root.public, root.duplicate, root.seed) == (None, None, None)


def test_an_ek_certificate_and_a_token_enrol_a_device(backend: Backend, token: str) -> None:
    """A certificate under a trusted vendor, with a token, is the ordinary way in."""
    vendor = EkAuthority.new()
    trust_vendor(backend, vendor)
    device = ready_device(backend)
    certificate = vendor.issue(device.tpm.ek)
    assert device.enrol(DirectApi(backend), token, certificate).device == device.name


def refused_beginning(
    backend: Backend, device: BackendDevice, certificate: bytes, token: str
) -> HwTrustError:
    """What the first step ends in."""
    message = EnrolBegin(
        ek_public=device.tpm.ek.encode_sized(), ek_certificate=certificate, token=token
    )
    with pytest.raises(HwTrustError) as caught:
        DirectApi(backend).begin(message)
    return caught.value


@pytest.mark.parametrize(
    ("trusted", "has_certificate", "code"),
    [
        pytest.param(False, False, EkUnknownError.code, id="no certificate at all"),
        pytest.param(False, True, "enrolment:ek:chain", id="a certificate of an unknown vendor"),
    ],
)
def test_an_ek_that_nobody_vouches_for_is_refused(
    backend: Backend, token: str, trusted: bool, has_certificate: bool, code: str
) -> None:
    """A token alone lets no TPM in."""
    assert not trusted
    device = ready_device(backend)
    certificate = EkAuthority.new().issue(device.tpm.ek) if has_certificate else b""
    error = refused_beginning(backend, device, certificate, token)
    assert error.code.startswith(code.rpartition(":")[0])
    assert events(backend)[-1] == Event.ENROLMENT_REFUSED


def test_an_ek_that_was_taken_off_the_list_is_refused(backend: Backend) -> None:
    """The allow-list is asked at every enrolment."""
    device = ready_device(backend)
    allow(backend, device)
    with backend.database.transaction() as session:
        remove_ek(session, device.name.hex(), now=backend.clock())
    refused = refused_beginning(backend, device, b"", "")
    assert (refused.code, refused.data["ek"]) == (EkUnknownError.code, device.name.hex())


def test_a_key_that_is_no_ek_is_refused(backend: Backend) -> None:
    """A signing key does not begin an enrolment, allow-listed or not."""
    device = ready_device(backend)
    message = EnrolBegin(ek_public=device.tpm.ak.encode_sized())
    with pytest.raises(KeyAttributesError) as caught:
        DirectApi(backend).begin(message)
    assert caught.value.code == "key:attributes"


class Vendor:
    """A device with a certificate under a vendor that the backend trusts."""

    def __init__(self, backend: Backend) -> None:
        self.authority = EkAuthority.new()
        trust_vendor(backend, self.authority)
        self.backend = backend

    def device(self) -> tuple[BackendDevice, bytes]:
        """A fresh device and its EK certificate."""
        device = ready_device(self.backend)
        return device, self.authority.issue(device.tpm.ek)


def test_a_token_is_good_for_one_enrolment(backend: Backend, token: str) -> None:
    """The second device with the same token is refused (42)."""
    vendor = Vendor(backend)
    first, certificate = vendor.device()
    first.enrol(DirectApi(backend), token, certificate)
    second, certificate = vendor.device()
    assert refused_beginning(backend, second, certificate, token).code == TokenError.code


@pytest.mark.parametrize("spoil", ["expired", "guessed", "revoked", "empty"])
def test_a_token_that_is_not_good_is_refused(
    backend: Backend, clock: ManualClock, token: str, spoil: str
) -> None:
    """Expired, guessed, revoked and missing tokens are one error (42)."""
    device, certificate = Vendor(backend).device()
    if spoil == "expired":
        clock.advance(2 * HOUR)
    elif spoil == "revoked":
        with backend.database.transaction() as session:
            (row,) = session.query(EnrolmentToken)
            revoke_token(session, row.digest.hex()[:8], now=clock())
    used = {"guessed": "A" * len(token), "empty": ""}.get(spoil, token)
    assert refused_beginning(backend, device, certificate, used).code == TokenError.code


def test_a_token_that_was_revoked_during_the_enrolment_is_refused(
    backend: Backend, token: str
) -> None:
    """What counts is the token's state when the device is stored; then nothing is stored."""
    device, certificate = Vendor(backend).device()
    api = DirectApi(backend)
    step = device.enrolment(api, token, certificate)
    with backend.database.transaction() as session:
        (row,) = session.query(EnrolmentToken)
        revoke_token(session, row.digest.hex(), now=backend.clock())
    with pytest.raises(TokenError):
        api.finish(*step)
    with backend.database.reading() as session:
        assert session.query(Device).count() == 0
        assert session.query(StoredRoot).count() == 0


def test_of_two_enrolments_racing_with_one_token_one_wins(backend: Backend, token: str) -> None:
    """Two threads finish at once: one device is enrolled, the other leaves nothing (43)."""
    vendor, api = Vendor(backend), DirectApi(backend)
    pairs = [vendor.device() for _ in range(2)]
    steps = [device.enrolment(api, token, certificate) for device, certificate in pairs]
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def run(step: int) -> None:
        barrier.wait()
        try:
            api.finish(*steps[step])
        except HwTrustError as error:
            outcomes.append(error.code)
        else:
            outcomes.append("enrolled")

    threads = [threading.Thread(target=run, args=(step,)) for step in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["enrolled", TokenError.code]
    with backend.database.reading() as session:
        assert session.query(Device).count() == 1


def test_a_token_is_stored_as_a_digest(backend: Backend) -> None:
    """Whoever reads the database cannot enrol with what is in it."""
    with backend.database.transaction() as session:
        token = create_token(session, label="", lifetime_ms=HOUR, now=backend.clock())
    with backend.database.reading() as session:
        (row,) = session.query(EnrolmentToken)
        assert token.encode() not in row.digest
        reasons = [record.reason for record in session.query(AuditRecord)]
    assert reasons
    assert not any(token in reason for reason in reasons)


def test_a_wrong_secret_is_refused(backend: Backend) -> None:
    """Without the credential's secret the AK is in no known TPM (39)."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    enrolment, message = device.enrolment(api)
    wrong = msgspec.structs.replace(message, secret=bytes(32))
    with pytest.raises(CredentialError) as caught:
        api.finish(enrolment, wrong)
    assert caught.value.code == "enrolment:credential:mismatch"
    assert api.finish(enrolment, message).device == device.name


def test_a_credential_for_another_ak_does_not_open(backend: Backend) -> None:
    """The last AK given is the one that the secret stands for (39)."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    enrolment, message = device.enrolment(api)
    other = SoftwareTpm().ak
    api.add_key(enrolment, EnrolKey(ak_public=other.encode_sized()))
    with pytest.raises(CredentialError):
        api.finish(enrolment, message)


def test_a_key_that_is_no_ak_is_refused(backend: Backend) -> None:
    """An unrestricted signing key gets no credential (29)."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    begun = api.begin(EnrolBegin(ek_public=device.tpm.ek.encode_sized()))
    with pytest.raises(KeyAttributesError):
        api.add_key(begun.enrolment, EnrolKey(ak_public=device.tpm.tls.encode_sized()))


def test_steps_out_of_order_are_refused(backend: Backend) -> None:
    """Finishing needs an AK; an enrolment that was never begun is unknown."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    begun = api.begin(EnrolBegin(ek_public=device.tpm.ek.encode_sized()))
    with pytest.raises(EnrolmentOrderError):
        api.finish(begun.enrolment, device.finish(begun.nonce))
    with pytest.raises(EnrolmentUnknownError):
        api.finish("never-begun", device.finish(begun.nonce))


def test_an_enrolment_that_takes_too_long_is_forgotten(
    backend: Backend, clock: ManualClock
) -> None:
    """After its lifetime an enrolment cannot be finished; its row goes in the background."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    step = device.enrolment(api)
    clock.advance(16 * MINUTE)
    with pytest.raises(EnrolmentUnknownError):
        api.finish(*step)
    with backend.database.transaction() as session:
        forget_expired(session, now=clock())
        assert session.query(Enrolment).count() == 0


def test_the_last_step_repeated_gets_the_same_answer(backend: Backend, token: str) -> None:
    """A device whose connection broke asks again and gets the same root, not another."""
    device, certificate = Vendor(backend).device()
    api = DirectApi(backend)
    enrolment, message = device.enrolment(api, token, certificate)
    first = api.finish(enrolment, message)
    assert api.finish(enrolment, message) == first
    changed = msgspec.structs.replace(message, csr=make_csr(device.tpm.tls_key))
    with pytest.raises(EnrolmentOrderError):
        api.finish(enrolment, changed)


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        ([], TlsKeyKind.TPM),
        (["tpm"], TlsKeyKind.ATTESTED),
        (["attested"], TlsKeyKind.TPM),
    ],
)
def test_a_kind_of_tls_key_that_is_not_named_is_refused(
    backend: Backend, hold_to: Callable[..., None], accepted: list[str], kind: TlsKeyKind
) -> None:
    """Absent policy refuses: a policy that names no kind enrols nobody."""
    hold_to(tls_keys=accepted)
    device = ready_device(backend, kind=kind)
    allow(backend, device)
    with pytest.raises(TlsKeyRefusedError) as caught:
        device.enrol(DirectApi(backend))
    assert caught.value.code == "identity:key:refused"


def test_a_device_in_an_unaccepted_state_is_not_enrolled(backend: Backend) -> None:
    """A release that is not accepted any more enrols no device."""
    device = ready_device(backend)
    allow(backend, device)
    with backend.database.transaction() as session:
        retire_release(session, "1.0", now=backend.clock())
    with pytest.raises(UntrustedError) as caught:
        device.enrol(DirectApi(backend))
    assert caught.value.code == "evidence:verdict:untrusted"


def test_a_device_with_a_release_that_nobody_knows_is_not_enrolled(
    backend: Backend, hold_to: Callable[..., None]
) -> None:
    """Even where the policy only alerts of it: a root is made for the states of a release."""
    hold_to(on_failure={"release:": "alert"})
    device = ready_device(backend)
    allow(backend, device)
    device.load(make_release("7.7"))
    with pytest.raises(UntrustedError) as caught:
        device.enrol(DirectApi(backend))
    assert caught.value.code == "evidence:verdict:untrusted"


def test_a_cleared_device_enrols_again_above_its_old_epochs(backend: Backend) -> None:
    """A new counter starts higher; the old roots are over (58)."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    device.enrol(api)
    device.counter += 5
    device.enrol(api)
    with backend.database.reading() as session:
        roots = {root.epoch: root.state.value for root in session.query(StoredRoot)}
    assert roots == {7: "retired", 12: "active"}


def test_a_root_that_a_cleared_device_never_took_leaves_the_database(backend: Backend) -> None:
    """What was offered before the new enrolment could open nothing any more, and is not kept."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    device.enrol(api)
    with backend.database.transaction() as session:
        name = device.name.hex()
        ask_rotation(session, name, by=local_administrator(), now=backend.clock())
    assert device.attest(DirectApi(backend, device)).root is not None
    device.counter += 5
    device.enrol(api)
    with backend.database.reading() as session:
        roots = {root.epoch: root for root in session.query(StoredRoot)}
        assert roots.keys() == {7, 8, 12}
        assert (roots[8].public, roots[8].duplicate, roots[8].seed) == (None, None, None)


def test_a_root_is_retired_once(backend: Backend) -> None:
    """Enrolling again neither dates nor records anew what was over before."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    for _ in range(3):
        device.enrol(api)
        device.counter += 1
    with backend.database.reading() as session:
        roots = session.query(StoredRoot).order_by(StoredRoot.epoch)
        assert [root.state.value for root in roots] == ["retired", "retired", "active"]
    assert events(backend).count(Event.ROOT_RETIRED.value) == 2


@pytest.mark.parametrize("step", [0, -1], ids=["the same epoch", "an older one"])
def test_an_epoch_is_never_given_twice(backend: Backend, step: int) -> None:
    """A counter that starts at an epoch that was in use opens no old root again (62)."""
    device, api = ready_device(backend), DirectApi(backend)
    allow(backend, device)
    device.enrol(api)
    device.counter += step
    with pytest.raises(EnrolmentEpochError) as caught:
        device.enrol(api)
    assert caught.value.code == "enrolment:epoch:reused"
    with backend.database.reading() as session:
        (root,) = session.query(StoredRoot)
        assert (root.epoch, root.state.value) == (7, "active")


@pytest.mark.parametrize(
    ("kind", "lifetime"), [(TlsKeyKind.TPM, 30 * DAY), (TlsKeyKind.ATTESTED, DAY)]
)
def test_a_certificate_lives_as_long_as_its_kind_of_key(
    backend: Backend, kind: TlsKeyKind, lifetime: int
) -> None:
    """A key in memory gets a certificate for a day, a key in the TPM one for a month."""
    from cryptography import x509  # noqa: PLC0415

    device = ready_device(backend, kind=kind)
    allow(backend, device)
    enrolled = device.enrol(DirectApi(backend))
    certificate = x509.load_der_x509_certificate(leaf_der(enrolled.certificate))
    left = certificate.not_valid_after_utc.timestamp() * 1000 - backend.clock()
    assert abs(left - lifetime) < MINUTE


def test_the_trust_anchor_names_the_keys_that_sign(backend: Backend) -> None:
    """Devices are given exactly the keys that the backend signs with."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    anchor = trust_anchor(backend.settings, backend.vault, releases=b"")
    policy = load_pem_public_key(anchor.policy_key.encode())
    metadata = load_pem_public_key(anchor.metadata_key.encode())
    assert isinstance(policy, ec.EllipticCurvePublicKey)
    assert policy == backend.vault.signer(KeyRole.POLICY).public_key
    assert metadata == backend.vault.signer(KeyRole.METADATA).public_key
