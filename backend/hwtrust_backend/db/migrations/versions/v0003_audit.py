"""The audit trail as a Merkle log: actors, leaf hashes, tiles, signed tree heads.

The records that are there become the first leaves. The chain that they had is
checked first: what was changed under it does not get into the new log as good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from hwtrust.errors import AuditRecordChangedError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BATCH = 1000
WIDTH = 256

RECORDS = sa.table(
    "audit_records",
    sa.column("sequence", sa.BigInteger),
    sa.column("at", sa.BigInteger),
    sa.column("event", sa.String),
    sa.column("device", sa.String),
    sa.column("actor", sa.String),
    sa.column("reason", sa.Text),
    sa.column("evidence", sa.LargeBinary),
    sa.column("leaf", sa.LargeBinary),
    sa.column("previous", sa.LargeBinary),
    sa.column("digest", sa.LargeBinary),
)
TILES = sa.table(
    "audit_tiles",
    sa.column("level", sa.Integer),
    sa.column("number", sa.BigInteger),
    sa.column("hashes", sa.LargeBinary),
    sa.column("root", sa.LargeBinary),
)
CHAIN_HEAD = sa.table(
    "audit_head", sa.column("id"), sa.column("sequence"), sa.column("digest", sa.LargeBinary)
)
TREE_HEAD = sa.table(
    "audit_head", sa.column("id"), sa.column("size"), sa.column("frontier", sa.LargeBinary)
)


def upgrade() -> None:
    """Check the chain, make the tree over its records, and drop the chain."""
    _check_chain()
    op.create_table(
        "audit_tiles",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(length=8192), nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name=op.f("pk_audit_tiles")),
    )
    op.create_table(
        "audit_heads",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("utc_ms", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_audit_heads")),
    )
    actor = sa.Column("actor", sa.String(length=200), server_default="", nullable=False)
    op.add_column("audit_records", actor)
    op.add_column("audit_records", sa.Column("leaf", sa.LargeBinary(length=32), nullable=True))
    tree = _Tree()
    _rewrite({"leaf": lambda row: tree.append(_leaf(row))})
    tree.store_tiles()
    op.drop_index(op.f("ix_audit_records_device"), table_name="audit_records")
    with op.batch_alter_table("audit_records") as table:
        table.alter_column("leaf", existing_type=sa.LargeBinary(length=32), nullable=False)
        table.drop_column("previous")
        table.drop_column("digest")
    op.create_index("ix_audit_records_device_sequence", "audit_records", ["device", "sequence"])
    op.drop_table("audit_head")
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.bulk_insert(TREE_HEAD, [{"id": 1, "size": tree.size, "frontier": tree.frontier()}])


def downgrade() -> None:
    """Make the chain anew; actors and signed tree heads are lost."""
    op.drop_index("ix_audit_records_device_sequence", table_name="audit_records")
    for name in ("previous", "digest"):
        op.add_column("audit_records", sa.Column(name, sa.LargeBinary(length=32), nullable=True))
    chain = [bytes(32)]

    def linked(row: Any) -> bytes:  # noqa: ANN401 - a row of the table
        chain.append(_digest(row, chain[-1]))
        return chain[-1]

    _rewrite({"previous": lambda _: chain[-1], "digest": linked})
    with op.batch_alter_table("audit_records") as table:
        for name in ("previous", "digest"):
            table.alter_column(name, existing_type=sa.LargeBinary(length=32), nullable=False)
        table.drop_column("leaf")
        table.drop_column("actor")
    op.create_index(op.f("ix_audit_records_device"), "audit_records", ["device"], unique=False)
    for name in ("audit_heads", "audit_tiles", "audit_head"):
        op.drop_table(name)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.bulk_insert(CHAIN_HEAD, [{"id": 1, "sequence": len(chain) - 1, "digest": chain[-1]}])


def _batches(*columns: str) -> Iterator[list[Any]]:
    """The records in order, some at a time."""
    wanted = [RECORDS.c[name] for name in columns]
    after = -1
    while True:
        query = sa.select(*wanted).where(RECORDS.c.sequence > after)
        query = query.order_by(RECORDS.c.sequence).limit(BATCH)
        rows = list(op.get_bind().execute(query))
        if not rows:
            return
        yield rows
        after = rows[-1].sequence


def _rewrite(values: dict[str, Callable[[Any], bytes]]) -> None:
    """Set columns of every record to what is calculated from it."""
    statement = (
        sa.update(RECORDS)
        .where(RECORDS.c.sequence == sa.bindparam("number"))
        .values({name: sa.bindparam(f"new_{name}") for name in values})
    )
    for rows in _batches("sequence", "at", "event", "device", "reason", "evidence"):
        changes = [
            {"number": row.sequence, **{f"new_{name}": make(row) for name, make in values.items()}}
            for row in rows
        ]
        op.get_bind().execute(statement, changes)


def _check_chain() -> None:
    last, count = bytes(32), 0
    names = ("sequence", "at", "event", "device", "reason", "evidence", "previous", "digest")
    for rows in _batches(*names):
        for row in rows:
            count += 1
            fits = row.sequence == count and row.previous == last
            if not fits or _digest(row, row.previous) != row.digest:
                message = f"the audit trail was changed at record {count}, before this version"
                raise AuditRecordChangedError(message, record=count)
            last = row.digest
    head = op.get_bind().execute(sa.select(CHAIN_HEAD)).one_or_none()
    if head is None or (head.sequence, head.digest) != (count, last):
        message = f"the audit trail was cut short behind record {count}, before this version"
        raise AuditRecordChangedError(message, record=count)


def _digest(row: Any, previous: bytes) -> bytes:  # noqa: ANN401 - a row of the table
    return hashlib.sha256(
        _joined(
            b"hwtrust audit v1",
            row.sequence.to_bytes(8, "big"),
            row.at.to_bytes(8, "big"),
            row.event.encode(),
            row.device.encode(),
            row.reason.encode(),
            row.evidence,
            previous,
        )
    ).digest()


def _leaf(row: Any) -> bytes:  # noqa: ANN401 - a row of the table
    entry = _joined(
        b"hwtrust audit v2",
        row.sequence.to_bytes(8, "big"),
        row.at.to_bytes(8, "big"),
        row.event.encode(),
        row.device.encode(),
        b"",
        row.reason.encode(),
        row.evidence,
    )
    return hashlib.sha256(b"\x00" + entry).digest()


def _joined(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


class _Tree:
    """The hashes of every level, as they come; a level holds what its last tile lacks."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        self._levels: list[list[bytes]] = [[]]
        self._counts = [0]
        self._full: list[dict[str, Any]] = []

    def append(self, leaf: bytes) -> bytes:
        """Add a leaf, and give it back."""
        _push(self._peaks, self.size, leaf)
        self.size += 1
        self._fill(0, leaf)
        return leaf

    def frontier(self) -> bytes:
        """The roots of the full subtrees, largest first."""
        return b"".join(self._peaks)

    def store_tiles(self) -> None:
        """Write the tiles that are full."""
        for at in range(0, len(self._full), BATCH):
            op.bulk_insert(TILES, self._full[at : at + BATCH])

    def _fill(self, level: int, item: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._counts.append(0)
        hashes = self._levels[level]
        hashes.append(item)
        if len(hashes) < WIDTH:
            return
        peaks: list[bytes] = []
        for count, child in enumerate(hashes):
            _push(peaks, count, child)
        row = {
            "level": level,
            "number": self._counts[level],
            "hashes": b"".join(hashes),
            "root": peaks[0],
        }
        self._full.append(row)
        self._counts[level] += 1
        hashes.clear()
        self._fill(level + 1, peaks[0])


def _push(peaks: list[bytes], size: int, item: bytes) -> None:
    while size & 1:
        item = hashlib.sha256(b"\x01" + peaks.pop() + item).digest()
        size >>= 1
    peaks.append(item)
