"""What devices report to have failed, and what is made of it: words, and nothing but words."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import select

from hwtrust.errors import EvidenceError
from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Standing, UpdateOrder
from hwtrust.wire.statement import Statement, StepFailure
from hwtrust_backend.admin import device_page, device_report
from hwtrust_backend.admin.devices import retire
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.admin.search import DeviceFilter
from hwtrust_backend.app.measuring import fleet_facts
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.cli.devices import _failure, _release, _show
from hwtrust_backend.db import WEBHOOKS, count_up
from hwtrust_backend.enrolment import Device, lock_states, plain, settle, step_label
from hwtrust_backend.enrolment.failures import KeptFailure
from hwtrust_backend.monitor import Update
from hwtrust_backend.monitor.service import DeviceSummary, advice_on_failure
from hwtrust_backend.observe import metrics
from hwtrust_backend.references import retire_release
from hwtrust_backend.webhooks import Delivery, Topic, Webhook
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device
from simulators.vendor import KERNEL, Vendor

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.wire.messages import AttestReply
    from hwtrust_backend.app.backend import Backend

ROOT = Principal(name="cli:root", role=Role.ADMINISTRATOR, groups=None)
FULL = StepFailure(step="stage", code="update:space", release="2.0", detail="no space left")
BROKEN = StepFailure(step="verify", code="layer:mismatch", layer="kernel", release="1.0", at_ms=7)
EVIL = "\x1b]0;owned\x07\r\n\0\u202eevil\u2028"
"""What a terminal obeys, what turns text around, and what a page might obey."""


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device that runs release 1.0."""
    return enrolled_device(backend)


def attested(
    backend: Backend, device: BackendDevice, failure: StepFailure | None = None
) -> AttestReply:
    """What the device is answered, where it says that."""
    device.statement = Statement(failure=failure)
    return device.attest(DirectApi(backend, device))


def summary_of(backend: Backend, device: BackendDevice) -> DeviceSummary:
    """What a list shows of it."""
    with backend.database.reading() as session:
        return device_report(session, device.name.hex(), by=ROOT, now=backend.clock()).summary


def kept(backend: Backend, device: BackendDevice) -> KeptFailure:
    """What is kept of its last report."""
    found = summary_of(backend, device).failure
    assert found is not None
    return found


def reasons(backend: Backend) -> list[str]:
    """The reasons of all records of reports, oldest first."""
    with backend.database.reading() as session:
        rows = select(AuditRecord).where(AuditRecord.event == Event.FAILURE_REPORTED.value)
        return [row.reason for row in session.scalars(rows.order_by(AuditRecord.sequence))]


def subscribe(backend: Backend) -> None:
    """Have somebody told of reports."""
    with backend.database.transaction() as session:
        session.add(
            Webhook(
                id="hook",
                url="https://hooks.example.org",
                topics=Topic.FAILURE_REPORTED.value,
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
        count_up(session, WEBHOOKS)


def told(backend: Backend) -> list[dict[str, Any]]:
    """What webhooks were told."""
    with backend.database.reading() as session:
        return [msgspec.json.decode(row.body)["data"] for row in session.scalars(select(Delivery))]


# --- what is kept -------------------------------------------------------------------------


def test_a_report_is_kept_recorded_and_advised_on(backend: Backend, device: BackendDevice) -> None:
    """Step, layer, release and code are there, with what to do; the device is the actor."""
    reply = attested(backend, device, BROKEN)
    assert reply.standing is Standing.TRUSTED, "a report decides nothing"
    found = kept(backend, device)
    assert found.what == ("verify", "layer:mismatch", "kernel", "1.0")
    assert (found.running, found.device_at, found.times, found.over_at) == ("1.0", 7, 1, None)
    assert advice_on_failure(found) == summary_of(backend, device).next_step
    with backend.database.reading() as session:
        (row,) = session.scalars(
            select(AuditRecord).where(AuditRecord.event == Event.FAILURE_REPORTED.value)
        )
    assert (row.device, row.actor) == (device.name.hex(), "")
    for part in found.what:
        assert part in row.reason


def test_a_device_without_a_certificate_reports_by_its_session(
    backend: Backend, device: BackendDevice
) -> None:
    """A device that has failed and gets no certificate still says why."""
    device.certificate = ""
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "1.0", b"\7" * 32))
    device.statement = Statement(failure=BROKEN)
    reply = device.session(DirectApi(backend, device))
    assert (reply.standing, reply.certificate) == (Standing.FAILED, "")
    assert kept(backend, device).what == ("verify", "layer:mismatch", "kernel", "1.0")
    assert len(reasons(backend)) == 1


