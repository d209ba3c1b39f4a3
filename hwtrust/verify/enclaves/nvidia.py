"""Is this the report of a genuine NVIDIA GPU?

    report, certificates ── verify_nvidia ──▶ NvidiaClaims

Whether its state is acceptable says `hwtrust.verify.enclaves.nvidia_rules`. Rules, in
the order in which they are checked:

1. chain      the GPU's certificate first, each signed by the next, up to a root that
              is pinned by its SHA-256; valid now, of CAs, not revoked, no critical
              extension that is not understood. NVIDIA's end in the year 9999.
2. firmware   where the GPU's certificate names the firmware that it was made for
              (FWID), the report names the same one.
3. signature  ECDSA with SHA-384 by the GPU's key, P-384, over request and response
              as received: all of the report but its last 96 bytes.
4. nonce      the request's; an empty one is refused.

Revocation is NVIDIA's to tell by OCSP, which is never asked here: lists may be given.
A GPU says nothing of the machine that it is plugged into. Whoever must know that asks
for both with nonces that are derived from one another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hwtrust.errors import EmptyNonceError, MalformedError, WeakKeyError
from hwtrust.errors.nvidia import (
    NvidiaChainError,
    NvidiaExpiredError,
    NvidiaFirmwareIdError,
    NvidiaNonceError,
    NvidiaRevokedError,
    NvidiaSignatureError,
)
from hwtrust.verify import der
from hwtrust.verify.attestation import VERIFIED, Nonce, Unsafe, made_elsewhere, take_away
from hwtrust.verify.certificates import (
    PARSER_ERRORS,
    Certificate,
    Crl,
    pem_blocks,
    read_certificate,
)
from hwtrust.wire.enclaves.nvidia import SIGNATURE_SIZE, GpuReport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

NVIDIA_ROOTS: Final = frozenset(
    {"102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"}
)
"""SHA-256 of the certificate "NVIDIA Device Identity CA" (DER)."""

MAX_CERTIFICATES: Final = 8
"""In the field, five."""
MAX_CHAIN: Final = 64 * 1024
"""Bytes of all certificates."""

_FWID_EXTENSION: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
"""tcg-dice-TcbInfo; the chips of the first generation use it for an older form."""
_SHA384: Final = bytes.fromhex("0609608648016503040202")
_OCTET_STRING: Final = 0x04
_CONSTRUCTED: Final = 0x20
_DIGEST_HEAD: Final = 2
_MAX_DEPTH: Final = 8
_DIGEST_SIZE: Final = 48
_COMMON_NAME: Final = x509.NameOID.COMMON_NAME
_STRONG_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_STRONG_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class NvidiaTrust:
    """The roots, by SHA-256 of their DER in hex, and who is revoked."""

    roots: frozenset[str] = NVIDIA_ROOTS
    crls: tuple[Crl, ...] = ()


class NvidiaClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What an authentic report of a GPU says; only `verify_nvidia` makes them."""

    nonce: bytes
    device: str
    """The serial number of the GPU's certificate: this very GPU, and its firmware."""
    model: str
    """The common name of the certificate above, such as `GH100 A01 GSP BROM`."""
    driver_version: str
    vbios_version: str
    firmware_id: bytes
    """FWID as the certificate and the report name it; empty where neither does."""
    measurements: Mapping[int, bytes]
    """By index, from 1."""
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """All of it in words."""
        return {
            "nonce": self.nonce.hex(),
            "device": self.device,
            "model": self.model,
            "driver_version": self.driver_version,
            "vbios_version": self.vbios_version,
            "firmware_id": self.firmware_id.hex(),
            "measurements": [f"{at}:{value.hex()}" for at, value in self.measurements.items()],
        }


def verify_nvidia(
    report: bytes,
    *,
    certificates: Sequence[bytes],
    nonce: Nonce,
    now: datetime,
    trust: NvidiaTrust,
) -> NvidiaClaims:
    """Check the report of a GPU and return what it says.

    `certificates` are each PEM (one or several) or DER, the GPU's own first and the
    root last. `now` has a time zone.

    Raises:
        NvidiaError: a certificate, or the firmware that it is for, is not acceptable.
        EvidenceError: signature or nonce are not the right ones; the class says which.
        WireError: report or certificates are malformed.
    """
    found = GpuReport.decode(report)
    # (1): chain.
    chain = _chain(certificates)
    _require_trusted(chain, trust, now)
    leaf = chain[0]
    # (2): firmware.
    named = _firmware_ids(leaf)
    if named and found.firmware_id not in named:
        raise NvidiaFirmwareIdError(
            "the GPU reports other firmware than its certificate was made for",
            found=found.firmware_id.hex(),
        )
    # (3): signature.
    _require_signature(leaf, found)
    # (4): nonce.
    if nonce is not Unsafe.NO_NONCE:
        if not nonce:
            raise EmptyNonceError("the nonce is empty: whatever answers it may be of any age")
        if not compare_digest(found.nonce, nonce):
            raise NvidiaNonceError("the GPU's report answers another nonce than the one sent")
    return NvidiaClaims(
        nonce=found.nonce,
        device=f"{leaf.serial:x}",
        model=_common_name(chain[1]),
        driver_version=found.driver_version,
        vbios_version=found.vbios_version,
        firmware_id=found.firmware_id if named else b"",
        measurements=found.measurements,
        verified=VERIFIED,
    )


