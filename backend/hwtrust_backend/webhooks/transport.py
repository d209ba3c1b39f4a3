"""One POST to a receiver, such that no receiver can use it against us.

Rules:
1. HTTPS with the certificate checked. Plain HTTP goes to loopback only, and only
   where the settings say so.
2. A name is resolved once, and the connection goes to the address that was
   checked: what the name resolves to a moment later does not matter.
3. An address must be a public one, or in a network that the settings list. An
   IPv4 address inside an IPv6 one counts as what it is.
4. No redirect is followed, no proxy of the environment is used, little of the
   answer is read, and all together has a time limit.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from hwtrust.errors import WebhookAddressError, WebhookDeliveryError, WebhookUrlError
from hwtrust_backend.config import Settings
from hwtrust_backend.webhooks.models import URL_LIMIT

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HTTPS_PORT: Final = 443
_HTTP_PORT: Final = 80
_ANSWER_LIMIT: Final = 4096
_MOST_ADDRESSES: Final = 3
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Transport:
    """Posts to receivers, within the limits of the settings."""

    networks: tuple[Network, ...]
    unsafe_http_to_loopback: bool
    context: ssl.SSLContext
    timeout_ms: int
    resolve: Callable[[str, int], list[Address]]

    @classmethod
    def of(cls, settings: Settings) -> Transport:
        """The transport that the settings describe.

        Raises:
            WebhookDeliveryError: the file of CA certificates cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=settings.webhook_ca_file or None)
        except (OSError, ssl.SSLError) as error:
            message = f"{settings.webhook_ca_file} holds no CA certificates: {error}"
            raise WebhookDeliveryError(message) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return cls(
            networks=tuple(map(ipaddress.ip_network, settings.webhook_private_networks)),
            unsafe_http_to_loopback=settings.webhook_unsafe_http_to_loopback,
            context=context,
            timeout_ms=settings.webhook_timeout_ms,
            resolve=look_up,
        )

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send `body` and give the HTTP status of the answer.

        Raises:
            WebhookUrlError: events are not sent to such a URL.
            WebhookAddressError: the name resolves to nothing that is allowed.
            WebhookDeliveryError: not reached, not trusted, or not in time.
        """
        parts = check_url(url, unsafe_http_to_loopback=self.unsafe_http_to_loopback)
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        port = parts.port or (_HTTPS_PORT if secure else _HTTP_PORT)
        addresses = self._allowed(host, port, secure=secure)
        try:
            with self._connected(addresses, port) as raw, _deadline(raw, self.timeout_ms):
                if not secure:
                    return _exchange(raw, parts, headers, body)
                with self.context.wrap_socket(raw, server_hostname=host) as connection:
                    return _exchange(connection, parts, headers, body)
        except ssl.SSLCertVerificationError as error:
            message = f"the receiver's certificate is not accepted: {error.verify_message}"
            raise WebhookDeliveryError(message) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            message = f"the receiver does not answer: {type(error).__name__}"
            raise WebhookDeliveryError(message) from error

    def _allowed(self, host: str, port: int, *, secure: bool) -> list[Address]:
        found = self.resolve(host, port)
        allowed = [one for one in found if self._accepts(one, secure=secure)]
        if not allowed:
            message = f"{host} resolves to no address that events are sent to"
            raise WebhookAddressError(message)
        return allowed

    def _accepts(self, address: Address, *, secure: bool) -> bool:
        meant = embedded(address)
        if not secure:
            return meant.is_loopback
        if any(meant in network for network in self.networks):
            return True
        return meant.is_global and not meant.is_multicast

    @contextlib.contextmanager
    def _connected(self, addresses: Sequence[Address], port: int) -> Iterator[socket.socket]:
        tried = addresses[:_MOST_ADDRESSES]
        seconds = self.timeout_ms / 1000 / len(tried)
        for last, address in zip(range(len(tried) - 1, -1, -1), tried, strict=True):
            try:
                connection = socket.create_connection((str(address), port), timeout=seconds)
            except OSError:
                if not last:
                    raise
                continue
            with connection:
                yield connection
            return


def check_url(url: str, *, unsafe_http_to_loopback: bool) -> SplitResult:
    """The parts of a URL that events may be sent to.

    Raises:
        WebhookUrlError: another scheme, no host, or more than a receiver needs.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise WebhookUrlError("this is no URL") from error
    plain = len(url) <= URL_LIMIT and url.isascii() and url.isprintable() and " " not in url
    if not plain or not host or port == 0:
        raise WebhookUrlError("this is no URL that events are sent to")
    if parts.username is not None or "#" in url:
        raise WebhookUrlError("a receiver's URL holds no user, no password and no fragment")
    if parts.scheme == "https":
        return parts
    if parts.scheme == "http" and unsafe_http_to_loopback and _is_loopback(host):
        return parts
    raise WebhookUrlError("events are sent over https")


def look_up(host: str, port: int) -> list[Address]:
    """The addresses of a name, as the system's resolver has them.

    Raises:
        WebhookDeliveryError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookDeliveryError(f"the name {host} does not resolve") from error
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for; else the address itself.

    Mapped and compatible addresses (RFC 4291), 6to4 (RFC 3056) and NAT64 (RFC 6052).
    The local NAT64 prefix (RFC 8215) is private as a whole; Teredo is not global.
    """
    if isinstance(address, IPv4Address):
        return address
    if address in _LOCAL_NAT64:
        return IPv4Address("10.0.0.0")
    inside = address.ipv4_mapped or address.sixtofour
    if inside is None and (address in _NAT64 or address in _COMPATIBLE):
        inside = IPv4Address(int(address) & 0xFFFFFFFF) if int(address) > 1 else None
    return inside or address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _deadline(connection: socket.socket, timeout_ms: int) -> Iterator[None]:
    """Cut the connection at the end of the time: a receiver that trickles never times out."""
    # The TLS socket takes the descriptor over; this one stays for the deadline alone.
    own, over = connection.dup(), threading.Event()
    timer = threading.Timer(timeout_ms / 1000, _cut, (own, over))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        own.close()
    # What was cut in the midst of its headers looks like an answer that is complete.
    if over.is_set():
        raise TimeoutError


def _cut(connection: socket.socket, over: threading.Event) -> None:
    over.set()
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _exchange(
    connection: socket.socket, parts: SplitResult, headers: Mapping[str, str], body: bytes
) -> int:
    channel = http.client.HTTPConnection(parts.netloc)
    channel.sock = connection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    channel.request("POST", target, body=body, headers=dict(headers))
    answer = channel.getresponse()
    answer.read(_ANSWER_LIMIT)
    return answer.status