def test_what_is_refused_reports_nothing(backend: Backend, device: BackendDevice) -> None:
    """A report beside a quote that does not sign it is nobody's word."""
    device.statement = Statement(failure=BROKEN)
    evidence = device.evidence(device.next_nonce)
    forged = msgspec.structs.replace(evidence.binding, statement=b'{"other":"9"}')
    with pytest.raises(EvidenceError):
        device.attest(DirectApi(backend, device), msgspec.structs.replace(evidence, binding=forged))
    assert (summary_of(backend, device).failure, reasons(backend)) == (None, [])


def test_the_same_report_again_is_counted_and_told_once(
    backend: Backend, device: BackendDevice
) -> None:
    """A device that starts over and over is no flood of webhooks; the trail has every report."""
    subscribe(backend)
    for _ in range(3):
        attested(backend, device, BROKEN)
    again = kept(backend, device)
    assert (again.times, again.at > again.first_at) == (3, True)
    assert len(reasons(backend)) == 3
    assert [data["code"] for data in told(backend)] == ["layer:mismatch"]
    attested(backend, device, FULL)
    assert kept(backend, device).times == 1
    assert [data["step"] for data in told(backend)] == ["verify", "stage"]


# --- when it is past ------------------------------------------------------------------------


def test_a_report_is_past_once_the_device_attests_trusted(
    backend: Backend, device: BackendDevice
) -> None:
    """It stays to be seen, with the time; a new one is news."""
    subscribe(backend)
    attested(backend, device, BROKEN)
    attested(backend, device)
    found = kept(backend, device)
    assert found.over_at is not None
    assert summary_of(backend, device).next_step == "nothing"
    attested(backend, device, BROKEN)
    assert (kept(backend, device).over_at, kept(backend, device).times) == (None, 1)
    assert len(told(backend)) == 2


def test_a_report_is_not_past_while_the_device_fails(
    backend: Backend, device: BackendDevice
) -> None:
    """What is found comes first in the advice; the report stands."""
    attested(backend, device, BROKEN)
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "1.0", b"\7" * 32))
    assert attested(backend, device).standing is Standing.FAILED
    assert kept(backend, device).over_at is None


@pytest.mark.parametrize(
    ("ordered", "past"),
    [(None, True), ("3.0", True), ("2.0", False)],
    ids=["no update is ordered", "another release is ordered", "the same is ordered still"],
)
def test_a_failed_update_is_past_when_it_is_not_ordered_any_more(
    backend: Backend, device: BackendDevice, ordered: str | None, *, past: bool
) -> None:
    """A device that runs its old release well has still not taken the new one."""
    attested(backend, device, FULL)
    order = None if ordered is None else UpdateOrder(release=ordered)
    with backend.database.transaction() as session:
        state = lock_states(session, [device.name.hex()])[device.name.hex()]
        settle(state, ordered=order, now=backend.clock())
        assert (state.failing_since is None) is past


def test_a_retired_device_fails_no_more(backend: Backend, device: BackendDevice) -> None:
    """Whoever counts what fails does not count it."""
    attested(backend, device, BROKEN)
    with backend.database.transaction() as session:
        retire(session, device.name.hex(), reason="sold", by=ROOT, now=backend.clock())
    with backend.database.reading() as session:
        assert session.get_one(Device, device.name.hex()).failing_since is None


# --- words that are not ours ------------------------------------------------------------------


