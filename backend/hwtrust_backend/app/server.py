"""Serving the application with uvicorn: sockets, TLS, limits, and an end without losses.

Rules:
1. A server that is told to stop takes no new connection, answers what runs and what
   is on its way, and tells each client that its connection ends. Whoever waits for
   a push is told at once. Only what takes longer than the time for it is cut off.
2. Signals belong to whoever runs the process (`run`, `workers`), not to the server:
   a process that was told to stop and did ends with exit code 0.
3. A certificate that was renewed is taken over by new connections without a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from litestar.types import ASGIApp

from hwtrust.errors import ConfigError, HwTrustError
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.limits import AddressConnections, RateLimits
from hwtrust_backend.app.measuring import MEASURING, Measuring
from hwtrust_backend.app.middleware import Deadline, Gate, Observed
from hwtrust_backend.app.protocol import protocol_for
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.app.serving import SERVING, Serving
from hwtrust_backend.app.tls import load_certificate, server_context
from hwtrust_backend.config import Settings, system_clock
from hwtrust_backend.db import Database
from hwtrust_backend.observe import traces
from hwtrust_backend.observe.metrics import CONTENT_TYPE
from hwtrust_backend.policies import load_signers

SAMPLE_SECONDS: Final = 5.0
_BACKLOG: Final = 512
DRAIN_SECONDS: Final = 0.05
_ACCEPTS: Final = 16
"""Connections that one worker takes at once; the rest is left to the others."""

_CYCLES: Final = (50_000, 20, 20)
"""When cycles are looked for: attestations in groups make many objects and hardly a cycle."""

_SO_ATTACH_FILTER: Final = 26
_RETURN_NOTHING: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""BPF_RET with 0 bytes: a packet filter that lets nothing pass (linux/filter.h)."""

_log = logging.getLogger("hwtrust_backend")


def listening_socket(settings: Settings) -> socket.socket:
    """Bind where the settings say. A Unix socket is open to its owner and group.

    Raises:
        ConfigError: the address is taken, or is not ours.
    """
    address = settings.address
    try:
        if isinstance(address, Path):
            return _unix_socket(address)
        return tcp_socket(address)
    except OSError as error:
        raise _cannot_listen("listen", settings.listen, error) from error


def metrics_socket(settings: Settings) -> socket.socket | None:
    """Bind where metrics are served without TLS, if anywhere.

    Raises:
        ConfigError: the address is taken, or is not ours.
    """
    address = settings.metrics_address
    if address is None:
        return None
    try:
        return tcp_socket(address)
    except OSError as error:
        raise _cannot_listen("metrics_listen", settings.metrics_listen, error) from error


def check_settings(settings: Settings) -> None:
    """Try what the settings name, as far as it can be tried without keys and without serving.

    Raises:
        ConfigError: a file that they name cannot be read, or is not what it should be.
        DatabaseError: the database's URL is none.
    """
    if settings.server_certificate:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)
    load_signers(settings.policy_signers)
    for name, file in (
        ("webhook_ca_file", settings.webhook_ca_file),
        ("oidc.ca_file", settings.oidc.ca_file),
        ("server_ca", settings.server_ca),
    ):
        _check_authorities(name, file)
    if settings.oidc.client_secret_file:
        _check_readable("oidc.client_secret_file", settings.oidc.client_secret_file)
    Database(settings.database_url).close()


def stop_listening(listener: socket.socket) -> None:
    """Let no new connection come to a socket, in any process; those that have come stay.

    Closing alone would reset what came between the last look and the close. So the
    kernel drops what begins a connection; its client tries again after a second, and
    finds the port closed.
    """
    if listener.family == socket.AF_UNIX or listener.fileno() < 0:
        return
    code = ctypes.create_string_buffer(_RETURN_NOTHING, len(_RETURN_NOTHING))
    program = struct.pack("HL", 1, ctypes.addressof(code))
    # A kernel that does not do it leaves a very short moment; that is no reason to fail.
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def settle_memory() -> None:
    """Have the garbage collector leave alone what the process has for good, and look rarely.

    For a process that does nothing but serve, once it has begun.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_CYCLES)


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals alone and stops as rule 1 says."""

    def __init__(
        self, config: uvicorn.Config, *, backend: Backend, serving: Serving, measuring: Measuring
    ) -> None:
        super().__init__(config)
        self.backend = backend
        self.serving = serving
        self.measuring = measuring
        self.on_started: Callable[[], None] | None = None
        self.ends_listening = True
        """Whether nobody else takes connections from the same socket."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none (rule 2)."""
        yield

    def stop(self) -> None:
        """Begin to stop; from the loop's thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio has one number for what it takes at once and for what the kernel keeps.
            listener.listen(_BACKLOG)
        if self.on_started is not None:
            self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is under way, and close."""
        await asyncio.to_thread(self.serving.stopping.set)
        if self.ends_listening:
            for listener in sockets or ():
                stop_listening(listener)
        # Who has come already is taken: a connection that nobody took would be reset.
        await asyncio.sleep(DRAIN_SECONDS)
        await super().shutdown(sockets)
        self.serving.close()

    def reload_certificate(self) -> None:
        """Read the server's certificate anew (rule 3); one that is no good changes nothing."""
        settings = self.backend.settings
        context = self.config.ssl
        if context is None or not settings.server_certificate:
            return
        try:
            # Into a context of its own first: half of a pair must not be loaded.
            load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)
            load_certificate(context, settings)
        except HwTrustError as error:
            _log.error("the certificate stays as it was: %s", error)
        else:
            _log.info("the certificate was read anew")


