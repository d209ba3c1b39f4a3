"""The engine and the unit of work; all that is particular to SQLite is here.

Rules:
1. Services never commit. `transaction` commits when its block ends well and
   rolls back otherwise; what a decision changes and its audit record are one.
2. A write transaction on SQLite begins IMMEDIATE. A deferred one that reads and
   then writes can fail at once when another writer was faster; a busy timeout
   does not help it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from hwtrust.errors import DatabaseError

BUSY_TIMEOUT_MS: Final = 15_000

_READING: Final = "hwtrust_reading"


class Database:
    """One SQL database, and its units of work."""

    def __init__(self, url: str) -> None:
        """Prepare the engine; nothing is opened yet.

        Raises:
            DatabaseError: the URL is none, or its driver is not installed.
        """
        try:
            parsed = make_url(url)
            self.engine = create_engine(parsed, pool_pre_ping=True)
        except (ArgumentError, ImportError) as error:
            raise DatabaseError(f"the database URL cannot be used: {error}") from error
        if parsed.get_backend_name() == "sqlite":
            _prepare_sqlite(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work: everything in the block is committed, or nothing is.

        Raises:
            DatabaseError: the database is not there, locked, or full.
        """
        with _converted(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, and is rolled back."""
        with _converted(), self.engine.connect() as connection:
            quiet = connection.execution_options(**{_READING: True})
            with Session(quiet, expire_on_commit=False) as session:
                yield session

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise DatabaseError(f"the database cannot be used: {error.orig}") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"the database refused: {type(error).__name__}") from error


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
