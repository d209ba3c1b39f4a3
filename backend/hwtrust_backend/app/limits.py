"""How often a caller may ask, and how much it may send.

    address      requests that show neither certificate nor credentials, one address
    credentials  credentials that were refused, one address
    device       requests with one device's certificate
    total        everything

Rules:
1. Each limit is a token bucket: so many requests at once, and as many a minute.
2. Buckets are in this process's memory, and their number is bounded: the ones
   that were not used for longest are forgotten.
3. An IPv6 caller owns its /64: that is one address here.
4. A trusted proxy has no address of its own here. Its client's is believed where
   the settings name the header in which it comes, and nowhere else.
5. A refusal costs no body, no thread and no audit record.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from litestar.types import Scope
from litestar.utils.path import normalize_path

from hwtrust.errors import RateError, RequestTooLargeError
from hwtrust.verify.certificates import PARSER_ERRORS
from hwtrust_backend.app.caller import HEADER, UNIX, header_values, trusted_peers
from hwtrust_backend.config import ForwardedHeader, Settings
from hwtrust_backend.observe import metrics

BUCKETS: Final = 20_000
"""Callers that are remembered, for each limit."""
SMALL_BODY: Final = 64 * 1024
MINUTE_SECONDS: Final = 60.0

_OPEN_ROUTES: Final = (
    "/v1/enrolments",
    "/v1/challenges",
    "/v1/attest",
    "/v1/enclaves",
    "/v1/releases",
)
"""Where nobody looks at a token: one that is shown there must not spare its address the limit."""
_EVIDENCE_ROUTES: Final = re.compile(
    r"/v1/attest|/v1/enrolments(/[^/]*/finish)?|/v1/enclaves/(enrol|attest)"
)
_FREE_ROUTES: Final = frozenset({"/healthz", "/readyz"})
_UPLOADS: Final = "/v1/admin/"
_FORMS: Final = "/ui/"
_IPV6_PREFIX: Final = 64

SecondsClock = Callable[[], float]
"""Gives seconds that never go back."""


@dataclass(slots=True)
class Bucket:
    """What one caller has left."""

    left: float
    at: float


class Buckets:
    """The buckets of one limit: `rate` a minute, for a bounded number of callers."""

    def __init__(self, rate: int, *, clock: SecondsClock, size: int = BUCKETS) -> None:
        self.rate = rate
        self._clock = clock
        self._size = size
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, caller: str) -> float:
        """Seconds until the caller may ask; 0 if it may now. Nothing is taken."""
        if not self.rate:
            return 0.0
        left = self._refilled(caller).left
        return 0.0 if left >= 1 else (1 - left) * MINUTE_SECONDS / self.rate

    def take(self, caller: str) -> float:
        """Take one, or say in how many seconds there is one."""
        seconds = self.wait(caller)
        if self.rate and not seconds:
            self._buckets[caller].left -= 1
        return seconds

    def _refilled(self, caller: str) -> Bucket:
        now = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = Bucket(self.rate, now)
            if len(self._buckets) > self._size:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            gained = (now - bucket.at) * self.rate / MINUTE_SECONDS
            bucket.left, bucket.at = min(float(self.rate), bucket.left + gained), now
        return bucket


class RateLimits:
    """All limits of one process."""

    def __init__(
        self, settings: Settings, *, clock: SecondsClock = time.monotonic, size: int = BUCKETS
    ) -> None:
        rates = settings.rates
        self._header = settings.forwarded_header
        self._proxies = trusted_peers(settings)
        self._address = Buckets(rates.address, clock=clock, size=size)
        self._credentials = Buckets(rates.credentials, clock=clock, size=size)
        self._device = Buckets(rates.device, clock=clock, size=size)
        self._total = Buckets(rates.total, clock=clock, size=1)

    def admit(self, scope: Scope) -> None:
        """Let a request pass, before anything of it is read but its headers.

        Raises:
            RateError: it comes too soon; `seconds` says how much.
        """
        path = _path(scope)
        if path in _FREE_ROUTES:
            return
        address = self.address_of(scope)
        certificate = self._certificate_of(scope)
        if certificate:
            _refuse("device", self._device.take(device_of(certificate)))
        elif path.startswith(_OPEN_ROUTES) or not has_credentials(scope):
            _refuse("address", self._address.take(address) if address else 0)
        else:
            _refuse("credentials", self._credentials.wait(address) if address else 0)
        _refuse("total", self._total.take(""))

    def note_refused_credentials(self, scope: Scope) -> None:
        """The credentials of a request were none: its address has one attempt less."""
        address = self.address_of(scope)
        if address and has_credentials(scope):
            self._credentials.take(address)

    def address_of(self, scope: Scope) -> str:
        """Whose buckets a request without certificate draws from; empty: nobody's."""
        client = scope.get("client")
        peer = client[0] if client else UNIX
        if peer in self._proxies:
            return _forwarded(scope, self._header)
        return "" if peer == UNIX else network_of(peer)

    def _certificate_of(self, scope: Scope) -> bytes:
        client = scope.get("client")
        if (client[0] if client else UNIX) in self._proxies:
            # RFC 9440: base64 between colons. What is none is counted as it is.
            value = _last(scope, HEADER)
            with contextlib.suppress(binascii.Error):
                return base64.b64decode(value.strip(b" :"), validate=True)
            return value
        extensions: Any = scope.get("extensions") or {}
        return (extensions.get("tls") or {}).get("client_cert_der") or b""


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The address that is counted: IPv4 as it is, of IPv6 the first 64 bits; empty if none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)


