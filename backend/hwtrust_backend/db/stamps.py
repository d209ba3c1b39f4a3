"""Serial numbers of what changes rarely and is read often, so that it can be kept in memory.

Rules:
1. Whatever changes such rows counts their serial up, in the same transaction.
2. A reader asks for the serial in its own transaction and keeps what it made of
   the rows under that number. So nothing that is kept is ever older than the
   reader's view of the database, on no replica.
3. A transaction that has counted up reads for itself alone: it may be rolled
   back, and its serial be given to another.
4. A transaction asks for a serial once: what held when it first looked holds
   until its end.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import BigInteger, Engine, String, bindparam, event, select, update
from sqlalchemy.orm import Mapped, Session, SessionTransaction, mapped_column

from hwtrust.errors import DatabaseError
from hwtrust_backend.db.base import Base

_COUNTED: Final = "hwtrust_backend.db.stamps.counted"
_SEEN: Final = "hwtrust_backend.db.stamps.seen"
_SERIALS: Final = "hwtrust_backend.db.stamps.serials"

Value = TypeVar("Value")


class Stamp(Base):
    """One serial number."""

    __tablename__ = "stamps"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    serial: Mapped[int] = mapped_column(BigInteger)


_STAMPS: Final = Base.metadata.tables[Stamp.__tablename__]
_SERIAL: Final = select(_STAMPS.c.serial).where(_STAMPS.c.name == bindparam("stamp"))

RULES = "rules"
"""Of releases, groups and policies, and of which releases are published."""
WEBHOOKS = "webhooks"
"""Of the receivers of webhooks."""
EK_AUTHORITIES = "ek-authorities"
"""Of the TPM vendors' certificates."""
ENCLAVE_AUTHORITIES = "enclave-authorities"
"""Of what enclaves' evidence is verified by."""
REPOSITORY = "repository"
"""Of the releases that are published."""


def count_up(session: Session, name: str) -> None:
    """Note that something of that name has changed."""
    moved = session.execute(
        update(Stamp).where(Stamp.name == name).values(serial=Stamp.serial + 1),
        execution_options={"synchronize_session": False},
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise DatabaseError(f"the database lacks the stamp {name!r}")
    session.info.setdefault(_COUNTED, set()).add(name)
    session.info.pop(_SEEN, None)
    session.info.pop(_SERIALS, None)


def serial_of(session: Session, name: str) -> int:
    """The serial as this transaction sees it."""
    serial: int | None = session.connection().scalar(_SERIAL, {"stamp": name})
    if serial is None:
        raise DatabaseError(f"the database lacks the stamp {name!r}")
    return serial


class Kept(Generic[Value]):
    """What `read` makes of the rows of one stamp, kept in memory while its serial stands."""

    def __init__(self, name: str, read: Callable[[Session], Value]) -> None:
        self._name = name
        self._read = read
        self._lock = Lock()
        self._kept: WeakKeyDictionary[Engine, tuple[int, Value]] = WeakKeyDictionary()

    def get(self, session: Session) -> Value:
        """What is true in this transaction."""
        seen: dict[Kept[Any], Any] = session.info.setdefault(_SEEN, {})
        if self not in seen:
            seen[self] = self._current(session)
        value: Value = seen[self]
        return value

    def _current(self, session: Session) -> Value:
        if self._name in session.info.get(_COUNTED, ()):
            return self._read(session)
        database = session.get_bind().engine
        serials: dict[str, int] = session.info.setdefault(_SERIALS, {})
        if self._name not in serials:
            serials[self._name] = serial_of(session, self._name)
        serial = serials[self._name]
        with self._lock:
            kept = self._kept.get(database)
        if kept is None or kept[0] != serial:
            kept = serial, self._read(session)
            with self._lock:
                self._kept[database] = kept
        return kept[1]


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        for key in (_COUNTED, _SEEN, _SERIALS):
            session.info.pop(key, None)
