"""Challenges: nonces that a backend can issue without writing anything down.

A nonce is its time, sixteen random bytes, and a MAC over both, the device and
the purpose. Any replica that holds the key can check it.

    nonce (40 bytes) = issued (8, UTC ms) | random (16) | HMAC-SHA256[:16]

Rules:
1. A nonce is good for one device and one purpose only.
2. It is good from its issue for `lifetime_ms`, and not before (a replica whose
   clock is ahead by more than `skew_ms` is noticed).
3. That it is used once is not decided here: the caller keeps the newest
   `issued` it has accepted from a device and refuses anything not newer.
"""

from __future__ import annotations

import hmac
import os
from enum import StrEnum

import msgspec

from hwtrust.errors import (
    ChallengeExpiredError,
    ChallengeForgedError,
    ChallengePurposeError,
    EmptyNonceError,
)
from hwtrust.wire.codec import tpm2b, u64

NONCE_SIZE = 40
LIFETIME_MS = 15 * 60 * 1000
SKEW_MS = 60 * 1000


class Purpose(StrEnum):
    """What a challenge, and the quote that answers it, is for."""

    ENROL = "enrol"
    SESSION = "session"
    """To get a certificate for a TLS key: asked for without a client certificate."""
    ATTEST = "attest"


class Challenge(msgspec.Struct, frozen=True):
    """A nonce that has been checked; `issued` is UTC in milliseconds."""

    nonce: bytes
    issued: int


def issue(*, key: bytes, device: bytes, purpose: Purpose, now_ms: int) -> bytes:
    """Make a nonce for `device` (an EK Name) and `purpose`."""
    body = u64(now_ms) + os.urandom(16)
    return body + _tag(key, body, device, purpose)


def check(
    nonce: bytes,
    *,
    key: bytes,
    device: bytes,
    purpose: Purpose,
    now_ms: int,
    lifetime_ms: int = LIFETIME_MS,
) -> Challenge:
    """Accept a nonce that this backend issued to `device` for `purpose`, in time.

    Raises:
        EmptyNonceError: there is none.
        ChallengePurposeError: issued to this device for another purpose.
        ChallengeForgedError: not issued with this key to this device.
        ChallengeExpiredError: older than `lifetime_ms`, or from the future.
    """
    if not nonce:
        raise EmptyNonceError("the evidence answers no challenge")
    body, tag = nonce[:24], nonce[24:]
    if not hmac.compare_digest(tag, _tag(key, body, device, purpose)):
        for other in Purpose:
            if hmac.compare_digest(tag, _tag(key, body, device, other)):
                raise ChallengePurposeError(
                    f"the challenge was issued for {other}, not for {purpose}"
                )
        raise ChallengeForgedError("the challenge was not issued to this device")
    issued = int.from_bytes(body[:8], "big")
    if not -SKEW_MS <= now_ms - issued <= lifetime_ms:
        raise ChallengeExpiredError("the challenge is out of date", issued=issued)
    return Challenge(nonce, issued)


def _tag(key: bytes, body: bytes, device: bytes, purpose: Purpose) -> bytes:
    signed = tpm2b(b"hwtrust challenge v1") + tpm2b(body) + tpm2b(device) + tpm2b(purpose.encode())
    return hmac.digest(key, signed, "sha256")[:16]
