"""Errors of a GPU's attestation report: its chain, its firmware, its signature."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError, SignatureError, StaleQuoteError


class NvidiaError(EvidenceError):
    """A GPU's attestation report is not authentic."""

    code = "nvidia"


class NvidiaSignatureError(SignatureError):
    """The report was not signed by the key of the GPU's certificate."""

    code = "nvidia:signature:invalid"
    hint = "send the report with the certificate chain that the same GPU gave"


class NvidiaNonceError(StaleQuoteError):
    """The GPU's report answers another nonce."""

    code = "nvidia:nonce:mismatch"


class NvidiaChainError(NvidiaError):
    """The GPU's certificates are no chain, or do not lead to a trusted root."""

    code = "nvidia:chain:invalid"
    hint = "send all of the GPU's certificates, its own first and the root last"


class NvidiaExpiredError(NvidiaChainError):
    """A certificate of the GPU's chain is expired, or not valid yet."""

    code = "nvidia:chain:expired"


class NvidiaRevokedError(NvidiaChainError):
    """A certificate of the GPU's chain is revoked."""

    code = "nvidia:chain:revoked"


class NvidiaFirmwareIdError(NvidiaError):
    """The report is of other firmware than the GPU's certificate was made for."""

    code = "nvidia:fwid:mismatch"
