"""The roots that count, of the devices whose rows a transaction holds: read once, for all of them.

Rules:
1. A device's roots change only under the lock of its row. So what was read under
   the lock stays true until the transaction ends.
2. What was read is kept with the session, and ends with its transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import bindparam, event, select
from sqlalchemy.orm import Session, SessionTransaction

from hwtrust_backend.publishing.models import RootState, StoredRoot

_KEY: Final = "hwtrust_backend.publishing.live"
_LIVE: Final = (RootState.ACTIVE, RootState.OFFERED)
_READ: Final = select(StoredRoot).where(
    StoredRoot.device.in_(bindparam("devices", expanding=True)), StoredRoot.state.in_(_LIVE)
)


def read_live_roots(session: Session, devices: Collection[str]) -> None:
    """Read the active and offered roots of these devices, whose rows the session holds."""
    found: dict[str, list[StoredRoot]] = {device: [] for device in devices}
    for root in session.scalars(_READ, {"devices": list(devices)}):
        found[root.device].append(root)
    session.info[_KEY] = found


def live_roots(session: Session, device: str) -> list[StoredRoot]:
    """The active and the offered root of a device, as far as there are any."""
    kept: dict[str, list[StoredRoot]] = session.info.get(_KEY, {})
    if device not in kept:
        return list(session.scalars(_READ, {"devices": [device]}))
    return [root for root in kept[device] if root.state in _LIVE]


def note_new_root(session: Session, root: StoredRoot) -> None:
    """Count a root that was just made among those that were read."""
    kept: dict[str, list[StoredRoot]] = session.info.get(_KEY, {})
    if root.device in kept:
        kept[root.device].append(root)


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_KEY, None)


@event.listens_for(Session, "after_soft_rollback")
def _after_rollback(session: Session, _: SessionTransaction) -> None:
    # Of a savepoint too: what was made after it is no root any more.
    session.info.pop(_KEY, None)
