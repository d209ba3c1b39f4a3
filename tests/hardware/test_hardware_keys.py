"""Endorsement, attestation, storage and TLS keys, and what they sign, on whatever TPM there is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    PcrDigestError,
    SignerError,
    StaleQuoteError,
    TpmError,
    TpmObjectConflictError,
)
from hwtrust.testing.hardware import HANDLES, OBJECTS, PCR
from hwtrust.tpm import commands, provision
from hwtrust.tpm.templates import EK_TEMPLATES, EkTemplate
from hwtrust.tpm.tls_key import TpmTlsKey
from hwtrust.verify import der
from hwtrust.verify.attestation import ENDORSEMENT, OWNER, qualified_name
from hwtrust.verify.certificates import read_certificate
from hwtrust.verify.certify import verify_certify
from hwtrust.verify.quote import QuoteClaims, verify_quote
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import RELOAD
from hwtrust.wire.protect import make_credential
from hwtrust.wire.structures import ObjectAttributes
from simulators.anchored_hardware import SELECTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.tpm.commands import SignedAttest
    from hwtrust.tpm.connection import Tpm
    from simulators.anchored_hardware import OwnRange

pytestmark = pytest.mark.hardware

NONCE = hashlib.sha256(b"a challenge").digest()
FC_INTEGRITY = 0x09F


@pytest.mark.parametrize("template", EK_TEMPLATES, ids=lambda template: template.profile)
def test_a_certified_ek_is_made_again_from_its_template(
    connection: Tpm, template: EkTemplate, note: Callable[[str], None]
) -> None:
    """The key that the vendor's certificate is for is the one that the template gives."""
    if template.certificate_index not in provision.nv_indices(connection):
        pytest.skip(f"the TPM has no EK certificate at {template.certificate_index:#010x}")
    for own in (template.template_index, template.nonce_index):
        if own in provision.nv_indices(connection):
            pytest.skip(f"the vendor changed the template by what is at {own:#010x}")
    stored = provision.vendor_data(connection, template.certificate_index)
    if not stored:
        pytest.skip(f"{template.certificate_index:#010x} cannot be read without a password")
    (der_bytes,) = der.split(stored)
    certificate = read_certificate(der_bytes)
    with provision.endorsement_key(connection, template) as (_, public):
        assert public.key().public_numbers() == certificate.key.public_numbers()
    note(f"EK certificate at {template.certificate_index:#010x}, {public.type.name}")


def test_the_ek_is_the_same_each_time(own: OwnRange, note: Callable[[str], None]) -> None:
    """A device's name follows from its TPM: made anew, the EK has the same Name."""
    endorsement = own.endorsement
    note(f"EK {endorsement.template.profile}{'' if endorsement.certificate else ' uncertified'}")
    with provision.endorsement_key(own.tpm, endorsement.template) as (_, again):
        assert again.name == own.device
    assert ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT in own.ek.attributes


def test_the_ak_follows_from_its_nonce(own: OwnRange) -> None:
    """The same nonce gives the same key, which is there already; another one conflicts with it."""
    again, public = provision.make_attestation_key(own.tpm, HANDLES.ak, unique=bytes(32))
    assert again.name == own.ak.name
    assert public == own.ak_public
    with pytest.raises(TpmObjectConflictError) as caught:
        provision.make_attestation_key(own.tpm, HANDLES.ak, unique=b"\1" * 32)
    assert caught.value.code == "tpm:object:conflict"


def test_a_persistent_key_stays_until_it_is_evicted(own: OwnRange) -> None:
    """A second AK is there under a handle of its own, signs, and goes without a trace."""
    handle = OBJECTS[-1]
    other, public = provision.make_attestation_key(own.tpm, handle, unique=b"\2" * 32)
    try:
        assert handle in provision.persistent_handles(own.tpm)
        assert other.name == public.name != own.ak.name
        quote = commands.quote(own.tpm, other, qualifying=NONCE, selection=SELECTION)
    finally:
        commands.evict_control(own.tpm, own.tpm.at(other), handle)
        own.tpm.unpin(handle)
    with pytest.raises(SignerError):
        checked(own, quote, key=public)
    assert handle not in provision.persistent_handles(own.tpm)
    with pytest.raises(TpmObjectConflictError) as caught:
        own.tpm.require(other)
    assert caught.value.code == "tpm:object:conflict"


