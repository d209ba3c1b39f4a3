"""Secrets of receivers, and the signatures that they make (Standard Webhooks 1.0.0).

    webhook-signature: v1,BASE64(HMAC-SHA256(secret, id.timestamp.body)) …

Rules:
1. A secret is shown once, when it is made; in the database it is sealed, bound
   to its webhook.
2. While a secret is being replaced, the new one and the old one sign: the
   receiver changes over without losing an event.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

from hwtrust_backend.keys import Secret
from hwtrust_backend.keys.sealing import seal_value, unseal_value

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how every secret begins
SECRET_SIZE: Final = 32
PURPOSE: Final = "webhooks"
"""For what the vault derives the key that seals secrets."""


def new_secret() -> Secret:
    """A secret, 32 random bytes."""
    return Secret(os.urandom(SECRET_SIZE))


def secret_text(secret: Secret) -> str:
    """How a receiver's administrator is told the secret."""
    return SECRET_PREFIX + base64.b64encode(secret.reveal()).decode()


def seal_secret(key: Secret, secret: Secret, *, webhook: str) -> bytes:
    """The secret as the database keeps it."""
    return seal_value(key, secret.reveal(), context=f"webhook {webhook}")


def unseal_secret(key: Secret, sealed: bytes, *, webhook: str) -> Secret:
    """The secret again.

    Raises:
        SealedError: it is another webhook's, or of another backend.
    """
    return unseal_value(key, sealed, context=f"webhook {webhook}")


def signed_headers(
    secrets: Sequence[Secret], *, message: str, now: int, body: bytes
) -> dict[str, str]:
    """The headers that name, date and sign one attempt; `now` is UTC milliseconds."""
    stamp = str(now // 1000)
    content = f"{message}.{stamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.new(one.reveal(), content, hashlib.sha256).digest()).decode()
        for one in secrets
    ]
    return {
        "webhook-id": message,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(signatures),
    }
