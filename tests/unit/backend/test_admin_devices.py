"""Finding devices, and what an administrator does to one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import select, text

from hwtrust.errors import (
    CursorError,
    DeviceRetiredError,
    DeviceStateError,
    DeviceUnknownError,
    ForbiddenError,
    HwTrustError,
    PolicyUnknownError,
    RequestError,
)
from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.admin import devices, search
from hwtrust_backend.admin.export import ExportFormat, ExportKind, export
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.admin.report import device_report
from hwtrust_backend.admin.search import DeviceFilter, device_page
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.enrolment import Device, lock_device
from hwtrust_backend.webhooks import Delivery, Topic, Webhook
from simulators.backend_clients import DirectApi, enrolled_device
from simulators.device_rows import add_device, add_groups, device_name

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend

ROOT = Principal(name="cli:root", role=Role.ADMINISTRATOR, groups=None)
EU = Principal(name="token:eu", role=Role.ADMINISTRATOR, groups=frozenset({"eu"}))
OPERATOR = Principal(name="token:op", role=Role.OPERATOR, groups=None)
VIEWER = Principal(name="token:ro", role=Role.VIEWER, groups=None)
LATER = 10_000


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    """Twelve devices in three groups, each of which is remarkable in one way."""
    remarkable: list[dict[str, object]] = [
        {"standing": Standing.FAILED},
        {"mode": Mode.LIMITED},
        {"mode": Mode.LOCKED, "locked_at": 5, "lock_reason": "stolen"},
        {"silent_since": 5},
        {"retired_at": 5},
        {"label": "Hall 2, cabinet 100%"},
        {"release": "2.0"},
        {"rotate_at": LATER - 1},
        {"rotation_asked_at": 5},
        {"rotate_at": LATER + 1, "label": "hall_3"},
        {"group": "eu"},
        {"group": "us", "label": "hall 2"},
    ]
    with backend.database.transaction() as session:
        add_groups(session, "eu", "us")
        for number, fields in enumerate(remarkable):
            add_device(session, number, **fields)
    return backend


def found(
    backend: Backend, by: Principal = ROOT, *, limit: int = 500, **wanted: object
) -> set[int]:
    """The numbers of the devices that are listed, over all pages."""
    names = {device_name(number): number for number in range(100)}
    filtered = msgspec.convert(wanted, DeviceFilter)
    numbers: list[int] = []
    cursor = None
    with backend.database.reading() as session:
        while True:
            page = device_page(session, filtered, by=by, now=LATER, cursor=cursor, limit=limit)
            assert len(page.devices) <= limit
            numbers += [names[device.device] for device in page.devices]
            cursor = page.next
            if cursor is None:
                break
    ordered = [device_name(number) for number in numbers]
    assert ordered == sorted(set(ordered)), "a device was listed twice, or out of order"
    return set(numbers)


IN_SERVICE = set(range(12)) - {4}
FILTERS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "nothing": ({}, IN_SERVICE),
    "a standing": ({"standing": Standing.FAILED}, {0}),
    "a mode": ({"mode": Mode.LIMITED}, {1}),
    "the ordinary mode": ({"mode": Mode.NORMAL}, IN_SERVICE - {1, 2}),
    "locked": ({"locked": True}, {2}),
    "not locked": ({"locked": False}, IN_SERVICE - {2}),
    "missed": ({"silent": True}, {3}),
    "retired": ({"retired": True}, {4}),
    "a release": ({"release": "2.0"}, {6}),
    "a group": ({"group": "us"}, {11}),
    "a group that is none": ({"group": "moon"}, set()),
    "due": ({"due": True}, {7, 8}),
    "not due": ({"due": False}, IN_SERVICE - {7, 8}),
    "two that meet": ({"locked": True, "mode": Mode.LOCKED}, {2}),
    "two that do not meet": ({"locked": True, "silent": True}, set()),
    "a label in other letters": ({"search": "HALL 2"}, {5, 11}),
    "a percent sign, which stands for itself": ({"search": "0%"}, {5}),
    "an underscore, which stands for itself": ({"search": "l_3"}, {9}),
    "what SQL might mistake": ({"search": "' OR 1=1 --"}, set()),
    "the beginning of a name": ({"search": device_name(6)[:12].upper()}, {6}),
    "a release, searched for": ({"search": "2.0"}, {6}),
}


def test_a_filter_finds_what_it_names(fleet: Backend) -> None:
    """Whatever the page's length, each device that is meant is found once."""
    for sentence, (wanted, numbers) in FILTERS.items():
        assert found(fleet, **wanted) == numbers, sentence
        assert found(fleet, limit=2, **wanted) == numbers, sentence