def test_the_ak_proves_that_it_lives_beside_the_ek(own: OwnRange) -> None:
    """TPM2_ActivateCredential recovers a secret for this EK and AK, and for no other AK."""
    secret = hashlib.sha256(b"secret").digest()
    credential = make_credential(own.ek, own.ak_public.name, secret)
    assert activated(own, credential.id_object, credential.encrypted_secret) == secret
    others = make_credential(own.ek, own.storage_public.name, secret)
    with pytest.raises(TpmError) as caught:
        activated(own, others.id_object, others.encrypted_secret)
    rc = caught.value.data["rc"]
    assert isinstance(rc, int)
    assert rc & 0x0BF == FC_INTEGRITY


def test_a_quote_is_verified_as_the_backend_does(own: OwnRange) -> None:
    """An authentic quote tells the PCR's value, before and after an extend."""
    values = []
    for _ in range(2):
        claims = checked(own, quoted(own))
        values.append(claims.pcrs[Alg.SHA256][PCR])
        assert values[-1] == own.pcr()
        assert claims.clock.clock <= own.clock()
        own.extend(RELOAD)
    assert values[0] != values[1]


def test_a_quote_is_good_for_its_nonce_and_values_alone(own: OwnRange) -> None:
    """Another challenge, other values or another key: each is refused for what it is."""
    quote = quoted(own)
    with pytest.raises(StaleQuoteError) as stale:
        checked(own, quote, nonce=NONCE[::-1])
    assert stale.value.code == "evidence:nonce:mismatch"
    with pytest.raises(PcrDigestError):
        checked(own, quote, value=b"\1" * 32)
    with pytest.raises(SignerError):
        checked(own, quote, signer=qualified_name(own.ak.name, hierarchy=OWNER))


def test_the_ak_certifies_the_storage_key(own: OwnRange) -> None:
    """TPM2_Certify says that the storage key is a primary key of this TPM's owner."""
    signed = commands.certify(own.tpm, own.tpm.at(own.storage), own.ak, qualifying=NONCE)
    claims = verify_certify(
        signed.message,
        signed.signature,
        key=own.ak_public,
        nonce=NONCE,
        name=own.storage.name,
        signer=qualified_name(own.ak.name, hierarchy=ENDORSEMENT),
    )
    assert claims.qualified_name == qualified_name(own.storage.name, hierarchy=OWNER)


def test_a_tls_key_signs_inside_the_tpm(own: OwnRange, note: Callable[[str], None]) -> None:
    """A child of the storage key makes a certificate request that proves it, and is certified."""
    if not provision.has_p256(own.tpm):
        pytest.skip("the TPM has no P-256, which the TLS key is on")
    key = TpmTlsKey.create(own.tpm, own.storage)
    request = x509.load_der_x509_csr(key.csr())
    assert request.is_signature_valid
    assert isinstance(request.public_key(), ec.EllipticCurvePublicKey)
    signed = key.certify(own.ak, qualifying=NONCE)
    verify_certify(
        signed.message,
        signed.signature,
        key=own.ak_public,
        nonce=NONCE,
        name=key.public.name,
        signer=qualified_name(own.ak.name, hierarchy=ENDORSEMENT),
    )
    note("TLS key on P-256")


def quoted(own: OwnRange) -> SignedAttest:
    """A quote over the tests' own PCR."""
    return commands.quote(own.tpm, own.ak, qualifying=NONCE, selection=SELECTION)


def checked(own: OwnRange, quote: SignedAttest, **changes: object) -> QuoteClaims:
    """Verify a quote as one of this TPM's now, but for `changes`."""
    value = changes.pop("value", None) or own.pcr()
    expected = {
        "key": own.ak_public,
        "nonce": NONCE,
        "selection": SELECTION,
        "pcrs": {Alg.SHA256: {PCR: value}},
        "signer": qualified_name(own.ak.name, hierarchy=ENDORSEMENT),
    }
    return verify_quote(quote.message, quote.signature, **(expected | changes))  # type: ignore[arg-type]


def activated(own: OwnRange, id_object: bytes, encrypted_secret: bytes) -> bytes:
    """What the TPM recovers of a credential."""
    return provision.activate(
        own.tpm,
        own.endorsement.template,
        own.ak,
        own.storage,
        id_object=id_object,
        encrypted_secret=encrypted_secret,
    )
