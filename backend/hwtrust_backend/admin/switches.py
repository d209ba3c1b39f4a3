"""Switches in the database: what an administrator turns off for all replicas at once.

Rules:
1. A switch that was never touched is off.
2. Turning one is itself written and recorded, also the one that forbids writing.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import Boolean, String
from sqlalchemy.orm import Mapped, Session, mapped_column

from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.audit import Event, record
from hwtrust_backend.db import Base, Millis

READ_ONLY: Final = "read-only"
REASON_LENGTH: Final = 200


class Switch(Base):
    """One switch, as it was turned last."""

    __tablename__ = "switches"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    is_on: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str] = mapped_column(String(REASON_LENGTH))
    changed_at: Mapped[Millis]
    changed_by: Mapped[str] = mapped_column(String(200))


class SwitchState(msgspec.Struct, frozen=True, kw_only=True):
    """How a switch stands. Times are UTC milliseconds; 0: never touched."""

    name: str
    is_on: bool
    reason: str = ""
    changed_at: int = 0
    changed_by: str = ""


def read_only_state(session: Session) -> SwitchState:
    """Whether the backend is switched to read-only, since when, by whom and why."""
    row = session.get(Switch, READ_ONLY)
    if row is None:
        return SwitchState(name=READ_ONLY, is_on=False)
    return SwitchState(
        name=row.name,
        is_on=row.is_on,
        reason=row.reason,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
    )


def switch_read_only(
    session: Session, *, to: bool, reason: str, by: Principal, now: int
) -> SwitchState:
    """Turn the switch; turning it where it stands already changes its reason.

    Raises:
        ForbiddenError: `by` is no administrator of all devices.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    state = SwitchState(
        name=READ_ONLY,
        is_on=to,
        reason=reason[:REASON_LENGTH],
        changed_at=now,
        changed_by=by.name,
    )
    session.merge(Switch(**msgspec.structs.asdict(state)))
    event = Event.READ_ONLY_ON if to else Event.READ_ONLY_OFF
    record(session, event, now=now, reason=state.reason, actor=by.name)
    return state
