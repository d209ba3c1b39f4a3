"""From the hash chain to the Merkle log, and back: no record is lost, nothing changed gets in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import hwtrust_backend.db
from hwtrust.errors import AuditRecordChangedError
from hwtrust_backend.audit import AuditRecord, AuditTile
from hwtrust_backend.db import Database
from simulators.audit_log import sign, verify, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulators.postgres import Postgres

RECORDS = sa.table(
    "audit_records",
    sa.column("sequence"),
    sa.column("at"),
    sa.column("event"),
    sa.column("device"),
    sa.column("reason"),
    sa.column("evidence", sa.LargeBinary),
    sa.column("previous", sa.LargeBinary),
    sa.column("digest", sa.LargeBinary),
)
HEAD = sa.table(
    "audit_head", sa.column("id"), sa.column("sequence"), sa.column("digest", sa.LargeBinary)
)


@pytest.fixture
def database(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Database]:
    """A database as the version before left it."""
    server: Postgres | None = None
    url = f"sqlite:///{tmp_path / 'old.sqlite'}"
    if database_kind == "postgresql":
        server = request.getfixturevalue("postgres")
        url = server.create(migrated=False)
    made = Database(url)
    move(made, "0002")
    yield made
    made.close()
    if server is not None:
        server.drop(url)


def move(database: Database, revision: str, *, back: bool = False) -> None:
    """Bring the schema to a revision."""
    config = Config()
    place = Path(hwtrust_backend.db.__file__).parent / "migrations"
    config.set_main_option("script_location", str(place))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)


def write_chain(database: Database, count: int) -> list[dict[str, object]]:
    """Records with the digests of the hash chain, as they were defined."""
    rows: list[dict[str, object]] = []
    previous = bytes(32)
    for sequence in range(1, count + 1):
        evidence = bytes([sequence % 256]) * 32 if sequence % 3 else b""
        fields = (
            b"hwtrust audit v1",
            sequence.to_bytes(8, "big"),
            (sequence * 10).to_bytes(8, "big"),
            b"device:evidence:accepted",
            b"000b",
            f"für {sequence}".encode(),
            evidence,
            previous,
        )
        content = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        digest = hashlib.sha256(content).digest()
        rows.append(
            {
                "sequence": sequence,
                "at": sequence * 10,
                "event": "device:evidence:accepted",
                "device": "000b",
                "reason": f"für {sequence}",
                "evidence": evidence,
                "previous": previous,
                "digest": digest,
            }
        )
        previous = digest
    with database.engine.begin() as connection:
        if rows:
            connection.execute(sa.insert(RECORDS), rows)
        connection.execute(sa.update(HEAD).values(sequence=count, digest=previous))
    return rows


@pytest.mark.parametrize("count", [0, 1, 255, 256, 1300])
def test_the_records_of_a_chain_become_the_first_leaves(database: Database, count: int) -> None:
    """None is lost or changed; the log goes on behind them, tiles and all."""
    rows = write_chain(database, count)
    move(database, "0003")
    report = verify(database)
    assert (report.size, report.heads) == (count, 0)
    with database.reading() as session:
        found = session.scalars(sa.select(AuditRecord).order_by(AuditRecord.sequence)).all()
        for old, new in zip(rows, found, strict=True):
            assert (new.sequence, new.at, new.event) == (old["sequence"], old["at"], old["event"])
            assert (new.device, new.reason) == (old["device"], old["reason"])
            assert (new.evidence, new.actor) == (old["evidence"], "")
        tiles = session.scalars(sa.select(AuditTile.number).order_by(AuditTile.number)).all()
        assert tiles == list(range(count // 256))
    write(database, 300, first=count + 1)
    sign(database)
    assert verify(database).size == count + 300


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_records SET reason = 'x' WHERE sequence = 2",
        "DELETE FROM audit_records WHERE sequence = 2",
        "DELETE FROM audit_records WHERE sequence = 3",
        "UPDATE audit_head SET sequence = 2",
        "DELETE FROM audit_head",
    ],
)
def test_a_chain_that_was_changed_is_not_taken_over(database: Database, statement: str) -> None:
    """The new log would show what was forged as good; the database stays as it is."""
    write_chain(database, 3)
    with database.transaction() as session:
        session.execute(sa.text(statement))
    with pytest.raises(AuditRecordChangedError) as caught:
        move(database, "0003")
    assert caught.value.code == "audit:record:changed"
    with database.reading() as session:
        revision = session.scalar(sa.text("SELECT version_num FROM alembic_version"))
        assert revision == "0002"


def test_going_back_makes_the_same_chain(database: Database) -> None:
    """Every record is there with the digest that it had, and can be taken over again."""
    rows = write_chain(database, 300)
    move(database, "0003")
    move(database, "0002", back=True)
    with database.engine.connect() as connection:
        found = connection.execute(sa.select(RECORDS).order_by(RECORDS.c.sequence)).mappings()
        assert [dict(row) for row in found] == rows
        head = connection.execute(sa.select(HEAD)).one()
        assert (head.sequence, head.digest) == (300, rows[-1]["digest"])
    move(database, "0003")
    assert verify(database).size == 300
