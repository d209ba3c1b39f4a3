"""Hearing in one process of what another has committed.

    notify(session, "channel", "text")          # told once the transaction commits
    with watching(database, "channel") as watch:
        while …:
            watch.heard(seconds)                # what was told since, or that one has to look

PostgreSQL tells by LISTEN and NOTIFY. SQLite tells nobody anything; but it says
by `PRAGMA data_version`, at next to no cost, whether anybody has committed.

Rules:
1. A watch takes a connection of its own, outside the pool.
2. What was told before a watch began is not heard: begin it first, then look.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError
from hwtrust_backend.db.engine import Database


class Watch(Protocol):
    """Hears what is told on one channel."""

    def heard(self, seconds: float) -> tuple[str, ...] | None:
        """What was told within so many seconds; None: something was committed, one has to look.

        Raises:
            DatabaseError: the connection is gone.
        """
        ...


def notify(session: Session, channel: str, text: str) -> None:
    """Tell whoever watches the channel; without PostgreSQL they look by themselves."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_notify(channel, text)))


@contextmanager
def watching(database: Database, channel: str) -> Iterator[Watch]:
    """A watch on a channel, from now on.

    Raises:
        DatabaseError: the database is not there.
    """
    try:
        pooled = database.engine.raw_connection()
    except SQLAlchemyError as error:
        raise DatabaseError(f"the database cannot be watched: {type(error).__name__}") from error
    connection: Any = pooled.driver_connection
    pooled.detach()
    try:
        if database.is_postgresql:
            yield _PostgresWatch(connection, channel)
        else:
            yield _SqliteWatch(connection)
    finally:
        connection.close()


class _PostgresWatch:
    def __init__(self, connection: Any, channel: str) -> None:  # noqa: ANN401 - psycopg's
        from psycopg import sql  # noqa: PLC0415 - only where there is a PostgreSQL

        self._connection = connection
        with _converted():
            connection.autocommit = True
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def heard(self, seconds: float) -> tuple[str, ...] | None:
        with _converted():
            told = self._connection.notifies(timeout=seconds, stop_after=1)
            return tuple(notice.payload for notice in told)


class _SqliteWatch:
    _INTERVAL: Final = 0.2
    """Seconds between two looks."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._pause = threading.Event()
        self._version = self._read()

    def heard(self, seconds: float) -> tuple[str, ...] | None:
        left = seconds
        while True:
            version = self._read()
            if version != self._version:
                self._version = version
                return None
            if left <= 0:
                return ()
            self._pause.wait(min(self._INTERVAL, left))
            left -= self._INTERVAL

    def _read(self) -> int:
        with _converted():
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(version)


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Both drivers have an error tree of their own, and neither is loaded for sure.
        raise DatabaseError(f"the database tells nothing: {type(error).__name__}") from error
