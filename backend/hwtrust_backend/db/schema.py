"""Bringing a database to this version's schema, with the migrations in this package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.exc import SQLAlchemyError

from hwtrust.errors import DatabaseError
from hwtrust_backend.db.engine import Database

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Apply what is missing, in one transaction.

    Raises:
        DatabaseError: the database cannot be used, or belongs to a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    try:
        with database.engine.begin() as connection:
            scripts = ScriptDirectory.from_config(config)
            known = {script.revision for script in scripts.walk_revisions()}
            current = MigrationContext.configure(connection).get_current_revision()
            if current is not None and current not in known:
                message = f"the database has the schema {current!r} of a newer hwtrust-backend"
                raise DatabaseError(message)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (SQLAlchemyError, CommandError) as error:
        raise DatabaseError(f"the database cannot be brought up to date: {error}") from error
