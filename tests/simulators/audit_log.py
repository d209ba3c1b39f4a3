"""A database with an audit trail, the key that signs its heads, and what counts its statements."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event as sqlalchemy_event

from hwtrust_backend.audit import (
    AuditSignedHead,
    Event,
    Report,
    decode_head,
    record,
    sign_head,
    verify_log,
)
from hwtrust_backend.keys.signing import SoftwareSigner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hwtrust.wire.envelope import Envelope
    from hwtrust_backend.db import Database

ORIGIN = "https://backend.example"
SIGNER = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
KEY = SIGNER.public_key


def write(database: Database, count: int, *, device: str = "d", first: int = 1) -> None:
    """Append records in one transaction; their reasons are numbers."""
    with database.transaction() as session:
        for number in range(first, first + count):
            record(session, Event.EVIDENCE_ACCEPTED, now=number, device=device, reason=str(number))


def sign(database: Database, *, now: int = 1) -> AuditSignedHead:
    """Have the tree signed as it stands."""
    with database.transaction() as session:
        head = sign_head(session, SIGNER, origin=ORIGIN, now=now)
    assert head is not None
    return head


def keep(database: Database) -> Envelope:
    """Have the tree signed, and keep its head elsewhere."""
    return decode_head(sign(database).envelope)


def verify(database: Database, kept: Sequence[Envelope] = ()) -> Report:
    """Check the whole trail."""
    with database.reading() as session:
        return verify_log(session, key=KEY, kept=kept)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The SQL that is sent meanwhile."""
    sent: list[str] = []

    def note(*arguments: object) -> None:
        sent.append(" ".join(str(arguments[2]).split()))

    sqlalchemy_event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sqlalchemy_event.remove(database.engine, "before_cursor_execute", note)
