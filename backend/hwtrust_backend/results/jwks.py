"""Sets of public keys as JSON (RFC 7517): P-256 keys for ES256 and nothing else.

Rules:
1. A key's name is its thumbprint (RFC 7638). A set whose names are anything else
   is refused: a name that the key does not decide could be given to another.
2. Keys of other kinds are left out, never tried: a set may serve others too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import JwksError

SIZE_LIMIT: Final = 256 * 1024
_COORDINATE: Final = 32

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]
"""Public keys by their names."""


class Jwk(msgspec.Struct, frozen=True, kw_only=True):
    """One public key."""

    kid: str
    x: str
    y: str
    kty: str = "EC"
    crv: str = "P-256"
    alg: str = "ES256"
    use: str = "sig"


class Jwks(msgspec.Struct, frozen=True, kw_only=True):
    """A set of public keys."""

    keys: tuple[Jwk, ...]


def thumbprint(x: bytes, y: bytes) -> str:
    """The name of a key: SHA-256 of its required members, in their order (RFC 7638)."""
    members = f'{{"crv":"P-256","kty":"EC","x":"{encoded(x)}","y":"{encoded(y)}"}}'
    return encoded(hashlib.sha256(members.encode()).digest())


def coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    """A P-256 key's x and y, 32 bytes each."""
    numbers = key.public_numbers()
    return numbers.x.to_bytes(_COORDINATE, "big"), numbers.y.to_bytes(_COORDINATE, "big")


def jwk(x: bytes, y: bytes) -> Jwk:
    """The key of these coordinates."""
    return Jwk(kid=thumbprint(x, y), x=encoded(x), y=encoded(y))


def read_jwks(content: bytes) -> PublicKeys:
    """The ES256 keys in a set.

    Raises:
        JwksError: it is too large, no set of keys, or a key in it is malformed.
    """
    if len(content) > SIZE_LIMIT:
        raise JwksError("the set of keys is too large")
    entries: list[dict[str, Any]]
    try:
        entries = msgspec.json.decode(content, type=_AnySet).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JwksError("this is no set of keys (RFC 7517)") from error
    found: dict[str, ec.EllipticCurvePublicKey] = {}
    for entry in entries:
        if (entry.get("kty"), entry.get("crv")) != ("EC", "P-256"):
            continue
        if entry.get("alg", "ES256") != "ES256" or entry.get("use", "sig") != "sig":
            continue
        kid, key = _public_key(entry)
        found[kid] = key
    return MappingProxyType(found)


def encoded(value: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class _AnySet(msgspec.Struct, frozen=True, kw_only=True):
    keys: list[dict[str, Any]]


def _public_key(entry: Mapping[str, Any]) -> tuple[str, ec.EllipticCurvePublicKey]:
    try:
        x, y = (_decoded(entry[name]) for name in ("x", "y"))
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        )
        key = numbers.public_key()
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise JwksError("a key of the set is no point of its curve") from error
    kid = thumbprint(x, y)
    if entry.get("kid") != kid:
        raise JwksError("a key of the set is not named by its thumbprint (RFC 7638)")
    return kid, key


def _decoded(text: str) -> bytes:
    value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if len(value) != _COORDINATE:
        raise ValueError("not 32 bytes")
    return value
