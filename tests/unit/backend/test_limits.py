"""Rate limits: who is asked to wait, for how long, and what that costs the backend."""

from __future__ import annotations

import base64
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.errors import RateError, RequestTooLargeError
from hwtrust_backend.app.limits import (
    SMALL_BODY,
    AddressConnections,
    Buckets,
    RateLimits,
    body_limit,
    check_length,
    device_of,
    network_of,
)
from hwtrust_backend.config import ForwardedHeader, RateSettings, Settings
from hwtrust_backend.keys import issue_device_certificate, make_authority
from hwtrust_backend.keys.signing import SoftwareSigner
from simulators.attester import make_csr, spki
from simulators.backend_clients import leaf_der, malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import ec as ec_types

from cryptography.hazmat.primitives.asymmetric import ec

NOW = 1_700_000_000_000


class Seconds:
    """A clock in seconds that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> Seconds:
    """The limits' clock."""
    return Seconds()


def settings_of(**changes: object) -> Settings:
    """Settings with low rates."""
    rates = RateSettings(address=3, credentials=2, device=4, total=0)
    return msgspec.convert({"data_dir": "/data", "rates": rates, **changes}, Settings)


def scope_of(
    path: str = "/v1/challenges",
    *,
    peer: str | None = "192.0.2.1",
    certificate: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
    **more: str,
) -> Any:  # noqa: ANN401 - an ASGI scope
    """A request as the server hands it over."""
    named = {name.replace("_", "-"): text for name, text in {**headers, **more}.items()}
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "client": None if peer is None else (peer, 1234),
        "headers": [(name.encode(), text.encode()) for name, text in named.items()],
        "extensions": {"tls": {"client_cert_der": certificate}} if certificate else {},
    }


def admitted(limits: RateLimits, *scopes: Any) -> list[bool]:  # noqa: ANN401 - ASGI scopes
    """Which requests pass, in turn."""
    return [not refusals(limits, scope) for scope in scopes]


def refusals(limits: RateLimits, scope: Any) -> list[tuple[str, int]]:  # noqa: ANN401 - ASGI
    """The code of a refusal and the seconds to wait, if there is one."""
    try:
        limits.admit(scope)
    except RateError as error:
        return [(error.code, int(error.data["seconds"] or 0))]
    return []


def device_certificate(key: ec_types.EllipticCurvePrivateKey, device: bytes) -> bytes:
    """A client certificate of a device."""
    signer = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    issued = issue_device_certificate(
        make_csr(key),
        tls_key=spki(key),
        device=device,
        signer=signer,
        authority=make_authority(signer, name="test", now=NOW),
        now=NOW,
        lifetime_ms=86_400_000,
    )
    return leaf_der(issued.pem)


# --- buckets -----------------------------------------------------------------------------


def test_a_minutes_worth_passes_at_once_and_then_at_the_rate(clock: Seconds) -> None:
    """Sixty a minute: sixty at once, then one a second."""
    buckets = Buckets(60, clock=clock)
    assert [buckets.take("a") for _ in range(60)] == [0] * 60
    assert buckets.take("a") == pytest.approx(1)
    clock.now += 0.5
    assert buckets.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    clock.now += 3600
    assert sum(buckets.take("a") == 0 for _ in range(100)) == 60


def test_callers_do_not_draw_from_each_others_buckets(clock: Seconds) -> None:
    """One that asks too often makes nobody else wait."""
    buckets = Buckets(1, clock=clock)
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    assert buckets.take("b") == 0


def test_the_number_of_buckets_is_bounded(clock: Seconds) -> None:
    """However many callers there are, the ones seen last are remembered and no more."""
    buckets = Buckets(1, clock=clock, size=10)
    for number in range(1000):
        assert buckets.take(str(number)) == 0
    assert len(buckets) == 10
    assert buckets.take("999") > 0


def test_a_rate_of_zero_is_no_limit(clock: Seconds) -> None:
    """And remembers nobody."""
    buckets = Buckets(0, clock=clock)
    assert all(buckets.take("a") == 0 for _ in range(1000))
    assert len(buckets) == 0


# --- who is limited ------------------------------------------------------------------------


def test_an_address_without_certificate_has_a_rate(clock: Seconds) -> None:
    """Another address is not concerned; time brings the next request."""
    limits = RateLimits(settings_of(), clock=clock)
    assert admitted(limits, *[scope_of()] * 3) == [True] * 3
    assert refusals(limits, scope_of()) == [("request:rate", 20)]
    assert admitted(limits, scope_of(peer="192.0.2.2")) == [True]
    clock.now += 20
    assert admitted(limits, scope_of(), scope_of()) == [True, False]


