"""Webhooks: telling others of what changes, signed, retried, and never in anybody's way.

announce ──▶ outbox (the caller's transaction) ──▶ Courier ──▶ receivers
"""

from __future__ import annotations

from hwtrust_backend.webhooks.delivery import Courier
from hwtrust_backend.webhooks.models import Delivery, DeliveryState, Webhook
from hwtrust_backend.webhooks.outbox import announce
from hwtrust_backend.webhooks.service import (
    DeliveryReport,
    WebhookReport,
    Webhooks,
    enable_webhook,
    find_delivery,
    find_webhook,
    list_deliveries,
    list_webhooks,
    put_test,
    remove_webhook,
)
from hwtrust_backend.webhooks.topics import Topic
from hwtrust_backend.webhooks.transport import Transport

__all__ = [
    "Courier",
    "Delivery",
    "DeliveryReport",
    "DeliveryState",
    "Topic",
    "Transport",
    "Webhook",
    "WebhookReport",
    "Webhooks",
    "announce",
    "enable_webhook",
    "find_delivery",
    "find_webhook",
    "list_deliveries",
    "list_webhooks",
    "put_test",
    "remove_webhook",
]
