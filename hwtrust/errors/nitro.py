"""Errors of attestation documents of AWS Nitro Enclaves."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError


class NitroRootError(EvidenceError):
    """The chain of an attestation document does not begin with a root that is trusted."""

    code = "evidence:nitro:root"
    hint = "check that the document comes from an enclave of the AWS region that you use"


class NitroChainError(EvidenceError):
    """The certificates of an attestation document are no chain from its root to its signer."""

    code = "evidence:nitro:chain"


class NitroExpiredError(EvidenceError):
    """A certificate of an attestation document is not valid at the time in question."""

    code = "evidence:nitro:expired"
    hint = "ask the enclave for a new document; its certificate is valid for three hours"


class NitroTimeError(EvidenceError):
    """The time of an attestation document cannot be when it was made."""

    code = "evidence:nitro:time"
    hint = "the timestamp counts milliseconds since 1970 UTC; check the verifier's clock"


class NitroUserDataError(EvidenceError):
    """An attestation document carries other user data than what it has to vouch for."""

    code = "evidence:nitro:user-data"
