"""uvicorn's HTTP protocol with what the backend needs besides.

Adds the ASGI TLS extension (the client's certificate), a limit to the headers,
and a time by which a connection must have sent its first request's headers.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_LIMIT: Final = 32 * 1024
FIRST_REQUEST_SECONDS: Final = 10.0


class TlsHttpProtocol(HttpToolsProtocol):
    """One connection; `scope["extensions"]["tls"]` is there where it is a TLS connection."""

    _extensions: dict[str, dict[object, object]] | None = None
    _deadline: asyncio.TimerHandle | None = None
    _header_size: int = 0

    def connection_made(  # type: ignore[override] # uvicorn's own signature
        self, transport: asyncio.Transport
    ) -> None:
        """Take over a connection whose handshake is done."""
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self._extensions = {"tls": tls_extension(secured)}
        self._deadline = self.loop.call_later(FIRST_REQUEST_SECONDS, transport.abort)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._met_deadline()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a request: its scope says what the handshake has shown."""
        super().on_message_begin()
        self._header_size = 0
        if self._extensions is not None:
            self.scope["extensions"] = self._extensions

    def on_url(self, url: bytes) -> None:
        """Count the request target as a header."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header, within the limit."""
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers have come in time."""
        self._met_deadline()
        super().on_headers_complete()

    def _count(self, part: bytes) -> None:
        self._header_size += len(part)
        if self._header_size > HEADER_LIMIT:
            self.transport.abort()

    def _met_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def tls_extension(secured: ssl.SSLObject) -> dict[object, object]:
    """The ASGI TLS extension of a connection, with the client's certificate in DER besides."""
    der = secured.getpeercert(binary_form=True)
    cipher = secured.cipher()
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
        "client_cert_name": None,
        "client_cert_error": None,
        "client_cert_der": der,
        "tls_version": secured.version(),
        "cipher_suite": cipher[0] if cipher else None,
    }
