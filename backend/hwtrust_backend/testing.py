"""A backend for tests: in a thread, on loopback, with a clock that the test turns.

    with BackendServer() as backend:
        backend.accept(release)
        token = backend.token()
        …                           # enrol against backend.url, backend.trust
        backend.clock.advance(20 * DAY)

Everything is real (TLS 1.3, database, keys) except the time, the cost of the
passphrase, and who may enrol: EKs are allowed by name, or under a test CA.
TLS itself checks the server's certificate by real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import tomlkit
import uvicorn
from sqlalchemy.orm import Session

from hwtrust.errors import ConfigError
from hwtrust.wire.messages import Release, TrustAnchor
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.background import run_once
from hwtrust_backend.app.server import make_server, tcp_socket
from hwtrust_backend.app.setup import TRUST_NAME, install, open_backend
from hwtrust_backend.config import Settings, system_clock
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.keys import Secret
from hwtrust_backend.policies import (
    DEFAULT_DOCUMENT,
    DEFAULT_GROUP,
    activate_policy,
    add_policy,
)
from hwtrust_backend.references import accept_release, add_release, retire_release

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "SECOND",
    "BackendServer",
    "ManualClock",
    "empty_sqlite",
    "policy_document",
]

CHEAP: Final = 2**10
"""The cost of a passphrase that protects nothing."""

_START_SECONDS: Final = 30


class ManualClock:
    """A clock that moves when it is told to; it begins at the real time."""

    def __init__(self, start_ms: int | None = None) -> None:
        self._now = system_clock() if start_ms is None else start_ms
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """UTC in milliseconds. Each asking takes a millisecond: no two challenges are alike."""
        with self._lock:
            self._now += 1
            return self._now

    def advance(self, milliseconds: int) -> None:
        """Let time pass, or go back."""
        with self._lock:
            self._now += milliseconds


def policy_document(**changes: object) -> str:
    """The policy that `init` writes down, with other fields: `policy_document(heartbeat="1m")`.

    A table's fields are given as a dictionary; None takes a field out.
    """
    document = tomlkit.parse(DEFAULT_DOCUMENT)
    for name, value in changes.items():
        where: Any = document
        parts = value.items() if isinstance(value, dict) else [(name, value)]
        if isinstance(value, dict):
            where = document[name]
        for field, item in parts:
            if item is None:
                del where[field]
            else:
                where[field] = item
    return tomlkit.dumps(document)


@functools.cache
def empty_sqlite() -> bytes:
    """The file of an SQLite database at this version's schema, with nothing in it.

    A copy is there at once; the migrations take longer than most tests.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "empty.sqlite"
        database = Database(f"sqlite:///{file}")
        migrate(database)
        # The last connection to go leaves everything in the one file.
        database.close()
        return file.read_bytes()


