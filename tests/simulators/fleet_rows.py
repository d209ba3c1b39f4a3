"""Rows of many devices, copied inside the database from those of a real one.

    add_rows(database, template=device.name.hex(), count=1_000_000, due_at=…, missed_at=…)

A copy has a name of its own and one active root; all else is the template's. No
such device can attest. It is there to be looked at, passed over, or made due.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from hwtrust_backend.enrolment import Device
from hwtrust_backend.publishing import StoredRoot

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.db import Database

CHUNK: Final = 20_000


def name_of(number: int) -> str:
    """The name of a copy: what a TPM with a SHA-256 EK might have."""
    return f"000b{hashlib.sha256(f'copy {number}'.encode()).hexdigest()}"


def add_rows(
    database: Database,
    *,
    template: str,
    count: int,
    due_at: Callable[[int], int | None],
    missed_at: Callable[[int], int | None],
    first: int = 0,
    group: str = "default",
) -> list[str]:
    """Add `count` devices, numbered from `first`; gives their names."""
    source = (
        "json_to_recordset(CAST(:rows AS json))"
        " AS copy(id text, rotate_at bigint, watchdog_at bigint)"
        if database.is_postgresql
        else "(SELECT value ->> 'id' AS id, value ->> 'rotate_at' AS rotate_at,"
        " value ->> 'watchdog_at' AS watchdog_at FROM json_each(:rows)) AS copy"
    )
    own = {
        "id": "copy.id",
        "rotate_at": "copy.rotate_at",
        "watchdog_at": "copy.watchdog_at",
        "rotation_asked_at": "NULL",
        "group": ":group_name",
    }
    devices = _copying(Device.__table__.columns.keys(), own, "devices", "id", source)
    roots = _copying(
        StoredRoot.__table__.columns.keys(), {"device": "copy.id"}, "roots", "device", source
    )
    active = f"{roots} AND row.state = 'active'"
    # In order, so that every index grows at its end.
    names = sorted(name_of(number) for number in range(first, first + count))
    for begin in range(0, count, CHUNK):
        rows = [
            {"id": name, "rotate_at": due_at(number), "watchdog_at": missed_at(number)}
            for number, name in enumerate(names[begin : begin + CHUNK], first + begin)
        ]
        with database.transaction() as session:
            given = {"rows": json.dumps(rows), "template": template}
            session.execute(text(devices), {**given, "group_name": group})
            session.execute(text(active), given)
    return names


def _copying(columns: list[str], own: dict[str, str], table: str, key: str, source: str) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(own.get(column, f'row."{column}"') for column in columns)
    return (
        f"INSERT INTO {table} ({names}) SELECT {values}"  # noqa: S608 - our own names
        f" FROM {table} AS row, {source} WHERE row.{key} = :template"
    )
