"""Writing the audit trail: with the transaction, in line, and cheaply."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from hwtrust.errors import AuditStateError, AuditTileError, TokenError
from hwtrust_backend.audit import (
    AuditHead,
    AuditRecord,
    AuditTile,
    Event,
    consistency,
    page_of_records,
    proof_of,
    record,
    tiles,
    trail,
)
from hwtrust_backend.audit.merkle import root_of
from hwtrust_backend.audit.tiles import tree_of
from hwtrust_backend.enrolment import EnrolmentToken
from hwtrust_backend.enrolment.tokens import create_token
from simulators.audit_log import sign, statements, verify, write

if TYPE_CHECKING:
    from hwtrust_backend.db import Database


def reasons(database: Database) -> list[str]:
    """The reasons of all records, oldest first; the trail is whole."""
    verify(database)
    with database.reading() as session:
        rows = page_of_records(session, before=None, limit=1000)
        return [row.reason for row in reversed(rows)]


def note(session: Session, reason: str) -> None:
    """One record."""
    record(session, Event.TOKEN_CREATED, now=1, reason=reason)


# --- with the transaction ----------------------------------------------------------------


def test_a_record_holds_what_it_was_given(database: Database) -> None:
    """Time, event, device, actor, reason and evidence digest; numbers begin at 1."""
    with database.transaction() as session:
        record(
            session,
            Event.ROTATION_ASKED,
            now=7,
            device="000b",
            reason="why",
            evidence=bytes(range(32)),
            actor="cli:root",
        )
    with database.reading() as session:
        row = session.scalars(select(AuditRecord)).one()
        assert (row.sequence, row.at, row.event) == (1, 7, "admin:rotation:asked")
        assert (row.device, row.actor, row.reason) == ("000b", "cli:root", "why")
        assert row.evidence == bytes(range(32))


def test_records_of_a_transaction_keep_their_order(database: Database) -> None:
    """They are numbered as they were made, behind those of the transaction before."""
    write(database, 3)
    write(database, 2, first=4)
    assert reasons(database) == ["1", "2", "3", "4", "5"]


def test_the_work_and_its_record_are_rolled_back_together(database: Database) -> None:
    """No verdict without its record, no record of what never was (98)."""
    with pytest.raises(TokenError), database.transaction() as session:  # noqa: PT012
        note(session, "rolled back")
        raise TokenError("refused")
    assert reasons(database) == []


def test_work_whose_record_cannot_be_appended_is_rolled_back(database: Database) -> None:
    """Where the trail refuses, nothing is decided (98)."""
    with database.transaction() as session:
        session.execute(update(AuditHead).values(frontier=b"damaged"))
    with pytest.raises(AuditStateError) as caught, database.transaction() as session:
        create_token(session, label="", lifetime_ms=1, now=1)
    assert caught.value.code == "audit:state:changed"
    with database.transaction() as session:
        assert session.scalars(select(EnrolmentToken)).all() == []
        session.execute(delete(AuditHead))
    with pytest.raises(AuditStateError), database.transaction() as session:
        create_token(session, label="", lifetime_ms=1, now=1)
    with database.reading() as session:
        assert session.scalars(select(EnrolmentToken)).all() == []


def test_a_record_is_not_seen_before_the_commit(database: Database) -> None:
    """Not even by its own transaction."""
    with database.transaction() as session:
        note(session, "later")
        session.flush()
        assert page_of_records(session, before=None, limit=9) == []
    assert reasons(database) == ["later"]


def test_what_a_rolled_back_savepoint_recorded_is_not_appended(database: Database) -> None:
    """What is around it, and what other savepoints recorded, is."""
    with database.transaction() as session:
        note(session, "before")
        with session.begin_nested():
            note(session, "kept")
        undone = session.begin_nested()
        note(session, "undone")
        undone.rollback()
        note(session, "after")
    assert reasons(database) == ["before", "kept", "after"]


def test_a_savepoint_takes_those_within_it_along(database: Database) -> None:
    """A released savepoint is undone with the one around it."""
    with database.transaction() as session:
        outer = session.begin_nested()
        note(session, "outer")
        with session.begin_nested():
            note(session, "released within it")
        outer.rollback()
        with session.begin_nested():
            note(session, "another")
            with session.begin_nested():
                note(session, "deeper")
    assert reasons(database) == ["another", "deeper"]


def test_a_commit_over_open_savepoints_loses_no_record(database: Database) -> None:
    """Committing the outermost releases what is open within it, records included."""
    with Session(database.engine) as session:
        note(session, "outer")
        session.begin_nested()
        note(session, "open")
        session.begin_nested()
        note(session, "open within it")
        session.commit()
        note(session, "next transaction")
        session.commit()
        note(session, "never committed")
    assert reasons(database) == ["outer", "open", "open within it", "next transaction"]


def test_a_unit_of_work_that_leaves_savepoints_open_loses_no_record(database: Database) -> None:
    """The end of the block commits what is open within it, records included."""
    with database.transaction() as session:
        note(session, "outer")
        session.begin_nested()
        note(session, "open")
        session.begin_nested()
        note(session, "open within it")
    assert reasons(database) == ["outer", "open", "open within it"]


def test_a_session_that_is_rolled_back_forgets_its_records(database: Database) -> None:
    """The next transaction of the same session starts with none."""
    with Session(database.engine) as session:
        note(session, "rolled back")
        session.rollback()
        note(session, "kept")
        session.commit()
    assert reasons(database) == ["kept"]


def test_text_that_a_database_would_refuse_is_recorded_all_the_same(database: Database) -> None:
    """NUL, half a surrogate pair, and more than fits: a hostile name stops no record."""
    with database.transaction() as session:
        reason = "a\0b\ud800c" + "x" * 3000
        record(
            session, Event.TOKEN_CREATED, now=1, device="d" * 999, reason=reason, actor="a" * 999
        )
    verify(database)
    with database.reading() as session:
        row = page_of_records(session, before=None, limit=1)[0]
        assert row.reason.startswith("a\N{REPLACEMENT CHARACTER}b?c")
        assert (len(row.reason), len(row.device), len(row.actor)) == (2000, 140, 200)


# --- in line -----------------------------------------------------------------------------


def test_many_writers_make_one_log(database: Database) -> None:
    """Threads that commit at once, some of them in groups, leave no gap and no fork (96)."""
    failures: list[BaseException] = []

    def run(name: int) -> None:
        try:
            for turn in range(8):
                write(database, 1 + (turn % 3) * 20, device=str(name))
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    count = 5 * (3 + 3 * 21 + 2 * 41)
    assert verify(database).size == count
    with database.reading() as session:
        assert len(trail(session, "3", limit=1000)) == count // 5


# --- cheaply -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 100])
def test_appending_is_three_statements_however_many_records(database: Database, count: int) -> None:
    """Lock and read the head, insert all, move the head: as the last that a transaction does."""
    write(database, 1)
    with statements(database) as sent:
        write(database, count)
    wanted = ["SELECT audit_head", "INSERT INTO audit_records", "UPDATE audit_head"]
    found = [item for item in sent if "audit" in item]
    assert [item.split()[0] for item in found] == [item.split()[0] for item in wanted]
    assert sent[-3:] == found
    assert ("FOR UPDATE" in found[0]) == database.is_postgresql


def test_releasing_a_savepoint_appends_nothing_yet(database: Database) -> None:
    """A group of savepoints is one append at the end."""
    with statements(database) as sent, database.transaction() as session:
        for number in range(5):
            with session.begin_nested():
                note(session, str(number))
        assert [item for item in sent if "audit" in item] == []
    assert len([item for item in sent if "INSERT INTO audit_records" in item]) == 1


def test_a_proof_reads_tiles_and_the_newest_records_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the trail: a tile a level, and fewer than 256 hashes that are in none yet."""
    size = 256 * 256 + 2 * 256 + 40
    write(database, size)
    read_hashes, fetched = tiles._hashes, 0

    def counted(*arguments: Any) -> list[bytes]:  # noqa: ANN401 - as the function's own
        nonlocal fetched
        found = read_hashes(*arguments)
        fetched += len(found)
        return found

    monkeypatch.setattr(tiles, "_hashes", counted)
    with statements(database) as sent, database.reading() as session:
        for sequence in (1, 300, 65_536, 65_800, size):
            fetched = 0
            sent.clear()
            assert len(proof_of(session, sequence).hashes) <= 17
            assert len(sent) <= 8
            assert fetched <= 40 + 2 + 1
        for old in (1, 255, 40_000, size - 1):
            fetched = 0
            sent.clear()
            assert len(consistency(session, old).hashes) <= 18
            assert len(sent) <= 7
            assert fetched <= 40 + 2 + 1


