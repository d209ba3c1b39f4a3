"""The engine and the unit of work; all that is particular to one kind of database is here.

Rules:
1. Services never commit. `transaction` commits when its block ends well and
   rolls back otherwise; what a decision changes and its audit record are one.
2. What is committed is on the disk: SQLite runs with synchronous = FULL, and where
   PostgreSQL's synchronous_commit is off it is on for us.
3. A write transaction on SQLite begins IMMEDIATE. A deferred one that reads and
   then writes can fail at once when another writer was faster; a busy timeout
   does not help it.
4. PostgreSQL runs READ COMMITTED, and who decides on a row locks it. No statement,
   no wait for a lock and no idle transaction lasts for ever.
5. A transaction that PostgreSQL gave up for another's sake (a deadlock, a row of
   that key that another one was faster to add) has changed nothing: `run` does it
   again, and it sees what the other did. One whose commit was not answered is never
   repeated: it may have happened.
6. The URL may hold a password. No error, repr or log of ours does. It may as well
   be in the file that PGPASSFILE or the URL's `passfile` names (libpq, "The
   Password File"), which can be a systemd credential.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from hwtrust.errors import DatabaseError

BUSY_TIMEOUT_MS: Final = 15_000
"""How long a transaction waits for another: SQLite's writer, PostgreSQL's lock."""
STATEMENT_TIMEOUT_MS: Final = 30_000
IDLE_TIMEOUT_MS: Final = 60_000
"""After this, PostgreSQL ends a transaction in which nothing happens."""
CONNECT_SECONDS: Final = 10
POOL_SIZE: Final = 5
POOL_OVERFLOW: Final = 15
"""Connections of one process: so many are kept, and so many more opened under load."""
ATTEMPTS: Final = 5

_READING: Final = "hwtrust_reading"
_DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_GIVEN_UP: Final = frozenset({"40001", "40P01", "23505"})
"""serialization_failure, deadlock_detected, unique_violation (PostgreSQL, appendix A)."""
_OF_ONE: Final = _GIVEN_UP | {"55P03", "57014"}
"""Also lock_not_available and query_canceled: what one statement waited for, and no more."""

_DURABLE: Final = """
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'
"""

Answer = TypeVar("Answer")


class Database:
    """One SQL database, and its units of work."""

    def __init__(self, url: str) -> None:
        """Prepare the engine; nothing is opened yet.

        Raises:
            DatabaseError: the URL is none, of another kind of database, or the
                driver is not installed.
        """
        parsed = _parsed(url)
        self.is_postgresql = parsed.get_backend_name() == "postgresql"
        options = _postgresql_options(parsed) if self.is_postgresql else {}
        try:
            self.engine = create_engine(parsed, hide_parameters=True, **options)
        except ImportError as error:
            message = "the driver of PostgreSQL is not installed: hwtrust-backend[postgresql]"
            raise DatabaseError(message) from error
        prepare = _prepare_postgresql if self.is_postgresql else _prepare_sqlite
        prepare(self.engine)

    @property
    def shown_url(self) -> str:
        """The URL for people: without the password."""
        return self.engine.url.render_as_string(hide_password=True)

    def __repr__(self) -> str:
        return f"Database({self.shown_url!r})"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work: everything in the block is committed, or nothing is.

        Raises:
            DatabaseError: the database is not there, locked, or full.
        """
        with (
            self._converted(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, and is rolled back.

        Raises:
            DatabaseError: the database is not there.
        """
        with self._converted(), self.engine.connect() as connection:
            quiet = connection.execution_options(**{_READING: True})
            with Session(quiet, expire_on_commit=False) as session:
                yield session

    def run(self, work: Callable[[Session], Answer]) -> Answer:
        """Do `work` in a transaction, again where PostgreSQL gave it up (rule 5).

        `work` changes nothing but what its session holds.

        Raises:
            DatabaseError: as `transaction`, or given up every time.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                with self.transaction() as session:
                    return work(session)
            except DatabaseError as error:
                if not _was_given_up(error):
                    raise
        with self.transaction() as session:
            return work(session)

    def is_down(self, error: DatabaseError) -> bool:
        """Whether an error of this database concerns all of it, and not one statement's data."""
        cause = error.__cause__
        if isinstance(cause, OperationalError):
            return getattr(cause.orig, "sqlstate", None) not in _OF_ONE
        return isinstance(cause, PoolTimeoutError)

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()

    @contextmanager
    def _converted(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeoutError as error:
            raise DatabaseError("every connection to the database is in use") from error
        except (OperationalError, InternalError) as error:
            # SQLite does not say which file it is about.
            name = "" if self.is_postgresql else f" {self.engine.url.database}"
            message = f"the database{name} cannot be used: {self._told(error)}"
            raise DatabaseError(message) from error
        except SQLAlchemyError as error:
            raise DatabaseError(f"the database refused: {type(error).__name__}") from error

    def _told(self, error: DBAPIError) -> str:
        """What the driver says, in one line, without the password."""
        told = str(error.orig).strip().partition("\n")[0]
        password = self.engine.url.password
        return told.replace(str(password), "***") if password else told


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        return parsed.set(drivername=_DRIVERS[parsed.drivername])
    except (ArgumentError, ValueError, KeyError):
        # Without the cause: what it quotes may be a password.
        message = "the database is sqlite:////PATH or postgresql://USER@HOST/NAME"
        raise DatabaseError(message) from None


def _postgresql_options(url: URL) -> dict[str, Any]:
    session = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "lock_timeout": BUSY_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS,
        "default_transaction_isolation": r"read\ committed",
    }
    settings = [f"-c {name}={value}" for name, value in session.items()]
    given = url.query.get("options", "")
    # What the URL says comes later, so that it decides.
    settings += [given] if isinstance(given, str) else given
    return {
        "pool_pre_ping": True,
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_OVERFLOW,
        "pool_timeout": CONNECT_SECONDS,
        "connect_args": {
            "options": " ".join(filter(None, settings)),
            "connect_timeout": CONNECT_SECONDS,
            # A server that vanished without a word is noticed within half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "application_name": "hwtrust-backend",
        },
    }


def _prepare_postgresql(engine: Engine) -> None:
    from psycopg import ServerCursor  # noqa: PLC0415 - only where there is a PostgreSQL

    class TransactionCursor(ServerCursor[Any]):
        """A cursor that may be left open: the end of its transaction closes it."""

        def __del__(self, _: object = None, /) -> None:
            pass

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: ConnectionPoolEntry) -> None:  # noqa: ANN401 - psycopg's
        connection.server_cursor_factory = TransactionCursor
        connection.execute(_DURABLE)
        connection.commit()


def _was_given_up(error: DatabaseError) -> bool:
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    return getattr(cause.orig, "sqlstate", None) in _GIVEN_UP


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # The driver's own BEGIN comes too late and is never IMMEDIATE.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout = {BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options: dict[str, Any] = dict(connection.get_execution_options())
        connection.exec_driver_sql("BEGIN" if options.get(_READING) else "BEGIN IMMEDIATE")
