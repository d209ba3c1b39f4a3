"""Whatever is changed in the audit trail is found, by the number of its record (99)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy import event as sqlalchemy_event

from hwtrust.errors import AuditError, AuditHeadForgedError, AuditProofError
from hwtrust.wire.envelope import Envelope, seal
from hwtrust_backend.app.background import TASKS
from hwtrust_backend.audit import (
    AuditHead,
    AuditRecord,
    AuditSignedHead,
    AuditTile,
    Event,
    TreeHead,
    check_proof,
    decode_head,
    entry_of,
    envelope_of,
    newest_head,
    open_head,
    proof_of,
    record,
    sign_head,
    verify_log,
)
from hwtrust_backend.audit.entries import hash_of
from hwtrust_backend.audit.merkle import EMPTY_ROOT, Frontier
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.keys.signing import SoftwareSigner
from simulators.audit_log import KEY, ORIGIN, SIGNER, keep, sign, statements, verify, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend

SIZE = 600
"""Two full tiles, and more."""
SIGNED = 300


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with a trail; the tree of its first half is signed."""
    made = Database(database_url)
    migrate(made)
    write(made, SIGNED)
    sign(made)
    write(made, SIZE - SIGNED, first=SIGNED + 1)
    yield made
    made.close()


def found(database: Database, *kept: Envelope) -> tuple[str, object]:
    """The code and the record of what verification finds."""
    with pytest.raises(AuditError) as caught:
        verify(database, kept)
    return caught.value.code, caught.value.data.get("record")


def change(database: Database, statement: str) -> None:
    """What somebody with the database's password can do."""
    with database.transaction() as session:
        session.execute(text(statement))


def test_a_trail_that_nobody_changed_is_whole(database: Database) -> None:
    """Size, root and signed heads are told."""
    report = verify(database)
    assert (report.size, report.heads, report.signed) == (SIZE, 1, SIGNED)
    with database.reading() as session:
        leaves = session.scalars(select(AuditRecord.leaf).order_by(AuditRecord.sequence))
        tree = Frontier()
        for leaf in leaves:
            tree.append(leaf)
    assert report.root == tree.root()


def test_an_empty_trail_is_whole(database_url: str) -> None:
    """Nothing happened yet, and nothing can be signed."""
    database = Database(database_url)
    migrate(database)
    report = verify(database)
    with database.transaction() as session:
        assert sign_head(session, SIGNER, origin=ORIGIN, now=1) is None
    database.close()
    assert (report.size, report.root, report.heads) == (0, EMPTY_ROOT, 0)


# --- changed without knowing how ---------------------------------------------------------

