"""Finding devices among many: filters, and pages.

Rules:
1. A page costs what it shows, not what the fleet is. Its driving filter has an
   index; for the others a window of so many rows is looked at, and a page may
   then hold fewer rows than asked for and still have a next one.
2. A device of a group that the principal does not see is in no page, and moves
   no page's end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, false, func, literal_column, or_, select
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.admin.fields import DeviceName, Label
from hwtrust_backend.admin.paging import LONGEST_PAGE, cursor_of, key_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.enrolment import NAME_DIGITS, Device, DeviceKind
from hwtrust_backend.monitor import DeviceSummary, summaries_of

WINDOW: Final = 10_000
"""Rows that one page looks at, where a filter has no index."""

_HEXADECIMAL: Final = frozenset("0123456789abcdef")
_NOT_NORMAL: Final = Device.mode != literal_column("'normal'")
_NO_TPM: Final = Device.kind != literal_column("'tpm'")
"""In these words, so that the indexes of just these rows are found."""


class DeviceFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices to list; what is absent filters nothing.

    Attributes:
        search: the beginning of a device's name, a part of its label in upper or
            lower case, or its release.
        kind: what its evidence is.
        silent: that it was found missing, and has not been heard of since.
        locked: that an administrator has locked it.
        retired: absent: only those in service.
        due: that its next root is asked for, or due by now.
        failing: that it has reported a failure, and has not got over it.
    """

    search: Label = ""
    standing: Standing | None = None
    mode: Mode | None = None
    group: str | None = None
    release: str | None = None
    kind: DeviceKind | None = None
    silent: bool | None = None
    locked: bool | None = None
    retired: bool | None = None
    due: bool | None = None
    failing: bool | None = None


class DevicePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some devices, by name, and where the next page begins."""

    devices: tuple[DeviceSummary, ...]
    next: str | None
    """The cursor of the next page; absent on the last one."""


@dataclass(slots=True)
class _Plan:
    """The filter that drives a query by its index, and those that each row is held to."""

    driving: ColumnElement[bool] | None = None
    always: list[ColumnElement[bool]] = field(default_factory=list)
    others: list[ColumnElement[bool]] = field(default_factory=list)

    def add(self, condition: ColumnElement[bool]) -> None:
        """Drive by this condition, unless a better one does already."""
        if self.driving is None:
            self.driving = condition
        else:
            self.others.append(condition)


def device_page(
    session: Session,
    wanted: DeviceFilter,
    *,
    by: Principal,
    now: int,
    cursor: str | None = None,
    limit: int = 50,
) -> DevicePage:
    """A page of devices, by name, from `cursor` on.

    Raises:
        CursorError: the cursor is none.
    """
    by.require(Role.VIEWER)
    limit = max(1, min(limit, LONGEST_PAGE))
    after = "" if cursor is None else key_of(cursor, DeviceName)
    found: list[Device] = []
    edges: list[str] = []
    for group in _groups(wanted, by):
        rows, edge = _rows(session, wanted, group, after=after, limit=limit + 1, now=now)
        found += rows
        edges += [edge] if edge is not None else []
    end = min(edges, default=None)
    rows = sorted((row for row in found if end is None or row.id <= end), key=lambda row: row.id)
    if len(rows) > limit:
        rows, end = rows[:limit], rows[limit - 1].id
    summaries = summaries_of(session, rows, now=now)
    return DevicePage(devices=summaries, next=None if end is None else cursor_of(end))


def _groups(wanted: DeviceFilter, by: Principal) -> list[str | None]:
    """The groups to ask for one by one; None: all in one."""
    if wanted.group is not None:
        return [wanted.group] if by.sees(wanted.group) else []
    return [None] if by.groups is None else [*sorted(by.groups)]


def _rows(
    session: Session, wanted: DeviceFilter, group: str | None, *, after: str, limit: int, now: int
) -> tuple[list[Device], str | None]:
    """Devices behind `after`, and up to where was looked; None: to the end."""
    plan = _planned(wanted, group, now)
    driving = [Device.id > after, *plan.always]
    if plan.driving is not None:
        driving.append(plan.driving)
    edge: str | None = None
    if plan.others:
        edges = select(Device.id).where(*driving).order_by(Device.id)
        edge = session.scalar(edges.offset(WINDOW - 1).limit(1))
    if edge is not None:
        driving.append(Device.id <= edge)
    query = select(Device).where(*driving, *plan.others).order_by(Device.id).limit(limit)
    return list(session.scalars(query)), edge


def _planned(wanted: DeviceFilter, group: str | None, now: int) -> _Plan:
    """The filters, those first whose indexes leave the fewest rows."""
    plan = _Plan()
    for column, asked in (
        (Device.silent_since, wanted.silent),
        (Device.locked_at, wanted.locked),
        (Device.failing_since, wanted.failing),
        (Device.retired_at, wanted.retired),
    ):
        if asked:
            plan.add(column.is_not(None))
        elif asked is False:
            plan.others.append(column.is_(None))
    if wanted.retired is None:
        # Retired devices are few: passing them over needs no window.
        plan.always.append(Device.retired_at.is_(None))
    if wanted.mode is not None:
        plan.others.append(Device.mode == wanted.mode)
        if wanted.mode is not Mode.NORMAL:
            plan.add(_NOT_NORMAL)
    enclave = None if wanted.kind is DeviceKind.TPM else wanted.kind
    for wish, condition in (
        (enclave, _NO_TPM & (Device.kind == str(enclave))),
        (wanted.release, Device.release == wanted.release),
        (group, Device.group == group),
        (wanted.standing, Device.standing == wanted.standing),
    ):
        if wish is not None:
            plan.add(condition)
    plan.others += _unindexed(wanted, now)
    return plan


def _unindexed(wanted: DeviceFilter, now: int) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.kind is DeviceKind.TPM:
        found.append(Device.kind == wanted.kind.value)
    if wanted.due is not None:
        due = or_(Device.rotation_asked_at.is_not(None), Device.rotate_at <= now)
        found.append(due if wanted.due else ~func.coalesce(due, false()))
    if wanted.search:
        found.append(_search(wanted.search))
    return found


def _search(text: str) -> ColumnElement[bool]:
    lowered = text.lower()
    found = [
        # Not every database knows the lower case of letters beyond ASCII.
        func.lower(Device.label).contains(lowered, autoescape=True),
        Device.label.contains(text, autoescape=True),
        Device.release == text,
    ]
    if set(lowered) <= _HEXADECIMAL and len(lowered) <= NAME_DIGITS:
        found.append(Device.id.between(lowered, lowered + "g"))
    return or_(*found)