def test_an_ipv6_caller_is_its_network(clock: Seconds) -> None:
    """Whoever has a /64 has 2^64 addresses and one bucket."""
    limits = RateLimits(settings_of(), clock=clock)
    scopes = [scope_of(peer=f"2001:db8::{number:x}") for number in range(4)]
    assert admitted(limits, *scopes) == [True] * 3 + [False]
    assert admitted(limits, scope_of(peer="2001:db8:0:1::1")) == [True]


def test_addresses_are_counted_in_one_form() -> None:
    """IPv4 in IPv6 is IPv4; a zone is no part of an address."""
    cases = {
        "192.0.2.1": "192.0.2.1",
        "::ffff:192.0.2.1": "192.0.2.1",
        "2001:db8::1": "2001:db8::/64",
        "fe80::1%eth0": "fe80::/64",
        "nonsense": "",
        "": "",
    }
    assert {text: network_of(text) for text in cases} == cases


def test_a_device_has_a_rate_of_its_own_that_a_new_certificate_does_not_reset(
    clock: Seconds,
) -> None:
    """Counted by the device that a certificate names, not by certificate or address."""
    limits = RateLimits(settings_of(), clock=clock)
    key = ec.generate_private_key(ec.SECP256R1())
    first, second = (device_certificate(key, b"\x00\x0b" + bytes(32)) for _ in range(2))
    other = device_certificate(key, b"\x00\x0b" + b"\x01" * 32)
    assert device_of(first) == device_of(second) != device_of(other)
    scopes = [scope_of("/v1/attest", certificate=der) for der in (first, second) * 2]
    assert admitted(limits, *scopes) == [True] * 4
    assert admitted(limits, scope_of("/v1/attest", certificate=second)) == [False]
    assert admitted(limits, scope_of("/v1/attest", certificate=other)) == [True]
    assert admitted(limits, scope_of("/v1/challenges")) == [True]


def test_a_device_behind_a_proxy_has_its_rate_by_the_header(clock: Seconds) -> None:
    """The proxy's Client-Cert names it, also with a new certificate; from others it is nothing."""
    limits = RateLimits(settings_of(trusted_proxies=("10.0.0.1",)), clock=clock)
    key = ec.generate_private_key(ec.SECP256R1())
    headers = [
        {"client-cert": f":{base64.b64encode(device_certificate(key, bytes(34))).decode()}:"}
        for _ in range(5)
    ]
    scopes = [scope_of("/v1/attest", peer="10.0.0.1", headers=header) for header in headers]
    assert admitted(limits, *scopes) == [True] * 4 + [False]
    nonsense = scope_of("/v1/attest", peer="10.0.0.1", headers={"client-cert": ":n\xe4:"})
    assert admitted(limits, nonsense) == [True]
    direct = [scope_of("/v1/attest", headers=header) for header in headers]
    assert admitted(limits, *direct) == [True] * 3 + [False] * 2


def test_a_certificate_that_is_none_is_counted_as_it_is() -> None:
    """Nothing that a caller shows ends in an exception."""
    assert device_of(b"\x30\x03nonsense")
    good = device_certificate(ec.generate_private_key(ec.SECP256R1()), bytes(34))
    for changed in malformed(good):
        assert device_of(changed)


def test_refused_credentials_make_their_address_wait(clock: Seconds) -> None:
    """Guessing tokens is slow; a good token costs nothing, a cookie is no token."""
    limits = RateLimits(settings_of(), clock=clock)
    guess = scope_of("/v1/devices", authorization="Bearer guess")
    assert admitted(limits, *[guess] * 9) == [True] * 9
    limits.note_refused_credentials(guess)
    limits.note_refused_credentials(guess)
    assert admitted(limits, guess) == [False]
    assert admitted(limits, scope_of("/v1/devices", peer="192.0.2.9", authorization="x")) == [True]
    cookies = [scope_of("/ui", peer="192.0.2.8", cookie="session=x")] * 4
    assert admitted(limits, *cookies) == [True] * 3 + [False]


@pytest.mark.parametrize("path", ["/v1/enrolments", "/v1/releases/targets/layers/kernel/6.1"])
def test_a_token_does_not_open_the_routes_of_devices_any_wider(clock: Seconds, path: str) -> None:
    """There it is never looked at: it must not lift the limit."""
    limits = RateLimits(settings_of(), clock=clock)
    scopes = [scope_of(path, authorization=f"Bearer {n}") for n in range(4)]
    assert admitted(limits, *scopes) == [True] * 3 + [False]


def test_health_is_answered_whatever_the_limits_say(clock: Seconds) -> None:
    """Monitoring does not draw from anybody's bucket."""
    limits = RateLimits(settings_of(), clock=clock)
    assert admitted(limits, *[scope_of("/healthz"), scope_of("/readyz")] * 20) == [True] * 40


