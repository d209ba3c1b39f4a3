"""An exported audit trail is checked with the audit public key alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    AuditError,
    AuditHeadForgedError,
    AuditHeadMissingError,
    AuditRecordUnknownError,
)
from hwtrust_backend.audit import (
    AuditRecord,
    check_export,
    consistency,
    export_log,
    newest_head,
    open_head,
)
from hwtrust_backend.audit.merkle import check_consistency
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.keys.signing import SoftwareSigner
from simulators.audit_log import KEY, keep, sign, statements, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.wire.envelope import Envelope

SIZE = 1100


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with a trail, signed; and one record more."""
    made = Database(database_url)
    migrate(made)
    write(made, SIZE)
    sign(made)
    write(made, 1)
    yield made
    made.close()


def exported(database: Database) -> list[bytes]:
    """The lines of an export."""
    with database.reading() as session:
        return list(export_log(session, key=KEY))


def test_an_export_holds_what_is_signed_and_passes(database: Database) -> None:
    """Every record up to the newest signed head, and the head."""
    lines = exported(database)
    assert len(lines) == SIZE + 2
    assert all(line.endswith(b"\n") for line in lines)
    assert check_export(lines, key=KEY, kept=()).size == SIZE


def test_the_format_is_as_documented(database: Database) -> None:
    """Other programs read it."""
    lines = [json.loads(line) for line in exported(database)]
    assert lines[0] == {"format": "hwtrust audit v2"}
    assert lines[5] == {
        "record": {
            "sequence": 5,
            "at": 5,
            "event": "device:evidence:accepted",
            "device": "d",
            "actor": "",
            "reason": "5",
            "evidence": "",
        }
    }
    assert set(lines[-1]) == {"head", "envelope"}
    assert set(lines[-1]["head"]) == {"origin", "size", "root", "utc_ms"}
    assert set(lines[-1]["envelope"]) == {"payloadType", "payload", "signatures"}


def test_exporting_reads_batches(database: Database) -> None:
    """Memory does not grow with the trail."""
    with statements(database) as sent:
        exported(database)
    reading = [item for item in sent if "FROM audit_records" in item]
    assert len(reading) == 3
    assert all("LIMIT" in item for item in reading)


def edited(line: bytes, **changes: Any) -> bytes:  # noqa: ANN401 - any field
    """A record's line with other fields."""
    content = json.loads(line)
    content["record"].update(changes)
    return json.dumps(content).encode()


def headed(line: bytes, **changes: Any) -> bytes:  # noqa: ANN401 - any field
    """The last line with another head, as people read it."""
    content = json.loads(line)
    content["head"].update(changes)
    return json.dumps(content, separators=(",", ":")).encode()


CHANGED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a record is edited": (
        lambda lines: [*lines[:7], edited(lines[7], reason="x"), *lines[8:]],
        "audit:head:inconsistent",
    ),
    "an actor is added": (
        lambda lines: [*lines[:7], edited(lines[7], actor="x"), *lines[8:]],
        "audit:head:inconsistent",
    ),
    "a record is dropped": (lambda lines: [*lines[:7], *lines[8:]], "audit:record:missing"),
    "the first is dropped": (lambda lines: [lines[0], *lines[2:]], "audit:record:missing"),
    "the last is dropped": (lambda lines: [*lines[:-2], lines[-1]], "audit:head:inconsistent"),
    "a record is there twice": (lambda lines: [*lines[:8], *lines[7:]], "audit:record:surplus"),
    "two records are exchanged": (
        lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]],
        "audit:record:missing",
    ),
    "two records exchange their numbers": (
        lambda lines: [
            *lines[:7],
            edited(lines[8], sequence=7),
            edited(lines[7], sequence=8),
            *lines[9:],
        ],
        "audit:head:inconsistent",
    ),
    "a dropped record is hidden by other numbers": (
        lambda lines: [
            *lines[:7],
            *(edited(line, sequence=at) for at, line in enumerate(lines[8:-1], 7)),
            lines[-1],
        ],
        "audit:head:inconsistent",
    ),
    "a record is added at the end": (
        lambda lines: [*lines[:-1], edited(lines[-2], sequence=SIZE + 1), lines[-1]],
        "audit:head:inconsistent",
    ),
    "the shown head says something else": (
        lambda lines: [*lines[:-1], headed(lines[-1], utc_ms=7)],
        "audit:head:forged",
    ),
    "the head is missing": (lambda lines: lines[:-1], "audit:export:malformed"),
    "the head is there twice": (lambda lines: [*lines, lines[-1]], "audit:export:malformed"),
    "the first line is missing": (lambda lines: lines[1:], "audit:export:malformed"),
    "the format is another": (
        lambda lines: [b'{"format": "x"}', *lines[1:]],
        "audit:export:malformed",
    ),
    "a line is cut off": (
        lambda lines: [*lines[:7], lines[7][:20], *lines[8:]],
        "audit:export:malformed",
    ),
    "a field is no hash": (
        lambda lines: [*lines[:7], edited(lines[7], evidence="x"), *lines[8:]],
        "audit:export:malformed",
    ),
    "a field is unknown": (
        lambda lines: [*lines[:7], edited(lines[7], note="x"), *lines[8:]],
        "audit:export:malformed",
    ),
    "a number is too large": (
        lambda lines: [*lines[:7], edited(lines[7], at=2**64), *lines[8:]],
        "audit:export:malformed",
    ),
    "a line is endless": (
        lambda lines: [*lines[:7], b" " * 100_000, *lines[8:]],
        "audit:export:malformed",
    ),
    "a line is no text": (lambda lines: [*lines[:7], b"\xff"], "audit:export:malformed"),
    "a line is nested": (lambda lines: [*lines[:7], b"[" * 50_000], "audit:export:malformed"),
    "there is nothing": (lambda _: [], "audit:export:malformed"),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """An export that passes."""
    made = Database(f"sqlite:///{tmp_path_factory.mktemp('export') / 'x.sqlite'}")
    migrate(made)
    write(made, SIZE)
    sign(made)
    found = exported(made)
    made.close()
    return found


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_export_is_refused(lines: list[bytes], case: str) -> None:
    """Edited, dropped, reordered, added, cut off, or no export at all (99)."""
    change, code = CHANGED[case]
    with pytest.raises(AuditError) as caught:
        check_export(change(lines), key=KEY, kept=())
    assert caught.value.code == code


