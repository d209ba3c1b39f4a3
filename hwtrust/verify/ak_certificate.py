"""Whether a certificate makes this key the attestation key of an accepted vendor's TPM.

    certificate, AK, trust store, now ──▶ verify_ak_certificate ──▶ AkCertificate

Clouds certify the AKs of their vTPMs, Windows those of its machines; enrolment of our
own devices does without (`hwtrust.verify.enrolment`). Rules:

1. The certificate's public key is the AK's.
2. It was issued for a key that signs attestations: no CA; digitalSignature and nothing
   that deciphers; where it has an extended key usage, tcg-kp-AIKCertificate, or
   tcg-kp-EKCertificate, by which Google calls the signing keys of its vTPMs too. What
   is issued for TLS is refused, also where it is called an IAK.
3. It chains to a trusted vendor by the rules of `hwtrust.verify.ek_chain`, offline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtrust.errors import EkChainError, EkExpiredError, EkRevokedError, MalformedError
from hwtrust.errors.ak import (
    AkChainError,
    AkExpiredError,
    AkKeyError,
    AkRevokedError,
    AkUsageError,
)
from hwtrust.verify import der
from hwtrust.verify.certificates import Certificate, pem_blocks, read_certificate
from hwtrust.verify.ek_chain import EK_CERTIFICATE, find_chain
from hwtrust.wire.structures import Public, PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from hwtrust.verify.ek_trust import EkTrust

AIK_CERTIFICATE: Final = "2.23.133.8.3"
"""tcg-kp-AIKCertificate."""

MAX_CERTIFICATE: Final = 16 * 1024
MAX_INTERMEDIATES: Final = 16

_PURPOSES: Final = frozenset({AIK_CERTIFICATE, EK_CERTIFICATE})
_SIGNS: Final = "digital_signature"


@dataclass(frozen=True, slots=True)
class AkCertificate:
    """A verified certificate of an attestation key.

    Attributes:
        issuers: the subjects of the CAs (RFC 4514), up to the trust anchor.
        chain_not_after: when the first certificate of the chain ends.
    """

    subject: str
    serial: str
    sha256: str
    issuers: tuple[str, ...]
    not_after: datetime
    chain_not_after: datetime


def verify_ak_certificate(
    certificate: bytes,
    ak: Public | PublicKey,
    *,
    trust: EkTrust,
    now: datetime,
    intermediates: Sequence[bytes] = (),
) -> AkCertificate:
    """Verify the certificate of an AK, DER or PEM.

    `now` has a time zone. `intermediates` are CA certificates that came beside it.

    Raises:
        AkKeyError: it is for another key.
        AkUsageError: it was not issued for an attestation key.
        AkChainError: it does not chain to a trusted vendor; the class may say why.
        MalformedError: a certificate cannot be read.
        WeakKeyError: the AK is a key that hwtrust would not believe.
    """
    leaf = _read(certificate)
    # (1): key.
    key = ak.key() if isinstance(ak, Public) else ak
    if leaf.key.public_numbers() != key.public_numbers():
        raise AkKeyError("the certificate is for another key", sha256=leaf.sha256)
    # (2): usage.
    usage, extended = leaf.key_usage or frozenset(), leaf.extended_key_usage
    if leaf.ca or usage != {_SIGNS} or (extended is not None and not extended & _PURPOSES):
        raise AkUsageError("the certificate is for no attestation key", sha256=leaf.sha256)
    # (3): chain.
    try:
        chain = find_chain(
            leaf,
            anchors=trust.roots,
            intermediates=[
                *trust.intermediates,
                *(_read(data) for data in intermediates[:MAX_INTERMEDIATES]),
            ],
            crls=trust.crls,
            now=now,
            purposes=_PURPOSES,
        )
    except EkRevokedError as error:
        raise AkRevokedError(error.message, **error.data) from error
    except EkExpiredError as error:
        raise AkExpiredError(error.message, **error.data) from error
    except EkChainError as error:
        raise AkChainError(error.message, **error.data) from error
    return AkCertificate(
        subject=leaf.subject_text,
        serial=f"{leaf.serial:x}",
        sha256=leaf.sha256,
        issuers=tuple(ca.subject_text for ca in chain[1:]),
        not_after=leaf.not_after,
        chain_not_after=min(member.not_after for member in chain),
    )


def _read(data: bytes) -> Certificate:
    if len(data) > MAX_CERTIFICATE:
        raise MalformedError(f"a certificate of {len(data)} bytes; {MAX_CERTIFICATE} are taken")
    blocks = pem_blocks(data, b"CERTIFICATE") if b"-----BEGIN " in data else [data]
    elements = [element for block in blocks for element in der.split(block)]
    if len(elements) != 1:
        raise MalformedError(f"{len(elements)} certificates are where one should be")
    return read_certificate(elements[0])
