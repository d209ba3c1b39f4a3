"""What a device is ordered to run, and which two releases it gets leave for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import event

from hwtrust.errors import MalformedError
from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeRequest, Mode, Severity, Standing, UpdateOrder
from hwtrust.wire.root import authorization, root_ref
from hwtrust.wire.statement import STATEMENT_LIMIT, Statement, StepFailure
from hwtrust.wire.states import approved_states
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.appraisal.dry_run import dry_run
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.enclaves import enclave_trust
from hwtrust_backend.enrolment import rules_of
from hwtrust_backend.policies import DEFAULT_DOCUMENT, read_policy
from hwtrust_backend.references import accept_release, add_release, retire_release
from hwtrust_backend.repository import listed_releases
from hwtrust_backend.testing import DAY, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device
from simulators.vendor import Vendor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hwtrust.wire.messages import AttestReply, Evidence
    from hwtrust.wire.root import Approval
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.testing import ManualClock


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device that runs release 1.0."""
    return enrolled_device(backend)


@pytest.fixture
def api(backend: Backend, device: BackendDevice) -> DirectApi:
    """The backend as the device sees it."""
    return DirectApi(backend, device)


@pytest.fixture
def vendor(backend: Backend, tmp_path: Path) -> Vendor:
    """A vendor that has published 1.0, and publishes more."""
    made = Vendor(backend, tmp_path)
    made.begin()
    publish(made, "1.0")
    return made


def publish(vendor: Vendor, name: str, *, accept: bool = False) -> None:
    """Publish the release that `make_release` makes of a name."""
    layers = {
        layer.name: (name, f"{name} {layer.name}".encode()) for layer in make_release(name).layers
    }
    vendor.publish(name, layers, accept=accept)


def accept(backend: Backend, name: str) -> None:
    """Accept a release that is published nowhere."""
    with backend.database.transaction() as session:
        add_release(session, make_release(name), now=backend.clock())
        accept_release(session, name, now=backend.clock())


def retire(backend: Backend, name: str) -> None:
    """Accept a release no longer."""
    with backend.database.transaction() as session:
        retire_release(session, name, now=backend.clock())


def later(
    device: BackendDevice, api: DirectApi, clock: ManualClock, milliseconds: int
) -> AttestReply:
    """Let time pass on both sides, and attest."""
    clock.advance(milliseconds)
    device.tpm.advance(milliseconds)
    asked = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
    device.next_nonce = api.challenge(asked).nonce
    return device.attest(api)


def codes(reply: AttestReply) -> set[str]:
    """Which findings a reply has."""
    return {finding.code for finding in reply.findings}


def statement_of(device: BackendDevice, statement: bytes) -> Evidence:
    """Evidence whose binding says this of the device."""
    honest = device.binding(device.next_nonce, purpose=Purpose.ATTEST)
    binding = msgspec.structs.replace(honest, statement=statement)
    return device.evidence(device.next_nonce, binding=binding)


def states(device: BackendDevice, approval: Approval | None) -> set[str]:
    """The labels of an approval that holds, each being what it says for 1.0 beside 2.0."""
    assert approval is not None
    ref = root_ref(device.name, approval.epoch)
    authorization(approval, ref, policy_key=device.policy_public)
    expected = approved_states(
        make_release("1.0"),
        other=make_release("2.0"),
        selection=device.selection,
        values=device.values,
        pcr=device.pcr,
    )
    assert set(approval.branches) <= set(expected)
    return {branch.label for branch in approval.branches}


ONE = {"cold", "live"}
BOTH = {*ONE, "other-cold", "other-live", "return-live", "return-cold"}


# --- orders ------------------------------------------------------------------------------


