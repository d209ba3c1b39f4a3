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
3. A database that was dropped serves again, under another name, where it could be made
   as the template is: emptying one costs a tenth of copying one. Where its schema or
   its settings differ, or where it has grown, it is gone.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS: Final = 60
TEMPLATE: Final = "hwtrust_template"
NEEDS_PASSWORD: Final = "needs_password"
"""A role that may only log in by its password."""

_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


_SHAPE: Final = """
    SELECT md5(string_agg(part, ';' ORDER BY part)) FROM (
        SELECT concat_ws(' ', c.relname, c.relkind, c.relacl, c.reloptions, a.attname, a.attnotnull,
            format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid)) AS part
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT concat_ws(' ', 'schema', nspname, nspacl) FROM pg_namespace
            WHERE nspname NOT LIKE 'pg_%'
        UNION ALL SELECT concat_ws(' ', datacl, datconnlimit) FROM pg_database
            WHERE datname = current_database()
        UNION ALL SELECT setconfig::text FROM pg_db_role_setting
            WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS parts
"""
"""What a database is but its rows: tables, indexes, constraints, rights and settings."""

_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_GROWN: Final = 4 * 2**20
"""Bytes above the template's: deleted rows stay in the files, and slow down whoever reads."""


@dataclass(frozen=True, slots=True)
class _Template:
    """A migrated database: its shape, and its rows by table."""

    shape: str
    size: int
    rows: dict[str, list[tuple[Any, ...]]]


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
        self._template: _Template | None = None
        self._spare: list[str] = []

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
        if self._template is None:
            self._template = self._make_template()
        if self._spare:
            return self.url(self._spare.pop())
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever still uses it."""
        name = _name_in(url)
        if self._template is not None and self._made_anew(name, self._template):
            # Under a new name: who still has the old one finds nothing there.
            spare = f"test_{next(self._numbers)}"
            self.execute(f"ALTER DATABASE {name} RENAME TO {spare}")
            self._spare.append(spare)
        else:
            self._remove(name)

    def save(self, url: str) -> str:
        """Copy a database that nobody uses at the moment; gives the copy's URL."""
        name = f"saved_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_name_in(url)}")
        return self.url(name)

    def restore(self, url: str, saved: str) -> None:
        """Put a copy in a database's place."""
        self._remove(_name_in(url))
        self.execute(f"ALTER DATABASE {_name_in(saved)} RENAME TO {_name_in(url)}")

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the administrator; gives its rows."""
        with self._connect(database) as connection:
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

    def _connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=str(self.directory), user="postgres", dbname=database, autocommit=True
        )

    def _make_template(self) -> _Template:
        # Not at the top: most tests that see this module need no backend.
        from hwtrust_backend.db import Database, migrate  # noqa: PLC0415

        self.execute(f"CREATE DATABASE {TEMPLATE}")
        database = Database(self.url(TEMPLATE))
        try:
            migrate(database)
        finally:
            database.close()
        with self._connect(TEMPLATE) as connection:
            tables = [table for (table,) in connection.execute(_TABLES).fetchall()]
            every = sql.SQL("SELECT * FROM {}")
            rows = {
                table: connection.execute(every.format(sql.Identifier(table))).fetchall()
                for table in tables
            }
            return _Template(_shape(connection), _size(connection), rows)

    def _made_anew(self, name: str, template: _Template) -> bool:
        """End every other use of a database and make its rows the template's, if it can be done."""
        try:
            connection = self._connect(name)
        except psycopg.OperationalError:
            return False  # there is none
        with connection:
            others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            connection.execute(
                f"{others} WHERE datname = current_database() AND pid <> pg_backend_pid()".encode()
            )
            alike = _shape(connection) == template.shape
            if not alike or _size(connection) > template.size + _GROWN:
                return False
            with connection.transaction():
                # No trigger and no foreign key: the order does not matter.
                connection.execute("SET LOCAL session_replication_role = replica")
                empty = sql.SQL("DELETE FROM {}")
                connection.execute(
                    sql.SQL(";").join(
                        empty.format(sql.Identifier(table)) for table in template.rows
                    )
                )
                for table, rows in template.rows.items():
                    _insert(connection, table, rows)
                connection.execute(
                    "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass,"
                    " start_value, false) FROM pg_sequences"
                )
        return True

    def _remove(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _shape(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
    return str(connection.execute(_SHAPE.encode()).fetchall()[0][0])


def _size(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    asked = connection.execute("SELECT pg_database_size(current_database())")
    return int(asked.fetchall()[0][0])


def _insert(
    connection: psycopg.Connection[tuple[Any, ...]], table: str, rows: list[tuple[Any, ...]]
) -> None:
    for row in rows:
        places = sql.SQL(",").join(sql.Placeholder() * len(row))
        statement = sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), places)
        connection.execute(statement, row)


def _name_in(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _found(name: str) -> str:
    path = program(name)
    if path is None:
        message = f"PostgreSQL is not installed: there is no {name}"
        raise FileNotFoundError(message)
    return path
