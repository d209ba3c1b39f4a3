"""After the database was restored from a backup: what may have been forgotten is not done twice.

    backup ──── epochs given away, challenges answered ────▶ lost        restored ──▶ recovery noted

A backend that was restored does not know which roots it made since the backup.
Once the recovery is noted, for every device whose newest known root is older:

Rules:
1. A counter above all known epochs is believed: only this backend's policy key
   lets it count. Its epoch is taken over, as of a root of which nothing is known.
2. The next root leaves out one epoch: a root of that one may have been given
   away and forgotten. No epoch is ever given to two roots.
3. A challenge that was issued before the recovery is not accepted: it may have
   been answered.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import HOUR
from hwtrust_backend.db import RULES, Base, Kept, Millis, count_up
from hwtrust_backend.enrolment import DeviceState
from hwtrust_backend.publishing.live import LiveRoot, LiveRoots
from hwtrust_backend.publishing.models import RootState, StoredRoot

RECOVERED: Final = "recovered"
"""The reason of a root that was taken over from its counter alone, and of the one after it."""

_UNKNOWN_LIFE_MS: Final = HOUR
"""How long leave is given for a root of which nothing is known: it is replaced at once."""


class Recovery(Base):
    """One time that the database was restored from a backup."""

    __tablename__ = "recoveries"

    at: Mapped[Millis] = mapped_column(primary_key=True, autoincrement=False)
    actor: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(String(200))


def note_recovery(session: Session, *, by: str, note: str, now: int) -> None:
    """Note that this database has just been restored from a backup."""
    session.add(Recovery(at=now, actor=by, note=note))
    count_up(session, RULES)
    record(session, Event.DATABASE_RECOVERED, now=now, reason=note, actor=by)


def recovered_at(session: Session) -> int:
    """When the database was restored for the last time; 0: never."""
    return _RECOVERED_AT.get(session)


def unsettled(session: Session, root: LiveRoot) -> bool:
    """Whether roots may have been made after this one and forgotten."""
    return root.made_at <= recovered_at(session)


def forgotten(session: Session, live: LiveRoots, counter: int) -> bool:
    """Whether a device's counter shows an epoch that was forgotten (rule 1)."""
    newest = live.newest
    return newest is not None and counter > newest.epoch and unsettled(session, newest)


def take_over(session: Session, device: DeviceState, *, epoch: int, now: int) -> None:
    """Note the root of which only its epoch is known; the caller retires the others."""
    root = StoredRoot(
        device=device.id,
        epoch=epoch,
        state=RootState.ACTIVE,
        release=device.release,
        reason=RECOVERED,
        # Not later than the recovery: others may have been made after it.
        made_at=recovered_at(session),
        not_after=now + _UNKNOWN_LIFE_MS,
        confirmed_at=now,
        retired_at=None,
        object_name=b"",
        metadata_envelope=b"",
        public=None,
        duplicate=None,
        seed=None,
    )
    session.add(root)
    session.flush()
    reason = f"epoch {epoch}, which this database had forgotten"
    record(session, Event.EPOCH_RECOVERED, now=now, device=device.id, reason=reason)


def taken_over(root: LiveRoot) -> bool:
    """Whether nothing but its epoch is known of a root."""
    return not root.object_name


def _read(session: Session) -> int:
    return session.scalar(select(func.max(Recovery.at))) or 0


_RECOVERED_AT: Final = Kept(RULES, _read)
