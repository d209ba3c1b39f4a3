"""From the root that is pinned to the certificate of a Nitro security module.

    cabundle[0] (pinned) ──▶ cabundle[1] ──▶ … ──▶ certificate, which signs the document

Rules (RFC 5280 §6.1, without policies and name constraints):
1. The order is the document's own: the root first, the signer behind the last. It is
   not sorted, and nothing is looked for.
2. The root is known by the SHA-256 of its DER.
3. Every certificate is valid at each of the times that count.
4. Every certificate but the root is signed by the one before it, with SHA-2.
5. Every issuer is a CA: the CA bit, keyCertSign where a key usage is given, and the
   path length. The signer is none, and its key may sign.
6. Keys are of NIST's curves. A critical extension that is not understood refuses.

Certificates that were read are kept, by the rules of `hwtrust.verify.kept`: by all
of their bytes. Their signatures are checked each time.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors.nitro import NitroChainError, NitroExpiredError, NitroRootError
from hwtrust.verify.certificates import Certificate, read_certificate

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime

KEPT: Final = 1024
"""How many certificates are kept, of a few KiB each."""

_STRONG_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_STRONG_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_read = lru_cache(maxsize=KEPT)(read_certificate)


class NitroTrust(msgspec.Struct, frozen=True, kw_only=True):
    """Roots that are trusted: the SHA-256 of their DER in lower-case hex."""

    roots: frozenset[str]


AWS: Final = NitroTrust(
    roots=frozenset({"641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"})
)
"""AWS Nitro Enclaves Root G1, valid until 2049-10-28."""


def require_chain(
    cabundle: Sequence[bytes],
    certificate: bytes,
    *,
    roots: Container[str],
    times: Sequence[datetime],
) -> Certificate:
    """The certificate of the signer, whose chain to one of `roots` is good at all `times`.

    `roots` are SHA-256 fingerprints in lower-case hex.

    Raises:
        MalformedError: a certificate cannot be read.
        NitroRootError: the first certificate is no root that is trusted.
        NitroExpiredError: a certificate is not valid at one of `times`.
        NitroChainError: the chain breaks another rule.
    """
    # (1): order.
    chain = [_read(der) for der in (*cabundle, certificate)]
    root, signer = chain[0], chain[-1]
    # (2): root.
    if root.sha256 not in roots:
        raise NitroRootError("the first certificate is no trusted root", sha256=root.sha256)
    for member in chain:
        # (3): validity.
        for time in times:
            if not member.not_before <= time <= member.not_after:
                raise NitroExpiredError(
                    f"{_called(member)} is valid from {member.not_before} to "
                    f"{member.not_after}, and what counts is {time}",
                    sha256=member.sha256,
                )
        _require(member, _fault(member))
    # (5): issuers and signer.
    for position, issuer in enumerate(chain[:-1]):
        _require(issuer, _issuer_fault(issuer, chain[position + 1 : -1]))
    _require(signer, _signer_fault(signer))
    # (4): signatures.
    for issuer, member in pairwise(chain):
        _require(member, _signature_fault(member, issuer))
    return signer


def _fault(member: Certificate) -> str | None:
    # (6): keys and extensions.
    key = member.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _STRONG_CURVES):
        return "has a key of no curve that is accepted"
    if member.unknown_critical:
        return f"has critical extensions that are not understood: {member.unknown_critical}"
    return None


def _issuer_fault(issuer: Certificate, cas_below: Sequence[Certificate]) -> str | None:
    # RFC 5280 §4.2.1.9: CAs that merely renew their own key do not count.
    counted = sum(not ca.self_issued for ca in cas_below)
    if not issuer.ca:
        return "has issued a certificate, but is no CA"
    if issuer.key_usage is not None and "key_cert_sign" not in issuer.key_usage:
        return "has issued a certificate, but its key is not for that"
    if issuer.path_length is not None and counted > issuer.path_length:
        return f"allows {issuer.path_length} CAs below it, and there are {counted}"
    return None


def _signer_fault(signer: Certificate) -> str | None:
    if signer.ca:
        return "has signed the document, but is a CA"
    if signer.key_usage is not None and "digital_signature" not in signer.key_usage:
        return "has signed the document, but its key is not for that"
    return None


def _signature_fault(member: Certificate, issuer: Certificate) -> str | None:
    algorithm = member.signature_hash
    if algorithm is None or algorithm.name not in _STRONG_HASHES:
        return "is signed with a weak hash"
    if not member.signed_by(issuer):
        return "is not signed by the one before it"
    return None


def _require(member: Certificate, fault: str | None) -> None:
    if fault:
        raise NitroChainError(f"{_called(member)} {fault}", sha256=member.sha256)


def _called(member: Certificate) -> str:
    """A certificate in a message; its subject is text from outside."""
    return f"the certificate {member.subject_text[:200]!r}"
