"""Delivering what is in the outbox: at least once, in lanes that do not wait for each other.

    due ── claim (lease) ──▶ attempt ──▶ delivered
             ▲                  │
             └── hold, back-off ◀┘ ──(three days)──▶ given up

Rules:
1. A row is claimed by moving `next_at` to the end of a lease, in a transaction
   that is over before anything is sent. A process that is killed in between only
   delays its rows; a receiver may see one twice, with the same webhook-id.
2. Replicas claim with SKIP LOCKED: they share the work and do not wait for each
   other. On SQLite a write transaction is alone anyway.
3. Every receiver has a lane of its own. A lane ends at its first failure, and the
   receiver is held for a while that grows: one that is dead costs one attempt at a
   time and holds up nobody.
4. A success ends the hold. A receiver that answers 410, or has failed for five
   days, is disabled, with a record in the audit trail.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from hwtrust.errors import HwTrustError, WebhookError, WebhookUnknownError
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Clock
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.db import WEBHOOKS, Database, count_up
from hwtrust_backend.keys import Secret
from hwtrust_backend.observe import metrics
from hwtrust_backend.webhooks.models import Delivery, DeliveryState, Webhook
from hwtrust_backend.webhooks.service import Webhooks
from hwtrust_backend.webhooks.signing import signed_headers
from hwtrust_backend.webhooks.transport import Transport

LANES: Final = 8
"""Receivers that are served at once by one process."""
CLAIM: Final = 20
"""Rows that a lane takes at once."""
GIVE_UP_MS: Final = 3 * DAY
DISABLE_MS: Final = 5 * DAY
KEPT_MS: Final = 7 * DAY
"""How long a delivery that is done stays for `webhook deliveries`."""
LONGEST_MS: Final = GIVE_UP_MS + KEPT_MS
"""How long a row stays that was never tried, because its receiver is disabled."""
FIRST_DELAY_MS: Final = 10 * SECOND
LONGEST_DELAY_MS: Final = 8 * HOUR
LONGEST_HOLD_MS: Final = 15 * MINUTE
_LEASE_SLACK_MS: Final = MINUTE
_ERROR_LIMIT: Final = 200

_log = logging.getLogger("hwtrust_backend.webhooks")


@dataclass(frozen=True, slots=True)
class _Parcel:
    """One claimed row, as it is sent."""

    id: str
    webhook: str
    url: str
    body: bytes
    secrets: list[Secret]


class Courier:
    """Delivers what is due; `start_due` returns at once, `deliver_due` when all is tried."""

    def __init__(
        self,
        *,
        database: Database,
        webhooks: Webhooks,
        transport: Callable[[], Transport],
        clock: Clock,
    ) -> None:
        self._database = database
        self._webhooks = webhooks
        self._make_transport = transport
        self._transport: Transport | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def start_due(self) -> list[Future[None]]:
        """Begin a lane for every receiver that something is due for and that has none.

        Raises:
            WebhookDeliveryError: the file of CA certificates cannot be read.
        """
        with self._database.reading() as session:
            due = due_webhooks(session, now=self._clock())
        started = []
        for webhook in due:
            with self._lock:
                if webhook in self._running or self._closed:
                    continue
                self._transport = self._transport or self._make_transport()
                self._pool = self._pool or ThreadPoolExecutor(LANES, "hwtrust-webhooks")
                self._running.add(webhook)
                started.append(self._pool.submit(self._lane, webhook, self._transport))
        return started

    def deliver_due(self) -> None:
        """Try everything that is due now, and return when that is done."""
        started = self.start_due()
        wait(started)
        for lane in started:
            lane.result()

    def deliver(self, event: str) -> None:
        """Try one event now, whatever its receiver is held or disabled for.

        Raises:
            WebhookUnknownError: there is no such event, or nobody to receive it.
            WebhookDeliveryError: the file of CA certificates cannot be read.
        """
        transport = self._transport or self._make_transport()
        with self._database.transaction() as session:
            row = session.get(Delivery, event, with_for_update=True)
            receiver = None if row is None else session.get(Webhook, row.webhook)
            if row is None or receiver is None:
                raise WebhookUnknownError("there is no such event, or no such receiver")
            claimed = self._leased(receiver, [row], transport.timeout_ms, now=self._clock())
        for parcel in claimed:
            self._attempt(parcel, transport)

    def prune(self) -> int:
        """Remove deliveries that have long been done, and those of removed receivers."""
        now = self._clock()
        with self._database.transaction() as session:
            old = delete(Delivery).where(
                or_(Delivery.done_at < now - KEPT_MS, Delivery.created_at < now - LONGEST_MS)
            )
            orphaned = delete(Delivery).where(Delivery.webhook.not_in(select(Webhook.id)))
            removed = [
                session.execute(one, execution_options={"synchronize_session": False})
                for one in (old, orphaned)
            ]
            return sum(one.rowcount for one in removed)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Begin nothing more. What is under way ends by its time limit, or by its lease."""
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    def _lane(self, webhook: str, transport: Transport) -> None:
        try:
            while self._pass(webhook, transport) and not self._closed:
                pass
        except HwTrustError as error:
            # The next pass tries again; nothing is lost, it is all in the outbox.
            _log.warning("webhook %s: %s: %s", webhook, error.code, error.message)
        finally:
            with self._lock:
                self._running.discard(webhook)

    def _pass(self, webhook: str, transport: Transport) -> bool:
        """Claim some rows and try them; says whether there may be more to try now."""
        with self._database.transaction() as session:
            parcels = self._claim(session, webhook, transport.timeout_ms, now=self._clock())
        for number, parcel in enumerate(parcels):
            if not self._attempt(parcel, transport):
                self._release([one.id for one in parcels[number + 1 :]])
                return False
        return len(parcels) == CLAIM

    def _claim(self, session: Session, webhook: str, timeout_ms: int, *, now: int) -> list[_Parcel]:
        receiver = session.get(Webhook, webhook)
        if receiver is None or receiver.disabled_at is not None or receiver.hold_until > now:
            return []
        query = (
            select(Delivery)
            .where(Delivery.webhook == webhook, Delivery.next_at <= now)
            .order_by(Delivery.next_at, Delivery.id)
            .limit(CLAIM)
            .with_for_update(skip_locked=True)
        )
        return self._leased(receiver, list(session.scalars(query)), timeout_ms, now=now)

    def _leased(
        self, receiver: Webhook, rows: list[Delivery], timeout_ms: int, *, now: int
    ) -> list[_Parcel]:
        waiting = [row for row in rows if row.state is DeliveryState.WAITING]
        for row in waiting:
            row.next_at = now + len(waiting) * timeout_ms + _LEASE_SLACK_MS
        if not waiting:
            return []
        secrets = self._webhooks.secrets_of(receiver, now=now)
        return [_Parcel(row.id, receiver.id, receiver.url, row.body, secrets) for row in waiting]

    def _attempt(self, parcel: _Parcel, transport: Transport) -> bool:
        headers = {
            "content-type": "application/json",
            "user-agent": "hwtrust-backend",
            **signed_headers(
                parcel.secrets, message=parcel.id, now=self._clock(), body=parcel.body
            ),
        }
        status, problem = 0, ""
        try:
            status = transport.post(parcel.url, headers, parcel.body)
        except WebhookError as error:
            problem = error.message
        good = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if status and not good:
            problem = f"the receiver answered {status}"
        with self._database.transaction() as session:
            self._note(session, parcel, status, problem, now=self._clock())
        metrics.WEBHOOKS.inc(outcome="delivered" if good else "failed")
        return good

    def _note(
        self, session: Session, parcel: _Parcel, status: int, problem: str, *, now: int
    ) -> None:
        receiver = session.get(Webhook, parcel.webhook, with_for_update=True)
        row = session.get(Delivery, parcel.id, with_for_update=True)
        if receiver is None or row is None or row.state is not DeliveryState.WAITING:
            return
        row.attempts += 1
        row.last_status, row.last_error = status, problem[:_ERROR_LIMIT]
        if not problem:
            row.state, row.done_at, row.next_at = DeliveryState.DELIVERED, now, None
            receiver.failing_since, receiver.failures, receiver.hold_until = None, 0, 0
            return
        row.next_at = now + delay(row.attempts)
        if row.next_at - row.created_at > GIVE_UP_MS:
            row.state, row.done_at, row.next_at = DeliveryState.GIVEN_UP, now, None
            metrics.WEBHOOKS.inc(outcome="given_up")
        receiver.failures += 1
        receiver.failing_since = receiver.failing_since or now
        receiver.hold_until = now + min(delay(receiver.failures), LONGEST_HOLD_MS)
        gone = status == HTTPStatus.GONE
        if gone or now - receiver.failing_since >= DISABLE_MS:
            self._disable(session, receiver, "it answered 410" if gone else problem, now=now)

    def _disable(self, session: Session, receiver: Webhook, reason: str, *, now: int) -> None:
        receiver.disabled_at, receiver.disabled_reason = now, reason[:_ERROR_LIMIT]
        count_up(session, WEBHOOKS)
        told = f"{receiver.id} {receiver.url}: {reason}"
        record(session, Event.WEBHOOK_DISABLED, now=now, reason=told)

    def _release(self, rows: list[str]) -> None:
        """Give rows back that were claimed and not tried; the receiver's hold delays them."""
        now = self._clock()
        with self._database.transaction() as session:
            for row in session.scalars(select(Delivery).where(Delivery.id.in_(rows))):
                if row.state is DeliveryState.WAITING:
                    row.next_at = now


def due_webhooks(session: Session, *, now: int) -> list[str]:
    """The receivers that something is due for. The cost is of the receivers, not of the outbox."""
    waiting = (
        select(Delivery.id).where(Delivery.webhook == Webhook.id, Delivery.next_at <= now).exists()
    )
    query = select(Webhook.id).where(
        Webhook.disabled_at.is_(None), Webhook.hold_until <= now, waiting
    )
    return list(session.scalars(query))


def delay(attempts: int) -> int:
    """How long to wait after so many attempts, in milliseconds: threefold each time, with jitter.

    The jitter keeps receivers that failed together from being tried together.
    """
    longest = min(FIRST_DELAY_MS * 3 ** min(attempts - 1, 16), LONGEST_DELAY_MS)
    return int(longest * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
