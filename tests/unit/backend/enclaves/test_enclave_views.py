"""What administrators see of enclaves: facts in words, kinds in lists, words for findings."""

from __future__ import annotations

import csv
import json
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import event

from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.messages import Finding, Severity, Standing
from hwtrust_backend.admin import devices
from hwtrust_backend.admin.export import ExportFormat, ExportKind, export
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.admin.report import device_report
from hwtrust_backend.admin.search import DeviceFilter, device_page
from hwtrust_backend.enrolment import DeviceKind, Facts
from hwtrust_backend.monitor.fleet import count_fleet
from hwtrust_backend.monitor.service import advice_on
from hwtrust_backend.pages.explanations import explain
from hwtrust_backend.pages.fact_names import Group
from hwtrust_backend.pages.hardware import KINDS, Hardware, hardware_of
from hwtrust_backend.results.service import subject_of
from hwtrust_backend.webhooks import Delivery, Topic, Webhook
from simulators.device_rows import (
    add_device,
    add_enclave,
    add_groups,
    device_name,
    facts_of_machine,
)
from simulators.enclaves import MACHINES, Machine

if TYPE_CHECKING:
    from hwtrust_backend.app.backend import Backend

ROOT = Principal(name="cli:root", role=Role.ADMINISTRATOR, groups=None)
EU = Principal(name="token:eu", role=Role.VIEWER, groups=frozenset({"eu"}))
NOW = 10_000
GPU = "snp with a GPU"


@pytest.fixture
def fleet(backend: Backend) -> Backend:
    """Two TPMs, an enclave of every machine from number 10 on, and one that is retired."""
    with backend.database.transaction() as session:
        add_groups(session, "eu")
        add_device(session, 1)
        add_device(session, 2, group="eu")
        for number, name in enumerate(MACHINES, 10):
            group = "eu" if name == "tdx" else "default"
            add_enclave(session, number, MACHINES[name], group=group)
        add_enclave(session, 30, Machine(EnclaveKind.SNP), retired_at=5)
    return backend


def number_of(machine: str) -> str:
    """The name of the device that is that machine."""
    return device_name(10 + list(MACHINES).index(machine))


@cache
def facts_of(machine: str) -> dict[str, Any]:
    """What its hardware says."""
    found: dict[str, Any] = msgspec.json.decode(facts_of_machine(MACHINES[machine]))
    return found


def shown(machine: str) -> Hardware:
    """What a page shows of its hardware."""
    found = hardware_of(MACHINES[machine].kind, facts_of(machine))
    assert found is not None
    return found


def test_the_kinds_of_devices_are_tpm_and_those_of_enclaves() -> None:
    """One that is added to the protocol is added here."""
    assert {kind.value for kind in DeviceKind} == {"tpm", *(kind.value for kind in EnclaveKind)}
    assert set(KINDS) == set(DeviceKind)


# --- facts ----------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_every_fact_is_shown_once_and_in_its_place(machine: str) -> None:
    """Nothing that the hardware says is left out, and all of it has a name in words."""
    found = shown(machine)
    rows = [row for group in found.groups for row in group.rows]
    assert sorted(row.name for row in rows) == sorted(set(facts_of(machine)) - {"kind"})
    assert [group.rows for group in found.groups if group.anchor == "facts-other"] == []
    assert [row.name for row in rows if row.label == row.name] == []
    assert len(rows) > 8


@pytest.mark.parametrize("machine", MACHINES)
def test_every_kind_says_what_it_was_started_with_and_what_it_cannot_do(machine: str) -> None:
    """No enclave's hardware ends or revokes a root, and its page says so."""
    found = shown(machine)
    anchors = {group.anchor for group in found.groups}
    assert {"facts-launch", "facts-report"} <= anchors
    assert ("facts-gpu" in anchors) == (machine == GPU)
    limits = " ".join(found.limits)
    assert "counts its epochs" in limits
    assert "ends a root" in limits


