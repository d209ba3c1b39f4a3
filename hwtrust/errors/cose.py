"""Errors of COSE_Sign1 messages."""

from __future__ import annotations

from hwtrust.errors.evidence import EvidenceError


class CoseSignatureError(EvidenceError):
    """The signature of a COSE_Sign1 message does not verify under the key."""

    code = "evidence:cose:signature"
    hint = "check that the message was not changed and that the key is its signer's"


class CoseAlgorithmError(EvidenceError):
    """The algorithm that a COSE_Sign1 message names is not the one of the key."""

    code = "evidence:cose:algorithm"
    hint = "ES256 goes with P-256, ES384 with P-384, ES512 with P-521"