def test_a_tile_is_written_once_when_it_is_full(database: Database) -> None:
    """256 leaves a tile, whatever the groups they come in; the roots make the next level."""
    for count in (1, 254, 2, 255, 600):
        write(database, count)
    with database.reading() as session:
        tiles = session.execute(
            select(AuditTile.level, AuditTile.number, AuditTile.hashes).order_by(AuditTile.number)
        ).all()
        leaves = session.scalars(select(AuditRecord.leaf).order_by(AuditRecord.sequence)).all()
        assert [(tile.level, tile.number) for tile in tiles] == [(0, n) for n in range(4)]
        assert b"".join(tile.hashes for tile in tiles) == b"".join(leaves[:1024])
        assert tree_of(session).root() == root_of(leaves)


def test_a_tile_is_not_made_of_records_that_are_missing(database: Database) -> None:
    """What was dropped is not papered over by the tile that it belongs to."""
    write(database, 255)
    with database.transaction() as session:
        session.execute(delete(AuditRecord).where(AuditRecord.sequence == 9))
    with pytest.raises(AuditTileError) as caught:
        write(database, 1)
    assert caught.value.code == "audit:tile:changed"


# --- reading -----------------------------------------------------------------------------


def test_pages_are_newest_first_and_narrowed_down(database: Database) -> None:
    """By device, event, actor and time; the next page begins behind the last number."""
    with database.transaction() as session:
        record(session, Event.TOKEN_CREATED, now=10, actor="token:ci")
        record(session, Event.TOKEN_REVOKED, now=20, actor="cli:root")
        record(session, Event.EK_ALLOWED, now=30, device="a")
        record(session, Event.EVIDENCE_ACCEPTED, now=40, device="b")

    def numbers(**narrowed: object) -> list[int]:
        with database.reading() as session:
            wanted = {"before": None, "limit": 9, **narrowed}
            return [row.sequence for row in page_of_records(session, **wanted)]  # type: ignore[arg-type]

    assert numbers() == [4, 3, 2, 1]
    assert numbers(limit=2) == [4, 3]
    assert numbers(before=3) == [2, 1]
    assert numbers(device="a") == [3]
    assert numbers(event="admin:token:created") == [1]
    assert numbers(event="admin:token:*") == [2, 1]
    assert numbers(event="admin:token:_reated") == []
    assert numbers(event="%") == []
    assert numbers(actor="token:ci") == [1]
    assert numbers(since=30) == [4, 3]
    with database.reading() as session:
        assert [row.sequence for row in trail(session, "b", limit=5)] == [4]


def test_a_head_that_is_signed_covers_what_is_committed(database: Database) -> None:
    """The head over the tree of all records."""
    write(database, 3)
    head = sign(database)
    with database.reading() as session:
        assert (head.size, head.root) == (3, tree_of(session).root())
    assert verify(database).signed == 3