def test_an_export_under_another_key_is_forged(lines: list[bytes]) -> None:
    """Whoever makes an export up cannot sign its head."""
    other = SoftwareSigner(ec.generate_private_key(ec.SECP256R1())).public_key
    with pytest.raises(AuditHeadForgedError) as caught:
        check_export(lines, key=other, kept=())
    assert caught.value.code == "audit:head:forged"


def test_an_export_continues_the_heads_that_were_kept(database: Database) -> None:
    """Of this trail, and not of another one that the backend signed as well."""
    older = keep(database)
    write(database, 5)
    newer = keep(database)
    write(database, 5)
    sign(database)
    lines = exported(database)
    assert check_export(lines, key=KEY, kept=[newer, older]).size == SIZE + 11
    for kept, code in ((other_trail(database), "audit:head:inconsistent"),):
        with pytest.raises(AuditError) as caught:
            check_export(lines, key=KEY, kept=[older, kept])
        assert caught.value.code == code


def other_trail(database: Database) -> Envelope:
    """The signed head of a trail that tells it otherwise."""
    other = Database("sqlite://")
    migrate(other)
    write(other, 9, device="another")
    kept = keep(other)
    other.close()
    return kept


def test_an_export_that_ends_before_a_kept_head_is_refused(database: Database) -> None:
    """An old export is not the whole trail."""
    lines = exported(database)
    with pytest.raises(AuditError) as caught:
        check_export(lines, key=KEY, kept=[keep(database)])
    assert caught.value.code == "audit:head:inconsistent"


def test_nothing_unsigned_is_exported(database_url: str) -> None:
    """Without a signed head there is no export; under another key's neither."""
    database = Database(database_url)
    migrate(database)
    write(database, 2)
    with pytest.raises(AuditHeadMissingError) as caught:
        exported(database)
    assert caught.value.code == "audit:head:missing"
    sign(database)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with database.reading() as session, pytest.raises(AuditHeadForgedError):
        list(export_log(session, key=other))
    database.close()


def test_a_trail_that_lacks_signed_records_is_not_exported(database: Database) -> None:
    """What is missing is said while exporting."""
    with database.transaction() as session:
        session.query(AuditRecord).filter(AuditRecord.sequence > 1000).delete()
    with pytest.raises(AuditError) as caught:
        exported(database)
    assert (caught.value.code, caught.value.data["record"]) == ("audit:record:missing", 1001)


def test_a_kept_head_is_proved_to_be_continued(database: Database) -> None:
    """A consistency proof from the kept head's size to the newest, checked without the backend."""
    kept = open_head(keep(database), key=KEY)
    write(database, 300)
    sign(database)
    with database.reading() as session:
        newest = newest_head(session)
        assert newest is not None
        for size in (None, newest.size):
            proof = consistency(session, kept.size, size=size)
            check_consistency(
                old=kept.size,
                old_root=kept.root,
                size=newest.size,
                root=newest.root,
                proof=proof.hashes,
            )
            assert proof.root == newest.root
        middle = consistency(session, 1000, size=kept.size)
        assert (middle.old, middle.size, middle.root) == (1000, kept.size, kept.root)
        for old, size in ((-1, None), (9999, None), (3, 9999), (5, 3)):
            with pytest.raises(AuditRecordUnknownError) as caught:
                consistency(session, old, size=size)
            assert caught.value.code == "audit:record:unknown"
