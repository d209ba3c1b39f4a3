"""The channel to the backend: HTTP with JSON, under TLS 1.3, with the device's own key.

Rules:
1. The server is believed only under the CA that ships in the device's trust
   file, never under the system's, and its name must fit.
2. TLS 1.3 or nothing. No proxy, no redirect, no plain HTTP.
3. A client key is never a file that another can read: key and certificate reach
   OpenSSL through an anonymous memory file. A `tpm` key is wrapped anyway, and
   loads only where OpenSSL is configured with the tpm2-openssl provider >= 1.2.
4. An answer is read up to a limit, within a time limit that a trickle of bytes
   does not stretch, and decoded strictly by type; a refusal keeps the backend's
   code.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    ChannelResponseError,
    ChannelTlsError,
    ChannelUnreachableError,
    ConfigError,
    RefusedError,
    TlsKeyError,
)
from hwtrust.wire.messages import Problem, TlsKeyKind

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from hwtrust.wire.messages import Request

REPLY_LIMIT = 1024 * 1024
TIMEOUT_S = 30.0

R = TypeVar("R", bound=msgspec.Struct)

_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class ClientKey(Protocol):
    """A TLS client key: in the TPM, or made for this run and attested."""

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    def csr(self) -> bytes:
        """A certificate request signed by the key, DER."""

    def key_pem(self) -> bytes:
        """The key as OpenSSL loads it."""


class AttestedKey:
    """A P-256 key that lives in this process only; a quote says whose it is."""

    kind = TlsKeyKind.ATTESTED

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def __repr__(self) -> str:
        return "AttestedKey()"

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def csr(self) -> bytes:
        """A certificate request, DER: proof of possession."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.sign(self._key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def key_pem(self) -> bytes:
        """PKCS #8, PEM, for the memory file only."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


class Channel:
    """A way to one backend. Each call is one connection."""

    def __init__(self, url: str, *, tls_ca: str, timeout: float = TIMEOUT_S) -> None:
        """`url` is https://host[:port]; `tls_ca` is PEM; `timeout` is in seconds.

        Raises:
            ConfigError: not an https URL, or no CA.
        """
        self.url = url
        self._host, self._port = _address(url)
        self._timeout = timeout
        self._tls_ca = tls_ca
        self._context = pinned_context(self._tls_ca)
        self._authenticated = False
        self._calls: dict[int, http.client.HTTPSConnection] = {}
        self._closed = False

    @property
    def authenticated(self) -> bool:
        """Whether calls present a client certificate."""
        return self._authenticated

    def authenticate(self, key: ClientKey, certificate: str) -> None:
        """Present `certificate` (PEM chain) with `key` from now on.

        Raises:
            TlsKeyError: OpenSSL cannot use the key on this machine.
        """
        context = pinned_context(self._tls_ca)
        load_client_key(context, key, certificate)
        self._context, self._authenticated = context, True

    def anonymous(self) -> None:
        """Present no client certificate from now on."""
        self._context, self._authenticated = pinned_context(self._tls_ca), False

    def sibling(self) -> Channel:
        """A second way to the same backend, presenting what this one presents now.

        For another thread: what becomes of either does not touch the other.
        """
        twin = copy.copy(self)
        twin._calls = {}  # noqa: SLF001 - of this class
        return twin

    def close(self) -> None:
        """Break the calls that are under way, and let no other begin: they are unreachable.

        For another thread, or a signal handler: who is to end need not wait for an answer.
        """
        self._closed = True
        for connection in list(self._calls.values()):
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not the TLS socket's method, which ends the session under its reader.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def post(self, path: str, request: Request, reply: type[R]) -> R:
        """Send `request` to `path` and decode the answer as `reply`.

        Raises:
            ChannelUnreachableError: no connection, or it broke or took too long.
            ChannelTlsError: the handshake failed on either side.
            RefusedError: the backend answered with a problem; its code is in `data`.
            ChannelResponseError: the answer is not one.
        """
        answer = self._exchange("POST", path, msgspec.json.encode(request), patience=0.0)
        return self._decoded(path, *answer, reply)

    def get(self, path: str, reply: type[R], *, patience: float = 0.0) -> R | None:
        """Ask for `path`, and decode the answer as `reply`; None: there is nothing (204).

        The backend may take `patience` seconds longer than for anything else.

        Raises:
            ChannelError: as `post`.
        """
        status, kind, body = self._exchange("GET", path, None, patience=patience)
        if status == http.client.NO_CONTENT:
            return None
        return self._decoded(path, status, kind, body, reply)

    def _require_open(self) -> None:
        if self._closed:
            raise ChannelUnreachableError(f"the channel to {self.url} was closed")

    def _decoded(self, path: str, status: int, kind: str, body: bytes, reply: type[R]) -> R:
        if status >= http.client.BAD_REQUEST:
            raise _refusal(status, kind, body)
        if not http.client.OK <= status < http.client.MULTIPLE_CHOICES:
            message = f"{self.url}{path} sent the device elsewhere, where it does not go"
            raise ChannelResponseError(message, status=status)
        try:
            return msgspec.json.decode(body, type=reply)
        except _NOT_JSON as error:
            message = f"{self.url}{path} answered something else than {reply.__name__}: {error}"
            raise ChannelResponseError(message, status=status) from error

    def _exchange(
        self, method: str, path: str, body: bytes | None, *, patience: float
    ) -> tuple[int, str, bytes]:
        timeout = self._timeout + patience
        connection = _Connection(self._host, self._port, timeout=timeout, context=self._context)
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        self._calls[id(connection)] = connection
        try:
            self._require_open()
            connection.connect()
            self._require_open()
            assert isinstance(connection.sock, TimedSocket)  # noqa: S101 - the context makes them
            connection.sock.within(timeout)
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read(REPLY_LIMIT + 1)
        except ssl.SSLError as error:
            message = f"TLS with {self.url} failed: {error.reason or error}"
            raise ChannelTlsError(message) from error
        except OSError as error:
            message = f"{self.url} cannot be reached: {error.strerror or error}"
            raise ChannelUnreachableError(message) from error
        except (http.client.HTTPException, UnicodeError) as error:
            message = f"{self.url} does not speak HTTP as it should: {type(error).__name__}"
            raise ChannelResponseError(message) from error
        finally:
            del self._calls[id(connection)]
            connection.close()
        if len(answer) > REPLY_LIMIT:
            raise ChannelResponseError(f"{self.url}{path} answered more than 1 MiB")
        return response.status, response.headers.get_content_type(), answer


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


class _Connection(http.client.HTTPSConnection):
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


def _address(url: str) -> tuple[str, int]:
    refused = ConfigError(f"the backend's URL must be https://host[:port], not {url!r}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refused from None
    others = (parts.path.strip("/"), parts.query, parts.fragment, parts.username)
    if parts.scheme != "https" or not host or any(others):
        raise refused
    return host, port or http.client.HTTPS_PORT


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


def _refusal(status: int, kind: str, body: bytes) -> RefusedError:
    problem = Problem(title=f"HTTP status {status}", status=status)
    if kind in {"application/problem+json", "application/json"}:
        with contextlib.suppress(*_NOT_JSON):
            problem = msgspec.json.decode(body, type=Problem)
    message = f"the backend refused: {problem.detail or problem.title}"
    return RefusedError(message, problem=problem.code, status=status, hint=problem.hint)
