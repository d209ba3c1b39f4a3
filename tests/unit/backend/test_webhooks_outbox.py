"""Events: who hears of them, and that none is lost or holds up another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import func, select

from hwtrust.errors import WebhookTopicError, WebhookUnknownError, WebhookUrlError
from hwtrust.wire.messages import Standing
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.app.backend import make_backend
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.testing import DAY, HOUR, MINUTE
from hwtrust_backend.webhooks import (
    Delivery,
    DeliveryState,
    Topic,
    Webhook,
    announce,
    enable_webhook,
    find_delivery,
    list_deliveries,
    list_webhooks,
    put_test,
    remove_webhook,
)
from hwtrust_backend.webhooks.delivery import (
    CLAIM,
    DISABLE_MS,
    GIVE_UP_MS,
    KEPT_MS,
    LONGEST_HOLD_MS,
    delay,
)
from hwtrust_backend.webhooks.service import OVERLAP_MS
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi
from simulators.tls_server import Pki
from simulators.webhook_receiver import WebhookReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.config import Settings
    from hwtrust_backend.testing import ManualClock
    from hwtrust_backend.webhooks import DeliveryReport

URL = "https://receiver.example/hooks"
DEVICE = "000b" + "5e" * 32


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """The CA that the receivers' certificates are under."""
    return Pki(tmp_path)


@pytest.fixture
def settings(settings: Settings, pki: Pki, tmp_path: Path) -> Settings:
    """Settings with which events go to loopback, under the test CA."""
    ca = tmp_path / "receivers.pem"
    ca.write_text(pki.ca_pem)
    return msgspec.structs.replace(
        settings,
        webhook_ca_file=str(ca),
        webhook_private_networks=("127.0.0.0/8", "::1/128"),
        webhook_timeout_ms=5000,
    )


@pytest.fixture
def receiver(pki: Pki) -> Iterator[WebhookReceiver]:
    """A receiver on loopback."""
    with WebhookReceiver(pki) as started:
        yield started


def add(
    backend: Backend, url: str, *topics: Topic, group: str = "", by: str = "cli:root"
) -> tuple[str, str]:
    """Subscribe a receiver; gives identifier and secret."""
    with backend.database.transaction() as session:
        report, secret = backend.webhooks.add(
            session,
            url=url,
            topics=topics or tuple(Topic),
            group=group,
            by=by,
            now=backend.clock(),
        )
    return report.id, secret


def subscribe(backend: Backend, receiver: WebhookReceiver, *topics: Topic) -> str:
    """Subscribe a receiver that runs, and give it its secret."""
    identifier, secret = add(backend, receiver.receiver_url, *topics)
    receiver.secrets.append(secret)
    return identifier


def tell(backend: Backend, topic: Topic = Topic.SILENT, **data: object) -> None:
    """Announce something."""
    with backend.database.transaction() as session:
        announce(session, topic, device=DEVICE, data=data, now=backend.clock())


def outbox(backend: Backend) -> list[Delivery]:
    """Every row of the outbox, the oldest first."""
    with backend.database.reading() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.created_at, Delivery.id)))


def deliveries(backend: Backend, identifier: str = "") -> list[DeliveryReport]:
    """What lists show of the outbox."""
    with backend.database.reading() as session:
        return list_deliveries(session, identifier, limit=100)


def records(backend: Backend, event: Event) -> list[tuple[str, str]]:
    """Actor and reason of each record of an event."""
    with backend.database.reading() as session:
        query = select(AuditRecord).where(AuditRecord.event == event.value)
        return [(row.actor, row.reason) for row in session.scalars(query)]


# --- who hears of what --------------------------------------------------------------------


def test_an_event_is_put_down_once_for_each_receiver_that_asked_for_it(backend: Backend) -> None:
    """Topics and groups decide who hears; each gets an event of its own."""
    everything, _ = add(backend, URL)
    silent, _ = add(backend, URL, Topic.SILENT)
    add(backend, URL, Topic.LOCKED)
    lab, _ = add(backend, URL, Topic.SILENT, group="lab")
    tell(backend, Topic.SILENT, group="lab")
    tell(backend, Topic.SILENT, group="field")
    heard = [row.webhook for row in outbox(backend)]
    assert sorted(heard) == sorted([everything, silent, lab, everything, silent])
    assert len({row.id for row in outbox(backend)}) == 5


