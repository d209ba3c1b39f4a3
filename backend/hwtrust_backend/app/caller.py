"""Who is calling: the client certificate of the connection, or what a trusted proxy says of it.

Rules:
1. A connection from a trusted proxy carries the identity in its Client-Cert
   header (RFC 9440) and nowhere else; the proxy's own certificate is none.
2. From anybody else the header means nothing: it is not even looked at.
3. The proxy vouches that its client holds the key. That the certificate is a
   device's and in force is checked here for both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from litestar import Request
from litestar.types import Scope

from hwtrust.errors import IdentityCertificateError
from hwtrust_backend.config import Settings
from hwtrust_backend.keys import DeviceIdentity

HEADER: Final = b"client-cert"
UNIX: Final = "unix"
"""The peer at the other end of a Unix socket."""
_HEADER_LIMIT: Final = 16384

Recognise = Callable[[bytes], DeviceIdentity]


def header_values(scope: Scope, wanted: bytes) -> list[bytes]:
    """What each header of that name says, in their order; `wanted` is in lower case."""
    return [value for name, value in scope["headers"] if name.lower() == wanted]


def trusted_peers(settings: Settings) -> frozenset[str]:
    """The peers whose header is believed.

    `unix` counts only where the backend listens on a Unix socket: a TCP
    connection that was closed already has no peer's address either.
    """
    behind_proxy = isinstance(settings.address, Path)
    return frozenset(proxy for proxy in settings.trusted_proxies if behind_proxy or proxy != UNIX)


def caller(
    request: Request[Any, Any, Any], *, trusted_proxies: frozenset[str], recognise: Recognise
) -> DeviceIdentity | None:
    """The device that is calling, or None where no client certificate was shown.

    Raises:
        IdentityCertificateError: there is one, and it is not in force or no device's.
    """
    scope = request.scope
    client = scope.get("client")
    peer = client[0] if client else UNIX
    if peer in trusted_proxies:
        values = header_values(scope, HEADER)
        if not values:
            return None
        if len(values) != 1:
            raise IdentityCertificateError("the proxy sent more than one Client-Cert header")
        return recognise(_byte_sequence(values[0]))
    extensions = scope.get("extensions") or {}
    tls: Any = extensions.get("tls") or {}
    der = tls.get("client_cert_der")
    return recognise(der) if der else None


def _byte_sequence(value: bytes) -> bytes:
    """A byte sequence of RFC 8941: base64 between colons."""
    text = value.strip()
    colons = text[:1] == text[-1:] == b":"
    message = "the proxy's Client-Cert header is no byte sequence (RFC 9440)"
    if not colons or len(text) > _HEADER_LIMIT:
        raise IdentityCertificateError(message)
    try:
        return base64.b64decode(text[1:-1], validate=True)
    except (ValueError, binascii.Error) as error:
        raise IdentityCertificateError(message) from error