def make_server(
    backend: Backend, *, log_level: str, shutdown_seconds: float | None = None
) -> HttpServer:
    """A server for the backend; run it with `serve(sockets=[…])`."""
    settings = backend.settings
    behind_proxy = isinstance(settings.address, Path)
    app = create_app(backend)
    serving: Serving = app.state[SERVING]
    measuring: Measuring = app.state[MEASURING]
    if shutdown_seconds is None:
        shutdown_seconds = settings.shutdown_timeout_ms / 1000
    inner: ASGIApp = Deadline(app, seconds=settings.request_timeout_ms / 1000)
    gate = Gate(inner, settings, serving=serving, limits=RateLimits(settings))
    config = uvicorn.Config(
        Observed(gate, settings, serving=serving),
        http=protocol_for(AddressConnections(settings), serving.stopping),
        ws="none",
        lifespan="off",
        interface="asgi3",
        # The peer's address decides whom to believe: no header may change it.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        # What is logged, and where, is set up by whoever runs the process.
        log_config=None,
        log_level="warning" if log_level in {"debug", "info"} else log_level,
        backlog=_ACCEPTS,
        limit_concurrency=settings.connection_limit,
        timeout_graceful_shutdown=shutdown_seconds,  # type: ignore[arg-type] # a timeout of asyncio
    )
    config.load()
    context: ssl.SSLContext | None = None
    if not behind_proxy:
        context = server_context(settings, backend.vault, clock=system_clock)
    config.ssl = context
    return HttpServer(config, backend=backend, serving=serving, measuring=measuring)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """What a process listens on."""

    main: socket.socket
    metrics: socket.socket | None = None


async def run(
    server: HttpServer,
    sockets: Sockets,
    *,
    started: Callable[[], None],
    beat: Callable[[], None],
    ends: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the certificate anew.

    `started` is called once requests are answered, `beat` every few seconds while the
    loop runs. Where `ends` is a descriptor, its end of file stops the server too.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, server.reload_certificate)
    if ends is not None:
        server.ends_listening = False
        loop.add_reader(ends, server.stop)

    def on_started() -> None:
        settle_memory()
        started()

    server.on_started = on_started
    beating = asyncio.create_task(_beat(server, beat))
    plain: asyncio.Task[None] | None = None
    small: HttpServer | None = None
    if sockets.metrics is not None:
        small = _metrics_server(server)
        plain = asyncio.create_task(small.serve(sockets=[sockets.metrics]))
    try:
        await server.serve(sockets=[sockets.main])
    finally:
        if ends is not None:
            loop.remove_reader(ends)
        beating.cancel()
        if plain is not None and small is not None:
            small.stop()
            await plain
        await asyncio.to_thread(traces.stop)


async def _beat(server: HttpServer, beat: Callable[[], None]) -> None:
    while True:
        beat()
        await asyncio.to_thread(server.measuring.sample)
        await asyncio.sleep(SAMPLE_SECONDS)


def _metrics_server(server: HttpServer) -> HttpServer:
    """A server of metrics and health alone, for a port that only the monitoring reaches."""
    config = uvicorn.Config(
        _Plain(server.serving, server.measuring),
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        limit_concurrency=32,
        timeout_graceful_shutdown=1,
    )
    config.load()
    return HttpServer(
        config, backend=server.backend, serving=server.serving, measuring=server.measuring
    )


class _Plain:
    """GET /metrics, /healthz and /readyz, and nothing else."""

    def __init__(self, serving: Serving, measuring: Measuring) -> None:
        self._serving = serving
        self._measuring = measuring

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Answer one request."""
        del receive
        status, media_type, body = 404, "text/plain", b"not found\n"
        path = scope["path"] if scope["method"] == "GET" else ""
        if path == "/metrics":
            status, media_type = 200, CONTENT_TYPE
            body = await asyncio.to_thread(self._measuring.exposition)
        elif path == "/healthz":
            status, body = 200, b"ok\n"
        elif path == "/readyz":
            failed = await asyncio.to_thread(self._serving.readiness.failures)
            status = 503 if failed else 200
            body = "".join(f"{name}\n" for name in sorted(failed)).encode() or b"ready\n"
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _cannot_listen(name: str, address: str, error: OSError) -> ConfigError:
    # A name that is not resolved has numbers of its own; Python adds the address to the others.
    known = errno.errorcode.get(error.errno or 0)
    reason = os.strerror(error.errno) if known and error.errno else error.strerror
    return ConfigError(f"cannot listen on {address}: {reason}; see the setting {name}")


def _check_readable(name: str, file: str) -> None:
    try:
        Path(file).read_bytes()
    except OSError as error:
        message = f"{name}: {file} cannot be read: {error.strerror}"
        raise ConfigError(message, path=file) from error


def _check_authorities(name: str, file: str) -> None:
    if not file:
        return
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        message = f"{name}: {file} cannot be used: {error.strerror or error}"
        raise ConfigError(message, path=file) from error


def tcp_socket(address: tuple[str, int]) -> socket.socket:
    """Listen at `address`; port 0 is any that is free."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    # Connections inherit it. asyncio sets it for its own sockets alone, and without it the second
    # part of an answer waits for the peer to acknowledge the first, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _unix_socket(path: Path) -> socket.socket:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            # One that is too busy to accept would let this wait for ever.
            other.settimeout(0)
            if other.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}:
                raise OSError(errno.EADDRINUSE, "")
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(_BACKLOG)
    return listener