CHANGED = {
    "a reason is edited": (
        "UPDATE audit_records SET reason = 'x' WHERE sequence = 2",
        ("audit:record:changed", 2),
    ),
    "a device is edited": (
        "UPDATE audit_records SET device = 'x' WHERE sequence = 300",
        ("audit:record:changed", 300),
    ),
    "an event is edited": (
        "UPDATE audit_records SET event = 'x' WHERE sequence = 599",
        ("audit:record:changed", 599),
    ),
    "an actor is edited": (
        "UPDATE audit_records SET actor = 'x' WHERE sequence = 600",
        ("audit:record:changed", 600),
    ),
    "a time is edited": (
        "UPDATE audit_records SET at = 77 WHERE sequence = 1",
        ("audit:record:changed", 1),
    ),
    "a time is put before all time": (
        "UPDATE audit_records SET at = -1 WHERE sequence = 1",
        ("audit:record:changed", 1),
    ),
    "text moves from one field to the next": (
        "UPDATE audit_records SET device = '', actor = device WHERE sequence = 5",
        ("audit:record:changed", 5),
    ),
    "an evidence digest is taken away": (
        "UPDATE audit_records SET evidence = CAST('x' AS BLOB) WHERE sequence = 4",
        ("audit:record:changed", 4),
    ),
    "a leaf hash is altered": (
        "UPDATE audit_records SET leaf = evidence WHERE sequence = 256",
        ("audit:record:changed", 256),
    ),
    "the first record is dropped": (
        "DELETE FROM audit_records WHERE sequence = 1",
        ("audit:record:missing", 1),
    ),
    "one in the middle is dropped": (
        "DELETE FROM audit_records WHERE sequence = 257",
        ("audit:record:missing", 257),
    ),
    "the last is dropped": (
        "DELETE FROM audit_records WHERE sequence = 600",
        ("audit:record:missing", 600),
    ),
    "the tail is cut off": (
        "DELETE FROM audit_records WHERE sequence > 500",
        ("audit:record:missing", 501),
    ),
    "all are dropped": ("DELETE FROM audit_records", ("audit:record:missing", 1)),
    "the last moves behind the end": (
        "UPDATE audit_records SET sequence = 700 WHERE sequence = 600",
        ("audit:record:missing", 600),
    ),
    "one moves before the first": (
        "UPDATE audit_records SET sequence = 0 WHERE sequence = 3",
        ("audit:record:surplus", 0),
    ),
    "a tile is dropped": (
        "DELETE FROM audit_tiles WHERE number = 1",
        ("audit:tile:changed", 257),
    ),
    "a tile's root is altered": (
        "UPDATE audit_tiles SET root = substr(hashes, 1, 32) WHERE number = 0",
        ("audit:tile:changed", 1),
    ),
    "tiles are moved": (
        "UPDATE audit_tiles SET number = 1 - number + 100",
        ("audit:tile:changed", 1),
    ),
    "the head's size is put back": (
        "UPDATE audit_head SET size = 599",
        ("audit:state:changed", None),
    ),
    "the head's frontier is taken away": (
        "UPDATE audit_head SET frontier = (SELECT leaf FROM audit_records WHERE sequence = 1)",
        ("audit:state:changed", None),
    ),
    "the head is dropped": ("DELETE FROM audit_head", ("audit:state:changed", None)),
    "a signed head names another root": (
        "UPDATE audit_heads SET root = (SELECT leaf FROM audit_records WHERE sequence = 1)",
        ("audit:head:forged", 300),
    ),
    "a signed head names another time": (
        "UPDATE audit_heads SET utc_ms = 5",
        ("audit:head:forged", 300),
    ),
    "a signed head names another size": (
        "UPDATE audit_heads SET size = 5",
        ("audit:head:forged", 5),
    ),
    "a signed head names a size that never was": (
        "UPDATE audit_heads SET size = 700",
        ("audit:head:forged", 700),
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_change_is_found_by_its_number(database: Database, case: str) -> None:
    """Records edited, dropped, moved; tiles, frontier and signed heads altered (99)."""
    statement, wanted = CHANGED[case]
    if database.is_postgresql:
        statement = statement.replace("CAST('x' AS BLOB)", "'x'::bytea")
    change(database, statement)
    assert found(database) == wanted


OF_ANOTHER_TYPE = {
    "bytes where text belongs": ("reason = x'00'", "audit:record:changed"),
    "a number where text belongs": ("actor = 5", "audit:record:changed"),
    "text where bytes belong": ("evidence = 'x'", "audit:record:changed"),
    "text where a number belongs": ("at = 'soon'", "audit:record:changed"),
    "a fraction where a number belongs": ("at = at + 0.5", "audit:record:changed"),
    "text for the size": ("size = 'x'", "audit:state:changed"),
    "a fraction for the size": ("size = size + 0.5", "audit:state:changed"),
    "a number for the frontier": (f"frontier = {2**40}", "audit:state:changed"),
    "text for the frontier": (f"frontier = '{'x' * 128}'", "audit:state:changed"),
}


@pytest.mark.parametrize("case", OF_ANOTHER_TYPE)
def test_a_value_of_another_type_is_a_change_too(tmp_path: Path, case: str) -> None:
    """SQLite keeps whatever somebody writes by hand: that is found, and breaks nothing."""
    database = Database(f"sqlite:///{tmp_path / 'trail.sqlite'}")
    migrate(database)
    write(database, 15)
    assignment, code = OF_ANOTHER_TYPE[case]
    table = "audit_records" if code.startswith("audit:record") else "audit_head"
    key = "sequence = 7" if table == "audit_records" else "id = 1"
    change(database, f"UPDATE {table} SET {assignment} WHERE {key}")  # noqa: S608 - the table above
    assert found(database)[0] == code
    database.close()


@pytest.mark.parametrize(
    ("assignment", "table", "code"),
    [
        ("hashes = 5", "audit_tiles", "audit:tile:changed"),
        ("hashes = 'text'", "audit_tiles", "audit:tile:changed"),
        ("envelope = 5", "audit_heads", "audit:head:forged"),
    ],
)
def test_a_tile_or_a_head_of_another_type_is_a_change_too(
    tmp_path: Path, assignment: str, table: str, code: str
) -> None:
    """What nobody here has written is told from what was."""
    database = Database(f"sqlite:///{tmp_path / 'trail.sqlite'}")
    migrate(database)
    write(database, 300)
    sign(database)
    change(database, f"UPDATE {table} SET {assignment}")  # noqa: S608 - the cases above
    assert found(database)[0] == code
    database.close()


@pytest.mark.parametrize("pair", [(1, 2), (256, 257), (598, 600)])
def test_reordered_records_are_found(database: Database, pair: tuple[int, int]) -> None:
    """Two records with their numbers exchanged, leaf hashes and all (99)."""
    with database.transaction() as session:
        for old, new in ((pair[0], 900), (pair[1], pair[0]), (900, pair[1])):
            statement = update(AuditRecord).where(AuditRecord.sequence == old)
            session.execute(statement.values(sequence=new))
    assert found(database) == ("audit:record:changed", pair[0])


def test_a_record_behind_the_end_was_never_appended(database: Database) -> None:
    """Putting one into the table is not enough (99)."""
    with database.transaction() as session:
        insert_record(session, SIZE + 1)
    assert found(database) == ("audit:record:surplus", SIZE + 1)


@pytest.mark.parametrize(("level", "number"), [(0, 2), (0, -1), (1, 0), (7, 0), (-1, 0)])
def test_a_tile_that_no_records_fill_is_found(database: Database, level: int, number: int) -> None:
    """A proof would believe it later."""
    row = {"level": level, "number": number, "hashes": bytes(8192), "root": bytes(32)}
    with database.transaction() as session:
        session.execute(insert(AuditTile), [row])
    assert found(database)[0] == "audit:tile:changed"


@pytest.mark.parametrize("length", [0, 32, 8191, 8192])
def test_an_altered_tile_is_told_from_an_altered_record(database: Database, length: int) -> None:
    """Its root no longer fits it; the record that a hash of it stands for is named."""
    with database.transaction() as session:
        tile = session.get_one(AuditTile, (0, 1))
        altered = bytearray(tile.hashes)
        altered[32 * 3] ^= 1
        tile.hashes = bytes(altered[:length])
    assert found(database) == ("audit:tile:changed", 260 if length > 4 * 32 else 257)


# --- changed by somebody who knows how ---------------------------------------------------


def insert_record(session: Session, sequence: int) -> None:
    """A record with the right leaf hash, past the log."""
    texts = {"event": "x", "device": "", "actor": "", "reason": ""}
    leaf = hash_of(sequence, at=1, evidence=b"", **texts)
    row = {"sequence": sequence, "at": 1, "evidence": b"", "leaf": leaf, **texts}
    session.execute(insert(AuditRecord), [row])


def forge(database: Database, sequence: int) -> None:
    """Edit a record, and calculate its leaf hash anew."""
    with database.transaction() as session:
        row = session.get_one(AuditRecord, sequence)
        row.reason = "forged"
        row.leaf = entry_of(row).leaf()


def rewrite(database: Database, keep_record: Callable[[AuditRecord], bool]) -> None:
    """Write the trail anew without some records: numbers, hashes, tiles and frontier fit."""
    with database.transaction() as session:
        rows = session.scalars(select(AuditRecord).order_by(AuditRecord.sequence)).all()
        kept = [(row.at, row.device, row.reason) for row in rows if keep_record(row)]
        session.expunge_all()
        for table in (AuditRecord, AuditTile):
            session.execute(delete(table))
        session.execute(update(AuditHead).values(size=0, frontier=b""))
    with database.transaction() as session:
        for at, device, reason in kept:
            record(session, Event.EVIDENCE_ACCEPTED, now=at, device=device, reason=reason)


def test_a_record_with_a_forged_hash_does_not_fit_its_tile(database: Database) -> None:
    """The tile still has the hash that the record had (99)."""
    forge(database, 400)
    assert found(database) == ("audit:record:changed", 400)


def test_a_record_with_a_forged_hash_does_not_fit_the_frontier(database: Database) -> None:
    """Also where no tile holds it yet (99)."""
    forge(database, 599)
    assert found(database) == ("audit:state:changed", SIZE)


@pytest.mark.parametrize("dropped", [1, 150, 300])
def test_a_trail_written_anew_does_not_fit_its_signed_head(
    database: Database, dropped: int
) -> None:
    """A record that was signed is dropped, and all calculated anew: the consistency fails (99)."""
    rewrite(database, lambda row: row.sequence != dropped)
    assert found(database) == ("audit:head:inconsistent", 1)
    with database.reading() as session, pytest.raises(AuditError) as caught:
        sign_head(session, SIGNER, origin=ORIGIN, now=2)
    assert caught.value.code == "audit:head:inconsistent"


def test_the_last_head_that_fits_narrows_down_where_a_trail_was_changed(
    database: Database,
) -> None:
    """What was signed before the change is good (99)."""
    sign(database)
    rewrite(database, lambda row: row.sequence != 450)
    write(database, 1)
    assert found(database) == ("audit:head:inconsistent", SIGNED + 1)


def test_a_trail_cut_short_is_shorter_than_its_signed_head(database: Database) -> None:
    """The tail is dropped, and all calculated anew (99)."""
    sign(database)
    rewrite(database, lambda row: row.sequence <= 500)
    assert found(database) == ("audit:head:inconsistent", 501)
    with database.reading() as session, pytest.raises(AuditError) as caught:
        sign_head(session, SIGNER, origin=ORIGIN, now=2)
    assert caught.value.code == "audit:head:inconsistent"


def test_a_head_kept_elsewhere_finds_what_the_database_no_longer_tells(
    database: Database,
) -> None:
    """The signed heads are dropped too; the kept one still tells (99)."""
    kept = keep(database)
    verify(database, [kept])
    rewrite(database, lambda row: row.sequence != 450)
    change(database, "DELETE FROM audit_heads")
    assert verify(database).size == SIZE - 1
    assert found(database, kept) == ("audit:head:inconsistent", SIZE)
    write(database, 1)
    assert found(database, kept) == ("audit:head:inconsistent", 1)


def test_a_head_that_another_key_signed_is_forged(database: Database) -> None:
    """In the database and kept elsewhere; nothing is signed on top of it."""
    thief = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
    with database.reading() as session:
        newest = newest_head(session)
        assert newest is not None
        head = open_head(envelope_of(newest), key=KEY)
    forged = seal(head, sign=thief.sign)
    assert found(database, forged) == ("audit:head:forged", None)
    with database.transaction() as session:
        session.execute(update(AuditSignedHead).values(envelope=msgspec.json.encode(forged)))
    assert found(database) == ("audit:head:forged", None)
    with database.reading() as session, pytest.raises(AuditHeadForgedError):
        sign_head(session, SIGNER, origin=ORIGIN, now=2)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b'{"payload": 1}'])
