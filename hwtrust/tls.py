"""TLS 1.3 under one CA, and HTTP over it: the connections of a channel.

It is loaded when a backend is asked something, and not for a boot that asks nothing.
The rules of `hwtrust.channel` hold here; what is not HTTP or TLS is there.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hwtrust.errors import (
    ChannelResponseError,
    ChannelTlsError,
    ChannelUnreachableError,
    ConfigError,
    TlsKeyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer, WriteableBuffer


class ClientKey(Protocol):
    """A TLS client key: in the TPM, or made for this run and attested."""

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    def csr(self) -> bytes:
        """A certificate request signed by the key, DER."""

    def key_pem(self) -> bytes:
        """The key as OpenSSL loads it."""


class Answer(NamedTuple):
    """What was answered: the HTTP status, the media type and the content."""

    status: int
    kind: str
    content: bytes


def pinned_context(tls_ca: str) -> ssl.SSLContext:
    """TLS 1.3 with servers under `tls_ca` (PEM), over sockets that can be given a time limit.

    Raises:
        ConfigError: no CA.
    """
    # Not ssl.create_default_context: given no CA it would take the system's.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = TimedSocket
    try:
        context.load_verify_locations(cadata=tls_ca)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise ConfigError("the trust file's tls_ca is not a PEM certificate") from error
    return context


def load_client_key(context: ssl.SSLContext, key: ClientKey, certificate: str) -> None:
    """Give `context` a client key without writing it to a disk.

    Raises:
        TlsKeyError: OpenSSL cannot use the key on this machine.
    """
    descriptor = os.memfd_create("hwtrust-tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(certificate.encode() + b"\n" + key.key_pem())
        # With a password given, an encrypted key is an error and no prompt.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except (OSError, ValueError) as error:
        message = f"OpenSSL cannot use the device's TLS key here: {error}"
        raise TlsKeyError(message) from error
    finally:
        os.close(descriptor)


class Connection(http.client.HTTPSConnection):
    """A connection whose socket is known while it shakes hands, so that it can be broken then."""

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls = context

    def connect(self) -> None:
        """Connect, and shake hands."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.sock.do_handshake()

    def break_off(self) -> None:
        """End what is under way; for another thread, or a signal handler."""
        sock = self.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not the TLS socket's method, which ends the session under its reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def ask(self, method: str, path: str, body: bytes | None, *, limit: int) -> Answer:
        """Ask over the open connection; an answer is read up to `limit` bytes and one more.

        It all ends within the time limit of the connection, counted from now.
        """
        assert isinstance(self.sock, TimedSocket)  # noqa: S101 - the context makes them
        assert self.timeout is not None  # noqa: S101 - always given
        self.sock.within(self.timeout)
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        self.request(method, path, body=body, headers=headers)
        response = self.getresponse()
        content = response.read(limit + 1)
        return Answer(response.status, response.headers.get_content_type(), content)


@contextlib.contextmanager
def channel_errors(url: str) -> Iterator[None]:
    """Raise what goes wrong in a `with` as the ChannelError that says it of `url`."""
    try:
        yield
    except ssl.SSLError as error:
        message = f"TLS with {url} failed: {error.reason or error}"
        raise ChannelTlsError(message) from error
    except OSError as error:
        message = f"{url} cannot be reached: {error.strerror or error}"
        raise ChannelUnreachableError(message) from error
    except (http.client.HTTPException, UnicodeError) as error:
        message = f"{url} does not speak HTTP as it should: {type(error).__name__}"
        raise ChannelResponseError(message) from error


class TimedSocket(ssl.SSLSocket):
    """A TLS socket whose reads and writes all end in time, once `within` says when that is."""

    _deadline: float | None = None
    _each: float | None = None

    def within(self, total: float, *, each: float | None = None) -> None:
        """End all reads and writes `total` seconds from now, and none takes longer than `each`."""
        self._deadline, self._each = time.monotonic() + total, each

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """As in `ssl.SSLSocket`, in the time that is left."""
        self._hurry()
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """As in `ssl.SSLSocket`, in the time that is left."""
        self._hurry()
        return super().send(data, flags)

    def _hurry(self) -> None:
        if self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        self.settimeout(left if self._each is None else min(left, self._each))
