"""Sealed blobs: a header that says what the key depends on, and what is encrypted under it.

    "hwtrust-sealed" | version u8 | sealer u8 | header size u16 | header
    | salt[32] | AES-256-GCM(secret)

Integers are little-endian, as the hardware's.

Rules:
1. Each blob has a key of its own: HKDF-SHA256 of the hardware's key, with the blob's
   random salt, for this use, sealer, header, and what the sealer mixes in. The
   hardware's key itself encrypts nothing.
2. All in front of the ciphertext is authenticated with it.
3. What a blob says of itself is an attacker's word until it has opened: a sealer
   checks that the header asks for no weaker key than it would ask for itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hwtrust.errors.anchors import (
    AnchorRequestError,
    SealedBlobFormError,
    SealedBlobKeyError,
)

if TYPE_CHECKING:
    from typing import Self

MAX_SECRET: Final = 64 * 1024
VERSION: Final = 1

_MAGIC: Final = b"hwtrust-sealed"
_PURPOSE: Final = b"hwtrust anchor seal v1"
_PREFIX: Final = len(_MAGIC) + 4
_SALT: Final = 32
_TAG: Final = 16
_KEY: Final = 32
_NONCE: Final = bytes(12)
"""Fixed: rule 1 gives each key one message."""


class SealerId(IntEnum):
    """Whose blob it is."""

    SNP = 1
    SGX = 2


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """A blob as read; nothing of it is authenticated yet."""

    header: bytes
    _salt: bytes = field(repr=False)
    _ciphertext: bytes = field(repr=False)
    _sealer: SealerId

    @classmethod
    def decode(cls, blob: bytes, *, sealer: SealerId, header_size: int) -> Self:
        """Read a blob of `sealer`, whose header has `header_size` bytes.

        Raises:
            SealedBlobFormError: it is none, or of another sealer or version.
        """
        overhead = _PREFIX + header_size + _SALT + _TAG
        if not overhead <= len(blob) <= overhead + MAX_SECRET:
            raise SealedBlobFormError(
                f"a sealed blob has {overhead} to {overhead + MAX_SECRET} bytes", size=len(blob)
            )
        if blob[:_PREFIX] != _prefix(sealer, header_size):
            raise SealedBlobFormError("this is no sealed blob, or one of another anchor or version")
        header_end = _PREFIX + header_size
        salt_end = header_end + _SALT
        return cls(blob[_PREFIX:header_end], blob[header_end:salt_end], blob[salt_end:], sealer)

    def open(self, key: bytearray, *, mixed: bytes) -> bytes:
        """The secret, by the hardware's `key` and what the sealer mixes in.

        Raises:
            SealedBlobKeyError: it does not open by that.
        """
        front = _prefix(self._sealer, len(self.header)) + self.header + self._salt
        cipher = _cipher(key, self._salt, front, mixed)
        try:
            return cipher.decrypt(_NONCE, self._ciphertext, front)
        except InvalidTag:
            message = "the blob was changed, or was sealed elsewhere or in another state"
            raise SealedBlobKeyError(message) from None


def encrypt(
    key: bytearray, secret: bytes, *, sealer: SealerId, header: bytes, mixed: bytes
) -> bytes:
    """A blob, by the hardware's `key` and what the sealer mixes in.

    Raises:
        AnchorRequestError: the secret is longer than 64 KiB.
    """
    if len(secret) > MAX_SECRET:
        raise AnchorRequestError(f"a secret has at most {MAX_SECRET} bytes", size=len(secret))
    salt = os.urandom(_SALT)
    front = _prefix(sealer, len(header)) + header + salt
    return front + _cipher(key, salt, front, mixed).encrypt(_NONCE, secret, front)


def _prefix(sealer: SealerId, header_size: int) -> bytes:
    return _MAGIC + bytes((VERSION, sealer)) + header_size.to_bytes(2, "little")


def _cipher(key: bytearray, salt: bytes, front: bytes, mixed: bytes) -> AESGCM:
    # `front` has a fixed size for a sealer, so that it cannot be shifted into `mixed`.
    info = _PURPOSE + front + mixed
    return AESGCM(HKDF(hashes.SHA256(), _KEY, salt, info).derive(bytes(key)))
