"""Wakes: that a device should attest now, and why.

    notice: REASON DEVICE DEVICE …

Rules:
1. A wake is noted in the transaction of what it is about, and told after its
   commit: nobody is woken for what was rolled back.
2. A wake is answered by the device's next accepted attestation. That needs no
   write there: a wake notes the challenge that the device had answered last, and
   is pending while that is still so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import BigInteger, ForeignKey, String, column, func, select, table
from sqlalchemy.orm import Mapped, Session, mapped_column

from hwtrust_backend.db import Base, Millis
from hwtrust_backend.db.notices import notify

CHANNEL: Final = "hwtrust_wakes"
REASON_LENGTH: Final = 40
_CHUNK: Final = 500
_TOLD_AT_ONCE: Final = 50
"""Names in one notice, which has less than 8000 bytes (NOTIFY, PostgreSQL)."""

# The table is that of `enrolment`, which builds on this package.
_DEVICES: Final = table("devices", column("id", String), column("nonce_issued", BigInteger))


class Wake(Base):
    """The newest wake of a device."""

    __tablename__ = "wakes"

    device: Mapped[str] = mapped_column(String(140), ForeignKey("devices.id"), primary_key=True)
    serial: Mapped[int] = mapped_column(BigInteger, index=True)
    """Wakes in the order in which SQLite commits them."""
    answered: Mapped[Millis]
    """When the challenge was issued that the device had answered last."""
    reason: Mapped[str] = mapped_column(String(REASON_LENGTH))


def wake(session: Session, device: str, *, reason: str = "asked") -> None:
    """Have a device attest: whoever waits for it is told after the commit, on every replica.

    A device that is not waiting is told when it next does; one that does not
    exist is nobody to tell. `reason` is one word.
    """
    wake_all(session, [device], reason=reason)


def wake_all(session: Session, devices: Iterable[str], *, reason: str) -> None:
    """Have some devices attest, for one reason."""
    # What the wakes are about comes first, and attestations under way before both: they may
    # have been decided without.
    session.flush()
    asked = sorted(devices)
    for begin in range(0, len(asked), _CHUNK):
        _wake(session, asked[begin : begin + _CHUNK], reason[:REASON_LENGTH])


def _wake(session: Session, asked: list[str], reason: str) -> None:
    row = _DEVICES.c
    locked = select(row.id, row.nonce_issued).where(row.id.in_(asked)).order_by(row.id)
    found = session.execute(locked.with_for_update())
    answered: dict[str, int] = dict(found.all())
    serial = newest_serial(session)
    query = select(Wake).where(Wake.device.in_(answered))
    noted = {wake.device: wake for wake in session.scalars(query)}
    for name, issued in answered.items():
        serial += 1
        if name not in noted:
            noted[name] = Wake(device=name)
            session.add(noted[name])
        noted[name].serial, noted[name].answered, noted[name].reason = serial, issued, reason
    session.flush()
    for begin in range(0, len(asked), _TOLD_AT_ONCE):
        notify(session, CHANNEL, " ".join([reason, *asked[begin : begin + _TOLD_AT_ONCE]]))


def pending(session: Session, devices: Iterable[str]) -> dict[str, str]:
    """Those of the devices that are to attest, with the reasons."""
    asked = list(devices)
    found: dict[str, str] = {}
    for begin in range(0, len(asked), _CHUNK):
        query = (
            select(Wake.device, Wake.reason)
            .join(_DEVICES, _DEVICES.c.id == Wake.device)
            .where(
                Wake.device.in_(asked[begin : begin + _CHUNK]),
                Wake.answered == _DEVICES.c.nonce_issued,
            )
        )
        found.update(dict(session.execute(query).all()))
    return found


def newest_serial(session: Session) -> int:
    """The serial of the newest wake."""
    return session.scalar(select(func.max(Wake.serial))) or 0


def wakes_after(session: Session, serial: int) -> list[Wake]:
    """Wakes that are newer, oldest first."""
    return list(session.scalars(select(Wake).where(Wake.serial > serial).order_by(Wake.serial)))
