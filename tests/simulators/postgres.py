"""A PostgreSQL server of the test's own: on a Unix socket, in a temporary directory.

    with Postgres.start() as postgres:
        Database(postgres.create())        # a fresh database at this version's schema

PostgreSQL refuses to run as root: there it runs as the user postgres. Nothing of
it outlives the test process, not even one that is killed.

Rules:
1. By default nothing is flushed to the disk: tests are fast and a crash of the
   machine may cost the database. With `durable` it is as in production, for tests
   that kill the server.
2. The schema is migrated once, into a template; each database is a copy.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS: Final = 60
TEMPLATE: Final = "hwtrust_template"
NEEDS_PASSWORD: Final = "needs_password"
"""A role that may only log in by its password."""

_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: the newest version's, which Debian keeps off PATH."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = sorted(versions, key=lambda path: float(path.parts[4]))
    return str(newest[-1]) if newest else shutil.which(name)


class Postgres:
    """A server; `stop` or leave the `with` block to end it and remove its data."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self.durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._template_is_there = False

    @classmethod
    def start(cls, *, durable: bool = False) -> Self:
        """Make a cluster and start its server."""
        # A Unix socket's path has at most 107 bytes: not the test's own directory.
        made = cls(Path(tempfile.mkdtemp(prefix="pg-")), durable=durable)
        try:
            made._initialise()
            made.run()
        except BaseException:
            made.stop()
            raise
        return made

    def __enter__(self) -> Self:
        """The running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it, and remove its data."""
        self.stop()

    # --- databases ---------------------------------------------------------------

    def url(self, database: str, *, user: str = "postgres", password: str = "") -> str:
        """The URL of a database, for the backend's settings."""
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@/{database}?host={self.directory}"

    def create(self, *, migrated: bool = True) -> str:
        """Make a database, at this version's schema unless told otherwise; gives its URL."""
        name = f"test_{next(self._numbers)}"
        if not migrated:
            self.execute(f"CREATE DATABASE {name}")
            return self.url(name)
        if not self._template_is_there:
            self._make_template()
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever still uses it."""
        self.execute(f"DROP DATABASE IF EXISTS {_name_in(url)} WITH (FORCE)")

    def save(self, url: str) -> str:
        """Copy a database that nobody uses at the moment; gives the copy's URL."""
        name = f"saved_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_name_in(url)}")
        return self.url(name)

    def restore(self, url: str, saved: str) -> None:
        """Put a copy in a database's place."""
        self.drop(url)
        self.execute(f"ALTER DATABASE {_name_in(saved)} RENAME TO {_name_in(url)}")

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the administrator; gives its rows."""
        with psycopg.connect(
            host=str(self.directory), user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    # --- the server --------------------------------------------------------------

    def run(self) -> None:
        """Start the server, and return once it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "deadlock_timeout": "100ms",
            **(_DURABLE if self.durable else _FAST),
        }
        arguments = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        # Whatever ends this process ends the server: SIGQUIT is its immediate shutdown.
        command = ["setpriv", "--pdeathsig", "QUIT", _found("postgres"), "-D", self._data]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *arguments], stdout=log, stderr=log, **self._as_user()
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                signal.sigtimedwait([], 0.02)
            else:
                return
        raise AssertionError((self.directory / "log").read_text())

    def kill(self) -> None:
        """End every process of the server at once, as kill -9 or a power cut would."""
        process = self._running()
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        children = [int(child) for child in listed.split()]
        process.kill()
        process.wait()
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it noticed first
        # The shared memory of a killed server keeps a new one out while a process holds it.
        for child in children:
            while Path("/proc", str(child)).exists():
                signal.sigtimedwait([], 0.01)

    def restart(self) -> None:
        """Stop as an administrator would who waits for nobody, and start again."""
        process = self._running()
        process.send_signal(signal.SIGINT)
        process.wait(START_SECONDS)
        self.run()

    def stop(self) -> None:
        """Stop at once and remove the data."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError("the server was never started")
        return self._process

    def _initialise(self) -> None:
        options = self._as_user()
        if "user" in options:
            os.chown(self.directory, options["user"], options["group"])
        command = [_found("initdb"), "-D", self._data, "-A", "trust", "-U", "postgres"]
        subprocess.run(
            [*command, "-N", "--no-locale", "-E", "UTF8"],
            check=True,
            stdout=subprocess.DEVNULL,
            **options,
        )
        rules = self.directory / "data" / "pg_hba.conf"
        first = f"local all {NEEDS_PASSWORD} scram-sha-256\n"
        rules.write_text(first + rules.read_text())

    def _as_user(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.directory}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            options["env"] = {"PATH": "/usr/bin:/bin", "HOME": str(self.directory)}
        return options

    def _make_template(self) -> None:
        # Not at the top: most tests that see this module need no backend.
        from hwtrust_backend.db import Database, migrate  # noqa: PLC0415

        self.execute(f"CREATE DATABASE {TEMPLATE}")
        database = Database(self.url(TEMPLATE))
        try:
            migrate(database)
        finally:
            database.close()
        self._template_is_there = True


def _name_in(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _found(name: str) -> str:
    path = program(name)
    if path is None:
        message = f"PostgreSQL is not installed: there is no {name}"
        raise FileNotFoundError(message)
    return path
