"""Errors of bytes and of evidence: not well-formed, not authentic, not fresh."""

from __future__ import annotations

from hwtrust.errors.base import HwTrustError


class WireError(HwTrustError):
    """Bytes from outside do not have the form that they should have."""

    code = "wire"


class MalformedError(WireError):
    """A structure is truncated, too long, or not canonical."""

    code = "wire:malformed"
    hint = "check that the file is what it is said to be and was copied as binary"


class UnsupportedError(WireError):
    """A well-formed structure uses an algorithm or version that hwtrust does not take."""

    code = "wire:unsupported"


class EnvelopeError(WireError):
    """A signed message carries no valid signature by a key that is trusted for it."""

    code = "wire:envelope:signature"
    hint = "check that the trust file of the device belongs to this backend"


class EvidenceError(HwTrustError):
    """Evidence is not authentic; nothing that it says may be believed."""

    code = "evidence"


class NotAttestedError(EvidenceError):
    """The bytes were not made inside a TPM: TPM_GENERATED_VALUE is missing."""

    code = "evidence:magic:mismatch"


class AttestTypeError(EvidenceError):
    """An attestation of one type is offered where another is asked for."""

    code = "evidence:type:mismatch"


class SignatureError(EvidenceError):
    """The signature does not verify under the key."""

    code = "evidence:signature:invalid"
    hint = "check that message, signature and key belong to the same quote"


class SignatureAlgorithmError(EvidenceError):
    """The signature's algorithm is not the one that the key is bound to."""

    code = "evidence:signature:algorithm"


class WeakKeyError(EvidenceError):
    """A key is too weak, or is no valid key at all."""

    code = "evidence:key:weak"


class StaleQuoteError(EvidenceError):
    """A well-signed quote answers another challenge: a replay or a race."""

    code = "evidence:nonce:mismatch"
    hint = "ask for a fresh challenge and attest again"


class EmptyNonceError(EvidenceError):
    """A quote that answers no challenge proves nothing about now."""

    code = "evidence:nonce:empty"
    hint = "pass the nonce that the quote was asked for with"


class SelectionError(EvidenceError):
    """The quote covers other PCRs or banks than the ones that are asked for."""

    code = "evidence:selection:mismatch"


class PcrDigestError(EvidenceError):
    """The PCR values beside the quote are not those that the TPM signed."""

    code = "evidence:pcrs:mismatch"


class WeakBankError(EvidenceError):
    """A quoted PCR is covered by its SHA-1 bank alone."""

    code = "evidence:bank:weak"
    hint = "quote the SHA-256 bank, which may stand beside the SHA-1 bank"


class UnextendedBankError(EvidenceError):
    """A quoted bank was never extended: any program can give it any value."""

    code = "evidence:bank:unextended"
    hint = "have the firmware measure into the SHA-256 bank"


class ChannelBindingError(EvidenceError):
    """The quote binds another TLS key than that of the connection it came by."""

    code = "evidence:tls-key:mismatch"
    hint = "attest over the connection whose key the quote names; a relayed quote is refused"


class BootMismatchError(EvidenceError):
    """Quote and counter were certified in different boots."""

    code = "evidence:boot:mismatch"
    hint = "ask for a fresh challenge and attest again"


class SignerError(EvidenceError):
    """The quote's qualifiedSigner is not the attestation key."""

    code = "evidence:signer:mismatch"


class CertifiedNameError(EvidenceError):
    """A certified object or index is not the one that it is said to be."""

    code = "evidence:name:mismatch"


class LogError(EvidenceError):
    """The event log does not explain the quoted PCR."""

    code = "evidence:log:mismatch"


class UntrustedError(EvidenceError):
    """Authentic evidence describes a state that the policy does not accept."""

    code = "evidence:verdict:untrusted"


class ChallengeError(HwTrustError):
    """A challenge cannot be accepted."""

    code = "challenge"
    hint = "ask for a fresh challenge and attest again"


class ChallengeForgedError(ChallengeError):
    """The nonce was not issued by this backend for this device."""

    code = "challenge:forged"


class ChallengePurposeError(ChallengeError):
    """The nonce was issued for another purpose."""

    code = "challenge:purpose"


class ChallengeExpiredError(ChallengeError):
    """The nonce is too old, or comes from the future."""

    code = "challenge:expired"


class ChallengeUsedError(ChallengeError):
    """The nonce, or a newer one, has been accepted before."""

    code = "challenge:used"
