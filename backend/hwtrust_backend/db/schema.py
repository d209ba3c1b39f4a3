"""Bringing a database to this version's schema, with the migrations in this package.

Rules:
1. A migration runs in one transaction: it is done or it never began.
2. Of several replicas that start at once one migrates and the others wait for it:
   on SQLite for its writer, on PostgreSQL for an advisory lock.
3. A schema that is up to date costs one SELECT; nothing is locked or loaded.
4. A migration is the module `vNUMBER_….py`, and NUMBER is its revision.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from hwtrust.errors import DatabaseError
from hwtrust_backend.db.engine import Database

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6877_7472_7573_7401
"""The advisory lock of whoever migrates; any number that nobody else uses."""


@cache
def revisions() -> tuple[str, ...]:
    """The schemas that this version knows, oldest first; the last one is its own."""
    modules = (_MIGRATIONS / "versions").glob("v[0-9]*_*.py")
    return tuple(sorted(module.name[1:].partition("_")[0] for module in modules))


def migrate(database: Database) -> None:
    """Apply what is missing, in one transaction.

    Raises:
        DatabaseError: the database cannot be used, or belongs to a newer version.
    """
    if _is_current(database):
        return
    # Alembic takes longer to load than most commands run, and is rarely needed.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    try:
        with database.transaction() as session:
            connection = session.connection()
            if database.is_postgresql:
                _stand_in_line(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseError(f"the database cannot be brought up to date: {error}") from error


def _is_current(database: Database) -> bool:
    try:
        with database.engine.connect() as connection:
            quiet = connection.execution_options(hwtrust_reading=True)
            current = quiet.scalar(text("SELECT version_num FROM alembic_version"))
    except (OperationalError, ProgrammingError):
        # No table yet; or no database, which the migration itself will say.
        return False
    except SQLAlchemyError as error:
        message = f"the database's schema cannot be read: {type(error).__name__}"
        raise DatabaseError(message) from error
    if current is not None and current not in revisions():
        message = f"the database has the schema {current!r} of a newer hwtrust-backend"
        raise DatabaseError(message)
    return bool(current == revisions()[-1])


def _stand_in_line(connection: Connection) -> None:
    """Wait for another replica's migration, and take the time that one's own needs."""
    for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(text(f"SET LOCAL {name} = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