@functools.lru_cache(maxsize=4096)
def device_of(certificate: bytes) -> str:
    """Under which name a client certificate is counted: a device keeps it when it gets a new one.

    Who it really is, and whether the certificate is in force, is judged elsewhere.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return "|".join(names.get_values_for_type(x509.UniformResourceIdentifier))
    except (*PARSER_ERRORS, x509.ExtensionNotFound):
        return certificate[:512].hex()


def body_limit(scope: Scope, settings: Settings) -> int:
    """How many bytes the body of a request may have, by its route."""
    path = _path(scope)
    if _EVIDENCE_ROUTES.fullmatch(path) or path.startswith(_FORMS):
        return settings.body_limit
    if path.startswith(_UPLOADS):
        return settings.import_limit
    return min(SMALL_BODY, settings.body_limit)


def check_length(scope: Scope, limit: int) -> None:
    """Refuse a body that says itself that it is too large.

    Raises:
        RequestTooLargeError: by its Content-Length.
    """
    length = _last(scope, b"content-length")
    if length.isdigit() and int(length[:20]) > limit:
        raise too_large(limit)


def too_large(limit: int) -> RequestTooLargeError:
    """The refusal of a body of more than `limit` bytes."""
    return RequestTooLargeError(f"the request's body may have {limit} bytes", limit=limit)


class AddressConnections:
    """Counts open connections by address."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.address_connection_limit
        self._free = isinstance(settings.address, Path)
        self._proxies = trusted_peers(settings)
        self._open: dict[str, int] = {}

    def opened(self, peer: str) -> bool:
        """Count a connection; False: it is one too many, and not counted."""
        if self._is_free(peer):
            return True
        key = network_of(peer)
        count = self._open.get(key, 0)
        if count >= self._limit:
            metrics.RATE_LIMITED.inc(limit="connections")
            return False
        self._open[key] = count + 1
        return True

    def closed(self, peer: str) -> None:
        """One that was counted is over."""
        if self._is_free(peer):
            return
        key = network_of(peer)
        count = self._open.pop(key, 1) - 1
        if count > 0:
            self._open[key] = count

    def _is_free(self, peer: str) -> bool:
        return self._free or not self._limit or peer in self._proxies


def has_credentials(scope: Scope) -> bool:
    """Whether a request shows a token, good or bad. A cookie is no credential: its page asks on."""
    return bool(_last(scope, b"authorization"))


def _refuse(limit: str, seconds: float) -> None:
    if seconds:
        metrics.RATE_LIMITED.inc(limit=limit)
        wait = math.ceil(seconds)
        raise RateError("too many requests; the next one may come later", seconds=wait)


def _forwarded(scope: Scope, header: ForwardedHeader) -> str:
    if header is ForwardedHeader.NONE:
        return ""
    # Every proxy appends: what the trusted one has added stands last.
    last = _last(scope, header.value.encode()).decode("latin-1").rpartition(",")[2].strip()
    if header is ForwardedHeader.FORWARDED:
        pairs = (pair.strip().partition("=") for pair in last.split(";"))
        named = [value for name, _, value in pairs if name.lower() == "for"]
        last = named[0].strip('"') if named else ""
    if last.startswith("["):
        last = last[1:].partition("]")[0]
    elif last.count(":") == 1:
        last = last.partition(":")[0]
    return network_of(last)


def _path(scope: Scope) -> str:
    """The path as the router takes it: `//v1/attest/` is not another one than `/v1/attest`."""
    return normalize_path(scope["path"])


def _last(scope: Scope, wanted: bytes) -> bytes:
    values = header_values(scope, wanted)
    return values[-1] if values else b""
