"""Errors of keys and of enrolment: the wrong key, the wrong TPM, no leave to enrol."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError
from hwtrust.errors.evidence import EvidenceError


class KeyAttributesError(EvidenceError):
    """A key does not have the attributes that its role requires."""

    code = "key:attributes"


class CounterAttributesError(EvidenceError):
    """An NV index is not an epoch counter as hwtrust requires it."""

    code = "counter:attributes"


class EnrolmentError(HwTrustError):
    """A device cannot be enrolled."""

    code = "enrolment"


class EkCertificateError(EnrolmentError):
    """The EK certificate does not chain to an accepted TPM vendor, or is not for this EK."""

    code = "enrolment:ek:certificate"
    hint = "add the vendor's CA certificates to the backend, or allow-list the EK"


class EkMalformedError(EkCertificateError):
    """The EK certificate cannot be read, or is far too large for one."""

    code = "enrolment:ek:malformed"
    hint = "read the certificate again from the TPM's NV index, or allow-list the EK"


class EkKeyError(EkCertificateError):
    """The EK certificate is for the EK of another TPM."""

    code = "enrolment:ek:key"
    hint = "offer the certificate that belongs to this EK: same algorithm, same template"


class EkUsageError(EkCertificateError):
    """A certificate is offered that was not issued for an EK."""

    code = "enrolment:ek:usage"


class EkChainError(EkCertificateError):
    """No acceptable chain leads from the EK certificate to a trusted TPM vendor."""

    code = "enrolment:ek:chain"
    hint = "add the vendor's CA certificates to the backend, or allow-list the EK"


class EkExpiredError(EkCertificateError):
    """The EK certificate or one of its CAs is expired, or not valid yet."""

    code = "enrolment:ek:expired"
    hint = "check the clock of the backend, get the vendor's new CAs, or allow-list the EK"


class EkRevokedError(EkCertificateError):
    """The EK certificate or one of its CAs is revoked."""

    code = "enrolment:ek:revoked"
    hint = "do not enrol this device; ask its vendor"


class EkTrustError(EnrolmentError):
    """The files with the TPM vendors' CA certificates and CRLs cannot be used."""

    code = "enrolment:ek:trust"
    hint = "every file must hold certificates (or CRLs) as PEM or DER"


class EkUnknownError(EnrolmentError):
    """The EK has no certificate and is not on the allow-list."""

    code = "enrolment:ek:unknown"
    hint = "hwtrust-backend ek allow NAME, if you know whose TPM it is"


class CsrError(EnrolmentError):
    """The certificate request is not one of the TLS key that the device has shown."""

    code = "enrolment:csr:refused"


class CredentialError(EnrolmentError):
    """The device did not recover the secret that only its TPM could release."""

    code = "enrolment:credential:mismatch"


class TokenError(EnrolmentError):
    """The enrolment token is unknown, used up or expired."""

    code = "enrolment:token:refused"
    hint = "make a new one: hwtrust-backend token create"
