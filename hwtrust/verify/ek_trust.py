"""The TPM vendors that an operator accepts: CA certificates and revocation lists.

    files (bytes) ──▶ EkTrust.load ──▶ roots, intermediates, crls; refused

Reading a directory is the caller's. Rules:
1. A CA certificate that has signed itself is a root. Any other counts only below
   a root, unless the operator names it an anchor.
2. A CA certificate that cannot be used is reported in `refused` and costs only
   itself: vendors' bundles hold odd ones.
3. A revocation list that cannot be used is an error: it may be the one that
   matters. So is a file that holds nothing of what it should.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from hwtrust.errors import EkTrustError, MalformedError
from hwtrust.verify import der
from hwtrust.verify.certificates import Certificate, Crl, pem_blocks, read_certificate, read_crl

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class RefusedCa:
    """A certificate in the operator's files that is not used, and why."""

    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class EkTrust:
    """Trust anchors, CAs that count only below them, and who is revoked.

    Attributes:
        roots: the trust anchors.
        intermediates: further CAs.
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
        """Sort what is in `files`, each one or several certificates as PEM or DER.

        `crls` are revocation lists in the same forms. `anchors` are files with
        CAs that are trusted though they have not signed themselves: some vendors
        publish no root.

        Raises:
            EkTrustError: a file holds nothing that it should hold, or a list
                cannot be read or was not signed by the CA that it names.
        """
        refused: list[RefusedCa] = []
        trusted = list(_cas(anchors, refused))
        known = [ca for ca in _cas(files, refused) if ca not in trusted]
        roots = trusted + [ca for ca in known if ca.signed_by(ca)]
        intermediates = [ca for ca in known if ca not in roots]
        lists = tuple(_lists(crls, known + trusted))
        return cls(tuple(roots), tuple(intermediates), lists, tuple(refused))


def _cas(files: Iterable[bytes], refused: list[RefusedCa]) -> Iterable[Certificate]:
    """Every CA of the files once; what is none goes to `refused`."""
    seen: set[bytes] = set()
    for file in files:
        for element in _elements(file, b"CERTIFICATE"):
            if element in seen:
                continue
            seen.add(element)
            try:
                certificate = read_certificate(element)
            except MalformedError as error:
                refused.append(RefusedCa(hashlib.sha256(element).hexdigest(), error.message))
                continue
            if certificate.ca:
                yield certificate
            else:
                refused.append(RefusedCa(certificate.sha256, "it is not the certificate of a CA"))


def _lists(files: Iterable[bytes], cas: list[Certificate]) -> Iterable[Crl]:
    """Every revocation list of the files.

    One of an unknown CA is kept: a device may send that CA's certificate.
    """
    for file in files:
        for element in _elements(file, b"X509 CRL"):
            try:
                crl = read_crl(element)
            except MalformedError as error:
                raise EkTrustError(error.message) from error
            issuers = [ca for ca in cas if ca.subject == crl.issuer]
            if issuers and not any(crl.signed_by(ca) for ca in issuers):
                raise EkTrustError(
                    f"a revocation list was not signed by {issuers[0].subject_text!r}, "
                    "which it names as its issuer"
                )
            yield crl


def _elements(file: bytes, label: bytes) -> list[bytes]:
    """The DER structures in a file of PEM or DER.

    Raises:
        EkTrustError: there are none.
    """
    try:
        blocks = pem_blocks(file, label) if b"-----BEGIN " in file else [file]
        found = [element for block in blocks for element in der.split(block)]
    except MalformedError as error:
        raise EkTrustError(f"a file is neither PEM nor DER: {error.message}") from error
    if not found:
        raise EkTrustError(f"a file holds no {label.decode()}")
    return found