def test_a_short_window_loses_no_device(fleet: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that has looked at enough rows ends, and the next one goes on behind them."""
    monkeypatch.setattr(search, "WINDOW", 3)
    for sentence, (wanted, numbers) in FILTERS.items():
        assert found(fleet, limit=2, **wanted) == numbers, sentence


def test_who_is_limited_to_groups_finds_their_devices_only(
    fleet: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices of others are in no page, whatever is asked for."""
    both = Principal(name="token:x", role=Role.VIEWER, groups=frozenset({"eu", "us"}))
    monkeypatch.setattr(search, "WINDOW", 1)
    for limit in (1, 500):
        assert found(fleet, EU, limit=limit) == {10}
        assert found(fleet, both, limit=limit) == {10, 11}
        assert found(fleet, both, limit=limit, search="hall") == {11}
    assert found(fleet, EU, group="us") == set()
    assert found(fleet, EU, search=device_name(11)) == set()


def test_a_cursor_that_no_page_gave_is_refused(fleet: Backend) -> None:
    """A cursor is a device's name and nothing else."""
    with fleet.database.reading() as session:
        for cursor in ("", "x", "IiI", "WzFd", "\u00e9", "A" * 400):
            with pytest.raises(CursorError) as caught:
                device_page(session, DeviceFilter(), by=ROOT, now=LATER, cursor=cursor)
            assert caught.value.code == "request:cursor"


INDEXED: dict[str, tuple[dict[str, Any], str]] = {
    "missed devices": ({"silent": True}, "ix_devices_silent"),
    "locked devices": ({"locked": True}, "ix_devices_locked"),
    "retired devices": ({"retired": True}, "ix_devices_retired"),
    "devices of a mode": ({"mode": Mode.LIMITED}, "ix_devices_not_normal"),
    "devices of a group": ({"group": "eu"}, "ix_devices_group_id"),
    "devices of a standing": ({"standing": Standing.FAILED}, "ix_devices_standing_id"),
    "devices of a release": ({"release": "2.0"}, "ix_devices_release_id"),
}


def plan_of(session: Session, wanted: DeviceFilter) -> str:
    """How SQLite would look for the ends of windows, in its own words."""
    planned = search._planned(wanted, wanted.group, LATER)
    assert planned.driving is not None
    query = select(Device.id).where(Device.id > "0", *planned.always, planned.driving)
    compiled = query.order_by(Device.id).compile(
        session.connection(), compile_kwargs={"literal_binds": True}
    )
    rows = session.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))
    return " ".join(str(row[-1]) for row in rows)


def test_rare_devices_are_found_by_an_index(fleet: Backend) -> None:
    """A page of the few among many costs the few."""
    if fleet.database.is_postgresql:
        pytest.skip("PostgreSQL plans by statistics, and twelve rows give none")
    with fleet.database.reading() as session:
        for sentence, (wanted, index) in INDEXED.items():
            told = plan_of(session, DeviceFilter(**wanted))
            assert index in told, sentence
            assert "TEMP B-TREE" not in told, sentence


def row_of(session: Session, number: int) -> Device:
    """A device as it is stored."""
    return session.get_one(Device, device_name(number))


def test_a_label_and_a_group_are_changed_with_a_record(fleet: Backend) -> None:
    """Who changed what is in the trail."""
    with fleet.database.transaction() as session:
        devices.change_device(
            session, device_name(1), label="line 3", group="eu", by=ROOT, now=LATER
        )
    with fleet.database.reading() as session:
        row = row_of(session, 1)
        assert (row.label, row.group) == ("line 3", "eu")
        (told,) = session.query(AuditRecord).filter_by(event=Event.DEVICE_CHANGED)
        assert (told.actor, told.device) == ("cli:root", device_name(1))


def test_what_changes_nothing_leaves_no_record(fleet: Backend) -> None:
    """The trail holds decisions."""
    with fleet.database.transaction() as session:
        devices.change_device(session, device_name(1), label="", group="default", by=ROOT, now=1)
    with fleet.database.reading() as session:
        assert session.query(AuditRecord).filter_by(event=Event.DEVICE_CHANGED).count() == 0


Doing = Callable[["Session", str, Principal], object]
DOINGS: dict[str, tuple[Role, Doing]] = {
    "report": (Role.VIEWER, lambda s, name, by: device_report(s, name, by=by, now=LATER)),
    "label": (
        Role.OPERATOR,
        lambda s, name, by: devices.change_device(s, name, label="x", by=by, now=LATER),
    ),
    "move": (
        Role.ADMINISTRATOR,
        lambda s, name, by: devices.change_device(s, name, group="eu", by=by, now=LATER),
    ),
    "rotate": (
        Role.OPERATOR,
        lambda s, name, by: devices.ask_rotation(s, name, by=by, now=LATER),
    ),
    "lock": (
        Role.OPERATOR,
        lambda s, name, by: devices.lock(s, name, reason="x", by=by, now=LATER),
    ),
    "unlock": (Role.OPERATOR, lambda s, name, by: devices.unlock(s, name, by=by, now=LATER)),
    "retire": (
        Role.ADMINISTRATOR,
        lambda s, name, by: devices.retire(s, name, reason="x", by=by, now=LATER),
    ),
    "readmit": (
        Role.ADMINISTRATOR,
        lambda s, name, by: devices.readmit(s, name, reason="x", by=by, now=LATER),
    ),
}


