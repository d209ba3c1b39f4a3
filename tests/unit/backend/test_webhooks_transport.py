"""Where events may go, and what a hostile receiver can do: nothing."""

from __future__ import annotations

import base64
import ipaddress
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import (
    ConfigError,
    WebhookAddressError,
    WebhookDeliveryError,
    WebhookUrlError,
)
from hwtrust_backend.config import Settings
from hwtrust_backend.keys import Secret
from hwtrust_backend.webhooks.models import URL_LIMIT
from hwtrust_backend.webhooks.signing import secret_text, signed_headers
from hwtrust_backend.webhooks.transport import Transport, check_url, look_up
from simulators.tls_server import Pki
from simulators.webhook_receiver import WebhookReceiver, signatures_hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust_backend.webhooks.transport import Address

HEADERS = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,none"}


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """The CA that the receivers' certificates are under."""
    return Pki(tmp_path)


@pytest.fixture
def receiver(pki: Pki) -> Iterator[WebhookReceiver]:
    """A receiver on loopback."""
    with WebhookReceiver(pki) as started:
        yield started


@pytest.fixture
def make(pki: Pki, tmp_path: Path) -> Callable[..., Transport]:
    """Makes a transport that trusts the test CA and may go to loopback, unless told otherwise."""
    ca = tmp_path / "ca.pem"
    ca.write_text(pki.ca_pem)

    def made(**values: object) -> Transport:
        settings: dict[str, object] = {
            "data_dir": str(tmp_path),
            "webhook_ca_file": str(ca),
            "webhook_private_networks": ("127.0.0.0/8", "::1/128"),
            "webhook_timeout_ms": 5000,
            **values,
        }
        return Transport.of(Settings(**settings))  # type: ignore[arg-type]

    return made


# --- addresses ---------------------------------------------------------------------------

FORBIDDEN = {
    "loopback": "127.0.0.1",
    "loopback in IPv6": "::1",
    "any address": "0.0.0.0",  # noqa: S104 - an address that is refused
    "a private network": "10.1.2.3",
    "another private network": "172.16.0.1",
    "a home network": "192.168.1.1",
    "link-local, where clouds keep credentials": "169.254.169.254",
    "link-local in IPv6": "fe80::1",
    "a unique local address": "fd00:ec2::254",
    "carrier-grade NAT": "100.64.0.1",
    "multicast": "224.0.0.1",
    "multicast in IPv6": "ff02::1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "loopback mapped into IPv6": "::ffff:127.0.0.1",
    "a private one mapped into IPv6": "::ffff:10.0.0.1",
    "loopback in a compatible address": "::127.0.0.1",
    "loopback behind NAT64": "64:ff9b::7f00:1",
    "the local NAT64 prefix": "64:ff9b:1::808:808",
    "loopback behind 6to4": "2002:7f00:1::1",
    "loopback behind Teredo": "2001:0:4136:e378:8000:63bf:80ff:fffe",
}


def never(address: tuple[str, int], timeout: float) -> socket.socket:
    """In the place of a connection that must not be made."""
    raise AssertionError(address)