def test_a_report_for_programs_has_the_facts_as_they_are(fleet: Backend) -> None:
    """By their names in the field."""
    with fleet.database.reading() as session:
        of_enclave = device_report(session, number_of("nitro"), by=ROOT, now=NOW)
        of_tpm = device_report(session, device_name(1), by=ROOT, now=NOW)
    assert of_enclave.facts == facts_of("nitro")
    assert (of_enclave.summary.kind, of_tpm.summary.kind, of_tpm.facts) == ("nitro", "tpm", {})


def test_moments_flags_digests_and_zeros_are_told_apart() -> None:
    """A value is set as what it is."""
    facts: Facts = {"timestamp": 5, "debug": False}
    facts |= {"measurement": "ab" * 24, "host_data": "00" * 32, "csp_id": ""}
    found = hardware_of("snp", facts)
    assert found is not None
    values = {row.name: row.values[0] for group in found.groups for row in group.rows}
    assert (values["timestamp"].at, values["debug"].text) == (5, "no")
    assert values["measurement"].is_digest
    assert (values["host_data"].text, values["csp_id"].text) == ("none (zeros)", "none")


def test_a_fact_of_a_newer_version_is_shown_too() -> None:
    """What has no place here is not lost."""
    found = hardware_of("tdx", {"new_thing": "7"})
    assert found is not None
    (group,) = found.groups
    assert (group.anchor, group.rows[0].label) == (f"facts-{Group.OTHER}", "New thing")


def test_a_tpms_device_shows_what_its_logs_say_and_no_limits() -> None:
    """It is what it was before; where it sent logs they are there besides."""
    assert hardware_of("tpm", {}) is None
    found = hardware_of("tpm", {"secure_boot": "on", "ima_entries": 7})
    assert found is not None
    assert [group.anchor for group in found.groups] == ["facts-firmware", "facts-ima"]
    assert found.limits == ()


# --- lists ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(DeviceKind))
def test_a_list_is_filtered_by_kind(fleet: Backend, kind: DeviceKind) -> None:
    """Each device in service is in the list of its kind, and in no other."""
    wanted = {number_of(name) for name, one in MACHINES.items() if one.kind.value == kind.value}
    if kind is DeviceKind.TPM:
        wanted = {device_name(1), device_name(2)}
    with fleet.database.reading() as session:
        page = device_page(session, DeviceFilter(kind=kind), by=ROOT, now=NOW)
    assert {one.device for one in page.devices} == wanted
    assert {one.kind for one in page.devices} == {kind.value}


def test_whoever_sees_one_group_sees_its_enclaves_alone(fleet: Backend) -> None:
    """Neither list nor number tells of another group's."""
    with fleet.database.reading() as session:
        page = device_page(session, DeviceFilter(kind=DeviceKind.SNP), by=EU, now=NOW)
        counts = count_fleet(session, groups=EU.groups, now=NOW).counts
    assert page.devices == ()
    assert {kind.value: count for kind, count in counts.kind.items() if count} == {
        "tpm": 1,
        "tdx": 1,
    }


def test_the_fleet_is_counted_by_kind(fleet: Backend) -> None:
    """What is retired is not counted; all kinds together are the fleet."""
    with fleet.database.reading() as session:
        counts = count_fleet(session, groups=None, now=NOW).counts
    assert (counts.kind[DeviceKind.TPM], counts.kind[DeviceKind.SNP]) == (2, 2)
    assert sum(counts.kind.values()) == counts.total == 2 + len(MACHINES)
    assert counts.enclaves == len(MACHINES)


def test_enclaves_are_found_and_counted_by_their_index(fleet: Backend) -> None:
    """What a list or the overview costs does not grow with the TPMs of the fleet."""
    if fleet.database.is_postgresql:
        pytest.skip("PostgreSQL reads so few rows without an index")
    asked: list[tuple[str, Any]] = []

    def note(_1: Any, _2: Any, sql: str, values: Any, *_3: Any) -> None:  # noqa: ANN401
        asked.append((sql, values))

    with fleet.database.reading() as session:
        connection = session.connection()
        event.listen(connection, "before_cursor_execute", note)
        device_page(session, DeviceFilter(kind=DeviceKind.SNP), by=ROOT, now=NOW)
        count_fleet(session, groups=None, now=NOW)
        event.remove(connection, "before_cursor_execute", note)
        asking = [(sql, values) for sql, values in asked if "kind != 'tpm'" in sql]
        assert len(asking) == 2
        for sql, values in asking:
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
            assert any("ix_devices_enclaves" in str(step[-1]) for step in steps), sql


