"""What an auditor asks for, as files that grow line by line: CSV, or JSON lines.

    devices     one line each, in all groups that the principal sees
    roots       every root of those devices, the retired ones too
    releases, policies    as the lists of the API have them

Nothing is held in memory but a page: a million devices are a long file, no large one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust_backend.admin.eks import csv_line
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.admin.releases import ReleaseReport, releases
from hwtrust_backend.admin.rules import PolicyReport, policy_versions
from hwtrust_backend.enrolment import Device
from hwtrust_backend.monitor import summaries_of
from hwtrust_backend.publishing import StoredRoot

_PAGE: Final = 500


class ExportKind(StrEnum):
    """What is exported."""

    DEVICES = "devices"
    ROOTS = "roots"
    RELEASES = "releases"
    POLICIES = "policies"


class ExportFormat(StrEnum):
    """How."""

    CSV = "csv"
    JSON_LINES = "jsonl"


class DeviceLine(msgspec.Struct, frozen=True, kw_only=True):
    """A device in one line. Times are UTC milliseconds."""

    device: str
    kind: str
    group: str
    label: str
    standing: str
    since: int
    why: str
    """The codes of the findings, separated by spaces."""
    mode: str
    release: str
    epoch: int
    root_not_after: int | None
    enrolled_at: int
    attested_at: int
    silent_since: int | None
    locked_at: int | None
    lock_reason: str
    retired_at: int | None
    tls_key: str
    ek_source: str


class RootLine(msgspec.Struct, frozen=True, kw_only=True):
    """A root in one line. Times are UTC milliseconds."""

    device: str
    epoch: int
    state: str
    release: str
    reason: str
    made_at: int
    confirmed_at: int | None
    retired_at: int | None
    not_after: int


def export(
    session: Session, kind: ExportKind, form: ExportFormat, *, by: Principal, now: int
) -> Iterator[str]:
    """The lines of a file; the first one of CSV names the columns."""
    by.require(Role.VIEWER)
    match kind:
        case ExportKind.DEVICES:
            return _lines(DeviceLine, _devices(session, by, now), form)
        case ExportKind.ROOTS:
            return _lines(RootLine, _roots(session, by), form)
        case ExportKind.RELEASES:
            return _lines(ReleaseReport, releases(session, by=by), form)
        case ExportKind.POLICIES:
            return _lines(PolicyReport, policy_versions(session, by=by), form)


def _lines(
    columns: type[msgspec.Struct], rows: Iterable[msgspec.Struct], form: ExportFormat
) -> Iterator[str]:
    if form is ExportFormat.CSV:
        yield csv_line(columns.__struct_fields__)
    for row in rows:
        if form is ExportFormat.JSON_LINES:
            yield msgspec.json.encode(row).decode() + "\n"
        else:
            yield csv_line(tuple(_cell(value) for value in msgspec.structs.astuple(row)))


def _cell(value: Any) -> object:  # noqa: ANN401 - a field of any of the lines
    """Several values in one cell are separated by spaces."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _pages(session: Session, by: Principal) -> Iterator[list[Device]]:
    after = ""
    while True:
        query = select(Device).where(Device.id > after).order_by(Device.id).limit(_PAGE)
        page = list(session.scalars(query))
        if not page:
            return
        after = page[-1].id
        yield [device for device in page if by.sees(device.group)]
        # What was told is not kept.
        session.expunge_all()


def _devices(session: Session, by: Principal, now: int) -> Iterator[DeviceLine]:
    for page in _pages(session, by):
        for device, summary in zip(page, summaries_of(session, page, now=now), strict=True):
            yield DeviceLine(
                device=device.id,
                kind=device.kind,
                group=device.group,
                label=device.label,
                standing=summary.standing,
                since=summary.since,
                why=" ".join(finding.code for finding in summary.why),
                mode=summary.mode,
                release=device.release,
                epoch=device.counter,
                root_not_after=None if summary.root is None else summary.root.not_after,
                enrolled_at=device.enrolled_at,
                attested_at=device.attested_at,
                silent_since=device.silent_since,
                locked_at=device.locked_at,
                lock_reason=device.lock_reason,
                retired_at=device.retired_at,
                tls_key=summary.tls_key,
                ek_source=device.ek_source,
            )


def _roots(session: Session, by: Principal) -> Iterator[RootLine]:
    for page in _pages(session, by):
        names = [device.id for device in page]
        query = select(StoredRoot).where(StoredRoot.device.in_(names))
        for root in session.scalars(query.order_by(StoredRoot.device, StoredRoot.epoch)):
            yield RootLine(
                device=root.device,
                epoch=root.epoch,
                state=root.state.value,
                release=root.release,
                reason=root.reason,
                made_at=root.made_at,
                confirmed_at=root.confirmed_at,
                retired_at=root.retired_at,
                not_after=root.not_after,
            )
