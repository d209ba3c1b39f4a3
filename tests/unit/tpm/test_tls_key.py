"""A TLS key in the TPM signs for its owner, is nobody else's, and never leaves."""

from __future__ import annotations

import base64
import copy
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss.tsskey import TSSPrivKey
from tpm2_pytss.types import TPM2B_PRIVATE, TPM2B_PUBLIC, TPMT_PUBLIC

from hwtrust.errors import HwTrustError, TlsKeyError, TpmError
from hwtrust.testing.faults import At, Cut, Respond
from hwtrust.tpm import commands
from hwtrust.tpm.templates import STORAGE_KEY, TLS_KEY_RSA
from hwtrust.tpm.tls_key import TpmTlsKey, _Signer
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name
from hwtrust.verify.certify import verify_certify
from hwtrust.verify.roles import require_tls_key
from simulators.anchored_tpm import AnchoredTpm, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.testing.swtpm import Swtpm
    from hwtrust.wire.structures import Public


@pytest.fixture
def key(anchored: AnchoredTpm) -> TpmTlsKey:
    """A key of the TPM."""
    return TpmTlsKey.create(anchored.tpm, anchored.storage)


def test_the_key_has_the_attributes_of_its_role(key: TpmTlsKey) -> None:
    """What the device makes is what the backend requires."""
    require_tls_key(key.public)


def test_a_request_is_signed_by_the_key(key: TpmTlsKey, anchored: AnchoredTpm) -> None:
    """Proof of possession, for the very key that is named."""
    request = x509.load_der_x509_csr(key.csr())
    assert request.is_signature_valid
    spki = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert spki == key.spki
    assert loaded(anchored.swtpm) == {}


def test_a_signature_is_the_keys(key: TpmTlsKey) -> None:
    """ECDSA with SHA-256, over the data and nothing else."""
    public = serialization.load_der_public_key(key.spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(key.sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))


def test_the_throw_away_certificate_is_for_the_key(key: TpmTlsKey) -> None:
    """It is signed by the key itself."""
    certificate = x509.load_pem_x509_certificate(key.self_signed().encode())
    certificate.verify_directly_issued_by(certificate)


def test_the_pem_brings_the_same_key_back(key: TpmTlsKey, anchored: AnchoredTpm) -> None:
    """What is kept on disk signs for the same public key."""
    again = TpmTlsKey.from_pem(anchored.tpm, anchored.storage, key.key_pem())
    assert again.spki == key.spki
    assert x509.load_der_x509_csr(again.csr()).is_signature_valid


def test_the_pem_is_a_tss2_private_key(key: TpmTlsKey, anchored: AnchoredTpm) -> None:
    """The form that the tpm2-openssl provider loads, with the storage key as its parent."""
    pem = key.key_pem()
    assert pem.startswith(b"-----BEGIN TSS2 PRIVATE KEY-----")
    der = base64.b64decode(b"".join(pem.strip().splitlines()[1:-1]))
    assert anchored.storage.handle.to_bytes(4, "big") in der


def test_the_key_is_of_no_use_to_another_tpm(
    key: TpmTlsKey, tpm_factory: Callable[[], Swtpm]
) -> None:
    """Who copies the file cannot sign."""
    with AnchoredTpm(tpm_factory()) as other:
        stolen = TpmTlsKey.from_pem(other.tpm, other.storage, key.key_pem())
        with pytest.raises(TpmError):
            stolen.sign(b"data")
        assert loaded(other.swtpm) == {}


def test_the_attestation_key_certifies_it(key: TpmTlsKey, anchored: AnchoredTpm) -> None:
    """The AK's word that the key is in this TPM, over the nonce and its request."""
    made = key.certify(anchored.ak, qualifying=b"q" * 32)
    claims = verify_certify(
        made.message,
        made.signature,
        key=anchored.ak_public,
        nonce=b"q" * 32,
        name=key.public.name,
        signer=qualified_name(anchored.ak.name, hierarchy=ENDORSEMENT),
    )
    assert claims.name == key.public.name
    assert loaded(anchored.swtpm) == {}


