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
5. A CA file that cannot be used is reported (`EkTrust.refused`) and costs only
   itself. A revocation list that cannot be used is an error: it may be the one
   that matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from hwtrust.errors import (
    EkKeyError,
    EkMalformedError,
    EkTrustError,
    EkUsageError,
    MalformedError,
)
from hwtrust.verify import der
from hwtrust.verify.certificates import Certificate, Crl, pem_blocks, read_certificate, read_crl
from hwtrust.verify.ek_chain import EK_CERTIFICATE, find_chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from hwtrust.wire.structures import Public

MAX_CERTIFICATE: Final = 16 * 1024
"""Bytes; an NV index holds 2 KiB on most TPMs."""

MAX_INTERMEDIATES: Final = 16
"""CA certificates that a device may send along."""

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


@dataclass(frozen=True, slots=True)
class RefusedCa:
    """A certificate in the operator's files that is not used, and why."""

    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class EkTrust:
    """The TPM vendors that an operator accepts: `load` makes one.

    Attributes:
        roots: the trust anchors.
        intermediates: further CAs, which count only below a root.
        crls: revocation lists.
        refused: what was in the files, and is not used.
    """

    roots: tuple[Certificate, ...]
    intermediates: tuple[Certificate, ...]
    crls: tuple[Crl, ...]
    refused: tuple[RefusedCa, ...]

    @classmethod
    def load(
        cls,
        files: Iterable[bytes],
        crls: Iterable[bytes] = (),
        *,
        anchors: Iterable[bytes] = (),
    ) -> Self:
        """Sort the certificates of `files` into roots and intermediates.

        Each file holds certificates (or lists, in `crls`) as PEM or DER. A root
        is a CA certificate that has signed itself. `anchors` is for CAs that are
        trusted though they have not: some vendors publish no self-signed root.

        Raises:
            EkTrustError: a file holds no certificate, or a revocation list
                cannot be read or is not signed by the CA that it names.
        """
        roots: list[Certificate] = []
        intermediates: list[Certificate] = []
        refused: list[RefusedCa] = []
        for group, trusted in ((files, False), (anchors, True)):
            for file in group:
                for element in _elements(file, b"CERTIFICATE"):
                    try:
                        certificate = read_certificate(element)
                    except MalformedError as error:
                        refused.append(RefusedCa(sha256(element).hexdigest(), error.message))
                        continue
                    ...
        return cls(tuple(roots), tuple(intermediates), tuple(lists), tuple(refused))
