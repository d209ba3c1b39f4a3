"""The unit of work, the migrations and the releases."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from hwtrust.errors import (
    DatabaseError,
    MalformedError,
    ReleaseConflictError,
    ReleaseUnknownError,
    TokenError,
)
from hwtrust_backend import db
from hwtrust_backend.audit import Event, page_of_records, record
from hwtrust_backend.db import Base, Database, migrate
from hwtrust_backend.db.schema import revisions
from hwtrust_backend.references import (
    accept_release,
    add_release,
    current_release,
    decode_release,
    references,
    retire_release,
)
from simulators.attester import make_release

FIRST_ONLINE = "0003"
"""The schema from which on replicas are replaced while others serve."""


# --- schema and unit of work -------------------------------------------------------------


def test_migrations_give_exactly_what_the_models_say(database: Database) -> None:
    """Autogenerate finds nothing to do after the migrations."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def columns_at(database: Database, revision: str) -> dict[tuple[str, str], dict[str, object]]:
    """Every column of the schema at a revision, by its table and name."""
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    look = inspect(database.engine)
    return {
        (table, column["name"]): dict(column)
        for table in look.get_table_names()
        for column in look.get_columns(table)
    }


def test_migrations_take_nothing_away_from_replicas_of_the_version_before(tmp_path: Path) -> None:
    """Their reads find all columns, and their writes need not know the new ones."""
    database = Database(f"sqlite:///{tmp_path / 'old.sqlite'}")
    before = columns_at(database, FIRST_ONLINE)
    online = [revision for revision in revisions() if revision > FIRST_ONLINE]
    assert online
    for revision in online:
        after = columns_at(database, revision)
        old_tables = {table for table, _ in before}
        for key, column in before.items():
            assert str(after[key]["type"]) == str(column["type"]), (revision, key)
            assert after[key]["nullable"] or not column["nullable"], (revision, key)
        for key in after.keys() - before.keys():
            optional = after[key]["nullable"] or after[key]["default"] is not None
            assert key[0] not in old_tables or optional, (revision, key)
        before = after
    database.close()


def test_migrating_again_changes_nothing(database: Database) -> None:
    """What init and serve do at every start is harmless."""
    with database.transaction() as session:
        record(session, Event.RELEASE_ADDED, now=1)
    migrate(database)
    with database.reading() as session:
        assert len(page_of_records(session, before=None, limit=9)) == 1


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    """An old program does not work on a schema that it does not know."""
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError) as caught:
        migrate(database)
    assert caught.value.code == "database"


@pytest.mark.parametrize("url", ["nonsense", "nodriver://x", "sqlite:////nonexistent/dir/x"])
def test_a_database_that_cannot_be_used_is_a_database_error(url: str) -> None:
    """No exception of SQLAlchemy leaves the unit of work."""
    with pytest.raises(DatabaseError):
        migrate(Database(url))


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    """A decision and its record are one."""
    with pytest.raises(TokenError), database.transaction() as session:  # noqa: PT012
        record(session, Event.TOKEN_CREATED, now=1)
        raise TokenError("refused")
    with database.reading() as session:
        assert page_of_records(session, before=None, limit=9) == []


def test_a_reading_session_writes_nothing(database: Database) -> None:
    """What only reads is rolled back."""
    with database.reading() as session:
        record(session, Event.TOKEN_CREATED, now=1)
    with database.reading() as session:
        assert page_of_records(session, before=None, limit=9) == []


# --- releases ------------------------------------------------------------------------------


def test_a_release_is_added_then_accepted_then_retired(database: Database) -> None:
    """Only an accepted one is a reference; the one accepted last is current."""
    first, second = make_release("1.0"), make_release("2.0")
    with database.transaction() as session:
        add_release(session, first, now=1)
        assert references(session).accepted == frozenset()
        assert current_release(session) is None
        accept_release(session, "1.0", now=5)
        add_release(session, second, now=2)
        accept_release(session, "2.0", now=5)
        assert current_release(session) == second
        assert references(session).accepted == {"1.0", "2.0"}
        retire_release(session, "2.0", now=6)
        assert current_release(session) == first
        assert references(session).releases == {"1.0": first, "2.0": second}
        assert references(session).accepted == {"1.0"}


def test_a_release_never_changes(database: Database) -> None:
    """The same name with other layers is another release."""
    with database.transaction() as session:
        add_release(session, make_release("1.0"), now=1)
        add_release(session, make_release("1.0"), now=2)
        with pytest.raises(ReleaseConflictError):
            add_release(session, make_release("1.0", "other"), now=3)
        with pytest.raises(ReleaseUnknownError):
            accept_release(session, "9.9", now=3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"name": "1", "layers": []}',
        b'{"name": "1", "layers": [{"name": "a", "version": "1", "digest": "AAAA"}]}',
    ],
)
def test_a_file_that_is_no_release_is_malformed(content: bytes) -> None:
    """A release file is checked before it is stored."""
    with pytest.raises(MalformedError):
        decode_release(content)


def test_a_release_with_two_layers_of_a_name_is_malformed() -> None:
    """Findings name layers: names must be unique."""
    import msgspec  # noqa: PLC0415

    with pytest.raises(MalformedError):
        decode_release(msgspec.json.encode(make_release("1.0", "a", "a")))