def test_a_file_that_is_no_head_is_forged(content: bytes) -> None:
    """What is not signed says nothing."""
    with pytest.raises(AuditHeadForgedError):
        decode_head(content)


# --- signing -----------------------------------------------------------------------------


def test_a_head_is_signed_once_a_size(database: Database) -> None:
    """The next one only once the trail has grown; it tells origin, size, root and time."""
    first = sign(database, now=5)
    assert (sign(database, now=6).size, sign(database, now=7).utc_ms) == (SIZE, 5)
    assert open_head(envelope_of(first), key=KEY) == TreeHead(
        origin=ORIGIN, size=SIZE, root=first.root, utc_ms=5
    )
    write(database, 1)
    assert sign(database, now=8).size == SIZE + 1
    assert verify(database).heads == 3


def test_the_backend_signs_its_trail_by_itself(backend: Backend) -> None:
    """A task in the background; on every replica, as often as it likes."""
    (task,) = (task for task in TASKS if task.name == "tree-head")
    task.run(backend)
    task.run(backend)
    key = backend.vault.signer(KeyRole.AUDIT).public_key
    with backend.database.reading() as session:
        report = verify_log(session, key=key, kept=())
    assert (report.heads, report.signed) == (1, report.size)


def test_two_replicas_that_sign_at_once_store_one_head(database: Database) -> None:
    """Whoever is second takes what the first has stored."""
    other: list[AuditSignedHead] = []

    class Slow(SoftwareSigner):
        def sign(self, message: bytes) -> bytes:
            """Meanwhile, another replica signs."""
            if not other and database.is_postgresql:
                other.append(sign(database, now=5))
            return SIGNER.sign(message)

        @property
        def public_key(self) -> ec.EllipticCurvePublicKey:
            """The same key."""
            return KEY

    with database.transaction() as session:
        slow = Slow(ec.generate_private_key(ec.SECP256R1()))
        head = sign_head(session, slow, origin=ORIGIN, now=9)
        assert head is not None
        assert head.utc_ms == (5 if other else 9)
    assert verify(database).heads == 2


