"""Devices as an attestation works on them: what it needs of their rows, without the mapping.

    lock_states ──▶ DeviceState, changed in memory ──▶ write_states: what has changed

Rules:
1. A state is that of a row which its transaction has locked. It ends with the transaction.
2. Nothing is written before `write_states`. Where a savepoint is rolled back, its caller
   puts back the states as they were before.
3. In one transaction a device is a state or a `Device`, never both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Mode, Standing, TlsKeyKind
from hwtrust_backend.db import Base
from hwtrust_backend.enrolment.models import Device


class DeviceState(msgspec.Struct, eq=False):
    """A device's row under lock; but for the first, a field is the column of its name."""

    read: tuple[Any, ...]
    """All that follows as it was read."""
    id: str
    kind: str
    ak_public: bytes
    storage_public: bytes
    counter_name: bytes
    selection: str
    pcr: int
    tls_kind: TlsKeyKind
    tls_key: bytes
    group: str
    locked_at: int | None
    lock_reason: str
    retired_at: int | None
    # From here on, what an attestation may change.
    attested_at: int
    standing: Standing
    standing_since: int
    findings: bytes
    history: bytes
    release: str
    counter: int
    nonce_issued: int
    platform: bytes | None
    evidence_told: bytes | None
    facts: bytes | None
    rotation_asked_at: int | None
    rotation_reason: str
    rotate_at: int | None
    watchdog_at: int | None
    silent_since: int | None
    mode: Mode
    release_since: int | None
    failure: bytes | None
    failing_since: int | None
    query_asked_at: int | None

    @property
    def name(self) -> bytes:
        """The EK's Name, or the enclave's."""
        return bytes.fromhex(self.id)

    def changes(self) -> dict[str, Any]:
        """What has changed since it was read, by the columns' names."""
        pairs = zip(_CHANGING, _values(self), self.read[_FIXED:], strict=True)
        return {name: value for name, value, before in pairs if value != before}


AnyDevice = Device | DeviceState
"""Whatever holds the columns of a device that an attestation is about."""

_COLUMNS: Final = DeviceState.__struct_fields__[1:]
_FIXED: Final = _COLUMNS.index("attested_at")
_CHANGING: Final = _COLUMNS[_FIXED:]
_values: Final = attrgetter(*_CHANGING)

_DEVICES: Final = Base.metadata.tables[Device.__tablename__]
_LOCK: Final = (
    select(*(_DEVICES.c[name] for name in _COLUMNS))
    .where(_DEVICES.c.id.in_(bindparam("devices", expanding=True)))
    .order_by(_DEVICES.c.id)
    .with_for_update()
)
_WRITE: Final = update(_DEVICES).where(_DEVICES.c.id == bindparam("device"))


def lock_states(session: Session, devices: Collection[str]) -> dict[str, DeviceState]:
    """Those of these devices that are enrolled, by name; their rows are locked.

    In the order of their names: whoever locks more than one takes them in this order.
    """
    rows = session.connection().execute(_LOCK, {"devices": list(devices)}).all()
    return {row[0]: DeviceState(row, *row) for row in map(tuple, rows)}


def write_states(session: Session, states: Iterable[DeviceState]) -> None:
    """Write what has changed: one statement for all devices of which the same columns have."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for state in states:
        changed = state.changes()
        if changed:
            alike.setdefault(tuple(changed), []).append({"device": state.id, **changed})
    for rows in alike.values():
        session.connection().execute(_WRITE, rows)