def test_a_device_is_ordered_the_release_that_was_published_and_accepted_last(
    device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """Published alone, or accepted alone, is not enough; once both, every answer says so."""
    assert device.attest(api).update is None
    publish(vendor, "2.0")
    assert device.attest(api).update is None
    accept(vendor.backend, "3.0")
    assert device.attest(api).update is None
    publish(vendor, "2.0", accept=True)
    reply = device.attest(api)
    assert reply.update == UpdateOrder(release="2.0", forced=False)
    assert reply.standing is Standing.TRUSTED
    device.load(make_release("2.0"))
    assert device.attest(api).update is None


def test_an_answer_says_how_long_a_device_may_run_without_one(
    device: BackendDevice, api: DirectApi
) -> None:
    """The grace is the policy's."""
    assert device.attest(api).offline_grace_ms == read_policy(DEFAULT_DOCUMENT).offline_grace_ms


def test_without_a_repository_nobody_is_ordered_anything(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """What devices cannot get from here is not asked of them, whatever is accepted."""
    accept(backend, "2.0")
    assert device.attest(api).update is None
    retire(backend, "1.0")
    reply = device.attest(api)
    assert (reply.standing, reply.update) == (Standing.FAILED, None)


def test_a_policy_that_does_not_take_a_release_orders_it_to_nobody(
    device: BackendDevice, api: DirectApi, vendor: Vendor, hold_to: Callable[..., None]
) -> None:
    """A group is ordered what its own policy accepts."""
    publish(vendor, "2.0", accept=True)
    hold_to(releases=["1.0"])
    assert device.attest(api).update is None
    hold_to(releases=["1.0", "2.0"])
    assert device.attest(api).update == UpdateOrder(release="2.0", forced=False)


def test_a_release_that_is_revoked_is_ordered_to_nobody_any_more(
    device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """Whoever runs it already is ordered back to what is accepted, at once."""
    publish(vendor, "2.0", accept=True)
    assert device.attest(api).update is not None
    vendor.revoke("2.0")
    assert device.attest(api).update is None
    device.load(make_release("2.0"))
    reply = device.attest(api)
    assert codes(reply) == {"release:refused"}
    assert reply.update == UpdateOrder(release="1.0", forced=True)


def test_a_device_whose_release_is_refused_is_ordered_the_wanted_one_at_once(
    device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """It fails, gets no leave, and gets the way out of it."""
    publish(vendor, "2.0", accept=True)
    retire(vendor.backend, "1.0")
    reply = device.attest(api)
    assert (reply.standing, reply.approval) == (Standing.FAILED, None)
    assert reply.update == UpdateOrder(release="2.0", forced=True)


def test_a_device_without_a_certificate_is_ordered_too(
    device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """One that fails gets no certificate: the answer to its session is all that it hears."""
    publish(vendor, "2.0", accept=True)
    retire(vendor.backend, "1.0")
    device.certificate = ""
    reply = device.session(api)
    assert (reply.standing, reply.certificate) == (Standing.FAILED, "")
    assert reply.update == UpdateOrder(release="2.0", forced=True)


def test_a_device_with_a_changed_layer_is_ordered_its_own_release_anew(
    device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """What it has is to be repaired."""
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "1.0", bytes(32)))
    reply = device.attest(api)
    assert codes(reply) == {"log:violation"}
    assert reply.update == UpdateOrder(release="1.0", forced=True)


@pytest.mark.parametrize("step", ["stage", "confirm"])
def test_a_device_that_could_not_update_is_ordered_again(
    device: BackendDevice, api: DirectApi, vendor: Vendor, step: str
) -> None:
    """When it tries again is for the device to decide."""
    publish(vendor, "2.0", accept=True)
    failed = StepFailure(step=step, code="update:refused", release="2.0")
    device.statement = Statement(failure=failed)
    assert device.attest(api).update == UpdateOrder(release="2.0", forced=False)


def test_a_device_is_not_ordered_back_from_what_it_runs_by_leave(
    device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """A newer accepted release that came by another way may stay."""
    publish(vendor, "2.0", accept=True)
    accept(vendor.backend, "3.0")
    device.load(make_release("3.0"))
    reply = device.attest(api)
    assert (reply.standing, reply.update) == (Standing.TRUSTED, None)


def test_a_release_that_nobody_knows_gets_an_order_and_no_leave(
    device: BackendDevice, api: DirectApi, vendor: Vendor, hold_to: Callable[..., None]
) -> None:
    """Even where the policy only alerts of it: there is nothing to reckon a state from."""
    hold_to(on_failure={"release:": "alert"})
    device.load(make_release("7.7"))
    device.statement = Statement(other="1.0")
    reply = device.attest(api)
    assert codes(reply) == {"release:unknown"}
    assert (reply.standing, reply.approval, reply.root) == (Standing.TRUSTED, None, None)
    assert reply.update == UpdateOrder(release="1.0", forced=True)


# --- terms -------------------------------------------------------------------------------


def test_an_update_is_asked_for_then_forced_then_refused(
    device: BackendDevice,
    api: DirectApi,
    vendor: Vendor,
    clock: ManualClock,
    hold_to: Callable[..., None],
) -> None:
    """A term has a first half, a second half, and an end; the update helps at any time."""
    hold_to(updates={"within": "10d"})
    publish(vendor, "2.0", accept=True)
    assert device.attest(api).update == UpdateOrder(release="2.0", forced=False)
    half = later(device, api, clock, 5 * DAY)
    assert half.update == UpdateOrder(release="2.0", forced=True)
    assert (half.standing, half.findings) == (Standing.TRUSTED, ())
    over = later(device, api, clock, 5 * DAY)
    assert over.update == UpdateOrder(release="2.0", forced=True)
    assert codes(over) == {"release:outdated"}
    assert (over.standing, over.mode, over.approval) == (Standing.FAILED, Mode.LOCKED, None)
    device.load(make_release("2.0"))
    reply = device.attest(api)
    assert (reply.standing, reply.update) == (Standing.TRUSTED, None)


def test_without_a_term_an_older_release_may_run_for_ever(
    device: BackendDevice, api: DirectApi, vendor: Vendor, clock: ManualClock
) -> None:
    """The policy that `init` writes down has none."""
    publish(vendor, "2.0", accept=True)
    reply = later(device, api, clock, 20 * DAY)
    assert reply.standing is Standing.TRUSTED
    assert reply.update == UpdateOrder(release="2.0", forced=False)


def test_a_policy_may_only_alert_of_a_term_that_is_over(
    device: BackendDevice,
    api: DirectApi,
    vendor: Vendor,
    clock: ManualClock,
    hold_to: Callable[..., None],
) -> None:
    """The device keeps its root, and is told to update all the same."""
    hold_to(updates={"within": "10d"}, on_failure={"release:outdated": "alert"})
    publish(vendor, "2.0", accept=True)
    reply = later(device, api, clock, 10 * DAY)
    assert [finding.severity for finding in reply.findings] == [Severity.ALERT]
    assert reply.approval is not None
    assert reply.update == UpdateOrder(release="2.0", forced=True)


def test_a_dry_run_tells_whom_a_term_would_fail(
    device: BackendDevice, api: DirectApi, vendor: Vendor, clock: ManualClock
) -> None:
    """By when a device was heard of last: its evidence was kept when it first ran the release."""
    device.attest(api)
    publish(vendor, "2.0", accept=True)
    later(device, api, clock, 10 * DAY)
    outcomes = {}
    with vendor.backend.database.reading() as session:
        for within in ("10d", "11d"):
            policy = read_policy(policy_document(updates={"within": within}))
            outcomes[within] = dry_run(
                session, policy, group="default", trust=enclave_trust(session)
            )
    assert (outcomes["10d"].newly_failing, outcomes["11d"].failing) == (1, 0)
    assert [reason.code for reason in outcomes["10d"].reasons] == ["release:outdated"]
    assert outcomes["10d"].modes == {"locked": 1}


# --- two releases ------------------------------------------------------------------------


def test_a_device_gets_leave_for_the_second_release_that_it_names(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """For as long as it names it; neither the running one nor nothing is a second one."""
    accept(backend, "2.0")
    assert states(device, device.attest(api).approval) == ONE
    device.statement = Statement(other="2.0")
    assert states(device, device.attest(api).approval) == BOTH
    device.statement = Statement(other="1.0")
    assert states(device, device.attest(api).approval) == ONE
    device.statement = Statement()
    assert states(device, device.attest(api).approval) == ONE


def test_leave_for_a_second_release_ends_with_its_acceptance(
    backend: Backend, device: BackendDevice, api: DirectApi, hold_to: Callable[..., None]
) -> None:
    """Added, retired, unknown, or left out of the policy: the device runs on with one release."""
    device.statement = Statement(other="2.0")
    assert states(device, device.attest(api).approval) == ONE
    with backend.database.transaction() as session:
        add_release(session, make_release("2.0"), now=backend.clock())
    assert states(device, device.attest(api).approval) == ONE
    accept(backend, "2.0")
    assert states(device, device.attest(api).approval) == BOTH
    hold_to(releases=["1.0"])
    assert states(device, device.attest(api).approval) == ONE
    hold_to(releases=["1.0", "2.0"])
    assert states(device, device.attest(api).approval) == BOTH
    retire(backend, "2.0")
    reply = device.attest(api)
    assert states(device, reply.approval) == ONE
    assert reply.standing is Standing.TRUSTED


def test_leave_to_return_ends_with_the_term_of_the_last_release(
    backend: Backend,
    device: BackendDevice,
    api: DirectApi,
    clock: ManualClock,
    hold_to: Callable[..., None],
) -> None:
    """What could not run itself any more is not returned to."""
    hold_to(updates={"within": "10d"})
    accept(backend, "2.0")
    device.load(make_release("2.0"))
    device.statement = Statement(other="1.0")
    first = device.attest(api).approval
    assert first is not None
    assert len(first.branches) == len(BOTH)
    last = later(device, api, clock, 10 * DAY)
    assert last.approval is not None
    assert last.standing is Standing.TRUSTED
    assert {branch.label for branch in last.approval.branches} == ONE


def test_a_delivered_root_opens_in_both_releases(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """A root that comes while a device holds two releases does not keep it from switching."""
    accept(backend, "2.0")
    device.statement = Statement(other="2.0")
    with backend.database.transaction() as session:
        ask_rotation(session, device.name.hex(), by=local_administrator(), now=backend.clock())
    reply = device.attest(api)
    assert reply.root is not None
    assert states(device, reply.approval) == BOTH
    assert states(device, reply.root.approval) == BOTH
    assert reply.root.approval.epoch == device.counter + 1
    device.rotate()
    assert states(device, device.attest(api).approval) == BOTH


def test_a_device_that_failed_gets_leave_for_neither_release(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """What it holds beside does not make it good."""
    accept(backend, "2.0")
    device.statement = Statement(other="2.0")
    retire(backend, "1.0")
    reply = device.attest(api)
    assert (reply.standing, reply.approval, reply.root) == (Standing.FAILED, None, None)


# --- what a device says of itself ----------------------------------------------------------

MALFORMED = {
    "no JSON": b"other",
    "a name that is none": b'{"other": 1}',
    "a name that is too long": b'{"other": "' + b"a" * 201 + b'"}',
    "a failure that is none": b'{"failure": {"step": "stage"}}',
    "text that is no UTF-8": b'{"other": "\xff"}',
    "more than one": b"{}{}",
    "too much": b'{"other": "' + b" " * STATEMENT_LIMIT + b'"}',
    "nesting": b"[" * STATEMENT_LIMIT,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_statement_is_refused_before_anything_is_decided(
    backend: Backend, device: BackendDevice, api: DirectApi, case: str
) -> None:
    """The refusal is on record, and nothing else: the challenge is still good."""
    good = device.evidence(device.next_nonce)
    with pytest.raises(MalformedError) as caught:
        device.attest(api, statement_of(device, MALFORMED[case]))
    assert caught.value.code == "wire:malformed"
    with backend.database.reading() as session:
        newest = session.query(AuditRecord).order_by(AuditRecord.sequence.desc()).first()
        assert newest is not None
        assert newest.event == Event.EVIDENCE_REFUSED.value
    assert device.attest(api, good).standing is Standing.TRUSTED


def test_a_refusal_does_not_repeat_what_a_terminal_obeys(
    backend: Backend, device: BackendDevice, api: DirectApi
) -> None:
    """The name of a field that nobody knows is a device's words too."""
    said = b'{"failure": {"step": "stage", "code": "x", "\\u001b[2J\\u202e\\u000a": 1}}'
    with pytest.raises(MalformedError):
        device.attest(api, statement_of(device, said))
    with backend.database.reading() as session:
        newest = session.query(AuditRecord).order_by(AuditRecord.sequence.desc()).first()
        assert newest is not None
        assert newest.reason.isascii()
        assert newest.reason.isprintable()


# --- what it costs -------------------------------------------------------------------------


def test_orders_ask_the_database_nothing_more(
    backend: Backend, device: BackendDevice, api: DirectApi, vendor: Vendor
) -> None:
    """What is wanted is kept with the group's rules: a heartbeat asks for one serial number."""
    publish(vendor, "2.0", accept=True)
    device.statement = Statement(other="2.0")
    device.attest(api)
    asked: list[str] = []

    def note(_c: object, _u: object, statement: str, *_rest: object) -> None:
        asked.append(statement)

    engine = backend.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        assert device.attest(api).update == UpdateOrder(release="2.0", forced=False)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert sum("stamps" in statement for statement in asked) == 1
    assert not [text for text in asked if "tuf_" in text or "releases" in text]


def test_what_is_wanted_follows_what_is_published_in_the_same_transaction(
    vendor: Vendor,
) -> None:
    """Rules that were kept before are not those after."""

    def wanted() -> tuple[str | None, list[str]]:
        with vendor.backend.database.reading() as session:
            listed = sorted(listed_releases(session))
            return rules_of(session, "default").rules.updates.wanted, listed

    assert wanted() == ("1.0", ["1.0"])
    accept(vendor.backend, "2.0")
    assert wanted() == ("1.0", ["1.0"])
    publish(vendor, "2.0")
    assert wanted() == ("2.0", ["1.0", "2.0"])
    vendor.revoke("2.0")
    assert wanted() == ("1.0", ["1.0"])