def test_what_is_appended_while_verifying_is_left_for_the_next_time(database: Database) -> None:
    """A trail that grows, tiles and signed heads with it, is not mistaken for a changed one."""
    turns = 0

    def grow(*_: object) -> None:
        nonlocal turns
        turns += 1
        if turns in {3, 6}:
            write(database, 300)
            sign(database)

    with database.reading() as session:
        session.execute(text("SELECT 1"))
        listened = session.connection()
        sqlalchemy_event.listen(listened, "before_cursor_execute", grow)
        assert verify_log(session, key=KEY, kept=()).size == SIZE
    assert turns > 6
    assert (verify(database).size, verify(database).heads) == (SIZE + 600, 3)


def test_verifying_reads_batches(database: Database) -> None:
    """Memory does not grow with the trail: no statement asks for all of it."""
    with statements(database) as sent:
        verify(database)
    reading = [item for item in sent if "FROM audit_records" in item and "min(" not in item]
    assert len(reading) == 3
    assert all("LIMIT" in item for item in reading)


# --- proofs ------------------------------------------------------------------------------


def test_a_proof_leads_from_a_record_to_the_signed_head(database: Database) -> None:
    """It is checked with the audit key alone."""
    for sequence in (1, 256, 257, SIGNED):
        with database.reading() as session:
            proof = proof_of(session, sequence)
        assert check_proof(proof, key=KEY).size == SIGNED
        assert proof.record.reason == str(sequence)