def _chain(certificates: Sequence[bytes]) -> tuple[Certificate, ...]:
    if sum(map(len, certificates)) > MAX_CHAIN:
        raise MalformedError(f"certificates of more than {MAX_CHAIN} bytes")
    elements: list[bytes] = []
    for data in certificates:
        blocks = pem_blocks(data, b"CERTIFICATE") if b"-----BEGIN " in data else [data]
        elements += [element for block in blocks for element in der.split(block)]
    if not 1 < len(elements) <= MAX_CERTIFICATES:
        raise NvidiaChainError(
            f"{len(elements)} certificates are no chain of a GPU: 2 to {MAX_CERTIFICATES} are"
        )
    return tuple(map(read_certificate, elements))


def _require_trusted(chain: tuple[Certificate, ...], trust: NvidiaTrust, now: datetime) -> None:
    if chain[-1].sha256 not in trust.roots:
        raise NvidiaChainError(
            "the last certificate of the GPU's chain is no trusted root", sha256=chain[-1].sha256
        )
    for at, (certificate, issuer) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
        if not certificate.not_before <= now <= certificate.not_after:
            raise NvidiaExpiredError(
                f"a certificate of the GPU's chain is valid from {certificate.not_before} "
                f"to {certificate.not_after}, and now it is {now}",
                sha256=certificate.sha256,
            )
        fault = _fault(certificate, at, chain) or _signature_fault(certificate, issuer)
        if fault:
            raise NvidiaChainError(
                f"a certificate of the GPU's chain {fault}", sha256=certificate.sha256
            )
        if any(certificate.serial in crl.serials and crl.signed_by(issuer) for crl in trust.crls):
            raise NvidiaRevokedError(
                "a certificate of the GPU's chain is revoked", sha256=certificate.sha256
            )


def _fault(certificate: Certificate, at: int, chain: tuple[Certificate, ...]) -> str | None:
    """What its extensions say against it, at this place of the chain."""
    usage, is_leaf = certificate.key_usage, at == 0
    below = sum(not ca.self_issued for ca in chain[1:at])
    faults = {
        "has critical extensions that are not understood": bool(certificate.unknown_critical),
        "is that of a CA, where the GPU's own should be": is_leaf and certificate.ca,
        "is no CA's, and has issued another": not is_leaf and not certificate.ca,
        "is for a key that signs nothing of this kind": usage is not None
        and ("digital_signature" if is_leaf else "key_cert_sign") not in usage,
        "has more CAs below it than it allows": certificate.path_length is not None
        and below > certificate.path_length,
    }
    return next((fault for fault, is_true in faults.items() if is_true), None)


def _signature_fault(certificate: Certificate, issuer: Certificate) -> str | None:
    algorithm = certificate.signature_hash
    if not isinstance(issuer.key, ec.EllipticCurvePublicKey) or not isinstance(
        issuer.key.curve, _STRONG_CURVES
    ):
        return "is signed with a weak key, or with one of another kind than NVIDIA's"
    if algorithm is None or algorithm.name not in _STRONG_HASHES:
        return "is signed with a weak hash"
    if not certificate.signed_by(issuer):
        return "was not signed by the one behind it"
    return None


def _firmware_ids(leaf: Certificate) -> frozenset[bytes]:
    """Every SHA-384 of firmware that the GPU's certificate names: FWID ::= { hashAlg, digest }."""
    with contextlib.suppress(x509.ExtensionNotFound):
        try:
            parsed = x509.load_der_x509_certificate(leaf.der)
            extension = parsed.extensions.get_extension_for_oid(_FWID_EXTENSION).value
        except PARSER_ERRORS:
            raise MalformedError("the certificate of a GPU is not in DER") from None
        if isinstance(extension, x509.UnrecognizedExtension):
            found = frozenset(_digests(extension.value))
            if not found:
                raise MalformedError("the certificate of a GPU has firmware without a digest")
            return found
    return frozenset()


def _digests(element: bytes, depth: int = 0) -> Iterator[bytes]:
    if depth > _MAX_DEPTH or not element or not element[0] & _CONSTRUCTED:
        return
    match der.children(element):
        case [algorithm, digest] if algorithm == _SHA384 and digest[0] == _OCTET_STRING:
            if len(digest) == _DIGEST_HEAD + _DIGEST_SIZE:
                yield digest[_DIGEST_HEAD:]
        case parts:
            for part in parts:
                yield from _digests(part, depth + 1)


def _require_signature(leaf: Certificate, report: GpuReport) -> None:
    key = leaf.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise WeakKeyError("the key of a GPU's certificate is none on P-384")
    half = SIGNATURE_SIZE // 2
    r, s = (
        int.from_bytes(part, "big") for part in (report.signature[:half], report.signature[half:])
    )
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise NvidiaSignatureError("the GPU's report was not signed by the GPU's key") from None


def _common_name(certificate: Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(_COMMON_NAME)
    return str(found[0].value) if found else ""