def test_an_export_names_the_kind(fleet: Backend) -> None:
    """As a column of CSV, and as a field of JSON."""
    with fleet.database.reading() as session:
        lines = list(export(session, ExportKind.DEVICES, ExportFormat.CSV, by=ROOT, now=NOW))
        rows = list(csv.DictReader(lines))
        first = next(
            iter(export(session, ExportKind.DEVICES, ExportFormat.JSON_LINES, by=ROOT, now=NOW))
        )
    kinds = {row["device"]: row["kind"] for row in rows}
    assert (kinds[device_name(1)], kinds[number_of("nitro")]) == ("tpm", "nitro")
    assert json.loads(first)["kind"] in set(DeviceKind)


def test_a_webhook_names_the_kind(fleet: Backend) -> None:
    """A receiver need not ask what it was told of."""
    with fleet.database.transaction() as session:
        session.add(
            Webhook(
                id="wh_1",
                url="https://example.org",
                topics=Topic.LOCKED.value,
                group="",
                secret=b"",
                created_at=1,
                created_by="",
                failures=0,
                hold_until=0,
                disabled_reason="",
            )
        )
        devices.lock(session, number_of("cca"), reason="stolen", by=ROOT, now=NOW)
        devices.lock(session, device_name(1), reason="stolen", by=ROOT, now=NOW)
    with fleet.database.reading() as session:
        told = [msgspec.json.decode(row.body)["data"] for row in session.query(Delivery)]
    assert {one["device"]: one["kind"] for one in told} == {
        number_of("cca"): "cca",
        device_name(1): "tpm",
    }


# --- results ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "kind", "gpu"),
    [("snp", DeviceKind.SNP, False), (GPU, DeviceKind.SNP, True), ("sgx", DeviceKind.SGX, False)],
)
def test_a_result_is_about_the_kind_that_the_device_is(
    fleet: Backend, machine: str, kind: DeviceKind, gpu: bool
) -> None:
    """And of the GPU whose report came along."""
    with fleet.database.reading() as session:
        found = device_report(session, number_of(machine), by=ROOT, now=NOW)
        device = devices.device_named(session, found.summary.device, by=ROOT)
        subject = subject_of(session, device)
    assert (subject.kind, subject.gpu, subject.debug) == (kind, gpu, False)


# --- words ----------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["log:empty", "log:grammar", "epoch:revoked", "epoch:unknown"])
def test_what_holds_for_tpms_alone_is_told_otherwise_of_enclaves(code: str) -> None:
    """Nobody is sent to clear a TPM that is not there."""
    found = (Finding(code=code, severity=Severity.FAIL, message=""),)
    assert explain(code, "snp") != explain(code)
    for words in (explain(code, "snp").meaning, explain(code, "snp").advice):
        assert "TPM" not in words
    assert "TPM" not in advice_on(found, "snp")


def test_the_worst_of_an_enclave_is_said_first(fleet: Backend) -> None:
    """That its host sees into it, before what else there is."""
    found = [
        Finding(code=code, severity=Severity.FAIL, message="") for code in ("snp:tcb", "snp:debug")
    ]
    with fleet.database.transaction() as session:
        device = devices.device_named(session, number_of("snp"), by=ROOT)
        device.standing, device.findings = Standing.FAILED, msgspec.json.encode(found)
    with fleet.database.reading() as session:
        summary = device_report(session, number_of("snp"), by=ROOT, now=NOW).summary
    assert summary.next_step.startswith("start it again without debug mode")
