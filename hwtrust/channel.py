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
5. A channel that nothing is asked over costs nothing: HTTP and TLS
   (`hwtrust.tls`) are loaded with the first question. What it is made from is
   refused at once all the same.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    ChannelResponseError,
    ChannelUnreachableError,
    ConfigError,
    RefusedError,
)
from hwtrust.wire.messages import Problem, TlsKeyKind

if TYPE_CHECKING:
    from ssl import SSLContext

    from hwtrust.tls import Answer, ClientKey, Connection
    from hwtrust.wire.messages import Request

REPLY_LIMIT = 1024 * 1024
TIMEOUT_S = 30.0

_OK = 200
_NO_CONTENT = 204
_ELSEWHERE = 300
_REFUSED = 400
_HTTPS_PORT = 443
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"

R = TypeVar("R", bound=msgspec.Struct)

_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class AttestedKey:
    """A P-256 key that lives in this process, or sealed; a quote says whose it is."""

    kind = TlsKeyKind.ATTESTED

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        """A new one, unless `key` is one that was kept (`key_pem`) where nobody else reads it."""
        self._key = key or ec.generate_private_key(ec.SECP256R1())

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
        from cryptography import x509  # noqa: PLC0415 - a boot needs none

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
        _require_certificates(tls_ca)
        self._context: SSLContext | None = None
        self._authenticated = False
        self._calls: dict[int, Connection] = {}
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
        from hwtrust import tls  # noqa: PLC0415 - a boot needs none

        context = tls.pinned_context(self._tls_ca)
        tls.load_client_key(context, key, certificate)
        self._context, self._authenticated = context, True

    def anonymous(self) -> None:
        """Present no client certificate from now on."""
        self._context, self._authenticated = None, False

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
            connection.break_off()

    def post(self, path: str, request: Request, reply: type[R]) -> R:
        """Send `request` to `path` and decode the answer as `reply`.

        Raises:
            ChannelUnreachableError: no connection, or it broke or took too long.
            ChannelTlsError: the handshake failed on either side.
            RefusedError: the backend answered with a problem; its code is in `data`.
            ChannelResponseError: the answer is not one.
        """
        answer = self._exchange("POST", path, msgspec.json.encode(request), patience=0.0)
        return self._decoded(path, answer, reply)

    def get(self, path: str, reply: type[R], *, patience: float = 0.0) -> R | None:
        """Ask for `path`, and decode the answer as `reply`; None: there is nothing (204).

        The backend may take `patience` seconds longer than for anything else.

        Raises:
            ChannelError: as `post`.
        """
        answer = self._exchange("GET", path, None, patience=patience)
        if answer.status == _NO_CONTENT:
            return None
        return self._decoded(path, answer, reply)

    def _require_open(self) -> None:
        if self._closed:
            raise ChannelUnreachableError(f"the channel to {self.url} was closed")

    def _decoded(self, path: str, answer: Answer, reply: type[R]) -> R:
        status = answer.status
        if status >= _REFUSED:
            raise _refusal(answer)
        if not _OK <= status < _ELSEWHERE:
            message = f"{self.url}{path} sent the device elsewhere, where it does not go"
            raise ChannelResponseError(message, status=status)
        try:
            return msgspec.json.decode(answer.content, type=reply)
        except _NOT_JSON as error:
            message = f"{self.url}{path} answered something else than {reply.__name__}: {error}"
            raise ChannelResponseError(message, status=status) from error

    def _exchange(self, method: str, path: str, body: bytes | None, *, patience: float) -> Answer:
        from hwtrust import tls  # noqa: PLC0415 - a boot needs none

        context = self._context = self._context or tls.pinned_context(self._tls_ca)
        timeout = self._timeout + patience
        connection = tls.Connection(self._host, self._port, timeout=timeout, context=context)
        self._calls[id(connection)] = connection
        try:
            with tls.channel_errors(self.url):
                self._require_open()
                connection.connect()
                self._require_open()
                answer = connection.ask(method, path, body, limit=REPLY_LIMIT)
        finally:
            del self._calls[id(connection)]
            connection.close()
        if len(answer.content) > REPLY_LIMIT:
            raise ChannelResponseError(f"{self.url}{path} answered more than 1 MiB")
        return answer


def _require_certificates(tls_ca: str) -> None:
    """Refuse at once what is none; each call reads it in full."""
    if _CERTIFICATE not in tls_ca:
        raise ConfigError("the trust file's tls_ca is not a PEM certificate")


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
    return host, port or _HTTPS_PORT


def _refusal(answer: Answer) -> RefusedError:
    status = answer.status
    problem = Problem(title=f"HTTP status {status}", status=status)
    if answer.kind in {"application/problem+json", "application/json"}:
        with contextlib.suppress(*_NOT_JSON):
            problem = msgspec.json.decode(answer.content, type=Problem)
    message = f"the backend refused: {problem.detail or problem.title}"
    return RefusedError(message, problem=problem.code, status=status, hint=problem.hint)