def test_all_requests_together_can_have_a_rate(clock: Seconds) -> None:
    """Whoever they come from."""
    rates = RateSettings(address=0, credentials=0, device=0, total=2)
    limits = RateLimits(settings_of(rates=rates), clock=clock)
    scopes = [scope_of(peer=f"192.0.2.{number}") for number in range(3)]
    assert admitted(limits, *scopes) == [True, True, False]


# --- proxies --------------------------------------------------------------------------------

FORWARDED = {
    "X-Forwarded-For": (
        ForwardedHeader.X_FORWARDED_FOR,
        {"x_forwarded_for": "203.0.113.9, 198.51.100.1"},
        "198.51.100.1",
    ),
    "Forwarded": (
        ForwardedHeader.FORWARDED,
        {"forwarded": 'for=203.0.113.9, for="[2001:db8::7]:4711";proto=https'},
        "2001:db8::/64",
    ),
    "Forwarded with a port": (
        ForwardedHeader.FORWARDED,
        {"forwarded": "proto=https;for=198.51.100.1:99"},
        "198.51.100.1",
    ),
    "an identifier that is no address": (
        ForwardedHeader.FORWARDED,
        {"forwarded": "for=_hidden"},
        "",
    ),
    "no header": (ForwardedHeader.FORWARDED, {}, ""),
    "a header that is not configured": (
        ForwardedHeader.NONE,
        {"x_forwarded_for": "198.51.100.1"},
        "",
    ),
}


@pytest.mark.parametrize("case", FORWARDED)
def test_a_trusted_proxys_client_is_counted_where_a_header_is_configured(case: str) -> None:
    """The proxy's own addition stands last; what a client has put before it is not believed."""
    header, headers, expected = FORWARDED[case]
    settings = settings_of(trusted_proxies=("10.0.0.1",), forwarded_header=header)
    limits = RateLimits(settings)
    assert limits.address_of(scope_of(peer="10.0.0.1", headers=headers)) == expected


def test_a_header_of_anybody_else_is_not_believed() -> None:
    """A caller cannot give itself a new address with each request."""
    settings = settings_of(
        trusted_proxies=("10.0.0.1",), forwarded_header=ForwardedHeader.X_FORWARDED_FOR
    )
    limits = RateLimits(settings)
    assert limits.address_of(scope_of(x_forwarded_for="198.51.100.1")) == "192.0.2.1"


def test_behind_a_proxy_without_a_header_nobody_is_limited_by_address(clock: Seconds) -> None:
    """One bucket for a whole fleet would shut it out."""
    behind = settings_of(listen="unix:/run/b.sock", trusted_proxies=("unix",))
    limits = RateLimits(behind, clock=clock)
    assert admitted(limits, *[scope_of(peer=None)] * 20) == [True] * 20


# --- connections ------------------------------------------------------------------------------


def test_an_address_has_so_many_connections_at_once() -> None:
    """One that is closed makes room; a trusted proxy has no limit."""
    settings = settings_of(address_connection_limit=2, trusted_proxies=("10.0.0.1",))
    connections = AddressConnections(settings)
    opened = [connections.opened("192.0.2.1") for _ in range(3)]
    assert opened == [True, True, False]
    connections.closed("192.0.2.1")
    assert connections.opened("192.0.2.1")
    assert connections.opened("192.0.2.2")
    assert all(connections.opened("10.0.0.1") for _ in range(9))
    for peer in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "10.0.0.1"):
        connections.closed(peer)
    assert connections._open == {}


# --- bodies -------------------------------------------------------------------------------------


def test_each_route_takes_as_much_as_it_needs() -> None:
    """Evidence a mebibyte, uploads of administrators more, everything else little."""
    settings = Settings(data_dir=str(Path("/data")))
    cases = {
        "/v1/attest": settings.body_limit,
        "/v1/enrolments": settings.body_limit,
        "/v1/enrolments/abc/finish": settings.body_limit,
        "/v1/enrolments/abc/key": SMALL_BODY,
        "/v1/challenges": SMALL_BODY,
        "/v1/attest/x": SMALL_BODY,
        "/nowhere": SMALL_BODY,
        "/ui/policies/default/try": settings.body_limit,
        "/v1/admin/eks": settings.import_limit,
    }
    assert {path: body_limit(scope_of(path), settings) for path in cases} == cases


def test_a_body_that_says_that_it_is_too_large_is_refused_unread() -> None:
    """By its Content-Length, however long that is."""
    for length in ("101", "9" * 30):
        with pytest.raises(RequestTooLargeError) as caught:
            check_length(scope_of(content_length=length), 100)
        assert caught.value.code == "request:too-large"
    check_length(scope_of(content_length="100"), 100)
    check_length(scope_of(), 100)
