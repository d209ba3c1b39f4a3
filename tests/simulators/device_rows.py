"""Devices that are only rows: what an administrator sees of devices that never called.

with backend.database.transaction() as session:
    name = add_device(session, 7, group="eu", label="hall 2")
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from hwtrust.verify.enclaves.kinds import verify_enclave
from hwtrust.wire.messages import Mode, Standing, TlsKeyKind
from hwtrust_backend.enrolment import Device
from hwtrust_backend.policies import Group
from simulators.enclaves import REPORT_DATA, TRUST

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from simulators.enclaves import Machine


def device_name(number: int) -> str:
    """The EK's Name of device `number`, in hexadecimal digits."""
    return "000b" + hashlib.sha256(f"device {number}".encode()).hexdigest()


def add_device(session: Session, number: int, **fields: object) -> str:
    """Store a device that is well, but for `fields`; gives its name."""
    values: dict[str, object] = {
        "id": device_name(number),
        "ek_source": "allow-list",
        "ak_public": b"",
        "storage_public": b"",
        "counter_name": b"",
        "selection": "sha256:8",
        "pcr": 8,
        "base_epoch": 1,
        "tls_kind": TlsKeyKind.ATTESTED,
        "tls_key": b"",
        "enrolled_at": 1,
        "attested_at": 1,
        "standing": Standing.TRUSTED,
        "standing_since": 1,
        "findings": b"[]",
        "history": b"{}",
        "release": "1.0",
        "counter": 1,
        "nonce_issued": 0,
        "group": "default",
        "label": "",
        "mode": Mode.NORMAL,
    }
    device = Device(**{**values, **fields})
    session.add(device)
    return device.id


@cache
def facts_of_machine(machine: Machine) -> bytes:
    """What the hardware of a machine says, as its row has it."""
    claims = verify_enclave(
        machine.evidence(),
        kind=machine.kind,
        report_data=REPORT_DATA,
        now_ms=machine.now_ms,
        trust=TRUST,
    )
    return msgspec.json.encode(claims.facts())


def add_enclave(session: Session, number: int, machine: Machine, **fields: object) -> str:
    """Store an enclave that is well, but for `fields`; gives its name."""
    given: dict[str, object] = {
        "kind": machine.kind.value,
        "facts": facts_of_machine(machine),
        "ek_source": "token",
        "selection": "",
        "pcr": 0,
        "base_epoch": 0,
    }
    return add_device(session, number, **{**given, **fields})


def add_groups(session: Session, *names: str) -> None:
    """Store groups with the policy of the group `default`."""
    for name in names:
        session.add(Group(name=name, label="", policy="default", created_at=1))