def test_what_a_role_does_not_include_is_refused_and_changes_nothing(fleet: Backend) -> None:
    """Each doing takes its role, and asks for it itself."""
    with fleet.database.transaction() as session:
        for role, do in DOINGS.values():
            for lesser in [item for item in Role if not item.includes(role)]:
                with pytest.raises(ForbiddenError):
                    do(session, device_name(2), Principal("token:x", lesser, None))
        assert not session.dirty


def test_a_device_of_others_does_not_exist(fleet: Backend) -> None:
    """A tenant learns of another's device as much as of one that never was."""
    with fleet.database.transaction() as session:
        for _, do in DOINGS.values():
            refusals = []
            for name in (device_name(2), device_name(99)):
                with pytest.raises(DeviceUnknownError) as caught:
                    do(session, name, EU)
                refusals.append(caught.value.message.replace(name[:20], "NAME"))
            assert refusals[0] == refusals[1]
        assert not session.dirty


def test_a_tenant_moves_no_device_to_or_from_others(fleet: Backend) -> None:
    """A group that is not one's own is none to move to."""
    with fleet.database.transaction() as session:
        with pytest.raises(PolicyUnknownError) as caught:
            devices.change_device(session, device_name(10), group="us", by=EU, now=LATER)
        assert caught.value.code == "policy:unknown"
        assert row_of(session, 10).group == "eu"


def test_a_lock_holds_until_it_is_lifted(fleet: Backend) -> None:
    """Locked is locked at once; unlocked, the next attestation decides."""
    with fleet.database.transaction() as session:
        devices.lock(session, device_name(0), reason="stolen", by=OPERATOR, now=LATER)
    with fleet.database.transaction() as session:
        row = row_of(session, 0)
        assert (row.locked_at, row.lock_reason, row.mode) == (LATER, "stolen", Mode.LOCKED)
        devices.lock(session, device_name(0), reason="sold", by=OPERATOR, now=LATER + 1)
        assert (row.locked_at, row.lock_reason) == (LATER, "sold")
        devices.unlock(session, device_name(0), by=OPERATOR, now=LATER + 2)
        assert (row.locked_at, row.lock_reason) == (None, "")
        with pytest.raises(DeviceStateError) as caught:
            devices.unlock(session, device_name(0), by=OPERATOR, now=LATER + 3)
        assert caught.value.code == "device:state"
    with fleet.database.reading() as session:
        told = session.query(AuditRecord).filter_by(device=device_name(0))
        events = [(row.event, row.actor) for row in told.order_by(AuditRecord.sequence)]
    assert events == [
        (Event.DEVICE_LOCKED, "token:op"),
        (Event.DEVICE_LOCKED, "token:op"),
        (Event.DEVICE_UNLOCKED, "token:op"),
    ]


def test_a_reason_is_one_line_for_people(fleet: Backend) -> None:
    """It is told to the device and kept for ever: no control characters, and not nothing."""
    with fleet.database.transaction() as session:
        for reason in ("", "x" * 201, "two\nlines", "a line\n", "a \x00"):
            for do in (devices.lock, devices.retire):
                with pytest.raises(RequestError):
                    do(session, device_name(0), reason=reason, by=ROOT, now=LATER)


def test_a_retired_device_is_neither_waited_for_nor_rotated(fleet: Backend) -> None:
    """Nothing is due for it, and nothing more is done to it but letting it in again."""
    with fleet.database.transaction() as session:
        devices.ask_rotation(session, device_name(3), by=ROOT, now=LATER)
        devices.retire(session, device_name(3), reason="sold", by=ROOT, now=LATER)
        row = row_of(session, 3)
        assert row.retired_at == LATER
        due = (row.rotate_at, row.rotation_asked_at, row.watchdog_at, row.silent_since)
        assert due == (None, None, None, None)
        for do in ("rotate", "lock", "unlock", "retire"):
            with pytest.raises(DeviceStateError):
                DOINGS[do][1](session, device_name(3), ROOT)
        with pytest.raises(DeviceRetiredError) as caught:
            lock_device(session, device_name(3))
        assert caught.value.code == "device:retired"
        with pytest.raises(DeviceStateError):
            devices.readmit(session, device_name(0), reason="x", by=ROOT, now=LATER)


