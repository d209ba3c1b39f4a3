"""Which platforms are trusted: the public half of each one's attestation key (CPAK).

    [ { pkey: JWK, implementation-id: hex, instance-id: hex }, … ] ── CcaTrust.read ──▶ CcaTrust

Rules:
1. A key counts for one instance of one implementation, both of which are given.
2. Keys are on P-256, P-384 or P-521: a JWK of type EC, or its point is refused.
3. An instance is listed once.
"""

from __future__ import annotations

import base64
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors.cca import CcaEndorsementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a list: some 50,000 platforms."""

_JSON_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


class Jwk(msgspec.Struct, frozen=True, kw_only=True):
    """A public key, RFC 7518 §6.2.1; what else a JWK has is not looked at."""

    kty: Literal["EC"]
    crv: Literal["P-256", "P-384", "P-521"]
    x: str
    y: str

    def key(self) -> ec.EllipticCurvePublicKey:
        """The key.

        Raises:
            CcaEndorsementError: it is not on its curve, or not of its length.
        """
        try:
            point = b"\x04" + _coordinate(self.x, self.crv) + _coordinate(self.y, self.crv)
            return point_on(self.crv, point)
        except ValueError:
            raise CcaEndorsementError(
                "the key of a CCA platform is no point of its curve"
            ) from None


class CcaEndorsement(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """That a platform has this key."""

    pkey: Jwk
    implementation_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")]
    instance_id: Annotated[str, msgspec.Meta(pattern=r"^01[0-9a-fA-F]{64}$")]


class CcaTrust(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of platforms by their implementation and instance id; read-only."""

    keys: Mapping[tuple[bytes, bytes], ec.EllipticCurvePublicKey]

    @classmethod
    def of(cls, endorsements: Iterable[CcaEndorsement]) -> Self:
        """From endorsements, each of another instance.

        Raises:
            CcaEndorsementError: a key is none, or an instance is listed twice.
        """
        keys = {}
        for endorsement in endorsements:
            platform = (
                bytes.fromhex(endorsement.implementation_id),
                bytes.fromhex(endorsement.instance_id),
            )
            # (3): once.
            if platform in keys:
                raise CcaEndorsementError(
                    "an instance of a CCA platform is listed twice",
                    instance_id=endorsement.instance_id,
                )
            keys[platform] = endorsement.pkey.key()
        return cls(keys=MappingProxyType(keys))

    @classmethod
    def read(cls, data: bytes) -> Self:
        """From a JSON list of endorsements.

        Raises:
            CcaEndorsementError: it is none, or what `of` refuses.
        """
        if len(data) > MAX_SIZE:
            raise CcaEndorsementError(f"a list of CCA platforms has {MAX_SIZE} bytes at most")
        try:
            endorsements = msgspec.json.decode(data, type=tuple[CcaEndorsement, ...])
        except _JSON_ERRORS as error:
            raise CcaEndorsementError(f"a list of CCA platforms cannot be read: {error}") from error
        return cls.of(endorsements)


def read_jwk(data: bytes) -> Jwk:
    """One public key in JSON.

    Raises:
        CcaEndorsementError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Jwk)
    except _JSON_ERRORS as error:
        raise CcaEndorsementError(f"the key of a CCA platform cannot be read: {error}") from error


def point_on(curve: str, point: bytes) -> ec.EllipticCurvePublicKey:
    """The key of an uncompressed point.

    Raises:
        ValueError: it is not on the curve.
    """
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], point)


def _coordinate(text: str, curve: str) -> bytes:
    """RFC 7518 §6.2.1.2: as long as the curve's field, in base64url without padding."""
    value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if len(value) != (_CURVES[curve].key_size + 7) // 8:
        raise ValueError(curve)
    return value
