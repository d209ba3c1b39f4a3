"""uvicorn's HTTP protocol with what the backend needs besides.

Adds the ASGI TLS extension (the client's certificate), a limit to the headers and
to the connections of one address, and a time for whatever a client can draw out:

1. The headers of a request come within `HEADER_SECONDS` of its first byte, and of
   the connection's beginning.
2. What comes after an answer, be it the rest of a body that nobody reads, leads to
   the headers of the next request in the same time.
3. A client that does not take its answer loses the connection.
4. A connection that is told to end while nothing runs on it stays open for a moment:
   a request that was on its way is answered, and then the connection is closed.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import ClassVar, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hwtrust.errors import RequestError
from hwtrust_backend.app.limits import AddressConnections
from hwtrust_backend.app.problems import PROBLEM_TYPE, problem_of
from hwtrust_backend.app.serving import Stopping

HEADER_LIMIT: Final = 32 * 1024
HEADER_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0
LINGER_SECONDS: Final = 0.5


class TlsHttpProtocol(HttpToolsProtocol):
    """One connection; `scope["extensions"]["tls"]` is there where it is a TLS connection."""

    addresses: ClassVar[AddressConnections | None] = None
    stopping: ClassVar[Stopping | None] = None

    _extensions: dict[str, dict[object, object]] | None = None
    _deadline: asyncio.TimerHandle | None = None
    _write_deadline: asyncio.TimerHandle | None = None
    _linger: asyncio.TimerHandle | None = None
    _header_size: int = 0
    _peer: str = ""

    def connection_made(  # type: ignore[override] # uvicorn's own signature
        self, transport: asyncio.Transport
    ) -> None:
        """Take over a connection whose handshake is done."""
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self._extensions = {"tls": tls_extension(secured)}
        super().connection_made(transport)
        self._set_deadline()
        if self.addresses is not None and self.client:
            peer = self.client[0]
            if not self.addresses.opened(peer):
                transport.abort()
                return
            self._peer = peer
        if self.stopping:
            # The handshake was under way when the server was told to end.
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its deadlines."""
        self._met_deadline()
        for timer in (self._write_deadline, self._linger):
            if timer is not None:
                timer.cancel()
        if self.addresses is not None and self._peer:
            self.addresses.closed(self._peer)
            self._peer = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; between two requests the next one's headers are awaited."""
        if self._deadline is None and self._is_idle():
            self._set_deadline()
        super().data_received(data)

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
        if self.stopping:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Let what runs end, and what is on its way come; then close."""
        if not self._is_idle():
            super().shutdown()
        elif self._linger is None:
            self._linger = self.loop.call_later(LINGER_SECONDS, self._close_idle)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, as everything else; and close."""
        problem = problem_of(RequestError(msg))
        body = msgspec.json.encode(problem)
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\ncontent-type: {PROBLEM_TYPE}\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _is_idle(self) -> bool:
        # Before the first request there is no cycle, whatever uvicorn's annotation says.
        cycle: object = self.cycle
        return cycle is None or self.cycle.response_complete

    def _close_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _count(self, part: bytes) -> None:
        self._header_size += len(part)
        if self._header_size > HEADER_LIMIT:
            self.transport.abort()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _met_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def protocol_for(addresses: AddressConnections, stopping: Stopping) -> type[TlsHttpProtocol]:
    """The protocol of one server: its connections are counted, and end when it does."""
    parts = {"addresses": addresses, "stopping": stopping}
    return type("TlsHttpProtocol", (TlsHttpProtocol,), parts)


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
