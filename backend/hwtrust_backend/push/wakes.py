"""Wakes: that a device should attest now, and why.

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
    exist is nobody to tell.
    """
    # What the wake is about comes first, and an attestation under way before both: it may
    # have been decided without.
    session.flush()
    row = _DEVICES.c
    query = select(row.nonce_issued).where(row.id == device).with_for_update()
    answered = session.scalar(query)
    if answered is None:
        return
    serial = (session.scalar(select(func.max(Wake.serial))) or 0) + 1
    noted = session.get(Wake, device, populate_existing=True)
    if noted is None:
        noted = Wake(device=device, serial=serial, answered=answered, reason="")
        session.add(noted)
    noted.serial, noted.answered, noted.reason = serial, answered, reason[:REASON_LENGTH]
    session.flush()
    notify(session, CHANNEL, f"{device} {noted.reason}")


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
        for device, reason in session.execute(query):
            found[device] = reason
    return found


def newest_serial(session: Session) -> int:
    """The serial of the newest wake."""
    return session.scalar(select(func.max(Wake.serial))) or 0


def wakes_after(session: Session, serial: int) -> list[Wake]:
    """Wakes that are newer, oldest first."""
    return list(session.scalars(select(Wake).where(Wake.serial > serial).order_by(Wake.serial)))
