"""The hashes of the tree, stored 256 at a time, as C2SP's tlog-tiles does it.

    level 1      tile 0: the roots of the tiles 0 to 255 below
    level 0      tile 0: leaves 0 to 255      tile 1: leaves 256 to 511    …

A proof of any record needs at most one tile of each level, and what the last,
not yet full tiles will hold: at most 255 records and 255 roots a level. It never
reads more of the trail than that.

Rules:
1. A tile is written once, in the transaction whose record fills it, and never
   changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Final

from sqlalchemy import Connection, insert, select
from sqlalchemy.orm import Session

from hwtrust.errors import AuditProofError, AuditStateError, AuditTileError
from hwtrust_backend.audit.merkle import HASH_SIZE, Frontier, node_hash, root_of, split
from hwtrust_backend.audit.models import TILES, TREE, AuditRecord, AuditTile

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT

_READ_TREE: Final = select(TREE.c.size, TREE.c.frontier).where(TREE.c.id == 1)
_LOCK_TREE: Final = _READ_TREE.with_for_update()


def tree_of(session: Session | Connection, *, lock: bool = False) -> Frontier:
    """The tree as it stands: its size, and what gives its root; `lock` keeps others from adding.

    Raises:
        AuditStateError: it is missing or damaged.
    """
    state = session.execute(_LOCK_TREE if lock else _READ_TREE).one_or_none()
    if state is None:
        raise AuditStateError("the audit trail has no head")
    try:
        # SQLite keeps a value of any type in any column, where somebody has put one.
        return Frontier.decode(index(state.size), bytes(memoryview(state.frontier)))
    except (AuditProofError, TypeError) as error:
        raise AuditStateError("the head of the audit trail is damaged") from error


class StoredNodes:
    """The nodes of the tree over the first `size` records: a `merkle.Nodes` for proofs."""

    def __init__(self, session: Session | Connection, size: int) -> None:
        self._session = session
        self._size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, level: int, number: int) -> bytes:
        """The hash of a node; the subtree below it is full.

        Raises:
            AuditTileError: a stored hash that it needs is missing.
        """
        row, height = divmod(level, HEIGHT)
        first = number << height
        tile, at = divmod(first, WIDTH)
        hashes = self._tile(row, tile)[at : at + (1 << height)]
        if len(hashes) < 1 << height:
            message = f"hashes of tile {tile} at level {row} of the audit trail are missing"
            raise AuditTileError(message, level=row, number=tile)
        while len(hashes) > 1:
            hashes = [node_hash(*hashes[at : at + 2]) for at in range(0, len(hashes), 2)]
        return hashes[0]

    def _tile(self, level: int, number: int) -> list[bytes]:
        if (level, number) not in self._tiles:
            count = (self._size >> (HEIGHT * level)) - number * WIDTH
            self._tiles[level, number] = self._read(level, number, min(count, WIDTH))
        return self._tiles[level, number]

    def _read(self, level: int, number: int, count: int) -> list[bytes]:
        if count < WIDTH:
            return _hashes(self._session, level, number * WIDTH, count)
        stored = select(AuditTile.hashes).where(
            AuditTile.level == level, AuditTile.number == number
        )
        return split(self._session.execute(stored).scalar() or b"")


def write_tiles(connection: Connection, *, size: int, leaves: Sequence[bytes]) -> None:
    """Store every tile that is full once `leaves` follow the first `size` ones."""
    level, fresh = 0, list(leaves)
    while (size % WIDTH) + len(fresh) >= WIDTH:
        start = size - size % WIDTH
        known = _hashes(connection, level, start, size - start) + fresh
        full = [known[at : at + WIDTH] for at in range(0, len(known) - WIDTH + 1, WIDTH)]
        roots = [root_of(hashes) for hashes in full]
        rows = [
            {"level": level, "number": number, "hashes": b"".join(hashes), "root": root}
            for number, (hashes, root) in enumerate(zip(full, roots, strict=True), start // WIDTH)
        ]
        connection.execute(insert(TILES), rows)
        level, size, fresh = level + 1, start // WIDTH, roots


def _hashes(session: Session | Connection, level: int, first: int, count: int) -> list[bytes]:
    """Hashes of a level that are in no tile yet: of records, or the roots of tiles."""
    if count <= 0:
        return []
    if level == 0:
        query = (
            select(AuditRecord.leaf)
            .where(AuditRecord.sequence > first, AuditRecord.sequence <= first + count)
            .order_by(AuditRecord.sequence)
        )
    else:
        query = (
            select(AuditTile.root)
            .where(AuditTile.level == level - 1)
            .where(AuditTile.number >= first, AuditTile.number < first + count)
            .order_by(AuditTile.number)
        )
    hashes = list(session.execute(query).scalars())
    if len(hashes) != count or any(len(item) != HASH_SIZE for item in hashes):
        message = f"the audit trail lacks hashes behind number {first} of level {level}"
        raise AuditTileError(message, level=level, number=first)
    return hashes