def refusal(doing: Callable[[], object]) -> str:
    """The code that `doing` is refused with."""
    with pytest.raises(HwTrustError) as caught:
        doing()
    return caught.value.code


def test_a_retired_device_is_refused_until_it_was_readmitted_and_has_enrolled(
    backend: Backend,
) -> None:
    """Its certificate counts no more, nor does its EK; readmitted, only enrolling helps."""
    device = enrolled_device(backend)
    name = device.name.hex()
    with backend.database.transaction() as session:
        devices.retire(session, name, reason="sold", by=ROOT, now=backend.clock())

    def attest() -> object:
        return device.attest(DirectApi(backend, device))

    def enrol() -> object:
        return device.enrol(DirectApi(backend))

    assert refusal(attest) == DeviceRetiredError.code
    assert refusal(enrol) == DeviceRetiredError.code
    with backend.database.transaction() as session:
        devices.readmit(session, name, reason="back", by=ROOT, now=backend.clock())
    assert refusal(attest) == DeviceRetiredError.code
    device.counter += 5
    enrol()
    attest()
    with backend.database.reading() as session:
        row = session.get_one(Device, name)
        assert (row.retired_at, row.readmitted_at) == (None, None)


def test_a_device_that_is_retired_while_it_enrols_is_refused(backend: Backend) -> None:
    """What counts is what is so when the enrolment is finished."""
    device = enrolled_device(backend)
    device.counter += 5
    last = device.enrolment(DirectApi(backend))
    with backend.database.transaction() as session:
        devices.retire(session, device.name.hex(), reason="sold", by=ROOT, now=backend.clock())
    assert refusal(lambda: DirectApi(backend).finish(*last)) == DeviceRetiredError.code


def test_receivers_hear_of_what_is_done_to_a_device(fleet: Backend) -> None:
    """Each change is announced in its transaction, with who made it and the reason given."""
    reason = {"reason": "as the caller said", "by": ROOT, "now": LATER}
    done: dict[Topic, Callable[..., Device]] = {
        Topic.LOCKED: devices.lock,
        Topic.UNLOCKED: devices.unlock,
        Topic.RETIRED: devices.retire,
        Topic.READMITTED: devices.readmit,
    }
    with fleet.database.transaction() as session:
        session.add(
            Webhook(
                id="wh_1",
                url="https://example.org",
                topics=" ".join(done),
                group="",
                secret=b"",
                old_secret=None,
                old_until=None,
                created_at=1,
                created_by="",
                failing_since=None,
                failures=0,
                hold_until=0,
                disabled_at=None,
                disabled_reason="",
            )
        )
        for do in done.values():
            do(session, device_name(0), **reason)
    with fleet.database.reading() as session:
        told = {row.topic: msgspec.json.decode(row.body)["data"] for row in session.query(Delivery)}
    assert set(told) == {topic.value for topic in done}
    for data in told.values():
        assert data["device"] == device_name(0)
        assert (data["by"], data["reason"]) == (ROOT.name, reason["reason"])


def test_a_report_says_what_a_device_is_held_to(fleet: Backend) -> None:
    """Group, policy and its version in force stand beside what was found."""
    with fleet.database.reading() as session:
        report = device_report(session, device_name(2)[:20], by=VIEWER, now=LATER)
    assert (report.summary.group, report.policy, report.policy_version) == ("default", "default", 1)
    assert (report.summary.mode, report.summary.lock_reason) == ("locked", "stolen")


def test_an_export_holds_what_its_reader_sees(fleet: Backend) -> None:
    """An auditor of one group gets that group's devices, and no other's."""

    def exported(kind: ExportKind, form: ExportFormat, by: Principal) -> str:
        with fleet.database.reading() as session:
            return "".join(export(session, kind, form, by=by, now=LATER))

    for form in ExportFormat:
        everything = exported(ExportKind.DEVICES, form, VIEWER)
        assert all(device_name(number) in everything for number in range(12))
        own = exported(ExportKind.DEVICES, form, EU)
        assert [number for number in range(12) if device_name(number) in own] == [10]
    lines = exported(ExportKind.RELEASES, ExportFormat.JSON_LINES, EU).splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["1.0"]
    head, row = csv.reader(exported(ExportKind.POLICIES, ExportFormat.CSV, EU).splitlines())
    assert dict(zip(head, row, strict=True))["name"] == "default"
    (head,) = csv.reader(exported(ExportKind.ROOTS, ExportFormat.CSV, VIEWER).splitlines())
    assert head[:3] == ["device", "epoch", "state"]
    assert exported(ExportKind.ROOTS, ExportFormat.JSON_LINES, VIEWER) == ""
