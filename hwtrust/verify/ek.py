"""Whether an EK certificate says that this EK lives in a TPM of an accepted vendor.

    certificate, EK, trust store, now ──▶ verify_ek_certificate ──▶ EkCertificate

Pure: no file, no socket, no clock. A certificate that cannot be verified is an
error; whether an EK without one is acceptable (an allow-list) is the caller's.

Rules:
1. The certificate's public key is the EK's. What else it says is about the TPM,
   and nothing about who sent it: possession is proved by ActivateCredential.
2. It was issued for an EK: no CA; tcg-kp-EKCertificate where it has an extended
   key usage; a key usage for encipherment or key agreement. Without an extended
   key usage it may be for nothing else, so that an AK's or a TLS server's
   certificate under the same CA is not taken for an EK's.
3. It chains to a trusted vendor (`hwtrust.verify.ek_chain`). The store is the
   operator's; CA certificates that a device sends only help to find the way.
4. What real TPMs do is accepted: padding behind the DER, a critical
   subjectAltName with an empty subject, encodings that are almost DER.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtrust.errors import EkKeyError, EkMalformedError, EkUsageError, MalformedError
from hwtrust.verify import der
from hwtrust.verify.certificates import Certificate, read_certificate
from hwtrust.verify.ek_chain import EK_CERTIFICATE, find_chain
from hwtrust.verify.ek_trust import EkTrust, RefusedCa

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from hwtrust.wire.structures import Public

__all__ = ["EkCertificate", "EkTrust", "RefusedCa", "verify_ek_certificate"]

MAX_CERTIFICATE: Final = 16 * 1024
"""Bytes, padding included; most TPMs hold 2 KiB in an NV index at most."""

MAX_INTERMEDIATES: Final = 16
"""CA certificates of a device that are looked at."""

_MANUFACTURER: Final = "2.23.133.2.1"
_MODEL: Final = "2.23.133.2.2"
_VERSION: Final = "2.23.133.2.3"

_FOR_SECRETS: Final = frozenset({"key_encipherment", "key_agreement", "data_encipherment"})
_FOR_CAS: Final = frozenset({"key_cert_sign", "crl_sign"})


@dataclass(frozen=True, slots=True)
class EkCertificate:
    """A verified EK certificate: what the TPM's vendor says about it.

    Attributes:
        manufacturer: the TCG vendor identifier, such as `id:53544D20`; None
            where the certificate does not say. So with `model` and `version`.
        serial: hexadecimal.
        sha256: the fingerprint of the certificate, without padding.
        issuers: the subjects of the CAs (RFC 4514), up to the trust anchor.
        chain_not_after: when the first certificate of the chain ends.
    """

    manufacturer: str | None
    model: str | None
    version: str | None
    serial: str
    sha256: str
    issuers: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    chain_not_after: datetime


def verify_ek_certificate(
    certificate: bytes,
    ek: Public,
    *,
    trust: EkTrust,
    now: datetime,
    intermediates: Sequence[bytes] = (),
) -> EkCertificate:
    """Verify the EK certificate of a TPM, as read from its NV index (DER, maybe padded).

    `now` has a time zone. `intermediates` are CA certificates that the device
    offers, each DER, or several behind one another as in the NV indices from
    0x01C00100; unreadable ones are passed over.

    Raises:
        EkMalformedError: the certificate cannot be read.
        EkKeyError: it is for another key.
        EkUsageError: it was not issued for an EK.
        EkChainError: it does not chain to a trusted vendor.
        EkExpiredError: it, or a CA of its chain, is expired or not valid yet.
        EkRevokedError: it, or a CA of its chain, is revoked.
        WeakKeyError: the EK is a key that hwtrust would not use.
    """
    leaf = _read(certificate)
    if leaf.key.public_numbers() != ek.key().public_numbers():
        raise EkKeyError("the EK certificate is for another key", sha256=leaf.sha256)
    fault = _usage_fault(leaf)
    if fault:
        raise EkUsageError(f"the certificate {fault}", sha256=leaf.sha256)
    chain = find_chain(
        leaf,
        anchors=trust.roots,
        intermediates=[*trust.intermediates, *_offered(intermediates)],
        crls=trust.crls,
        now=now,
    )
    return EkCertificate(
        manufacturer=leaf.directory.get(_MANUFACTURER),
        model=leaf.directory.get(_MODEL),
        version=leaf.directory.get(_VERSION),
        serial=f"{leaf.serial:x}",
        sha256=leaf.sha256,
        issuers=tuple(ca.subject_text for ca in chain[1:]),
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        chain_not_after=min(member.not_after for member in chain),
    )


def _read(certificate: bytes) -> Certificate:
    if len(certificate) > MAX_CERTIFICATE:
        raise EkMalformedError(
            f"an EK certificate of {len(certificate)} bytes; {MAX_CERTIFICATE} are accepted",
            size=len(certificate),
        )
    try:
        found = der.split(certificate)
        if len(found) != 1:
            raise EkMalformedError(
                f"{len(found)} certificates are where the EK certificate should be"
            )
        return read_certificate(found[0])
    except MalformedError as error:
        raise EkMalformedError(f"the EK certificate cannot be used: {error.message}") from error


def _usage_fault(leaf: Certificate) -> str | None:
    """Why this is not the certificate of an EK (rule 2)."""
    usage, extended = leaf.key_usage or frozenset(), leaf.extended_key_usage
    if leaf.ca or usage & _FOR_CAS:
        return "is that of a CA"
    if extended is not None and EK_CERTIFICATE not in extended:
        return "was issued for something else, says its extended key usage"
    if not usage & _FOR_SECRETS:
        return "is for a key that neither deciphers nor agrees on keys"
    if extended is None and not usage <= _FOR_SECRETS:
        return "does not say that it is for an EK, and allows its key to sign"
    return None


def _offered(intermediates: Sequence[bytes]) -> Iterator[Certificate]:
    """The CA certificates that a device sent, as far as they can be read."""
    left = MAX_INTERMEDIATES
    for data in intermediates:
        try:
            elements = der.split(data)
        except MalformedError:
            continue
        for element in elements[:left]:
            left -= 1
            with contextlib.suppress(MalformedError):
                yield read_certificate(element)