def test_a_receiver_of_one_group_hears_of_no_device_without_a_group(backend: Backend) -> None:
    """What concerns nobody in particular is not told to who is limited."""
    add(backend, URL, group="lab")
    tell(backend)
    assert outbox(backend) == []


def test_without_a_receiver_nothing_is_written(backend: Backend) -> None:
    """An announcement that nobody hears leaves no row."""
    tell(backend)
    assert outbox(backend) == []


def test_what_is_rolled_back_is_told_to_nobody(backend: Backend) -> None:
    """An event belongs to the transaction of what it tells of."""
    add(backend, URL)
    with backend.database.transaction() as session:
        announce(session, Topic.SILENT, device=DEVICE, data={}, now=backend.clock())
        session.rollback()
    assert outbox(backend) == []


def test_a_payload_says_what_when_and_of_which_device(backend: Backend) -> None:
    """Type, timestamp and data, as Standard Webhooks asks for."""
    add(backend, URL)
    tell(backend, Topic.LOCKED, group="lab", reason="stolen")
    (row,) = outbox(backend)
    event = msgspec.json.decode(row.body)
    assert event["type"] == "device.locked"
    assert event["timestamp"].endswith("Z")
    assert event["data"] == {"device": DEVICE, "group": "lab", "reason": "stolen"}


# --- subscriptions ------------------------------------------------------------------------


def test_a_secret_is_shown_once_and_lies_sealed(backend: Backend) -> None:
    """Neither a list nor the database nor the audit trail holds it."""
    identifier, secret = add(backend, URL)
    with backend.database.reading() as session:
        row = session.get_one(Webhook, identifier)
        assert secret not in repr(list_webhooks(session))
        opened = backend.webhooks.secrets_of(row, now=backend.clock())
        assert opened[0].reveal() not in row.secret
    assert records(backend, Event.WEBHOOK_ADDED)[0][0] == "cli:root"
    assert secret not in str(records(backend, Event.WEBHOOK_ADDED))
    assert secret.startswith("whsec_")


def test_a_receiver_without_topics_or_with_a_bad_url_is_refused(backend: Backend) -> None:
    """Nothing is left of it."""
    with backend.database.transaction() as session:
        with pytest.raises(WebhookTopicError):
            backend.webhooks.add(session, url=URL, topics=(), group="", by="", now=1)
        with pytest.raises(WebhookUrlError):
            backend.webhooks.add(
                session, url="http://x.example/", topics=(Topic.SILENT,), group="", by="", now=1
            )
    with backend.database.reading() as session:
        assert list_webhooks(session) == []


def test_what_is_not_there_is_refused_by_every_service(backend: Backend) -> None:
    """An identifier that nobody has ends in one error."""
    unknown = "wh_unknown"
    with backend.database.transaction() as session:
        for work in (
            lambda: remove_webhook(session, unknown, by="", now=1),
            lambda: enable_webhook(session, unknown, by="", now=1),
            lambda: put_test(session, unknown, by="", now=1),
            lambda: backend.webhooks.rotate_secret(session, unknown, by="", now=1),
            lambda: list_deliveries(session, unknown, limit=1),
            lambda: find_delivery(session, unknown),
        ):
            with pytest.raises(WebhookUnknownError) as caught:
                work()
            assert caught.value.code == "webhook:unknown"


def test_a_receiver_that_is_removed_takes_its_outbox_along(backend: Backend) -> None:
    """Nothing is sent to who was removed."""
    identifier, _ = add(backend, URL)
    tell(backend)
    with backend.database.transaction() as session:
        remove_webhook(session, identifier, by="cli:root", now=backend.clock())
    assert outbox(backend) == []
    tell(backend)
    assert outbox(backend) == []
    assert records(backend, Event.WEBHOOK_REMOVED) == [("cli:root", f"{identifier} {URL}")]


