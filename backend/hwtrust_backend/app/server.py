"""Serving the application with uvicorn: the listening socket, TLS, and limits."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from hwtrust.errors import ConfigError
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.protocol import TlsHttpProtocol
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.app.tls import server_context
from hwtrust_backend.config import Settings, system_clock

SHUTDOWN_SECONDS = 10


def listening_socket(settings: Settings) -> socket.socket:
    """Bind where the settings say. A Unix socket is open to its owner and group.

    Raises:
        ConfigError: the address is taken, or is not ours.
    """
    address = settings.address
    try:
        if isinstance(address, Path):
            return _unix_socket(address)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.create_server(address, family=family, backlog=512)
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.listen}: {error.strerror}") from error


def make_server(
    backend: Backend, *, log_level: str, shutdown_seconds: int = SHUTDOWN_SECONDS
) -> uvicorn.Server:
    """A uvicorn server for the backend; run it with `serve(sockets=[…])`."""
    settings = backend.settings
    behind_proxy = isinstance(settings.address, Path)
    config = uvicorn.Config(
        Deadline(create_app(backend), seconds=settings.request_timeout_ms / 1000),
        http=TlsHttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        # The peer's address decides whom to believe: no header may change it.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level=log_level,
        limit_concurrency=settings.connection_limit,
        timeout_graceful_shutdown=shutdown_seconds,
    )
    config.load()
    context: ssl.SSLContext | None = None
    if not behind_proxy:
        context = server_context(settings, backend.vault, clock=system_clock)
    config.ssl = context
    return uvicorn.Server(config)


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


def _unix_socket(path: Path) -> socket.socket:
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(512)
    return listener
