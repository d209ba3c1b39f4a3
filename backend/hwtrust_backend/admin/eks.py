"""The allow-list of EKs: one by one, and as CSV files.

    name,label,group            the first line may be this; label and group may be absent
    000b4ff1…,line 3,eu

Rules:
1. A file is taken whole or not at all. Every bad line is named, not the first.
2. A name twice in one file is a bad line unless both lines say the same; a name
   that is on the list already gets the file's label and group.
3. What is exported can be imported again as it is.
4. Nobody puts the EK of a device on the list that is another group's.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    EkImportError,
    EkUnlistedError,
    ForbiddenError,
    HwTrustError,
    PolicyUnknownError,
)
from hwtrust_backend.admin.devices import see_group
from hwtrust_backend.admin.fields import DeviceName, label_of
from hwtrust_backend.admin.paging import cursor_of, key_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.audit import Event, record
from hwtrust_backend.enrolment import AllowedEk, Device
from hwtrust_backend.enrolment import trust as ek_trust
from hwtrust_backend.policies import DEFAULT_GROUP, Group

COLUMNS: Final = ("name", "label", "group")
FILE_LIMIT: Final = 8 * 1024 * 1024
LINE_LIMIT: Final = 100_000
_NAMED: Final = 20
"""Bad lines that a refusal names."""
_AT_ONCE: Final = 500
_NOT_YOURS: Final = "this EK is not yours to allow"


class EkReport(msgspec.Struct, frozen=True, kw_only=True):
    """An EK on the allow-list."""

    name: str
    label: str
    group: str
    """Where its device goes when it enrols."""
    added_at: int


class EkPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the allow-list, by name."""

    eks: tuple[EkReport, ...]
    next: str | None