# --- delivery -----------------------------------------------------------------------------


def test_an_event_is_delivered_signed_and_once(backend: Backend, receiver: WebhookReceiver) -> None:
    """The receiver verifies it with the secret that it was given."""
    identifier = subscribe(backend, receiver)
    tell(backend, group="lab")
    backend.courier.deliver_due()
    backend.courier.deliver_due()
    assert [event["type"] for event in receiver.events] == ["device.silent"]
    (report,) = deliveries(backend, identifier)
    assert (report.state, report.attempts, report.last_status) == ("delivered", 1, 204)
    assert receiver.received[0].id == report.id


def test_a_failed_delivery_is_tried_again_with_the_same_identifier(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """The receiver can tell that it is the same event, and the time of the attempt is new."""
    subscribe(backend, receiver)
    receiver.statuses = ["503 Service Unavailable", "200 OK"]
    tell(backend)
    backend.courier.deliver_due()
    backend.courier.deliver_due()
    assert len(receiver.received) == 1
    clock.advance(MINUTE)
    backend.courier.deliver_due()
    first, second = receiver.received
    assert first.id == second.id
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.signed
    assert second.signed
    (report,) = deliveries(backend)
    assert (report.state, report.attempts) == ("delivered", 2)


@pytest.mark.parametrize("status", ["301 Moved", "400 Bad", "404 None", "500 Broken"])
def test_only_a_success_is_a_delivery(
    backend: Backend, receiver: WebhookReceiver, status: str
) -> None:
    """What a receiver answers besides 2xx leaves the event in the outbox."""
    subscribe(backend, receiver)
    receiver.statuses = [status]
    tell(backend)
    backend.courier.deliver_due()
    (report,) = deliveries(backend)
    assert (report.state, report.last_status) == ("waiting", int(status[:3]))
    assert report.last_error


def test_both_secrets_sign_while_one_is_replaced(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """A receiver that does not know the new secret yet loses nothing; then the old one ends."""
    identifier = subscribe(backend, receiver)
    (old,) = receiver.secrets
    with backend.database.transaction() as session:
        new = backend.webhooks.rotate_secret(session, identifier, by="cli:root", now=clock())
    tell(backend)
    backend.courier.deliver_due()
    clock.advance(OVERLAP_MS)
    tell(backend)
    backend.courier.deliver_due()
    receiver.secrets = [new]
    tell(backend)
    backend.courier.deliver_due()
    assert [one.signed for one in receiver.received] == [True, False, True]
    assert new != old


def test_a_process_that_was_killed_only_delays_what_it_had_claimed(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """A claim ends by itself; what was being sent is sent again."""
    webhook = subscribe(backend, receiver)
    tell(backend)
    with backend.database.transaction() as session:
        claimed = backend.courier._claim(session, webhook, 5000, now=clock())
    assert len(claimed) == 1
    backend.courier.deliver_due()
    assert receiver.received == []
    clock.advance(2 * MINUTE)
    backend.courier.deliver_due()
    assert len(receiver.events) == 1


def test_replicas_share_the_outbox(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """Two that deliver at once send each event once."""
    subscribe(backend, receiver)
    for _ in range(2 * CLAIM):
        tell(backend)
    other = make_backend(
        backend.settings, database=backend.database, vault=backend.vault, clock=clock
    )
    threads = [
        threading.Thread(target=courier.deliver_due) for courier in (backend.courier, other.courier)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.courier.deliver_due()
    names = [one.id for one in receiver.received]
    assert len(names) == len(set(names)) == 2 * CLAIM
    other.courier.close()


def hang(receiver: WebhookReceiver) -> None:
    """Answer nothing, until the test is over."""
    receiver.wait()
    raise ConnectionAbortedError


def test_a_dead_receiver_costs_one_attempt_and_holds_up_nobody(
    backend: Backend, receiver: WebhookReceiver, pki: Pki
) -> None:
    """Its lane ends at the first failure, and the others' events arrive meanwhile."""
    with WebhookReceiver(pki) as dead:
        dead.before = lambda: hang(dead)
        late = subscribe(backend, dead)
        subscribe(backend, receiver)
        for _ in range(3):
            tell(backend)
        lanes = backend.courier.start_due()
        arrived = threading.Event()
        receiver.before = lambda: arrived.set() if len(receiver.received) == 3 else None
        assert arrived.wait(4) or len(receiver.received) == 3
        assert backend.courier.start_due() == []
    for lane in lanes:
        lane.result()
    attempts = sorted(report.attempts for report in deliveries(backend, late))
    assert attempts == [0, 0, 1]
    assert len(receiver.events) == 3


def test_a_receiver_that_failed_is_left_alone_for_a_while(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """New events wait with the old ones, and all arrive once it is back."""
    identifier = subscribe(backend, receiver)
    receiver.statuses = ["500 Broken", "200 OK"]
    tell(backend)
    backend.courier.deliver_due()
    tell(backend)
    backend.courier.deliver_due()
    assert len(receiver.received) == 1
    clock.advance(LONGEST_HOLD_MS + MINUTE)
    backend.courier.deliver_due()
    assert len(receiver.received) == 3
    with backend.database.reading() as session:
        row = session.get_one(Webhook, identifier)
        assert (row.failures, row.failing_since, row.hold_until) == (0, None, 0)


def test_an_event_is_given_up_after_three_days(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """An outbox does not grow for ever; what was given up says so."""
    subscribe(backend, receiver)
    receiver.statuses = ["500 Broken"]
    tell(backend)
    begun = clock()
    while clock() - begun < GIVE_UP_MS:
        backend.courier.deliver_due()
        clock.advance(8 * HOUR)
    backend.courier.deliver_due()
    (report,) = deliveries(backend)
    assert report.state == "given-up"
    assert report.attempts > 3
    assert report.next_at is None


def test_a_receiver_that_fails_for_days_is_disabled_with_a_record(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """Nothing is put down for it any more, until an administrator enables it."""
    identifier = subscribe(backend, receiver)
    receiver.statuses = ["500 Broken"]
    tell(backend)
    backend.courier.deliver_due()
    clock.advance(DISABLE_MS)
    tell(backend)
    backend.courier.deliver_due()
    with backend.database.reading() as session:
        (found,) = list_webhooks(session)
    assert found.disabled_at is not None
    assert records(backend, Event.WEBHOOK_DISABLED)[0][1].startswith(identifier)
    before = len(outbox(backend))
    tell(backend)
    assert len(outbox(backend)) == before
    receiver.statuses = ["200 OK"]
    with backend.database.transaction() as session:
        enable_webhook(session, identifier, by="cli:root", now=clock())
    tell(backend)
    backend.courier.deliver_due()
    assert receiver.received[-1].event["type"] == "device.silent"
    assert records(backend, Event.WEBHOOK_ENABLED)[0][0] == "cli:root"


def test_a_receiver_that_is_gone_is_disabled_at_once(
    backend: Backend, receiver: WebhookReceiver
) -> None:
    """410 says that nobody is there any more (Standard Webhooks)."""
    subscribe(backend, receiver)
    receiver.statuses = ["410 Gone"]
    tell(backend)
    backend.courier.deliver_due()
    with backend.database.reading() as session:
        (found,) = list_webhooks(session)
    assert found.disabled_reason == "it answered 410"


def test_what_is_done_is_removed_after_a_week(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """Deliveries stay for a look, and then go; what waits stays."""
    identifier = subscribe(backend, receiver)
    tell(backend)
    backend.courier.deliver_due()
    clock.advance(KEPT_MS - HOUR)
    assert backend.courier.prune() == 0
    receiver.statuses = ["500 Broken"]
    tell(backend)
    backend.courier.deliver_due()
    clock.advance(2 * HOUR)
    assert backend.courier.prune() == 1
    assert [row.state for row in outbox(backend)] == [DeliveryState.WAITING]
    with backend.database.transaction() as session:
        session.delete(session.get_one(Webhook, identifier))
    assert backend.courier.prune() == 1


def test_what_was_never_tried_is_removed_too(backend: Backend, clock: ManualClock) -> None:
    """The outbox of a receiver that stays disabled does not stay for ever."""
    add(backend, URL)
    tell(backend)
    clock.advance(GIVE_UP_MS + KEPT_MS + DAY)
    assert backend.courier.prune() == 1


def test_a_test_event_goes_to_its_receiver_alone_and_at_once(
    backend: Backend, receiver: WebhookReceiver, clock: ManualClock
) -> None:
    """Whatever it subscribed to, held or disabled: an administrator wants to know."""
    identifier = subscribe(backend, receiver, Topic.LOCKED)
    add(backend, URL)
    with backend.database.transaction() as session:
        row = session.get_one(Webhook, identifier)
        row.hold_until, row.disabled_at = clock() + DAY, clock()
        event = put_test(session, identifier, by="cli:root", now=clock())
    backend.courier.deliver(event)
    assert [one["type"] for one in receiver.events] == ["webhook.test"]
    with backend.database.reading() as session:
        assert find_delivery(session, event).state == "delivered"
        assert session.scalar(select(func.count()).select_from(Delivery)) == 1
    backend.courier.deliver(event)
    assert len(receiver.received) == 1


def test_a_courier_that_is_closed_begins_nothing(backend: Backend) -> None:
    """A process that ends leaves what is due to the others."""
    add(backend, URL)
    tell(backend)
    backend.courier.close()
    assert backend.courier.start_due() == []
    assert [row.attempts for row in outbox(backend)] == [0]


def test_delays_grow_threefold_to_their_longest_and_are_spread() -> None:
    """Receivers that failed together are not tried together."""
    assert 8_000 <= delay(1) <= 12_000
    assert 72_000 <= delay(3) <= 108_000
    assert delay(100) <= 8 * HOUR * 1.2
    assert len({delay(5) for _ in range(20)}) > 1


# --- what the backend tells of ---------------------------------------------------------------


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """A device that is not enrolled yet, and is allowed to."""
    made = BackendDevice(backend)
    made.load(make_release())
    with backend.database.transaction() as session:
        allow_ek(session, made.name.hex(), label="", now=backend.clock())
    return made


def told(backend: Backend) -> list[dict[str, Any]]:
    """The events in the outbox, the oldest first."""
    return [msgspec.json.decode(row.body) for row in outbox(backend)]


def test_an_enrolment_and_a_rotation_are_told_step_by_step(
    backend: Backend, device: BackendDevice
) -> None:
    """Enrolled, the next root offered, the next root confirmed: each once."""
    add(backend, URL)
    device.enrol(DirectApi(backend))
    api = DirectApi(backend, device)
    with backend.database.transaction() as session:
        ask_rotation(session, device.name.hex(), by=local_administrator(), now=backend.clock())
    device.attest(api)
    device.attest(api)
    device.rotate()
    device.attest(api)
    events = told(backend)
    assert [event["type"] for event in events] == [
        "device.enrolled",
        "root.offered",
        "root.confirmed",
    ]
    assert {event["data"]["device"] for event in events} == {device.name.hex()}
    assert events[2]["data"]["epoch"] == device.counter


def test_a_change_of_standing_is_told_once_and_a_heartbeat_never(
    backend: Backend, device: BackendDevice
) -> None:
    """From trusted to failed, with the findings' codes, and nothing while it stays so."""
    add(backend, URL, Topic.STANDING_CHANGED)
    device.enrol(DirectApi(backend))
    api = DirectApi(backend, device)
    device.attest(api)
    assert told(backend) == []
    device.load(make_release("9.9"))
    assert device.attest(api).standing is Standing.FAILED
    device.attest(api)
    (event,) = told(backend)
    assert event["type"] == "device.standing.changed"
    assert (event["data"]["from"], event["data"]["to"]) == ("trusted", "failed")
    assert event["data"]["group"] == "default"
    assert event["data"]["findings"]
    assert {"code", "severity"} == set(event["data"]["findings"][0])
