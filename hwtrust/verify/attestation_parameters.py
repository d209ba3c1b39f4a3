"""Is this key what its creation by the TPM says? The AK parameters of go-attestation.

    Public, CreateData, CreateAttestation, CreateSignature
        ── verify_attestation_parameters ──▶ CreationClaims
        ── make_credential(ek, claims.name, secret) ──▶ the device ──▶ secret

An attestation key certifies its own creation (TPM2_CertifyCreation). Rules:

1. attributes   the key is an attestation key, by `hwtrust.verify.roles`.
2. attestation  magic, type and signature are right (`hwtrust.verify.attestation`): the
                key has signed this, by its own scheme.
3. object       what was created is this very key: Name and creation data are the ones
                that are attested.
4. signer       the attestation was signed by the key that was created, under the
                parent that the creation data name.

A program that makes up a key can make all of this up with it. That the key lives in
the TPM of an EK is proved by a credential for its Name alone, which
`hwtrust.wire.protect.make_credential` makes and only that TPM can open.
"""

from __future__ import annotations

from hmac import compare_digest

from hwtrust.errors import CertifiedNameError, SignerError
from hwtrust.verify.attestation import VERIFIED, Claims, Unsafe, qualified_name_under, read
from hwtrust.verify.attestation import authenticated as require_authentic
from hwtrust.verify.roles import require_attestation_key
from hwtrust.verify.signature import run
from hwtrust.wire.algorithms import new_hash
from hwtrust.wire.creation import CreationData
from hwtrust.wire.structures import CreationInfo, Public, Signature


class CreationClaims(Claims, frozen=True, kw_only=True, gc=False):
    """An attestation key and its creation; only `verify_attestation_parameters` makes them."""

    public: Public
    creation: CreationData

    @property
    def name(self) -> bytes:
        """The key's Name: what a credential has to be made for."""
        return self.public.name


def verify_attestation_parameters(
    public: bytes | Public,
    create_data: bytes,
    create_attestation: bytes,
    create_signature: bytes | Signature,
    *,
    unsafe_allow_sha1: bool = False,
) -> CreationClaims:
    """Check that the key `public` (TPMT_PUBLIC) certifies its own creation.

    `create_data` is a TPMS_CREATION_DATA, `create_attestation` a TPMS_ATTEST,
    `create_signature` a TPMT_SIGNATURE. Windows makes keys that sign over SHA-1; they
    are refused without `unsafe_allow_sha1`.

    Raises:
        EvidenceError: key, attestation and creation data do not belong together.
        WireError: one of them is malformed.
    """
    key = public if isinstance(public, Public) else Public.decode(public)
    creation = CreationData.decode(create_data)
    # (1): attributes.
    require_attestation_key(key, unsafe_allow_sha1=unsafe_allow_sha1)
    # (2): attestation.
    unverified = read(
        create_attestation,
        create_signature,
        CreationInfo,
        key=key,
        unsafe_allow_sha1=unsafe_allow_sha1,
    )
    run((unverified.check,))
    attest = require_authentic(unverified, nonce=Unsafe.NO_NONCE, signer=Unsafe.ANY_SIGNER)
    # (3): object.
    info = unverified.info
    if not compare_digest(info.name, key.name):
        raise CertifiedNameError(
            "the creation of another key is attested",
            expected=key.name.hex(),
            found=info.name.hex(),
        )
    if not compare_digest(info.creation_hash, new_hash(key.name_alg, create_data)):
        raise CertifiedNameError("other creation data are attested than those beside the key")
    # (4): signer.
    signer = qualified_name_under(key.name, parent=creation.parent_qualified_name)
    if not compare_digest(attest.qualified_signer, signer):
        raise SignerError(
            "the creation was attested by another key than the one that was created",
            expected=signer.hex(),
            found=attest.qualified_signer.hex(),
        )
    return CreationClaims(
        nonce=attest.extra_data,
        qualified_signer=attest.qualified_signer,
        clock=attest.clock,
        firmware_version=attest.firmware_version,
        public=key,
        creation=creation,
        verified=VERIFIED,
    )
