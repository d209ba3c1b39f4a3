"""Believing an attestation result, or refusing it.

Steps, in this order; the first that fails refuses:
1. Size, and three parts.
2. Header: exactly `alg`, `kid` and `typ`. The algorithm is ES256 by this code's
   choice, not by the token's. A header that brings or points to a key (`jwk`, `jku`,
   `x5u`, `x5c`), or that demands an extension (`crit`), is refused.
3. The key of that name is in the given set. Nothing is fetched because a token
   says so.
4. Signature.
5. Profile, and all claims of their types: an `exp` with a fraction is an error.
6. Status: no better than the worst claim of any submodule says.
7. Times: not issued in the future, not expired.
8. Audience and nonce: those that the relying party expects, exactly.
9. Affirming, unless the relying party takes whatever is genuine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jwt
import msgspec

from hwtrust.errors import (
    ResultAudienceError,
    ResultExpiredError,
    ResultFutureError,
    ResultNonceError,
    ResultProfileError,
    ResultSignatureError,
    ResultStatusError,
)
from hwtrust_backend.config import utc_text
from hwtrust_backend.config.clock import MINUTE, SECOND
from hwtrust_backend.results.ar4si import Tier, tier_of, worst
from hwtrust_backend.results.claims import PROFILE, ResultClaims, nonce_text
from hwtrust_backend.results.jwks import PublicKeys

ALGORITHM: Final = "ES256"
TYPE: Final = "eat+jwt"
"""The media type without `application/` (RFC 9782): no other token is taken for a result."""
TOKEN_LIMIT: Final = 16 * 1024
SKEW_MS: Final = MINUTE
"""How far the issuer's clock may be ahead of ours."""

_HEADER: Final = frozenset({"alg", "kid", "typ"})
_KEY_NAME_LIMIT: Final = 100


def verify_result(
    token: str,
    *,
    keys: PublicKeys,
    nonce: bytes | None,
    audience: str | None,
    any_status: bool,
    now: int,
) -> ResultClaims:
    """The claims of a genuine result that is in force at `now` (UTC milliseconds).

    `nonce` None expects none in particular; `audience` None refuses results that are
    for somebody. Without `any_status` the device must be affirmed.

    Raises:
        ResultSignatureError: not signed by one of `keys`, or not as results are.
        ResultProfileError: signed well, and no result of this profile.
        ResultFutureError, ResultExpiredError: not in force.
        ResultAudienceError, ResultNonceError: for somebody else, or an answer to another.
        ResultStatusError: genuine, and not affirming.
    """
    payload = _signed(token, keys)
    claims = _claims(payload)
    _check_status(claims)
    _check_times(claims, now)
    if claims.aud != (audience or ""):
        raise ResultAudienceError("the result is for another audience, or for none")
    if nonce is not None and claims.eat_nonce != nonce_text(nonce):
        raise ResultNonceError("the result answers another nonce, or none")
    if not any_status and claims.ear_status is not Tier.AFFIRMING:
        codes = ", ".join(claims.device.hwtrust_findings)
        message = f"the device's status is {claims.ear_status.value}"
        raise ResultStatusError(f"{message}: {codes}" if codes else message)
    return claims


def _signed(token: str, keys: PublicKeys) -> bytes:
    if len(token) > TOKEN_LIMIT:
        raise ResultSignatureError("this is too long for a result")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise ResultSignatureError("this is no signed token") from error
    key = keys.get(_key_name(header))
    if key is None:
        raise ResultSignatureError("the set of keys has no key of the result's name")
    try:
        payload: bytes = jwt.PyJWS(algorithms=[ALGORITHM]).decode(
            token, key, algorithms=[ALGORITHM]
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ResultSignatureError("the signature does not hold") from error
    return payload


def _key_name(header: Mapping[str, Any]) -> str:
    if set(header) != _HEADER:
        raise ResultSignatureError("the header of a result holds alg, kid and typ, and no more")
    if header["typ"] != TYPE:
        raise ResultSignatureError(f"a result is of the type {TYPE}")
    kid = header["kid"]
    if not isinstance(kid, str) or len(kid) > _KEY_NAME_LIMIT:
        raise ResultSignatureError("the header of a result names a key")
    return kid


def _claims(payload: bytes) -> ResultClaims:
    try:
        claims = msgspec.json.decode(payload, type=ResultClaims)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ResultProfileError("the claims are not those of an attestation result") from error
    if claims.eat_profile != PROFILE:
        raise ResultProfileError(f"the result is not of the profile {PROFILE}")
    _ = claims.device
    return claims


def _check_status(claims: ResultClaims) -> None:
    for appraisal in claims.submods.values():
        vector = worst(map(tier_of, appraisal.ear_trustworthiness_vector.values()))
        if worst((vector, appraisal.ear_status)) is not appraisal.ear_status:
            raise ResultProfileError("the status is better than its trustworthiness vector")
        if vector is Tier.NONE and appraisal.ear_status is Tier.AFFIRMING:
            raise ResultProfileError("the status affirms what no claim does")
    whole = worst(appraisal.ear_status for appraisal in claims.submods.values())
    if worst((whole, claims.ear_status)) is not claims.ear_status:
        raise ResultProfileError("the status is better than that of a submodule")


def _check_times(claims: ResultClaims, now: int) -> None:
    begins = max(claims.iat, claims.nbf) * SECOND
    if begins - now > SKEW_MS:
        raise ResultFutureError(f"the result begins at {_text(begins)}")
    if claims.exp * SECOND <= now:
        raise ResultExpiredError(f"the result expired at {_text(claims.exp * SECOND)}")


def _text(utc_ms: int) -> str:
    try:
        return utc_text(utc_ms)
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar has"
