"""From an EK certificate to a trusted TPM vendor: find a chain, and check all of it.

Rules (RFC 5280 §6.1, without policies and name constraints):
1. A chain is found by names and signatures; nothing is fetched. Candidates come
   from the trust store and, as mere hints, from the device.
2. Every certificate of the chain is valid now, the trust anchor included: its
   vendor has said until when it is to be trusted.
3. Every certificate but the anchor is signed with SHA-2. How an anchor is signed
   does not matter: it is trusted for where it was found.
4. Every issuer is a CA: the CA bit, keyCertSign where a key usage is given, the
   path length, one of the purposes that are asked for (tcg-kp-EKCertificate) where
   an extended key usage is given, a key that is not weak.
5. A critical extension that hwtrust does not understand refuses the chain.
6. A serial number on any revocation list of its issuer is revoked. Lists can
   only take trust away, so an old one is used all the same.
7. The search is bounded: what a device sends cannot keep a server busy.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import EkCertificateError, EkChainError, EkExpiredError, EkRevokedError
from hwtrust.verify.certificates import Certificate, Crl, Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

Chain = tuple[Certificate, ...]
"""From the EK certificate to the trust anchor, each signed by the next."""

EK_CERTIFICATE: Final = "2.23.133.8.1"
"""tcg-kp-EKCertificate, TCG EK Credential Profile 2.5 §3.2."""

EK_PURPOSES: Final = frozenset({EK_CERTIFICATE})

MAX_LENGTH: Final = 8
"""How many certificates a chain has at most; in the field, five."""

_ANY_USAGE: Final = "2.5.29.37.0"
_MAX_SIGNATURES: Final = 64
_STRONG_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_STRONG_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_STRONG_RSA_BITS: Final = range(2048, 8192 + 1)


def find_chain(
    leaf: Certificate,
    *,
    anchors: Iterable[Certificate],
    intermediates: Iterable[Certificate],
    crls: Sequence[Crl],
    now: datetime,
    purposes: frozenset[str] = EK_PURPOSES,
) -> Chain:
    """The first acceptable chain from `leaf` to one of `anchors`, both included.

    Raises:
        EkChainError: there is none, or one with a bad CA in it.
        EkExpiredError: there is one with a certificate that is not valid at `now`.
        EkRevokedError: there is one with a certificate that is revoked.
    """
    refusal: EkCertificateError | None = None
    for chain in _Search(_by_subject(anchors), _by_subject(intermediates)).chains((leaf,)):
        try:
            _check(chain, crls, now, purposes)
        except EkCertificateError as error:
            refusal = refusal or error
        else:
            return chain
    raise refusal or EkChainError(
        f"no trusted CA has issued the certificate; it names {leaf.issuer_text[:200]!r}",
        sha256=leaf.sha256,
    )


def _by_subject(certificates: Iterable[Certificate]) -> Mapping[x509.Name, Sequence[Certificate]]:
    """The certificates under the name that those they have issued bear."""
    found: dict[x509.Name, list[Certificate]] = defaultdict(list)
    for certificate in certificates:
        found[certificate.subject].append(certificate)
    return dict(found)


@dataclass(slots=True)
class _Search:
    """A depth-first search for chains, with a budget of signature checks."""

    anchors: Mapping[x509.Name, Sequence[Certificate]]
    intermediates: Mapping[x509.Name, Sequence[Certificate]]
    budget: int = _MAX_SIGNATURES

    def chains(self, path: Chain) -> Iterator[Chain]:
        """All chains that continue `path`."""
        top = path[-1]
        if len(path) == MAX_LENGTH:
            return
        for anchor in self.anchors.get(top.issuer, ()):
            if self._issued(top, anchor):
                yield (*path, anchor)
        for issuer in self.intermediates.get(top.issuer, ()):
            known = any(issuer.der == member.der for member in path)
            if not known and self._issued(top, issuer):
                yield from self.chains((*path, issuer))

    def _issued(self, certificate: Certificate, issuer: Certificate) -> bool:
        if self.budget == 0 or not _is_strong(issuer.key):
            return False
        self.budget -= 1
        return certificate.signed_by(issuer)


def _is_strong(key: Key) -> bool:
    """Whether the key may sign certificates; also keeps enormous ones from being used."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, _STRONG_CURVES)
    return key.key_size in _STRONG_RSA_BITS


def _check(chain: Chain, crls: Sequence[Crl], now: datetime, purposes: frozenset[str]) -> None:
    """Rules 2 to 6 for every certificate of a chain whose signatures are good."""
    issuers = (*chain[1:], chain[-1])
    for below, (certificate, issuer) in enumerate(zip(chain, issuers, strict=True)):
        if _is_revoked(certificate, issuer, crls):
            raise EkRevokedError(f"{_called(certificate)} is revoked", sha256=certificate.sha256)
        if not certificate.not_before <= now <= certificate.not_after:
            raise EkExpiredError(
                f"{_called(certificate)} is valid from {certificate.not_before} "
                f"to {certificate.not_after}, and now it is {now}",
                sha256=certificate.sha256,
            )
        fault = _signature_fault(certificate) if issuer is not certificate else None
        fault = fault or _extension_fault(certificate)
        if below:
            fault = fault or _issuer_fault(certificate, chain[1:below], purposes)
        if fault:
            raise EkChainError(f"{_called(certificate)} {fault}", sha256=certificate.sha256)


def _is_revoked(certificate: Certificate, issuer: Certificate, crls: Sequence[Crl]) -> bool:
    return any(certificate.serial in crl.serials and crl.signed_by(issuer) for crl in crls)


def _signature_fault(certificate: Certificate) -> str | None:
    algorithm = certificate.signature_hash
    if algorithm is None or algorithm.name not in _STRONG_HASHES:
        return "is signed with a weak hash"
    return None


def _extension_fault(certificate: Certificate) -> str | None:
    if certificate.unknown_critical:
        return f"has critical extensions that are not understood: {certificate.unknown_critical}"
    return None


def _issuer_fault(
    certificate: Certificate, cas_below: Chain, purposes: frozenset[str]
) -> str | None:
    """Why a certificate may not have issued the one below it in the chain."""
    usage, extended = certificate.key_usage, certificate.extended_key_usage
    # RFC 5280 §4.2.1.9: CAs that merely renew their own key do not count.
    counted = sum(not ca.self_issued for ca in cas_below)
    if not certificate.ca:
        return "has issued a certificate, but is no CA"
    if usage is not None and "key_cert_sign" not in usage:
        return "has issued a certificate, but its key is not for that"
    if certificate.path_length is not None and counted > certificate.path_length:
        return f"allows {certificate.path_length} CAs below it, and there are {counted}"
    if extended is not None and not extended & (purposes | {_ANY_USAGE}):
        return "may not issue such certificates, says its extended key usage"
    return None


def _called(certificate: Certificate) -> str:
    """A certificate in a message; its subject is text from outside."""
    return f"the certificate {certificate.subject_text[:200]!r} (serial {certificate.serial:x})"
