"""Routes for devices.

GET   /v1/admin/devices                    DevicePage      search, filter, page
GET   /v1/admin/devices/{device}           DeviceReport
PATCH /v1/admin/devices/{device}           DeviceSummary   label, group
POST  /v1/admin/devices/{device}/rotate    DeviceSummary
POST  /v1/admin/devices/{device}/events    EventReply      what its application has met
POST  /v1/admin/devices/{device}/lock      DeviceSummary
POST  /v1/admin/devices/{device}/unlock    DeviceSummary
POST  /v1/admin/devices/{device}/retire    DeviceSummary
POST  /v1/admin/devices/{device}/readmit   DeviceSummary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from litestar import get, patch, post
from litestar.params import PathParameter, QueryParameter
from sqlalchemy.orm import Session

from hwtrust.wire.messages import EventReply, EventReport, Mode, Standing
from hwtrust_backend.admin import devices, report, search
from hwtrust_backend.admin.fields import END, PRINTABLE, Label, Name, Reason
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.routes.admin_guard import Cursor, PageLimit, change, read, route
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest
from hwtrust_backend.enrolment import Device, DeviceKind
from hwtrust_backend.monitor import DeviceSummary, summary_of

TAG = "devices"

DeviceId = Annotated[
    str,
    PathParameter(
        pattern=rf"^[0-9a-f]{{68,132}}{END}",
        description="The device's name, in hexadecimal digits.",
    ),
]
Text = Annotated[str | None, QueryParameter(max_length=200, pattern=PRINTABLE)]


class DeviceChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a device; what is absent stays as it is."""

    label: Label | None = None
    group: Name | None = None
    """An administrator's to change."""


class Why(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reason, for the audit trail."""

    reason: Reason


class MaybeWhy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reason, for the audit trail, or none."""

    reason: Label = ""


@get("/devices", **route(Role.VIEWER, tag=TAG))
def list_devices(
    request: HttpRequest,
    *,
    text: Annotated[
        str | None,
        QueryParameter(
            name="search",
            max_length=200,
            pattern=PRINTABLE,
            description="The beginning of a name, a part of a label, or a release.",
        ),
    ] = None,
    standing: Annotated[Standing | None, QueryParameter()] = None,
    mode: Annotated[Mode | None, QueryParameter()] = None,
    group: Text = None,
    release: Text = None,
    kind: Annotated[
        DeviceKind | None, QueryParameter(description="What the device's evidence is.")
    ] = None,
    silent: Annotated[bool | None, QueryParameter()] = None,
    locked: Annotated[bool | None, QueryParameter()] = None,
    retired: Annotated[
        bool | None, QueryParameter(description="Absent: only devices in service.")
    ] = None,
    due: Annotated[
        bool | None,
        QueryParameter(description="Whether the next root is asked for, or due by now."),
    ] = None,
    failing: Annotated[
        bool | None,
        QueryParameter(description="Whether it has reported a failure, and not got over it."),
    ] = None,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> search.DevicePage:
    """List devices, by name. A page may be short, and still have a next one."""
    wanted = search.DeviceFilter(
        search=text or "",
        standing=standing,
        mode=mode,
        group=group,
        release=release,
        kind=kind,
        silent=silent,
        locked=locked,
        retired=retired,
        due=due,
        failing=failing,
    )

    def work(session: Session, by: Principal, now: int) -> search.DevicePage:
        return search.device_page(session, wanted, by=by, now=now, cursor=cursor, limit=limit)

    return read(request, work)


@get("/devices/{device:str}", **route(Role.VIEWER, tag=TAG))
def show_device(request: HttpRequest, device: DeviceId) -> report.DeviceReport:
    """Show all that is known of a device: findings, roots, the newest of its trail."""

    def work(session: Session, by: Principal, now: int) -> report.DeviceReport:
        return report.device_report(session, device, by=by, now=now)

    return read(request, work)


@patch("/devices/{device:str}", **route(Role.OPERATOR, tag=TAG))
def change_device(
    request: HttpRequest, device: DeviceId, data: Annotated[DeviceChange, JSON_BODY]
) -> DeviceSummary:
    """Give a device another label; as an administrator, move it to another group."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return devices.change_device(
            session, device, label=data.label, group=data.group, by=by, now=now
        )

    return _summary(request, work)


@post("/devices/{device:str}/rotate", status_code=200, **route(Role.OPERATOR, tag=TAG))
def rotate_device(
    request: HttpRequest, device: DeviceId, data: Annotated[MaybeWhy, JSON_BODY]
) -> DeviceSummary:
    """Give a device its next root at its next good attestation."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return devices.ask_rotation(session, device, reason=data.reason, by=by, now=now)

    return _summary(request, work)


@post("/devices/{device:str}/events", status_code=200, **route(Role.OPERATOR, tag=TAG))
def report_event(
    request: HttpRequest, device: DeviceId, data: Annotated[EventReport, JSON_BODY]
) -> EventReply:
    """Report an event of the device's application, for its server."""

    def work(session: Session, by: Principal, now: int) -> EventReply:
        woken = devices.report_event(
            session, device, kind=data.kind, detail=data.detail, by=by, now=now
        )
        return EventReply(attest=woken)

    return change(request, work)


@post("/devices/{device:str}/lock", status_code=200, **route(Role.OPERATOR, tag=TAG))
def lock_device(
    request: HttpRequest, device: DeviceId, data: Annotated[Why, JSON_BODY]
) -> DeviceSummary:
    """Lock a device: it fails from now on, and is told why."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return devices.lock(session, device, reason=data.reason, by=by, now=now)

    return _summary(request, work)


@post("/devices/{device:str}/unlock", status_code=200, **route(Role.OPERATOR, tag=TAG))
def unlock_device(
    request: HttpRequest, device: DeviceId, data: Annotated[MaybeWhy, JSON_BODY]
) -> DeviceSummary:
    """Lift a lock: the next attestation decides what the device may do."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return devices.unlock(session, device, reason=data.reason, by=by, now=now)

    return _summary(request, work)


@post("/devices/{device:str}/retire", status_code=200, **route(Role.ADMINISTRATOR, tag=TAG))
def retire_device(
    request: HttpRequest, device: DeviceId, data: Annotated[Why, JSON_BODY]
) -> DeviceSummary:
    """Take a device out of service for good: it is refused, whatever it shows."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return devices.retire(session, device, reason=data.reason, by=by, now=now)

    return _summary(request, work)


@post("/devices/{device:str}/readmit", status_code=200, **route(Role.ADMINISTRATOR, tag=TAG))
def readmit_device(
    request: HttpRequest, device: DeviceId, data: Annotated[Why, JSON_BODY]
) -> DeviceSummary:
    """Let a retired device enrol again; until it has, it stays refused."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return devices.readmit(session, device, reason=data.reason, by=by, now=now)

    return _summary(request, work)


def _summary(
    request: HttpRequest, work: Callable[[Session, Principal, int], Device]
) -> DeviceSummary:
    def and_tell(session: Session, by: Principal, now: int) -> DeviceSummary:
        return summary_of(session, work(session, by, now), now=now)

    return change(request, and_tell)


HANDLERS = (
    list_devices,
    show_device,
    change_device,
    rotate_device,
    report_event,
    lock_device,
    unlock_device,
    retire_device,
    readmit_device,
)