class BackendServer:
    """A whole backend; enter it to start it.

    `directory` keeps its data (and is opened again if it holds some); without one
    it has a temporary directory. `policy` is the TOML document that its devices are
    held to from the start; `settings` overrides any of `Settings`.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        clock: ManualClock | None = None,
        policy: str = DEFAULT_DOCUMENT,
        **settings: object,
    ) -> None:
        self.clock = clock or ManualClock()
        self._policy = policy
        self._overrides = settings
        self._directory = directory
        self._passphrase = Secret(b"protects nothing")
        self._stack = contextlib.ExitStack()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._backend: Backend | None = None

    def __enter__(self) -> Self:
        """Install if there is nothing yet, open, and listen."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, close the database, remove a temporary directory."""
        self._stack.close()

    @property
    def backend(self) -> Backend:
        """The services, to be called without HTTP."""
        if self._backend is None:
            raise ConfigError("the backend is not started")
        return self._backend

    @property
    def url(self) -> str:
        """Where it listens: https://localhost:PORT."""
        return self.backend.settings.url

    @property
    def directory(self) -> Path:
        """Its data directory."""
        return self.backend.settings.directory

    @property
    def trust_file(self) -> Path:
        """The trust anchor as `init` writes it."""
        return self.directory / TRUST_NAME

    @property
    def trust(self) -> TrustAnchor:
        """The trust anchor that devices are given."""
        return msgspec.json.decode(self.trust_file.read_bytes(), type=TrustAnchor)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A unit of work on the database, committed at its end."""
        with self.backend.database.transaction() as session:
            yield session

    def token(self, *, lifetime_ms: int = HOUR) -> str:
        """A new enrolment token."""
        with self.session() as session:
            now = self.clock()
            return create_token(session, label="test", lifetime_ms=lifetime_ms, now=now)

    def accept(self, release: Release) -> None:
        """Add a release and accept it."""
        with self.session() as session:
            add_release(session, release, now=self.clock())
            accept_release(session, release.name, now=self.clock())

    def hold_to(self, policy: str, *, group: str = DEFAULT_GROUP) -> None:
        """Put a policy document into force for a group."""
        with self.session() as session:
            stored = add_policy(session, group, policy, by="test", now=self.clock())
            activate_policy(session, group, stored.version, signers={}, by="test", now=self.clock())

    def retire(self, name: str) -> None:
        """Stop accepting a release."""
        with self.session() as session:
            retire_release(session, name, now=self.clock())

    def allow_ek(self, name: bytes) -> None:
        """Trust the EK of this Name, without certificate and token."""
        with self.session() as session:
            allow_ek(session, name.hex(), label="test", now=self.clock())

    def add_ek_ca(self, certificate: bytes) -> None:
        """Trust a TPM vendor's CA, PEM or DER."""
        with self.session() as session:
            self.backend.enrolments.authorities.add(
                session, certificate, kind=AuthorityKind.CERTIFICATES, now=self.clock()
            )

    def run_due(self) -> None:
        """Do once what `serve` does in the background; here nothing does it by itself."""
        run_once(self.backend)

    def rotate(self, device: bytes) -> None:
        """Ask for a device's next root."""
        with self.session() as session:
            ask_rotation(session, device.hex(), by=local_administrator(), now=self.clock())

    def _start(self) -> None:
        directory = self._directory
        if directory is None:
            made = tempfile.TemporaryDirectory(prefix="hwtrust-backend-")
            directory = Path(self._stack.enter_context(made))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = self._stack.enter_context(tcp_socket(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        found: dict[str, object] = {
            "data_dir": str(directory),
            "url": f"https://localhost:{port}",
            "listen": f"127.0.0.1:{port}",
            # The clock that a test turns is not the database's.
            "max_clock_skew_ms": 36500 * DAY,
            # A test asks as fast as it can, and all of it from one address.
            "rates": {"address": 0, "credentials": 0, "device": 0, "total": 0},
            "address_connection_limit": 0,
            **self._overrides,
        }
        settings = msgspec.convert(found, Settings)
        if not (directory / TRUST_NAME).exists():
            database = directory / "backend.sqlite"
            if not settings.database and not database.exists():
                database.write_bytes(empty_sqlite())
            install(
                settings,
                passphrase=self._passphrase,
                clock=self.clock,
                cost=CHEAP,
                policy=self._policy,
            )
        self._backend = open_backend(settings, passphrase=self._passphrase, clock=self.clock)
        self._stack.callback(self._backend.database.close)
        self._stack.callback(self._backend.courier.close)
        self._stack.callback(self._backend.waiters.close)
        self._stack.callback(self._backend.committer.close)
        self._stack.callback(self.go_away)
        self._serve(listener)

    def _serve(self, listener: socket.socket) -> None:
        self._server = make_server(self.backend, log_level="critical", shutdown_seconds=1)
        self._thread = threading.Thread(
            target=asyncio.run,
            args=(self._server.serve(sockets=[listener]),),
            name="hwtrust-backend",
            daemon=True,
        )
        self._thread.start()
        self._await_start(self._thread, self._server)

    def _await_start(self, thread: threading.Thread, server: uvicorn.Server) -> None:
        waited = threading.Event()
        for _ in range(_START_SECONDS * 100):
            if server.started:
                return
            if not thread.is_alive():
                break
            waited.wait(0.01)
        raise ConfigError("the backend did not start")

    def go_away(self) -> None:
        """Stop listening: devices find nobody. The services can still be called without HTTP."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=_START_SECONDS)

    def come_back(self) -> None:
        """Listen again, where it did before."""
        port = int(self.url.rpartition(":")[2])
        self._serve(self._stack.enter_context(tcp_socket(("127.0.0.1", port))))
        # Before the socket that it listens to is closed.
        self._stack.callback(self.go_away)
