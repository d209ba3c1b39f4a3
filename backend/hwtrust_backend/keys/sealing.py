"""Sealing what lies in the database under keys that the vault derives.

    vault.derive(purpose) ──▶ key ──AES-256-GCM──▶ nonce | ciphertext | tag

Rules:
1. Every sealed value is bound to its context, such as the row that it is in:
   moved to another row it does not open.
2. A key has one purpose; the vault derives another for each.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hwtrust.errors import SealedError
from hwtrust_backend.keys.signing import Secret

_NONCE_SIZE: Final = 12


def seal_value(key: Secret, plain: bytes, *, context: str) -> bytes:
    """Encrypt `plain` under a 256-bit `key`, bound to `context`."""
    nonce = os.urandom(_NONCE_SIZE)
    return nonce + AESGCM(key.reveal()).encrypt(nonce, plain, context.encode())


def unseal_value(key: Secret, sealed: bytes, *, context: str) -> Secret:
    """Open what `seal_value` has made.

    Raises:
        SealedError: another key, another context, or changed.
    """
    nonce, ciphertext = sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:]
    try:
        return Secret(AESGCM(key.reveal()).decrypt(nonce, ciphertext, context.encode()))
    except (InvalidTag, ValueError):
        # The cause says nothing more, and must not show what it was about.
        raise SealedError(f"the sealed value of {context} does not open") from None
