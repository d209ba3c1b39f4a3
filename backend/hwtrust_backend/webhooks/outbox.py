"""Telling receivers: an event becomes a row for each of them, in the transaction that makes it.

Rules:
1. An event is announced in the transaction of what it tells of: no event of
   what was rolled back, none lost that was committed.
2. Without a subscription an announcement writes nothing: who hears of what is
   kept in memory. It is made where something changes, never at each heartbeat.
3. A receiver that is limited to a group hears of that group alone. An event
   without a group goes to those who hear of all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust_backend.config.clock import utc_text
from hwtrust_backend.db import WEBHOOKS, Kept
from hwtrust_backend.webhooks.models import Delivery, DeliveryState, Webhook
from hwtrust_backend.webhooks.topics import Topic

ID_BYTES: Final = 18


def announce(
    session: Session, topic: Topic, *, device: str, data: Mapping[str, object], now: int
) -> None:
    """Put an event into the outbox of every receiver that asked for it.

    `data` is what the payload's `data` holds besides `device`; its `group` decides
    who hears of it. It must be something that JSON can say, and no secret.
    """
    group = data.get("group", "")
    body: bytes | None = None
    for webhook, topics, scope in _RECEIVERS.get(session):
        if topic.value not in topics or scope not in {"", group}:
            continue
        if body is None:
            body = payload(topic, device=device, data=data, now=now)
        put(session, webhook, topic, device=device, body=body, now=now)


def put(
    session: Session, webhook: str, topic: Topic, *, device: str, body: bytes, now: int
) -> Delivery:
    """Put one row into the outbox; it is due at once."""
    row = Delivery(
        id=f"msg_{secrets.token_urlsafe(ID_BYTES)}",
        webhook=webhook,
        topic=topic.value,
        device=device,
        body=body,
        created_at=now,
        state=DeliveryState.WAITING,
        next_at=now,
        attempts=0,
        last_status=0,
        last_error="",
        done_at=None,
    )
    session.add(row)
    return row


def payload(topic: Topic, *, device: str, data: Mapping[str, object], now: int) -> bytes:
    """The body of an event: `type`, `timestamp` and `data` (Standard Webhooks, payload)."""
    content = {"device": device, **data} if device else dict(data)
    event = {"type": topic.value, "timestamp": utc_text(now), "data": content}
    return msgspec.json.encode(event)


class _Receiver(NamedTuple):
    webhook: str
    topics: frozenset[str]
    group: str


def _read_receivers(session: Session) -> tuple[_Receiver, ...]:
    query = select(Webhook.id, Webhook.topics, Webhook.group).where(Webhook.disabled_at.is_(None))
    return tuple(
        _Receiver(webhook, frozenset(topics.split()), group)
        for webhook, topics, group in session.execute(query)
    )


_RECEIVERS: Final = Kept(WEBHOOKS, _read_receivers)
