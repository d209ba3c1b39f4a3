"""The unit of work, the migrations, the audit chain and the releases."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text, update

from hwtrust.errors import (
    AuditError,
    DatabaseError,
    MalformedError,
    ReleaseConflictError,
    ReleaseUnknownError,
    TokenError,
)
from hwtrust_backend.audit import AuditHead, AuditRecord, Event, check_chain, record, trail
from hwtrust_backend.audit import service as audit_service
from hwtrust_backend.db import Base, Database, migrate
from hwtrust_backend.references import (
    accept_release,
    accepted_release,
    add_release,
    current_release,
    decode_release,
    references,
    retire_release,
)
from simulators.attester import make_release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database at this version's schema."""
    made = Database(f"sqlite:///{tmp_path / 'test.sqlite'}")
    migrate(made)
    yield made
    made.close()


# --- schema and unit of work -------------------------------------------------------------


def test_migrations_give_exactly_what_the_models_say(database: Database) -> None:
    """Autogenerate finds nothing to do after the migrations."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    """What init and serve do at every start is harmless."""
    with database.transaction() as session:
        record(session, Event.RELEASE_ADDED, now=1)
    migrate(database)
    with database.reading() as session:
        assert check_chain(session) == 1


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
        assert check_chain(session) == 0


def test_a_reading_session_writes_nothing(database: Database) -> None:
    """What only reads is rolled back."""
    with database.reading() as session:
        record(session, Event.TOKEN_CREATED, now=1)
    with database.reading() as session:
        assert check_chain(session) == 0


# --- the audit chain ---------------------------------------------------------------------


def write_three(database: Database) -> None:
    """Three records."""
    for number in range(3):
        with database.transaction() as session:
            record(session, Event.EVIDENCE_ACCEPTED, now=number, device="d", reason=str(number))


def test_the_trail_of_a_device_is_newest_first(database: Database) -> None:
    """What happened last is read first."""
    write_three(database)
    with database.reading() as session:
        assert [row.reason for row in trail(session, "d", limit=2)] == ["2", "1"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_records SET reason = 'x' WHERE sequence = 2",
        "UPDATE audit_records SET device = 'x' WHERE sequence = 3",
        "UPDATE audit_records SET at = 77 WHERE sequence = 1",
        "DELETE FROM audit_records WHERE sequence = 2",
        "DELETE FROM audit_records WHERE sequence = 3",
        "DELETE FROM audit_records WHERE sequence = 1",
        "UPDATE audit_records SET sequence = 4 WHERE sequence = 3",
        "UPDATE audit_head SET sequence = 2",
    ],
)
def test_an_edited_or_dropped_record_breaks_the_chain(database: Database, statement: str) -> None:
    """Whatever is changed in the trail is noticed (99)."""
    write_three(database)
    with database.transaction() as session:
        session.execute(text(statement))
    with database.reading() as session, pytest.raises(AuditError) as caught:
        check_chain(session)
    assert caught.value.code == "audit:chain:broken"


def test_reordered_records_break_the_chain(database: Database) -> None:
    """Two records with their numbers swapped (99)."""
    write_three(database)
    with database.transaction() as session:
        for old, new in ((1, 9), (2, 1), (9, 2)):
            statement = update(AuditRecord).where(AuditRecord.sequence == old)
            session.execute(statement.values(sequence=new))
    with database.reading() as session, pytest.raises(AuditError):
        check_chain(session)


def forge(session: Session, sequence: int, **changes: object) -> bytes:
    """Change a record and recalculate its digest, as whoever writes the database can."""
    row = session.get_one(AuditRecord, sequence)
    for name, value in changes.items():
        setattr(row, name, value)
    row.digest = audit_service._digest(row)
    session.flush()
    return row.digest


def test_a_forged_record_no_longer_fits_its_successor(database: Database) -> None:
    """Recalculating one digest is not enough: the next record holds the old one (99)."""
    write_three(database)
    with database.transaction() as session:
        forge(session, 1, reason="forged")
    with database.reading() as session, pytest.raises(AuditError):
        check_chain(session)


def test_a_dropped_record_leaves_a_gap_in_the_numbers(database: Database) -> None:
    """Relinking the neighbours hides no drop: the numbers must be in a row (99)."""
    write_three(database)
    with database.transaction() as session:
        first = session.get_one(AuditRecord, 1)
        session.delete(session.get_one(AuditRecord, 2))
        digest = forge(session, 3, previous=first.digest)
        session.execute(update(AuditHead).values(sequence=2, digest=digest))
    with database.reading() as session, pytest.raises(AuditError):
        check_chain(session)


def test_many_writers_make_one_chain(database: Database) -> None:
    """Threads that record at once get numbers in a row."""

    def write() -> None:
        for _ in range(10):
            with database.transaction() as session:
                record(session, Event.EVIDENCE_ACCEPTED, now=1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert check_chain(session) == 40


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
        with pytest.raises(ReleaseUnknownError):
            accepted_release(session, "2.0")
        assert accepted_release(session, "1.0") == first


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
