"""What the agent computes with an entry for a peer that never gets to see it. Pure.

Rules:
1. What is given away says nothing of the entry, as long as the entry cannot be
   guessed. So an entry that is too short for a key is not used.
2. HMAC, derivation and sealing take nothing from each other: no derived key and
   no HMAC is the key of a sealed message.

    hmac     HMAC-SHA256(entry, data), RFC 2104
    derive   HKDF-SHA256(entry, no salt, info = label), RFC 5869
    seal     nonce (96 random bits) ‖ AES-256-GCM(key, data, context), where
             key = HKDF-SHA256(entry, salt = "hwtrust agent seal v1", no info)
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hwtrust.errors import AgentSealedError, EntryNameError

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
LEAST_ENTRY = 16

_SEAL_SALT = b"hwtrust agent seal v1"


def require_key(entry: bytes) -> bytes:
    """The same bytes, if nobody can guess them for being few.

    Raises:
        EntryNameError: they are fewer than 16.
    """
    if len(entry) < LEAST_ENTRY:
        del entry
        raise EntryNameError(f"an entry of less than {LEAST_ENTRY} bytes is no key to be used")
    return entry


def authenticate(entry: bytes, data: bytes) -> bytes:
    """HMAC-SHA256 of `data`, 32 bytes."""
    return hmac.digest(entry, data, "sha256")


def derive(entry: bytes, label: str, *, size: int) -> bytes:
    """A key of `size` bytes for the use that `label` names."""
    return HKDF(hashes.SHA256(), size, None, label.encode()).derive(entry)


def seal(entry: bytes, data: bytes, *, context: bytes) -> bytes:
    """`data`, encrypted and bound to `context`; 28 bytes longer than it was."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + _cipher(entry).encrypt(nonce, data, context)


def unseal(entry: bytes, sealed: bytes, *, context: bytes) -> bytes:
    """What was given to `seal`.

    Raises:
        AgentSealedError: it was changed, or sealed with another entry or context.
    """
    if len(sealed) < NONCE_SIZE + TAG_SIZE:
        del entry
        raise AgentSealedError("this is too short for a sealed message")
    cipher = _cipher(entry)
    del entry
    try:
        return cipher.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], context)
    except InvalidTag:
        raise AgentSealedError("this was not sealed with this entry and context") from None


def _cipher(entry: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), KEY_SIZE, _SEAL_SALT, b"").derive(entry))