def test_the_private_key_does_not_come_out(key: TpmTlsKey) -> None:
    """The face that signs requests gives nothing else."""
    face = _Signer(key)
    assert face.key_size == 256
    assert isinstance(face.curve, ec.SECP256R1)
    assert copy.deepcopy(face) is copy.copy(face) is face
    other = ec.generate_private_key(ec.SECP256R1())
    attempts: list[Callable[[], object]] = [
        face.private_numbers,
        lambda: face.exchange(ec.ECDH(), other.public_key()),
        lambda: face.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    ]
    for attempt in attempts:
        with pytest.raises(TlsKeyError) as caught:
            attempt()
        assert caught.value.code == "channel:tls-key:unusable"


def test_a_tpm_without_p256_has_no_tls_key(anchored: AnchoredTpm) -> None:
    """An RSA key of the template could not sign for TLS 1.3; the error is the TLS key's."""
    with anchored.through(At(Respond(0x2E6), command="TPM2_TestParms")) as tpm:
        with pytest.raises(TlsKeyError) as caught:
            TpmTlsKey.create(tpm, anchored.storage)
        assert caught.value.code == "channel:tls-key:unusable"


def test_signing_leaves_nothing_loaded_wherever_it_fails(
    key: TpmTlsKey, anchored: AnchoredTpm
) -> None:
    """Load, sign and flush each break once."""
    for command in ("TPM2_Load", "TPM2_Sign", "TPM2_FlushContext"):
        for fault in (Cut("before"), Cut("after"), Respond(0x101)):
            with anchored.through(At(fault, command=command)) as tpm:
                broken = TpmTlsKey.from_pem(tpm, anchored.storage, key.key_pem())
                with pytest.raises(TpmError):
                    broken.sign(b"data")
                assert loaded(anchored.swtpm) == {}
                assert broken.sign(b"data")


# --- the file is nobody's to trust -----------------------------------------------


def other_pems(anchored: AnchoredTpm, key: TpmTlsKey) -> dict[str, bytes]:
    """Files that are no TLS key of hwtrust's."""
    tpm, storage = anchored.tpm, anchored.storage
    software = ec.generate_private_key(ec.SECP256R1())
    private, public = commands.create(tpm, storage, TLS_KEY_RSA)
    rsa = _tss_pem(private, public, storage.handle)
    private, public = commands.create(tpm, storage, STORAGE_KEY)
    parent = _tss_pem(private, public, storage.handle)
    pem = key.key_pem()
    return {
        "empty": b"",
        "no PEM": b"\xff" * 100,
        "a software key": software.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        "no base64": b"-----BEGIN TSS2 PRIVATE KEY-----\n????\n-----END TSS2 PRIVATE KEY-----\n",
        "no DER": b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n",
        "cut short": pem[: len(pem) // 2],
        "an RSA key of this TPM": rsa,
        "a storage key of this TPM": parent,
    }


def _tss_pem(private: bytes, public: Public, parent: int) -> bytes:
    area, _ = TPMT_PUBLIC.unmarshal(public.encode())
    key = TSSPrivKey(
        TPM2B_PRIVATE(private), TPM2B_PUBLIC(publicArea=area), empty_auth=True, parent=parent
    )
    return bytes(key.to_pem())


@pytest.mark.parametrize(
    "case",
    [
        "empty",
        "no PEM",
        "a software key",
        "no base64",
        "no DER",
        "cut short",
        "an RSA key of this TPM",
        "a storage key of this TPM",
    ],
)
def test_a_file_that_is_no_tls_key_of_ours_is_refused(
    key: TpmTlsKey, anchored: AnchoredTpm, case: str
) -> None:
    """Any content of the file ends in the TLS key's own error."""
    pem = other_pems(anchored, key)[case]
    with pytest.raises(TlsKeyError) as caught:
        TpmTlsKey.from_pem(anchored.tpm, anchored.storage, pem)
    assert caught.value.code == "channel:tls-key:unusable"


def test_no_altered_byte_of_the_file_raises_anything_else(
    key: TpmTlsKey, anchored: AnchoredTpm
) -> None:
    """A flipped byte is refused when read, refused by the TPM, or changed nothing."""
    lines = key.key_pem().strip().splitlines()
    der = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    refused = 0
    for at in range(len(der)):
        changed = bytearray(der)
        changed[at] ^= 0x01
        pem = b"\n".join([lines[0], base64.b64encode(bytes(changed)), lines[-1], b""])
        try:
            TpmTlsKey.from_pem(anchored.tpm, anchored.storage, pem).sign(b"data")
        except HwTrustError:
            refused += 1
    assert refused > len(der) * 3 // 4
    assert loaded(anchored.swtpm) == {}