class EkImport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import came to."""

    added: int
    changed: int
    unchanged: int


def allow_ek(
    session: Session,
    name: str,
    *,
    label: str = "",
    group: str = DEFAULT_GROUP,
    by: Principal,
    now: int,
) -> EkReport:
    """Let the TPM with this EK enrol, with no certificate and no token.

    Raises:
        RequestError: it is no Name.
        PolicyUnknownError: there is no such group.
        ForbiddenError: it, or the device that has it, is of a group that `by` does not see.
    """
    by.require(Role.OPERATOR)
    if _of_others(session, [ek_trust.ek_name(name)], by):
        raise ForbiddenError(_NOT_YOURS)
    row = ek_trust.allow_ek(
        session,
        name,
        label=label_of(label),
        group=see_group(session, group, by=by),
        by=by.name,
        now=now,
    )
    return _report(row)


def ek(session: Session, name: str, *, by: Principal) -> EkReport:
    """What the list says of an EK.

    Raises:
        EkUnlistedError: it is not on the list.
    """
    by.require(Role.VIEWER)
    return _report(_seen(session, name, by))


def remove_ek(session: Session, name: str, *, by: Principal, now: int) -> None:
    """Take an EK off the list; a device that is enrolled stays so.

    Raises:
        EkUnlistedError: it is not on the list.
    """
    by.require(Role.OPERATOR)
    ek_trust.remove_ek(session, _seen(session, name, by).name, by=by.name, now=now)


def ek_page(
    session: Session, *, by: Principal, cursor: str | None = None, limit: int = 50
) -> EkPage:
    """A page of the list, by name, from `cursor` on.

    Raises:
        CursorError: the cursor is none.
    """
    by.require(Role.VIEWER)
    after: str = "" if cursor is None else key_of(cursor, DeviceName)
    rows = ek_trust.list_eks(session, groups=by.groups, after=after, limit=limit + 1)
    follows = cursor_of(rows[limit - 1].name) if len(rows) > limit else None
    return EkPage(eks=tuple(_report(row) for row in rows[:limit]), next=follows)


def import_eks(session: Session, content: bytes, *, by: Principal, now: int) -> EkImport:
    """Put every EK of a CSV file (UTF-8) on the list, or none of them.

    Raises:
        EkImportError: too large, no UTF-8, no CSV, or with bad lines; the message
            names them.
    """
    by.require(Role.OPERATOR)
    lines = _read(session, content, by)
    of_others = _of_others(session, [*lines], by)
    if of_others:
        raise _refused({lines[name].number: _NOT_YOURS for name in of_others})
    known = _known(session, [*lines])
    added: list[dict[str, object]] = []
    changed = 0
    for name, line in lines.items():
        row = known.get(name)
        if row is None:
            added.append({"name": name, "label": line.label, "group": line.group, "added_at": now})
        elif (row.label, row.group) != (line.label, line.group):
            changed += 1
            row.label, row.group = line.label, line.group
    if added:
        # Rows, not objects: nobody else writes to SQLite while a long file is taken.
        session.execute(insert(AllowedEk), added)
    unchanged = len(lines) - len(added) - changed
    came_to = EkImport(added=len(added), changed=changed, unchanged=unchanged)
    digest = hashlib.sha256(content).hexdigest()
    reason = f"{came_to.added} added, {came_to.changed} changed, sha256 {digest}"
    record(session, Event.EK_IMPORTED, now=now, reason=reason, actor=by.name)
    return came_to


def export_eks(session: Session, *, by: Principal) -> Iterator[str]:
    """The list as CSV, line by line."""
    by.require(Role.VIEWER)
    yield csv_line(COLUMNS)
    for row in ek_trust.every_ek(session, groups=by.groups):
        yield csv_line((row.name, row.label, row.group))


def csv_line(fields: tuple[object, ...]) -> str:
    """One line of CSV (RFC 4180)."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(fields)
    return line.getvalue()


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line says of a name."""

    number: int
    label: str
    group: str


def _read(session: Session, content: bytes, by: Principal) -> dict[str, _Line]:
    """The lines by name."""
    if len(content) > FILE_LIMIT:
        raise EkImportError(f"the file is larger than {FILE_LIMIT} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise EkImportError(f"line {number} is no UTF-8", lines=str(number)) from error
    if not text.strip():
        raise EkImportError("the file is empty")
    groups: dict[str, bool] = {}
    found: dict[str, _Line] = {}
    bad: dict[int, str] = {}
    for number, fields in _fields(text):
        if number > LINE_LIMIT:
            raise EkImportError(f"the file has more than {LINE_LIMIT} lines")
        if not fields or (number == 1 and fields[0].strip().lower() == COLUMNS[0]):
            continue
        try:
            name, line = _line(session, number, fields, by, groups)
        except HwTrustError as error:
            bad[number] = error.message
            continue
        first = found.setdefault(name, line)
        if (first.label, first.group) != (line.label, line.group):
            bad[number] = f"the name stands in line {first.number} too, with other words"
    if bad:
        raise _refused(bad)
    return found


def _known(session: Session, names: list[str]) -> dict[str, AllowedEk]:
    """Those that are on the list already."""
    found: dict[str, AllowedEk] = {}
    for begin in range(0, len(names), _AT_ONCE):
        query = select(AllowedEk).where(AllowedEk.name.in_(names[begin : begin + _AT_ONCE]))
        found |= {row.name: row for row in session.scalars(query)}
    return found


def _of_others(session: Session, names: list[str], by: Principal) -> set[str]:
    """Those that are on the list for others, or the EKs of others' devices.

    The list comes before any token: whoever could put another's device on it would
    have it at its next enrolment.
    """
    if by.groups is None:
        return set()
    found: set[str] = set()
    for begin in range(0, len(names), _AT_ONCE):
        part = names[begin : begin + _AT_ONCE]
        for column, group in ((AllowedEk.name, AllowedEk.group), (Device.id, Device.group)):
            query = select(column).where(column.in_(part), group.not_in(sorted(by.groups)))
            found.update(session.scalars(query))
    return found


def _refused(bad: dict[int, str]) -> EkImportError:
    shown = sorted(bad)[:_NAMED]
    named = "; ".join(f"line {number}: {bad[number]}" for number in shown)
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return EkImportError(f"{named}{more}", lines=" ".join(map(str, shown)), count=len(bad))


def _fields(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each line's number and fields."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        number = reader.line_num
        raise EkImportError(f"line {number} is no CSV: {error}", lines=str(number)) from error


def _line(
    session: Session, number: int, fields: list[str], by: Principal, groups: dict[str, bool]
) -> tuple[str, _Line]:
    if len(fields) > len(COLUMNS):
        raise EkImportError(f"{len(fields)} columns; there are {len(COLUMNS)}")
    name, label, group = (*(field.strip() for field in fields), "", "")[: len(COLUMNS)]
    group = group or DEFAULT_GROUP
    if group not in groups:
        groups[group] = by.sees(group) and session.get(Group, group) is not None
    if not groups[group]:
        raise PolicyUnknownError(f"there is no group {group[:100]!r}")
    return ek_trust.ek_name(name), _Line(number, label_of(label), group)


def _seen(session: Session, name: str, by: Principal) -> AllowedEk:
    row = session.get(AllowedEk, name.lower())
    if row is None or not by.sees(row.group):
        raise EkUnlistedError("this EK is not on the allow-list")
    return row


def _report(row: AllowedEk) -> EkReport:
    return EkReport(name=row.name, label=row.label, group=row.group, added_at=row.added_at)
