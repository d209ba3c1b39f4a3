"""A nonce is good for one device, one purpose and a short time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from hwtrust.errors import (
    ChallengeExpiredError,
    ChallengeForgedError,
    ChallengePurposeError,
    EmptyNonceError,
    HwTrustError,
)
from hwtrust.wire.challenge import (
    LIFETIME_MS,
    NONCE_SIZE,
    SKEW_MS,
    Challenge,
    Purpose,
    check,
    issue,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KEY: Final = bytes(range(32))
DEVICE: Final = b"\x00\x0b" + bytes(32)
NOW: Final = 1_800_000_000_000


def make(
    *,
    key: bytes = KEY,
    device: bytes = DEVICE,
    purpose: Purpose = Purpose.ATTEST,
    now_ms: int = NOW,
) -> bytes:
    """A nonce, by default for this device, to attest, now."""
    return issue(key=key, device=device, purpose=purpose, now_ms=now_ms)


def accept(nonce: bytes, *, now_ms: int = NOW) -> Challenge:
    """Check a nonce as this device's, to attest."""
    return check(nonce, key=KEY, device=DEVICE, purpose=Purpose.ATTEST, now_ms=now_ms)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_nonce_is_good_for_what_it_was_issued_for(purpose: Purpose) -> None:
    """Checking gives the nonce and the time of its issue."""
    nonce = make(purpose=purpose)
    checked = check(nonce, key=KEY, device=DEVICE, purpose=purpose, now_ms=NOW)
    assert checked == Challenge(nonce, NOW)
    assert len(nonce) == NONCE_SIZE


def test_no_two_nonces_are_alike() -> None:
    """Issued in the same millisecond, they still differ."""
    assert len({make() for _ in range(64)}) == 64


TIMELY: dict[str, int] = {
    "at once": 0,
    "in the last millisecond of its life": LIFETIME_MS,
    "by a replica whose clock is behind": -SKEW_MS,
}


@pytest.mark.parametrize("case", TIMELY)
def test_a_nonce_is_good(case: str) -> None:
    """A nonce lives for its lifetime, and clocks of replicas may differ a little."""
    assert accept(make(), now_ms=NOW + TIMELY[case]).issued == NOW


def flipped(position: int) -> bytes:
    """A good nonce with one bit flipped."""
    nonce = bytearray(make())
    nonce[position] ^= 1
    return bytes(nonce)


FORGED: Final = (ChallengeForgedError, "challenge:forged")
EXPIRED: Final = (ChallengeExpiredError, "challenge:expired")
PURPOSE: Final = (ChallengePurposeError, "challenge:purpose")

REFUSED: dict[str, tuple[type[HwTrustError], str, Callable[[], object]]] = {
    "17: that is empty": (EmptyNonceError, "evidence:nonce:empty", lambda: accept(b"")),
    "16: of another device": (*FORGED, lambda: accept(make(device=DEVICE + b"\0"))),
    "by another key": (*FORGED, lambda: accept(make(key=bytes(32)))),
    "that is random": (*FORGED, lambda: accept(bytes(NONCE_SIZE))),
    "that is cut short": (*FORGED, lambda: accept(make()[:-1])),
    "that is longer": (*FORGED, lambda: accept(make() + b"\0")),
    "that is cut down to its time": (*FORGED, lambda: accept(make()[:24])),
    "that is cut short, for another purpose": (
        *FORGED,
        lambda: accept(make(purpose=Purpose.ENROL)[:-1]),
    ),
    "20: for enrolment": (*PURPOSE, lambda: accept(make(purpose=Purpose.ENROL))),
    "20: for a session": (*PURPOSE, lambda: accept(make(purpose=Purpose.SESSION))),
    "14: that is too old": (*EXPIRED, lambda: accept(make(), now_ms=NOW + LIFETIME_MS + 1)),
    "from the future": (*EXPIRED, lambda: accept(make(), now_ms=NOW - SKEW_MS - 1)),
    "with a lifetime of its own": (
        *EXPIRED,
        lambda: check(
            make(),
            key=KEY,
            device=DEVICE,
            purpose=Purpose.ATTEST,
            now_ms=NOW + 2,
            lifetime_ms=1,
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_nonce_is_refused(case: str) -> None:
    """Whatever this backend did not issue for this, in time, is no challenge."""
    error, code, call = REFUSED[case]
    with pytest.raises(HwTrustError) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.code == code


@pytest.mark.parametrize("position", range(NONCE_SIZE))
def test_every_byte_of_a_nonce_counts(position: int) -> None:
    """No part of a nonce, its time least of all, can be changed."""
    with pytest.raises(ChallengeForgedError):
        accept(flipped(position))
