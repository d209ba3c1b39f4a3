"""What happens to every request before a route sees it, and after.

    Observed   request id, span, metrics, the line of the log
    Gate       read-only, rate limits, framing, size of the body
    Deadline   the time in which a body has to arrive

Rules:
1. What is refused here is refused before a byte of the body is read, with the
   same problems as anywhere else.
2. A request id comes from a trusted proxy or is made here: a caller that could
   choose it could make two requests look like one.
3. Health and readiness are answered whatever the limits say.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from http import HTTPStatus
from typing import Any, Final, TypeGuard

import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from hwtrust.errors import HwTrustError
from hwtrust_backend.app.caller import UNIX, header_values, trusted_peers
from hwtrust_backend.app.framing import check_framing
from hwtrust_backend.app.limits import RateLimits, body_limit, check_length, device_of, too_large
from hwtrust_backend.app.problems import PROBLEM_TYPE, count_refusal, problem_of
from hwtrust_backend.app.serving import Serving
from hwtrust_backend.config import Settings
from hwtrust_backend.observe import logs, metrics, traces

UNMATCHED: Final = "none"
"""The route of a request that belongs to none."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
_URN: Final = "urn:hwtrust:device:"
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})

_log = logging.getLogger(logs.ACCESS)


class Observed:
    """Counts, times, traces and logs every request."""

    def __init__(self, app: ASGIApp, settings: Settings, *, serving: Serving) -> None:
        self._app = app
        self._stopping = serving.stopping
        self._proxies = trusted_peers(settings)
        # To tell requests apart, not to be guessed: random once for a process, then counted.
        self._process, self._numbers = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not _is_request(scope):
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        request, client = self._request_id(scope), scope.get("client")
        method = scope["method"] if scope["method"] in _METHODS else "other"

        async def noting(message: Any) -> None:  # noqa: ANN401 - an ASGI event
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request.encode())]
                if self._stopping:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        def route() -> str:
            found: Any = scope.get("path_template")
            return str(found) if found else UNMATCHED

        parent = _header(scope, b"traceparent")
        with (
            traces.request_span(method, traceparent=parent, http_request_method=method) as opened,
            logs.request_fields(
                request=request,
                trace=opened.trace or traces.trace_of(parent),
                route=route,
                method=method,
                device=_device(scope),
                peer=client[0] if client else UNIX,
            ),
        ):
            metrics.REQUESTS_RUNNING.add(1)
            try:
                await self._app(scope, receive, noting)
            finally:
                seconds = time.perf_counter() - began
                metrics.REQUESTS_RUNNING.add(-1)
                metrics.REQUESTS.inc(route=route(), method=method, status=str(status))
                metrics.REQUEST_SECONDS.observe(seconds, route=route(), method=method)
                opened.done(name=f"{method} {route()}", route=route(), status=status)
                level = logging.DEBUG if route() in _QUIET else logging.INFO
                duration = round(seconds * 1000, 1)
                logs.event(_log, level, "request", status=status, duration_ms=duration)

    def _request_id(self, scope: Scope) -> str:
        client = scope.get("client")
        if (client[0] if client else UNIX) in self._proxies:
            given = _header(scope, b"x-request-id")
            if _REQUEST_ID.fullmatch(given):
                return given
        return f"{self._process}{next(self._numbers) & 0xFFFFFFFF:08x}"


class Gate:
    """Refuses what may not be done now, comes too often, or is too much."""

    def __init__(
        self, app: ASGIApp, settings: Settings, *, serving: Serving, limits: RateLimits
    ) -> None:
        self._app = app
        self._settings = settings
        self._read_only = serving.read_only
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if not _is_request(scope):
            await self._app(scope, receive, send)
            return
        limit = body_limit(scope, self._settings)
        try:
            self._limits.admit(scope)
            check_framing(scope)
            check_length(scope, limit)
            if scope["method"] not in _READING:
                await self._require_changeable()
        except HwTrustError as error:
            await send_problem(send, error)
            return

        async def watching(message: Any) -> None:  # noqa: ANN401 - an ASGI event
            if message.get("status") == HTTPStatus.UNAUTHORIZED:
                self._limits.note_refused_credentials(scope)
            await send(message)

        received = 0

        async def receive_within() -> Any:  # noqa: ANN401 - an ASGI event
            nonlocal received
            event: Any = await receive()
            received += len(event.get("body", b""))
            if received > limit:
                raise too_large(limit)
            return event

        await self._app(scope, receive_within, watching)

    async def _require_changeable(self) -> None:
        if not self._read_only.is_known:
            await asyncio.to_thread(self._read_only.is_on)
        self._read_only.require_off()


class Deadline:
    """Gives a request's body so much time to arrive, and then raises `TimeoutError` inside."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        ends = asyncio.get_running_loop().time() + self._seconds
        complete = "method" not in scope

        async def receive_in_time() -> Any:  # noqa: ANN401 - an ASGI event
            nonlocal complete
            if complete:
                return await receive()
            async with asyncio.timeout_at(ends):
                event: Any = await receive()
            complete = not event.get("more_body", False)
            return event

        await self._app(scope, receive_in_time, send)


async def send_problem(send: Send, error: HwTrustError) -> None:
    """Answer a request that no route has seen."""
    problem = problem_of(error)
    count_refusal(problem)
    body = msgspec.json.encode(problem)
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    seconds = error.data.get("seconds")
    if seconds is not None:
        headers.append((b"retry-after", str(seconds).encode()))
    start: Any = {"type": "http.response.start", "status": problem.status, "headers": headers}
    await send(start)
    rest: Any = {"type": "http.response.body", "body": body, "more_body": False}
    await send(rest)


def _is_request(scope: Scope) -> TypeGuard[HTTPScope]:
    return "method" in scope


def _device(scope: Scope) -> str:
    extensions: Any = scope.get("extensions") or {}
    der = (extensions.get("tls") or {}).get("client_cert_der")
    return device_of(der).removeprefix(_URN) if der else ""


def _header(scope: Scope, wanted: bytes) -> str:
    values = header_values(scope, wanted)
    return values[0].decode("latin-1") if len(values) == 1 else ""
