"""What is kept, recorded and told of enclaves: their evidence, its changes, their silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import EnclaveEnrolled, EnclaveEvidence
from hwtrust.wire.messages import Mode, Standing, TlsKeyKind, UpdateOrder
from hwtrust.wire.statement import Statement, StepFailure, encode_statement
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import ask_rotation, readmit, retire
from hwtrust_backend.admin.rules import set_group
from hwtrust_backend.audit import Event, evidence_digest
from hwtrust_backend.audit.models import AuditRecord
from hwtrust_backend.policies import StoredEvidence
from hwtrust_backend.publishing.schedule import Reason
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import DAY, HOUR, MINUTE
from hwtrust_backend.webhooks import Delivery, Topic
from simulators.attester import make_release
from simulators.enclave_clients import (
    DEBUG_POLICY,
    BackendEnclave,
    DirectWay,
    another_token,
    enclave_policy,
    row,
    trust_signers,
)
from simulators.snp_signer import POLICY

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.app.backend import Backend
    from simulators.vendor import Vendor

ADMINISTRATOR = local_administrator()


@pytest.fixture
def way(backend: Backend, hold_to_document: Callable[[str], None]) -> DirectWay:
    """A backend that accepts enclaves, and tells a receiver of everything."""
    trust_signers(backend)
    hold_to_document(enclave_policy(watchdog="20m"))
    with backend.database.transaction() as session:
        backend.webhooks.add(
            session,
            url="https://receiver.example/hooks",
            topics=tuple(Topic),
            group="",
            by="cli:root",
            now=backend.clock(),
        )
    return DirectWay(backend)


def told(way: DirectWay) -> list[dict[str, Any]]:
    """The events in the outbox, the oldest first."""
    with way.backend.database.reading() as session:
        rows = session.scalars(select(Delivery).order_by(Delivery.created_at, Delivery.id))
        return [msgspec.json.decode(one.body) for one in rows]


def records(way: DirectWay, event: Event) -> list[AuditRecord]:
    """The records of an event, the oldest first."""
    with way.backend.database.reading() as session:
        query = select(AuditRecord).where(AuditRecord.event == event.value)
        return list(session.scalars(query.order_by(AuditRecord.sequence)))


def test_an_enrolment_is_recorded_with_its_evidence_and_told(way: DirectWay, token: str) -> None:
    """Which key got a certificate, and by which evidence, stands in the trail."""
    enclave = BackendEnclave()
    message = enclave.enrolment(way, token)
    way.post("", message, EnclaveEnrolled)
    (accepted,) = records(way, Event.ENROLMENT_ACCEPTED)
    assert accepted.device == enclave.name.hex()
    assert accepted.evidence == evidence_digest(message.evidence)
    (issued,) = records(way, Event.CERTIFICATE_ISSUED)
    assert issued.device == enclave.name.hex()
    assert TlsKeyKind.ATTESTED in issued.reason
    (event,) = told(way)
    assert event["type"] == Topic.ENROLLED
    assert event["data"] == {
        "device": enclave.name.hex(),
        "kind": "snp",
        "group": "default",
        "standing": "trusted",
        "release": "1.0",
        "epoch": 1,
    }


def test_an_enclave_belongs_to_the_group_of_its_token(way: DirectWay, token: str) -> None:
    """Whoever made the token says by which policy it is held."""
    del token
    with way.backend.database.transaction() as session:
        set_group(session, "line", policy="default", by=ADMINISTRATOR, now=way.backend.clock())
    enclave = BackendEnclave()
    enclave.enrol(way, another_token(way, group="line"))
    assert row(way, enclave).group == "line"
    enclave.restart()
    enclave.enrol(way, another_token(way))
    assert row(way, enclave).group == "default"


def test_every_attestation_is_recorded_with_its_evidence(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """With what was found, too."""
    for report, reason in (({}, "trusted"), ({"policy": POLICY | DEBUG_POLICY}, "snp:debug")):
        evidence = enclave.evidence(enclave.next_nonce, report=report)
        enclave.attest(way, evidence)
        last = records(way, Event.EVIDENCE_ACCEPTED)[-1]
        assert (last.device, last.evidence) == (enclave.name.hex(), evidence_digest(evidence))
        assert reason in last.reason


def test_a_change_of_standing_is_told_once_and_a_heartbeat_never(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """To whoever waits for an alarm."""
    enclave.attest(way)
    for _ in range(2):
        enclave.attest(way, report={"policy": POLICY | DEBUG_POLICY})
    (event,) = (one for one in told(way) if one["type"] == Topic.STANDING_CHANGED)
    data = event["data"]
    assert (data["device"], data["from"], data["to"]) == (enclave.name.hex(), "trusted", "failed")
    assert [finding["code"] for finding in data["findings"]] == ["snp:debug"]


def test_an_enclave_that_was_failed_gets_another_root(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """The next one is due once it is trusted again, as for every device."""
    enclave.attest(way, report={"policy": POLICY | DEBUG_POLICY})
    enclave.attest(way)
    assert row(way, enclave).rotation_reason == Reason.MISMATCH


def test_each_attestation_puts_off_the_watchdog(way: DirectWay, enclave: BackendEnclave) -> None:
    """An enclave that is heard of is not missing."""
    before = row(way, enclave)
    assert before.watchdog_at == before.enrolled_at + 20 * MINUTE
    way.backend.clock.advance(10 * MINUTE)  # type: ignore[attr-defined]
    enclave.attest(way)
    after = row(way, enclave)
    assert after.watchdog_at == after.attested_at + 20 * MINUTE
    assert after.attested_at > before.attested_at


def kept_at(way: DirectWay, enclave: BackendEnclave) -> int:
    """When the evidence came that is kept."""
    with way.backend.database.reading() as session:
        return session.get_one(StoredEvidence, enclave.name.hex()).at


def another_key(_: DirectWay, enclave: BackendEnclave) -> dict[str, Any]:
    """Another key to seal roots to."""
    enclave.release_key = X25519PrivateKey.generate()
    return {}


def another_log(way: DirectWay, enclave: BackendEnclave) -> dict[str, Any]:
    """One more layer, while the verdict stays the same."""
    enclave.load(make_release(), layers=1)
    enclave.attest(way)
    enclave.load(make_release(), layers=2)
    return {}


def another_epoch(_: DirectWay, __: BackendEnclave) -> dict[str, Any]:
    """No root any more."""
    return {"epoch": 0}


def another_release(way: DirectWay, enclave: BackendEnclave) -> dict[str, Any]:
    """A release of the same layers."""
    same = msgspec.structs.replace(make_release(), name="1.0.1")
    with way.backend.database.transaction() as session:
        add_release(session, same, now=way.backend.clock())
        accept_release(session, "1.0.1", now=way.backend.clock())
    return {"release": "1.0.1"}


def other_hardware(_: DirectWay, __: BackendEnclave) -> dict[str, Any]:
    """Another word of the hardware."""
    return {"report": {"guest_svn": 9}}


NEWS = (another_key, another_log, another_epoch, another_release, other_hardware)


@pytest.mark.parametrize("change", NEWS, ids=lambda change: change.__doc__)
def test_evidence_that_tells_something_new_is_kept(
    way: DirectWay,
    enclave: BackendEnclave,
    change: Callable[[DirectWay, BackendEnclave], dict[str, Any]],
) -> None:
    """Dry runs and administrators see the newest that differs."""
    enclave.attest(way)
    before = kept_at(way, enclave)
    enclave.attest(way)
    assert kept_at(way, enclave) == before
    changes = change(way, enclave)
    evidence = enclave.evidence(enclave.next_nonce, **changes)
    enclave.attest(way, evidence)
    with way.backend.database.reading() as session:
        kept = session.get_one(StoredEvidence, enclave.name.hex())
    assert kept.at > before
    assert kept.nonce == evidence.binding.nonce
    assert msgspec.json.decode(kept.content, type=EnclaveEvidence) == evidence


def test_evidence_is_kept_when_the_verdict_changes(
    way: DirectWay, enclave: BackendEnclave, hold_to_document: Callable[[str], None]
) -> None:
    """Though it says nothing else."""
    enclave.attest(way)
    before = kept_at(way, enclave)
    hold_to_document(enclave_policy(releases=["2.0"]))
    assert enclave.attest(way).standing is Standing.FAILED
    assert kept_at(way, enclave) > before


def test_a_failure_that_an_enclave_reports_is_kept_and_told(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """Until it says that it has got over it."""
    failure = StepFailure(step="stage", code="update:space", release="2.0")
    statement = encode_statement(Statement(failure=failure))
    enclave.attest(way, statement=statement)
    assert row(way, enclave).failing_since is not None
    assert b"update:space" in (row(way, enclave).failure or b"")
    enclave.attest(way)
    assert row(way, enclave).failing_since is None


def test_an_enclave_is_ordered_to_update(
    way: DirectWay,
    enclave: BackendEnclave,
    ready: Vendor,
    hold_to_document: Callable[[str], None],
) -> None:
    """In the second half of its term it is forced to."""
    hold_to_document(enclave_policy(updates={"within": "2d"}))
    layers = make_release("2.0").layers
    content = {layer.name: ("2.0", f"2.0 {layer.name}".encode()) for layer in layers}
    ready.publish("2.0", content, accept=True)
    assert enclave.attest(way).update == UpdateOrder(release="2.0", forced=False)
    way.backend.clock.advance(DAY + HOUR)  # type: ignore[attr-defined]
    assert enclave.session(way).update == UpdateOrder(release="2.0", forced=True)


def test_who_is_readmitted_may_enrol_once(way: DirectWay, enclave: BackendEnclave) -> None:
    """The enrolment takes up the leave, and the state begins anew."""
    name, backend = enclave.name.hex(), way.backend
    with backend.database.transaction() as session:
        ask_rotation(session, name, by=ADMINISTRATOR, now=backend.clock())
        retire(session, name, reason="sold", by=ADMINISTRATOR, now=backend.clock())
        readmit(session, name, reason="back", by=ADMINISTRATOR, now=backend.clock())
    enclave.restart()
    enclave.enrol(way, another_token(way))
    device = row(way, enclave)
    assert (device.retired_at, device.readmitted_at) == (None, None)
    assert (device.standing, device.mode) == (Standing.TRUSTED, Mode.NORMAL)
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    assert enclave.attest(way).standing is Standing.TRUSTED
