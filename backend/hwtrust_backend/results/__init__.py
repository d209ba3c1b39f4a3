"""Attestation results for relying parties: issued, signed, and verified."""

from __future__ import annotations

from hwtrust_backend.results.ar4si import Tier
from hwtrust_backend.results.claims import ResultClaims
from hwtrust_backend.results.jwks import Jwk, Jwks, PublicKeys, read_jwks
from hwtrust_backend.results.keys import MAX_AGE_SECONDS, KeyReport, ResultKeys
from hwtrust_backend.results.models import KeyState, ResultKey, ResultKeyRing
from hwtrust_backend.results.service import IssuedResult, Results
from hwtrust_backend.results.verify import verify_result

__all__ = [
    "MAX_AGE_SECONDS",
    "IssuedResult",
    "Jwk",
    "Jwks",
    "KeyReport",
    "KeyState",
    "PublicKeys",
    "ResultClaims",
    "ResultKey",
    "ResultKeyRing",
    "ResultKeys",
    "Results",
    "Tier",
    "read_jwks",
    "verify_result",
]
