"""A TLS server for one test: a CA of its own, and an answer for every request.

    with TlsServer(pki, answer=json_answer(b"{}")) as server:
        Channel(server.url, tls_ca=pki.ca_pem)

Handshake and records are OpenSSL's; only what is answered is the test's.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Answer = Callable[[socket.socket, bytes], None]

DAY = timedelta(days=1)
# Python 3.13 asks for what RFC 5280 does: the usage of a CA's key, and identifiers of keys.
_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Pki:
    """A CA, and the certificates that it issues."""

    def __init__(self, directory: Path, name: str = "test CA") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_CA_USAGE, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    @property
    def ca_pem(self) -> str:
        """The CA's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        public: ec.EllipticCurvePublicKey,
        *,
        name: str = "127.0.0.1",
        ago: timedelta = DAY,
        life: timedelta = 2 * DAY,
    ) -> str:
        """A certificate for `public`, valid from `ago` on for `life`; PEM."""
        begins = datetime.now(UTC) - ago
        try:
            alternative: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + life)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, certificate: str | None = None, **options: object) -> ssl.SSLContext:
        """A server's context, with a certificate made as `issue` says."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = certificate or self.issue(key.public_key(), **options)  # type: ignore[arg-type]
        file = self._directory / f"server-{id(key)}.pem"
        file.write_bytes(
            pem.encode()
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        file.unlink()
        return context


def respond(
    body: bytes,
    *,
    status: str = "200 OK",
    kind: str = "application/json",
    length: int | None = None,
    extra: str = "",
) -> Answer:
    """Answer every request with `body`; `length` may lie about it."""
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n{extra}\r\n"

    def answer(connection: socket.socket, request: bytes) -> None:
        del request
        connection.sendall(head.encode() + body)

    return answer


class TlsServer:
    """A server on loopback, in a thread; `context` None makes it speak plain HTTP."""

    def __init__(self, context: ssl.SSLContext | None, answer: Answer) -> None:
        self._context = context
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.requests: list[bytes] = []
        self.clients: list[bytes | None] = []
        self.versions: list[str | None] = []
        self.failures: list[Exception] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address, by number."""
        return f"https://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """For answers that never come: return when the test is over."""
        self._stopped.wait()

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop serving."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._handle(connection)
                except (OSError, ValueError) as error:
                    self.failures.append(error)

    def _handle(self, raw: socket.socket) -> None:
        raw.settimeout(10)
        if self._context is None:
            # What an HTTP server makes of a TLS handshake.
            raw.recv(65536)
            raw.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
            return
        with self._context.wrap_socket(raw, server_side=True) as connection:
            self.versions.append(connection.version())
            self.clients.append(connection.getpeercert(binary_form=True))
            request = _read_request(connection)
            self.requests.append(request)
            self._answer(connection, request)


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += _piece(connection)
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    while len(body) < sum(lengths):
        body += _piece(connection)
    return head + b"\r\n\r\n" + body


def _piece(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ValueError("the client went away")
    return piece
