"""The roots that count, of the devices whose rows a transaction holds: read once, for all of them.

Rules:
1. A device's roots change only under the lock of its row. So what was read under
   the lock stays true until the transaction ends, or changes it itself and says so
   (`note_change`).
2. What was read is kept with the session, and ends with its transaction.
3. It is for reading: whoever changes a root takes its `StoredRoot`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import bindparam, event, select
from sqlalchemy.orm import Session, SessionTransaction

from hwtrust_backend.db import Base
from hwtrust_backend.publishing.models import RootState, StoredRoot

_KEY: Final = "hwtrust_backend.publishing.live"


class LiveRoot(NamedTuple):
    """What counts of a root; each field is the column of that name in `StoredRoot`."""

    device: str
    epoch: int
    state: RootState
    release: str
    made_at: int
    not_after: int
    confirmed_at: int | None
    object_name: bytes


AnyRoot = StoredRoot | LiveRoot
"""Whatever says when a root was made and until when it may be opened."""


class LiveRoots(NamedTuple):
    """The roots of a device that count, as far as there are any."""

    active: LiveRoot | None = None
    offered: LiveRoot | None = None

    @property
    def newest(self) -> LiveRoot | None:
        """The one of the highest epoch."""
        return self.offered or self.active


_ROOTS: Final = Base.metadata.tables[StoredRoot.__tablename__]
_READ: Final = select(*(_ROOTS.c[name] for name in LiveRoot._fields)).where(
    _ROOTS.c.device.in_(bindparam("devices", expanding=True)),
    _ROOTS.c.state.in_((RootState.ACTIVE, RootState.OFFERED)),
)


def read_live_roots(session: Session, devices: Collection[str]) -> None:
    """Read the active and offered roots of these devices, whose rows the session holds."""
    kept: dict[str, LiveRoots] = session.info.setdefault(_KEY, {})
    kept.update(dict.fromkeys(devices, LiveRoots()))
    rows = session.connection().execute(_READ, {"devices": list(devices)}).all()
    for root in map(LiveRoot._make, rows):
        known = kept[root.device]
        if root.state is RootState.ACTIVE:
            kept[root.device] = LiveRoots(root, known.offered)
        else:
            kept[root.device] = LiveRoots(known.active, root)


def live_roots(session: Session, device: str) -> LiveRoots:
    """The active and the offered root of a device, whose row the session holds."""
    kept: dict[str, LiveRoots] = session.info.get(_KEY, {})
    found = kept.get(device)
    if found is None:
        read_live_roots(session, [device])
        found = live_roots(session, device)
    return found


def stored_root(session: Session, root: LiveRoot) -> StoredRoot:
    """The same root, to be changed."""
    return session.get_one(StoredRoot, (root.device, root.epoch))


def note_change(session: Session, device: str) -> None:
    """A device's roots were changed: they are read again when they are asked for."""
    # They are read past the session, which may not have written them yet.
    session.flush()
    session.info.get(_KEY, {}).pop(device, None)


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_KEY, None)


@event.listens_for(Session, "after_soft_rollback")
def _after_rollback(session: Session, _: SessionTransaction) -> None:
    # Of a savepoint too: what was made after it is no root any more.
    session.info.pop(_KEY, None)
