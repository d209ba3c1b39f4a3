"""Subscriptions: who hears of what, and with which secret it is signed.

Everything works in its caller's transaction, and what changes something leaves an
audit record that names `by`, the administrator. Nothing checks a role: the caller does.

Rules:
1. A secret leaves once, as the result of `Webhooks.add` or `rotate_secret`.
2. What is delivered to a receiver that is removed ends there: its outbox goes too.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from hwtrust.errors import WebhookTopicError, WebhookUnknownError
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Settings
from hwtrust_backend.config.clock import DAY
from hwtrust_backend.db import WEBHOOKS, count_up
from hwtrust_backend.keys import KeyVault, Secret
from hwtrust_backend.webhooks.models import Delivery, Webhook
from hwtrust_backend.webhooks.outbox import payload, put
from hwtrust_backend.webhooks.signing import (
    PURPOSE,
    new_secret,
    seal_secret,
    secret_text,
    unseal_secret,
)
from hwtrust_backend.webhooks.topics import Topic
from hwtrust_backend.webhooks.transport import check_url

OVERLAP_MS: Final = DAY
"""How long a replaced secret signs beside the new one."""


class WebhookReport(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver as lists show it. Times are UTC milliseconds."""

    id: str
    url: str
    topics: tuple[str, ...]
    group: str
    created_at: int
    created_by: str
    failing_since: int | None
    failures: int
    disabled_at: int | None
    disabled_reason: str


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as lists show it. Times are UTC milliseconds."""

    id: str
    webhook: str
    topic: str
    device: str
    state: str
    created_at: int
    next_at: int | None
    attempts: int
    last_status: int
    last_error: str
    done_at: int | None


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What takes the key that seals secrets: adding a receiver, and signing for it."""

    settings: Settings
    vault: KeyVault

    def add(
        self,
        session: Session,
        *,
        url: str,
        topics: Collection[Topic],
        group: str,
        by: str,
        now: int,
    ) -> tuple[WebhookReport, str]:
        """Subscribe a receiver; gives the secret too, `whsec_…`. `group` empty: all devices.

        Raises:
            WebhookUrlError: events are not sent to such a URL.
            WebhookTopicError: no topic is named.
        """
        check_url(url, unsafe_http_to_loopback=self.settings.webhook_unsafe_http_to_loopback)
        if not topics:
            raise WebhookTopicError("a webhook names the topics that it hears of")
        identifier, secret = f"wh_{secrets.token_hex(8)}", new_secret()
        row = Webhook(
            id=identifier,
            url=url,
            topics=" ".join(sorted(topics)),
            group=group,
            secret=seal_secret(self._key, secret, webhook=identifier),
            old_secret=None,
            old_until=None,
            created_at=now,
            created_by=by,
            failing_since=None,
            failures=0,
            hold_until=0,
            disabled_at=None,
            disabled_reason="",
        )
        session.add(row)
        count_up(session, WEBHOOKS)
        reason = f"{identifier} {url}: {row.topics}"
        record(session, Event.WEBHOOK_ADDED, now=now, reason=reason, actor=by)
        return _report(row), secret_text(secret)

    def rotate_secret(self, session: Session, identifier: str, *, by: str, now: int) -> str:
        """Give a receiver a new secret; the present one signs too for another day.

        Raises:
            WebhookUnknownError: there is none of that identifier.
        """
        row = _locked(session, identifier)
        secret = new_secret()
        row.old_secret, row.old_until = row.secret, now + OVERLAP_MS
        row.secret = seal_secret(self._key, secret, webhook=row.id)
        _record(session, Event.WEBHOOK_SECRET_ROTATED, row, by=by, now=now)
        return secret_text(secret)

    def secrets_of(self, row: Webhook, *, now: int) -> list[Secret]:
        """What signs an attempt: the secret, and the one before while it still counts.

        Raises:
            SealedError: the database is another backend's.
        """
        found = [unseal_secret(self._key, row.secret, webhook=row.id)]
        if row.old_secret is not None and row.old_until is not None and now < row.old_until:
            found.append(unseal_secret(self._key, row.old_secret, webhook=row.id))
        return found

    @property
    def _key(self) -> Secret:
        return self.vault.derive(PURPOSE)


def list_webhooks(session: Session) -> list[WebhookReport]:
    """Every receiver, in the order in which they were added."""
    query = select(Webhook).order_by(Webhook.created_at, Webhook.id)
    return [_report(row) for row in session.scalars(query)]


def find_webhook(session: Session, identifier: str) -> WebhookReport:
    """One receiver.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    row = session.get(Webhook, identifier)
    if row is None:
        raise WebhookUnknownError("there is no such webhook")
    return _report(row)


def remove_webhook(session: Session, identifier: str, *, by: str, now: int) -> None:
    """End a subscription, and forget what was still to be delivered.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    row = _locked(session, identifier)
    session.execute(delete(Delivery).where(Delivery.webhook == row.id))
    session.delete(row)
    count_up(session, WEBHOOKS)
    _record(session, Event.WEBHOOK_REMOVED, row, by=by, now=now)


def enable_webhook(session: Session, identifier: str, *, by: str, now: int) -> WebhookReport:
    """Send to a receiver again, at once.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    row = _locked(session, identifier)
    row.disabled_at, row.disabled_reason = None, ""
    count_up(session, WEBHOOKS)
    row.failing_since, row.failures, row.hold_until = None, 0, 0
    _record(session, Event.WEBHOOK_ENABLED, row, by=by, now=now)
    return _report(row)


def put_test(session: Session, identifier: str, *, by: str, now: int) -> str:
    """Put a test event into a receiver's outbox; gives the event's identifier.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    row = _locked(session, identifier)
    body = payload(Topic.TEST, device="", data={"by": by}, now=now)
    _record(session, Event.WEBHOOK_TESTED, row, by=by, now=now)
    return put(session, row.id, Topic.TEST, device="", body=body, now=now).id


def find_delivery(session: Session, identifier: str) -> DeliveryReport:
    """One delivery.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    row = session.get(Delivery, identifier)
    if row is None:
        raise WebhookUnknownError("there is no such delivery")
    return _delivery_report(row)


def list_deliveries(session: Session, identifier: str, *, limit: int) -> list[DeliveryReport]:
    """The newest deliveries to a receiver, newest first; `identifier` empty: to all.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    query = select(Delivery)
    if identifier:
        find_webhook(session, identifier)
        query = query.where(Delivery.webhook == identifier)
    newest = query.order_by(Delivery.created_at.desc(), Delivery.id).limit(limit)
    return [_delivery_report(row) for row in session.scalars(newest)]


def _locked(session: Session, identifier: str) -> Webhook:
    row = session.get(Webhook, identifier, with_for_update=True)
    if row is None:
        raise WebhookUnknownError("there is no such webhook")
    return row


def _record(session: Session, event: Event, row: Webhook, *, by: str, now: int) -> None:
    record(session, event, now=now, reason=f"{row.id} {row.url}", actor=by)


def _delivery_report(row: Delivery) -> DeliveryReport:
    """A delivery as lists show it; the payload is the receiver's."""
    return DeliveryReport(
        id=row.id,
        webhook=row.webhook,
        topic=row.topic,
        device=row.device,
        state=row.state.value,
        created_at=row.created_at,
        next_at=row.next_at,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        done_at=row.done_at,
    )


def _report(row: Webhook) -> WebhookReport:
    return WebhookReport(
        id=row.id,
        url=row.url,
        topics=tuple(row.topics.split()),
        group=row.group,
        created_at=row.created_at,
        created_by=row.created_by,
        failing_since=row.failing_since,
        failures=row.failures,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
    )
