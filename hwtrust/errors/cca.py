"""Errors of attestation tokens of the Arm Confidential Compute Architecture."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError


class CcaPlatformUnknownError(EvidenceError):
    """No key is known for the platform that a CCA token names."""

    code = "evidence:cca:platform"
    hint = "add the CPAK of this instance, from the platform's vendor, to the endorsements"


class CcaPlatformError(EvidenceError):
    """The platform token is not signed by the key of the platform that it names."""

    code = "evidence:cca:platform-signature"


class CcaBindingError(EvidenceError):
    """The platform token vouches for another realm key than the one in the realm token."""

    code = "evidence:cca:binding"


class CcaRealmError(EvidenceError):
    """The realm token is not signed by the realm attestation key."""

    code = "evidence:cca:realm-signature"


class CcaEndorsementError(EvidenceError):
    """Keys that are to be trusted for CCA platforms cannot be read."""

    code = "evidence:cca:endorsement"
    hint = "a list of objects with pkey (a JWK), implementation-id and instance-id in hex"
