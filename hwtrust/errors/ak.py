"""Errors of an attestation key's certificate."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError


class AkCertificateError(EvidenceError):
    """A certificate does not make a key the attestation key of a trusted vendor's TPM."""

    code = "ak:certificate"


class AkKeyError(AkCertificateError):
    """The certificate is for another key than the attestation key."""

    code = "ak:certificate:key"


class AkUsageError(AkCertificateError):
    """A certificate is offered that was not issued for an attestation key."""

    code = "ak:certificate:usage"
    hint = "offer the certificate of the attestation key, not of a TLS key, an EK or a CA"


class AkChainError(AkCertificateError):
    """No acceptable chain leads from the certificate to a trusted vendor."""

    code = "ak:certificate:chain"
    hint = "add the vendor's CA certificates to the trusted ones"


class AkExpiredError(AkChainError):
    """The certificate or one of its CAs is expired, or not valid yet."""

    code = "ak:certificate:expired"


class AkRevokedError(AkChainError):
    """The certificate or one of its CAs is revoked."""

    code = "ak:certificate:revoked"
