"""Do the certificates of a quote and of its collateral lead to the trusted root?

    PCK certificate ◀── Platform or Processor CA ◀── root ──▶ TCB Signing

dcap-qvl checks all signatures of these chains, and that each list is its issuer's
own. It does not care what a certificate is named for, nor when the root ends, and
of a chain that it refuses it does not say why. Rules:

1. The platform's certificates are in the quote, three of them; TCB info and QE
   identity come with two. Each chain ends in the one root that is trusted.
2. Every certificate, the root included, and each revocation list is valid now, and
   no certificate is on a list.
3. Each certificate does what its name says: one for platforms signs no TCB info.
"""

from __future__ import annotations

import hashlib
import warnings
from datetime import timedelta
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hwtrust.errors import MalformedError
from hwtrust.errors.dcap import (
    DcapCertificationError,
    DcapChainError,
    DcapExpiredError,
    DcapRevokedError,
)
from hwtrust.verify import der
from hwtrust.verify.certificates import PARSER_ERRORS, pem_blocks, read_certificate
from hwtrust.wire.enclaves.dcap import PCK_CHAIN

if TYPE_CHECKING:
    from datetime import datetime

    from hwtrust.wire.enclaves.dcap import Collateral, Quote

PCK: Final = "Intel SGX PCK Certificate"
PCK_CAS: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
TCB_SIGNING: Final = "Intel SGX TCB Signing"


PCK_CHAIN_LENGTH: Final = 3
SIGNER_CHAIN_LENGTH: Final = 2


FMSPC_SIZE: Final = 6

_SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
_FMSPC: Final = bytes.fromhex("060a2a864886f84d010d0104")
"""1.2.840.113741.1.13.1.4, in DER."""
_FMSPC_HEAD: Final = bytes((0x04, FMSPC_SIZE))
_NOTHING: Final = b"\x30\x00"


class DcapTrust(msgspec.Struct, frozen=True):
    """The one root that quotes and collateral lead to, by the SHA-256 of its certificate."""

    root: bytes

    @classmethod
    def of(cls, certificate: bytes) -> Self:
        """Trust in that certificate, DER."""
        return cls(hashlib.sha256(certificate).digest())


INTEL: Final = DcapTrust(
    bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")
)
"""Intel SGX Root CA, valid until the end of 2049."""


def platform_of(quote: Quote) -> tuple[bytes, bytes]:
    """FMSPC and issuer (DER) as the quote's own certificate names them; nothing is verified.

    They choose the collateral that the quote is then verified with.

    Raises:
        DcapCertificationError: the quote has no certificates.
        MalformedError: its first certificate cannot be read, or names no FMSPC.
    """
    _require_certificates(quote)
    blocks = pem_blocks(quote.certification_data, b"CERTIFICATE")
    if not blocks:
        raise MalformedError("the certificates of a quote are no PEM")
    leaf = read_certificate(blocks[0])
    for item in der.children(leaf.private.get(_SGX_EXTENSION, _NOTHING)):
        match der.children(item):
            case [name, value] if name == _FMSPC and value[:2] == _FMSPC_HEAD:
                return value[len(_FMSPC_HEAD) :], leaf.issuer.public_bytes()
    raise MalformedError("the certificate of a platform names no FMSPC")


def _require_certificates(quote: Quote) -> None:
    if quote.certification_type != PCK_CHAIN:
        raise DcapCertificationError(
            f"the quote has certification data of type {quote.certification_type}, "
            f"and no certificates (type {PCK_CHAIN})",
            type=quote.certification_type,
        )


def checked_root(quote: Quote, collateral: Collateral, *, now: datetime, trust: DcapTrust) -> bytes:
    """The root, DER, after all that is checked here.

    Raises:
        DcapError: a chain is not as it should be; the class says why.
        MalformedError: a certificate or list cannot be read.
    """
    _require_certificates(quote)
    if now.utcoffset() is None:
        raise TypeError("the time of verification has to be aware of its zone")
    # What the parser warns of (odd names, odd serial numbers) is refused later, or harmless.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _root(quote, collateral, now, trust)
        except PARSER_ERRORS as error:
            raise MalformedError(f"a certificate or list cannot be read: {error}") from None


def _root(quote: Quote, collateral: Collateral, now: datetime, trust: DcapTrust) -> bytes:
    leaf, ca, root = _chain(quote.certification_data, PCK_CHAIN_LENGTH, trust)
    signers = [
        _chain(chain.encode(), SIGNER_CHAIN_LENGTH, trust)[0]
        for chain in (collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain)
    ]
    of_root = (root, ca, *signers)
    for certificate in (leaf, *of_root):
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        _require_valid("a certificate", begins, ends, now)
    _require_not_listed(collateral.pck_crl, (leaf,), now)
    _require_not_listed(collateral.root_ca_crl, of_root, now)
    # (3): names.
    _require_name(leaf, (PCK,))
    _require_name(ca, PCK_CAS)
    for signer in signers:
        _require_name(signer, (TCB_SIGNING,))
    return root.public_bytes(Encoding.DER)


def _chain(pem: bytes, length: int, trust: DcapTrust) -> list[x509.Certificate]:
    found = pem_blocks(pem, b"CERTIFICATE")
    # Another reader must not find certificates where this one finds none.
    if len(found) != length or pem.count(b"-----BEGIN") != length:
        raise DcapChainError(f"a chain of {len(found)} certificates, {length} are expected")
    # (1): the root.
    if not compare_digest(hashlib.sha256(found[-1]).digest(), trust.root):
        raise DcapChainError(
            "a chain does not end in the root that is trusted",
            sha256=hashlib.sha256(found[-1]).hexdigest(),
        )
    return [x509.load_der_x509_certificate(der) for der in found]


def _require_valid(what: str, begins: datetime, ends: datetime, now: datetime) -> None:
    # (2): validity.
    if not begins <= now <= ends:
        raise DcapExpiredError(f"{what} is valid from {begins} to {ends}, and now it is {now}")


def _require_not_listed(
    crl: bytes, certificates: tuple[x509.Certificate, ...], now: datetime
) -> None:
    # (2): revocation. That the list is its issuer's own is left to dcap-qvl.
    listed = x509.load_der_x509_crl(crl)
    # A list without an end is none of Intel's: it would be valid for ever. With its
    # end the next one is due.
    ends = listed.next_update_utc or listed.last_update_utc
    last = ends - timedelta(seconds=1)
    _require_valid("a revocation list", listed.last_update_utc, last, now)
    for certificate in certificates:
        serial = certificate.serial_number
        if listed.get_revoked_certificate_by_serial_number(serial) is not None:
            raise DcapRevokedError(f"the certificate with serial {serial:x} is revoked")


def _require_name(certificate: x509.Certificate, names: tuple[str, ...]) -> None:
    found = [
        attribute.value
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    if len(found) != 1 or found[0] not in names:
        raise DcapChainError(f"a certificate is not that of {names[0]!r}")