@pytest.mark.parametrize("case", FORBIDDEN)
def test_no_event_goes_to_an_address_that_is_not_public(
    case: str, make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver's name cannot make the backend talk to its own surroundings."""
    monkeypatch.setattr(socket, "create_connection", never)
    transport = resolving(make(webhook_private_networks=()), FORBIDDEN[case])
    with pytest.raises(WebhookAddressError) as caught:
        transport.post("https://receiver.example/", HEADERS, b"{}")
    assert caught.value.code == "webhook:address"


def resolving(transport: Transport, *addresses: str) -> Transport:
    """The same transport, for which every name has these addresses."""
    found: list[Address] = [ipaddress.ip_address(address) for address in addresses]
    return Transport(
        networks=transport.networks,
        unsafe_http_to_loopback=transport.unsafe_http_to_loopback,
        context=transport.context,
        timeout_ms=transport.timeout_ms,
        resolve=lambda _host, _port: found,
    )


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_events_go_to_public_addresses(
    address: str, make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard lets pass what anybody may reach."""
    asked: list[str] = []

    def connect(target: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(target[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    transport = resolving(make(webhook_private_networks=()), address)
    with pytest.raises(WebhookDeliveryError):
        transport.post("https://receiver.example/", HEADERS, b"{}")
    assert asked == [address]


def test_a_listed_network_is_reached(
    make: Callable[..., Transport], receiver: WebhookReceiver
) -> None:
    """What the settings list is meant."""
    transport = make(webhook_private_networks=("127.0.0.0/8",))
    assert transport.post(receiver.receiver_url, HEADERS, b"{}") == 204


def test_only_the_addresses_that_were_checked_are_connected_to(
    make: Callable[..., Transport], receiver: WebhookReceiver
) -> None:
    """A name that resolves to more, or to something else the next time, gains nothing."""
    transport = resolving(make(webhook_private_networks=("127.0.0.0/8",)), "10.9.9.9", "127.0.0.1")
    assert transport.post(receiver.receiver_url, HEADERS, b"{}") == 204


def test_a_name_is_resolved_once(
    make: Callable[..., Transport], receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the connection nobody can change the answer."""
    asked: list[object] = []
    system: Any = socket.getaddrinfo

    def counted(host: object, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the system's
        if host == "localhost":
            asked.append(host)
        return system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    assert make().post(receiver.receiver_url, HEADERS, b"{}") == 204
    assert len(asked) == 1


def test_a_name_that_does_not_resolve_is_a_failed_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resolver's own error does not come through."""

    def fails(*_args: object, **_kwargs: object) -> object:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(WebhookDeliveryError) as caught:
        look_up("receiver.example", 443)
    assert caught.value.code == "webhook:delivery"


# --- URLs -------------------------------------------------------------------------------

BAD_URLS = {
    "plain HTTP": "http://receiver.example/",
    "plain HTTP to loopback": "http://127.0.0.1/",
    "another scheme": "file:///etc/passwd",
    "no scheme": "receiver.example/hook",
    "no host": "https:///hook",
    "a user": "https://user@receiver.example/",
    "a password": "https://:secret@receiver.example/",
    "a fragment": "https://receiver.example/#part",
    "an empty fragment": "https://receiver.example/#",
    "a port that is none": "https://receiver.example:99999/",
    "port nought": "https://receiver.example:0/",
    "a line break": "https://receiver.example/\r\nx: y",
    "a space": "https://receiver.example/a b",
    "characters beyond ASCII": "https://receiver.example/ä",
    "a broken address": "https://[::1/",
    "one that is too long": "https://receiver.example/" + "a" * URL_LIMIT,
    "nothing": "",
}


@pytest.mark.parametrize("case", BAD_URLS)
def test_a_url_that_events_are_not_sent_to_is_refused(case: str) -> None:
    """Only https, and nothing in it that a receiver does not need."""
    with pytest.raises(WebhookUrlError) as caught:
        check_url(BAD_URLS[case], unsafe_http_to_loopback=False)
    assert caught.value.code == "webhook:url"


def test_plain_http_is_for_loopback_and_only_where_it_is_allowed() -> None:
    """The unsafe setting reaches no other machine."""
    assert check_url("http://localhost:8080/", unsafe_http_to_loopback=True).port == 8080
    with pytest.raises(WebhookUrlError):
        check_url("http://receiver.example/", unsafe_http_to_loopback=True)


def test_plain_http_does_not_leave_this_machine_by_a_name(
    make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`localhost` that resolves elsewhere gets nothing without TLS."""
    monkeypatch.setattr(socket, "create_connection", never)
    transport = make(webhook_unsafe_http_to_loopback=True, webhook_private_networks=("10.0.0.0/8",))
    for address in ("10.0.0.1", "8.8.8.8"):
        with pytest.raises(WebhookAddressError):
            resolving(transport, address).post("http://localhost/", HEADERS, b"{}")


def test_a_network_that_is_none_is_refused_in_the_settings(tmp_path: Path) -> None:
    """A misspelt exception is an error when the backend starts."""
    with pytest.raises(ConfigError):
        Settings(data_dir=str(tmp_path), webhook_private_networks=("10.0.0.1/8",))


# --- the exchange -----------------------------------------------------------------------


def test_a_receiver_gets_the_body_and_the_headers_as_they_are(
    make: Callable[..., Transport], receiver: WebhookReceiver
) -> None:
    """What was signed is what arrives, at the path and query of the URL."""
    assert make().post(receiver.receiver_url, HEADERS, b'{"a": 1}') == 204
    (came,) = receiver.received
    assert (came.target, came.body) == ("/hooks?from=hwtrust", b'{"a": 1}')
    assert came.headers.items() >= HEADERS.items()
    assert came.headers["host"] == f"localhost:{receiver.port}"


def test_a_certificate_that_is_not_trusted_is_refused(
    make: Callable[..., Transport], tmp_path: Path
) -> None:
    """An event is told to nobody who cannot show who they are."""
    (tmp_path / "other").mkdir()
    with WebhookReceiver(Pki(tmp_path / "other")) as stranger:
        with pytest.raises(WebhookDeliveryError):
            make().post(stranger.receiver_url, HEADERS, b"{}")
        assert stranger.received == []


def test_a_certificate_for_another_name_is_refused(
    make: Callable[..., Transport], receiver: WebhookReceiver
) -> None:
    """The certificate must be the host's in the URL."""
    with pytest.raises(WebhookDeliveryError):
        make().post(f"https://127.0.0.1:{receiver.port}/", HEADERS, b"{}")
    assert receiver.received == []


def test_a_redirect_is_not_followed(
    make: Callable[..., Transport], receiver: WebhookReceiver
) -> None:
    """Where a receiver points to is not where the administrator pointed."""
    receiver.statuses = ["307 Temporary Redirect"]
    receiver.extra = f"location: {receiver.receiver_url}\r\n"
    assert make().post(receiver.receiver_url, HEADERS, b"{}") == 307
    assert len(receiver.received) == 1


def test_a_proxy_of_the_environment_is_not_used(
    make: Callable[..., Transport], receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of the machine do not decide where events go."""
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert make().post(receiver.receiver_url, HEADERS, b"{}") == 204


def test_a_receiver_that_does_not_answer_costs_its_time_limit_and_no_more(
    make: Callable[..., Transport], receiver: WebhookReceiver
) -> None:
    """A connection that is held open is cut."""
    receiver.before = receiver.wait
    begun = time.monotonic()
    with pytest.raises(WebhookDeliveryError):
        make(webhook_timeout_ms=300).post(receiver.receiver_url, HEADERS, b"{}")
    assert time.monotonic() - begun < 5


def test_a_receiver_that_trickles_is_cut_too(make: Callable[..., Transport], pki: Pki) -> None:
    """Each byte in time does not make the whole be in time."""

    class Trickling(WebhookReceiver):
        def _take(self, connection: socket.socket, request: bytes) -> None:
            del request
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not self._stopped.wait(0.05):
                connection.sendall(b"x-more: y\r\n")

    begun = time.monotonic()
    with Trickling(pki) as receiver, pytest.raises(WebhookDeliveryError):
        make(webhook_timeout_ms=400).post(receiver.receiver_url, HEADERS, b"{}")
    assert time.monotonic() - begun < 5


def test_an_answer_without_end_is_not_read_to_its_end(
    make: Callable[..., Transport], pki: Pki
) -> None:
    """The status is all that counts; little of a body is ever read."""

    class Endless(WebhookReceiver):
        def _take(self, connection: socket.socket, request: bytes) -> None:
            del request
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self._stopped.is_set():
                connection.sendall(b"x" * 65536)

    with Endless(pki) as receiver:
        assert make().post(receiver.receiver_url, HEADERS, b"{}") == 200


def test_a_receiver_that_speaks_no_http_is_a_failed_delivery(
    make: Callable[..., Transport], pki: Pki
) -> None:
    """Whatever comes back ends in one of our errors."""

    class Babbling(WebhookReceiver):
        def _take(self, connection: socket.socket, request: bytes) -> None:
            del request
            connection.sendall(b"\x00\xff" * 40 + b"\r\n\r\n")

    with Babbling(pki) as receiver, pytest.raises(WebhookDeliveryError):
        make().post(receiver.receiver_url, HEADERS, b"{}")


def test_a_ca_file_that_is_none_is_an_error_of_ours(tmp_path: Path) -> None:
    """A wrong setting is told, and is not taken for no certificates at all."""
    settings = Settings(data_dir=str(tmp_path), webhook_ca_file=str(tmp_path / "missing.pem"))
    with pytest.raises(WebhookDeliveryError):
        Transport.of(settings)


# --- signatures -------------------------------------------------------------------------


def test_a_signature_is_the_one_of_the_specification() -> None:
    """The example of Standard Webhooks (libraries' shared test vector).

    Provenance: standard-webhooks/standard-webhooks, the known signature that its
    reference libraries test: secret, identifier, time and payload as below.
    """
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    key = Secret(base64.b64decode(secret.removeprefix("whsec_")))
    message = "msg_p5jXN8AQM9LWM0D4loKWxJek"
    found = signed_headers(
        [key], message=message, now=1_614_265_330_999, body=b'{"test": 2432232314}'
    )
    assert found == {
        "webhook-id": message,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert signatures_hold(found, b'{"test": 2432232314}', [secret])
    assert secret_text(key) == secret


def test_two_secrets_make_two_signatures_and_each_holds() -> None:
    """During a change of secrets a receiver may know either."""
    keys = [Secret(bytes([number]) * 32) for number in (1, 2)]
    headers = signed_headers(keys, message="msg_1", now=1000, body=b"{}")
    assert len(headers["webhook-signature"].split(" ")) == 2
    for key in keys:
        assert signatures_hold(headers, b"{}", [secret_text(key)])
    assert not signatures_hold(headers, b"{ }", [secret_text(key) for key in keys])