@pytest.mark.parametrize("field", ["step", "code", "layer", "release", "detail"])
def test_a_hostile_report_stays_text_everywhere(
    backend: Backend,
    device: BackendDevice,
    field: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No control character and no direction reaches database, terminal, page, or webhook."""
    subscribe(backend)
    attested(backend, device, msgspec.structs.replace(BROKEN, **{field: EVIL}))
    found = kept(backend, device)
    spelled = (*reasons(backend), str(told(backend)), _failure(found, backend.clock()))
    for text in (*spelled, getattr(found, field)):
        bad = {one for one in text if unicodedata.category(one) in {"Cc", "Cf", "Zl", "Zp"}}
        assert not bad
    with backend.database.reading() as session:
        report = device_report(session, device.name.hex(), by=ROOT, now=backend.clock())
    _show(report, backend.clock())
    assert "\x1b" not in capsys.readouterr().out


def test_ordinary_text_of_any_language_is_left_as_it_is() -> None:
    """Only what is obeyed is replaced."""
    for text in ("kernel 6.1", "Zwölf Boxkämpfer", "内核", "a" * 400):
        assert plain(text) == text
    assert plain("a\nb\x7f") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


# --- finding and counting ---------------------------------------------------------------------


def test_failing_devices_are_found_and_counted(backend: Backend, device: BackendDevice) -> None:
    """The filter and the metric show those that have not got over it."""

    def listed(*, failing: bool) -> set[str]:
        with backend.database.reading() as session:
            page = device_page(session, DeviceFilter(failing=failing), by=ROOT, now=backend.clock())
        return {one.device for one in page.devices}

    def counted() -> float:
        with backend.database.reading() as session:
            facts = fleet_facts(session, now=backend.clock())
        return next(fact.value for fact in facts if fact.gauge is metrics.DEVICES_FAILING)

    other = enrolled_device(backend)
    attested(backend, device, BROKEN)
    assert listed(failing=True) == {device.name.hex()}
    assert listed(failing=False) == {other.name.hex()}
    assert counted() == 1
    attested(backend, device)
    assert (listed(failing=True), counted()) == (set(), 0)


def test_a_step_that_nobody_knows_is_counted_as_other() -> None:
    """A device cannot make time series, and there is advice for every step."""
    for step in metrics.FAILURES.known:
        assert step_label(step) == step
    assert step_label("anything; at all") == "other"


# --- what it runs -----------------------------------------------------------------------------


def test_it_is_shown_since_when_a_device_runs_its_release(
    backend: Backend, device: BackendDevice
) -> None:
    """The time moves with the release, and with nothing else."""
    first = summary_of(backend, device).release_since
    assert first is not None
    attested(backend, device)
    assert summary_of(backend, device).release_since == first
    device.release = "0.9"
    attested(backend, device)
    changed = summary_of(backend, device)
    assert changed.release == "0.9"
    assert changed.release_since is not None
    assert changed.release_since > first


@pytest.mark.parametrize(
    ("retired", "update"),
    [(False, Update.ORDERED), (True, Update.FORCED)],
    ids=["it may run on", "it is refused"],
)
def test_what_is_wanted_is_shown_as_the_device_is_told(
    backend: Backend, device: BackendDevice, tmp_path: Path, *, retired: bool, update: Update
) -> None:
    """A list shows the order of the last attestation, and before there is one none."""
    first = summary_of(backend, device)
    assert (first.wanted, first.update) == ("", Update.NONE)
    vendor = Vendor(backend, tmp_path)
    vendor.begin()
    vendor.publish("2.0", KERNEL, accept=True)
    if retired:
        with backend.database.transaction() as session:
            retire_release(session, "1.0", now=backend.clock())
    reply = attested(backend, device)
    assert reply.update == UpdateOrder(release="2.0", forced=retired)
    shown = summary_of(backend, device)
    assert (shown.wanted, shown.update) == ("2.0", update)
    assert _release(shown) == ("1.0 > 2.0 (forced)" if retired else "1.0 > 2.0")
