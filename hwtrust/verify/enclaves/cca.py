"""Is this CCA token authentic, and what do platform and realm vouch for?

    CPAK ── signs ──▶ platform token { hash of RAK, firmware, lifecycle }
                                              │
    RAK  ── signs ──▶ realm token    { RAK, challenge, measurements }

Rules, in the order in which they are checked (the code carries their numbers):

1. form       a token with all of its claims (`hwtrust.wire.enclaves.cca`).
2. platform   a key (CPAK) is known for the implementation and instance that it names.
3. signature  of the platform token, by that key, over the bytes as received.
4. binding    the platform's challenge is the hash of the realm attestation key (RAK)
              as it stands in the realm token. Else the realm may run anywhere.
5. signature  of the realm token, by the RAK, over the bytes as received.
6. challenge  the realm's challenge is the one that was sent, 64 bytes of it.

A caller that can go without the last says so with a member of `Unsafe`.
"""

from __future__ import annotations

import hashlib
from enum import Enum, auto
from hmac import compare_digest
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import EmptyNonceError, StaleQuoteError
from hwtrust.errors.cca import (
    CcaBindingError,
    CcaPlatformError,
    CcaPlatformUnknownError,
    CcaRealmError,
)
from hwtrust.errors.cose import CoseAlgorithmError, CoseSignatureError
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.verify.enclaves.cca_keys import CcaTrust, point_on
from hwtrust.verify.enclaves.cose import require_signed
from hwtrust.wire.enclaves.cca import (
    CHALLENGE_SIZE,
    HASHES,
    CcaToken,
    Facts,
    PlatformClaims,
    RealmClaims,
    facts_of,
)

__all__ = ["CcaClaims", "CcaTrust", "Unsafe", "verify_cca"]


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    NO_CHALLENGE = auto()
    """The token may be a replay of any age."""


Challenge = bytes | Literal[Unsafe.NO_CHALLENGE]


class CcaClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What authentic tokens say; only `verify_cca` makes them."""

    platform: PlatformClaims
    realm: RealmClaims
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    def facts(self) -> Facts:
        """What the tokens say, for people and programs."""
        return facts_of(self.platform, self.realm)


def verify_cca(token: bytes, *, challenge: Challenge, trust: CcaTrust) -> CcaClaims:
    """Check a token and return what it vouches for; a `challenge` has 64 bytes.

    Raises:
        EvidenceError: the token is not authentic; the class says why.
        WireError: the token is malformed.
    """
    # (1): form.
    read = CcaToken.decode(token)
    platform, realm = read.platform, read.realm
    # (2): platform.
    key = trust.keys.get((platform.implementation_id, platform.instance_id))
    if key is None:
        raise CcaPlatformUnknownError(
            "no key is known for the CCA platform",
            implementation_id=platform.implementation_id.hex(),
            instance_id=platform.instance_id.hex(),
        )
    # (3): signature of the platform.
    try:
        require_signed(read.platform_message, key=key)
    except (CoseAlgorithmError, CoseSignatureError) as error:
        raise CcaPlatformError(
            "the platform token is not signed by the key of the platform that it names"
        ) from error
    # (4): binding.
    hashed = hashlib.new(HASHES[realm.public_key_hash_algorithm], realm.public_key).digest()
    if not compare_digest(hashed, platform.challenge):
        raise CcaBindingError("the platform token vouches for another realm attestation key")
    # (5): signature of the realm.
    try:
        require_signed(read.realm_message, key=_realm_key(realm))
    except (CoseAlgorithmError, CoseSignatureError) as error:
        raise CcaRealmError("the realm token is not signed by the realm attestation key") from error
    # (6): challenge.
    if challenge is not Unsafe.NO_CHALLENGE:
        _require_challenge(realm.challenge, challenge)
    return CcaClaims(platform=platform, realm=realm, verified=VERIFIED)


def _realm_key(realm: RealmClaims) -> ec.EllipticCurvePublicKey:
    curve, point = realm.point
    try:
        return point_on(curve, point)
    except ValueError:
        raise CcaRealmError("the realm attestation key is no point of its curve") from None


def _require_challenge(found: bytes, expected: bytes) -> None:
    if not expected:
        raise EmptyNonceError("the challenge is empty: whatever answers it may be of any age")
    if len(expected) != CHALLENGE_SIZE or not compare_digest(found, expected):
        raise StaleQuoteError("the token answers another challenge than the one that was sent")
