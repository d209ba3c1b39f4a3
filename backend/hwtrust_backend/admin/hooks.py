"""Webhooks, as administrators manage them; whoever is limited to groups, for each of those."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.orm import Session

from hwtrust.errors import ForbiddenError, WebhookUnknownError
from hwtrust_backend.admin.devices import see_group
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.webhooks import (
    DeliveryReport,
    Topic,
    Webhook,
    WebhookReport,
    Webhooks,
    service,
)

MOST_DELIVERIES = 500


def add_webhook(
    session: Session,
    webhooks: Webhooks,
    *,
    url: str,
    topics: Collection[Topic],
    group: str,
    by: Principal,
    now: int,
) -> tuple[WebhookReport, str]:
    """Subscribe a receiver; gives the secret too, this once. `group` empty: all devices.

    Raises:
        ForbiddenError: `by` is limited to groups, and this is for all devices.
        PolicyUnknownError: there is no such group.
        WebhookError: events are not sent to such a URL, or no topic is named.
    """
    by.require(Role.ADMINISTRATOR)
    if not group and by.groups is not None:
        raise ForbiddenError(f"{by.name} is limited to some groups: name one of them")
    if group:
        see_group(session, group, by=by)
    return webhooks.add(session, url=url, topics=topics, group=group, by=by.name, now=now)


def webhook_list(session: Session, *, by: Principal) -> tuple[WebhookReport, ...]:
    """Every receiver that `by` sees, in the order in which they were added."""
    by.require(Role.VIEWER)
    return tuple(row for row in service.list_webhooks(session) if _sees(by, row.group))


def remove_webhook(session: Session, identifier: str, *, by: Principal, now: int) -> None:
    """End a subscription.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    _require(session, identifier, by)
    service.remove_webhook(session, identifier, by=by.name, now=now)


def rotate_webhook_secret(
    session: Session, webhooks: Webhooks, identifier: str, *, by: Principal, now: int
) -> str:
    """Give a receiver a new secret; the present one signs too for another day.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    _require(session, identifier, by)
    return webhooks.rotate_secret(session, identifier, by=by.name, now=now)


def enable_webhook(session: Session, identifier: str, *, by: Principal, now: int) -> WebhookReport:
    """Send to a receiver again, at once.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    _require(session, identifier, by)
    return service.enable_webhook(session, identifier, by=by.name, now=now)


def try_webhook(session: Session, identifier: str, *, by: Principal, now: int) -> str:
    """Send a receiver a test event; gives the event's identifier.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    _require(session, identifier, by)
    return service.put_test(session, identifier, by=by.name, now=now)


def webhook_deliveries(
    session: Session, identifier: str, *, limit: int, by: Principal
) -> tuple[DeliveryReport, ...]:
    """The newest deliveries to a receiver, newest first.

    Raises:
        WebhookUnknownError: there is none of that identifier.
    """
    by.require(Role.VIEWER)
    _seen(session, identifier, by)
    return tuple(service.list_deliveries(session, identifier, limit=min(limit, MOST_DELIVERIES)))


def _require(session: Session, identifier: str, by: Principal) -> None:
    by.require(Role.ADMINISTRATOR)
    _seen(session, identifier, by)


def _seen(session: Session, identifier: str, by: Principal) -> None:
    row = session.get(Webhook, identifier)
    if row is None or not _sees(by, row.group):
        raise WebhookUnknownError("there is no such webhook")


def _sees(by: Principal, group: str) -> bool:
    """Whose events a receiver of all groups gets is not for who sees some of them."""
    return by.groups is None or (bool(group) and by.sees(group))
