"""Is this object, or this NV index, in the TPM of this attestation key?

An attestation key certifies what its TPM holds: TPM2_Certify names a loaded
object, TPM2_NV_Certify an index and its contents. A Name is a digest over the
whole public area, so a certified Name proves type, attributes, policy and key
at once; `hwtrust.verify.roles` then says what they are good for.

Rules; 1 to 5 are those of every attestation, in `hwtrust.verify.attestation`:

6. name       the certified Name is exactly the expected one.
7. contents   of an NV index: all of it, from offset 0, of exactly its size. A
              part of a counter could be any part.
"""

from __future__ import annotations

from hmac import compare_digest

from hwtrust.errors import CertifiedNameError
from hwtrust.verify.attestation import (
    VERIFIED,
    Claims,
    Nonce,
    Signer,
    Unverified,
    authenticated,
    read,
)
from hwtrust.verify.signature import run
from hwtrust.wire.structures import CertifyInfo, NvCertifyInfo, Public, PublicKey, Signature


class CertifyClaims(Claims, frozen=True, kw_only=True, gc=False):
    """An object is loaded in the signer's TPM; only `verify_certify` makes them."""

    name: bytes
    qualified_name: bytes


class NvClaims(Claims, frozen=True, kw_only=True, gc=False):
    """An NV index of the signer's TPM holds this; only `verify_nv_certify` makes them."""

    index_name: bytes
    contents: bytes

    @property
    def value(self) -> int:
        """The contents as a number: what a counter has counted to."""
        return int.from_bytes(self.contents, "big")


def verify_certify(
    message: bytes,
    signature: bytes | Signature,
    *,
    key: Public | PublicKey,
    nonce: Nonce,
    name: bytes,
    signer: Signer,
    unsafe_allow_sha1: bool = False,
) -> CertifyClaims:
    """Check that `key` certifies the object `name`.

    `signer` is the expected qualified Name of the attestation key.
    TPM2_Certify, TPM 2.0 Part 3 §18.2.

    Raises:
        EvidenceError: the attestation is not authentic; the class says why.
        WireError: message or signature are malformed.
    """
    # (1) to (5): what every attestation must fulfil.
    unverified = read(message, signature, CertifyInfo, key=key, unsafe_allow_sha1=unsafe_allow_sha1)
    run((unverified.check,))
    attest = authenticated(unverified, nonce=nonce, signer=signer)
    info = unverified.info
    # (6): name.
    _require_name(info.name, name)
    return CertifyClaims(
        nonce=attest.extra_data,
        qualified_signer=attest.qualified_signer,
        clock=attest.clock,
        firmware_version=attest.firmware_version,
        name=info.name,
        qualified_name=info.qualified_name,
        verified=VERIFIED,
    )


def verify_nv_certify(
    message: bytes,
    signature: bytes | Signature,
    *,
    key: Public | PublicKey,
    nonce: Nonce,
    index_name: bytes,
    size: int,
    signer: Signer,
    unsafe_allow_sha1: bool = False,
) -> NvClaims:
    """Check that `key` certifies all `size` bytes of the NV index `index_name`.

    `signer` is the expected qualified Name of the attestation key.
    TPM2_NV_Certify, TPM 2.0 Part 3 §31.16.

    Raises:
        EvidenceError: the attestation is not authentic; the class says why.
        WireError: message or signature are malformed.
    """
    unverified = read(
        message, signature, NvCertifyInfo, key=key, unsafe_allow_sha1=unsafe_allow_sha1
    )
    run((unverified.check,))
    return nv_claims(unverified, nonce=nonce, index_name=index_name, size=size, signer=signer)


def nv_claims(
    unverified: Unverified[NvCertifyInfo],
    *,
    nonce: Nonce,
    index_name: bytes,
    size: int,
    signer: Signer,
) -> NvClaims:
    """The same of one that was read, and whose signature was checked.

    Raises:
        EvidenceError: it is not authentic; the class says why.
    """
    # (1) to (5): what every attestation must fulfil.
    attest = authenticated(unverified, nonce=nonce, signer=signer)
    info = unverified.info
    # (6): name.
    _require_name(info.index_name, index_name)
    # (7): contents.
    if info.offset != 0 or len(info.contents) != size:
        raise CertifiedNameError(
            f"certified are {len(info.contents)} bytes from offset {info.offset} "
            f"of an NV index, asked for is the whole of {size}",
            offset=info.offset,
            size=len(info.contents),
        )
    return NvClaims(
        nonce=attest.extra_data,
        qualified_signer=attest.qualified_signer,
        clock=attest.clock,
        firmware_version=attest.firmware_version,
        index_name=info.index_name,
        contents=info.contents,
        verified=VERIFIED,
    )


def _require_name(found: bytes, expected: bytes) -> None:
    # An empty Name is that of no object at all.
    if not expected or not compare_digest(found, expected):
        raise CertifiedNameError(
            "the attestation certifies something else than what it is offered for",
            expected=expected.hex(),
            found=found.hex(),
        )