def test_a_proof_of_an_edited_record_fails(database: Database) -> None:
    """The record says something else than its leaf (99)."""
    change(database, "UPDATE audit_records SET reason = 'x' WHERE sequence = 2")
    with database.reading() as session, pytest.raises(AuditProofError) as caught:
        check_proof(proof_of(session, 2), key=KEY)
    assert caught.value.code == "audit:proof:invalid"


def test_a_changed_proof_is_refused(database: Database) -> None:
    """Each field of it: record, size, root, hashes, and the signed head."""
    with database.reading() as session:
        good = proof_of(session, 7)
    unsigned = seal(
        TreeHead(origin=ORIGIN, size=SIGNED, root=good.root, utc_ms=1), sign=lambda _: b"x"
    )
    renamed = msgspec.structs.replace(good.record, actor="somebody")
    moved = msgspec.structs.replace(good.record, sequence=8)
    for changes in (
        {"record": renamed},
        {"record": moved},
        {"size": SIZE},
        {"root": bytes(32)},
        {"hashes": good.hashes[1:]},
        {"hashes": (*good.hashes, bytes(32))},
        {"hashes": (bytes(32), *good.hashes[1:])},
    ):
        with pytest.raises(AuditProofError):
            check_proof(msgspec.structs.replace(good, **changes), key=KEY)
    for head in (None, unsigned):
        with pytest.raises(AuditHeadForgedError):
            check_proof(msgspec.structs.replace(good, head=head), key=KEY)


def test_a_record_that_is_newer_than_the_signed_head_has_a_proof_without_one(
    database: Database,
) -> None:
    """It leads to the tree as it stands, which nobody has signed yet."""
    with database.reading() as session:
        proof = proof_of(session, SIGNED + 1)
    assert (proof.head, proof.size) == (None, SIZE)
    with pytest.raises(AuditHeadForgedError):
        check_proof(proof, key=KEY)
