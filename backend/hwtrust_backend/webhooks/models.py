"""Subscriptions, and the outbox of what is still to be delivered."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Enum, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis

URL_LIMIT = 2000


class DeliveryState(StrEnum):
    """How far a delivery is."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given-up"


class Webhook(Base):
    """One receiver of events."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    topics: Mapped[str] = mapped_column(Text)
    """Separated by spaces."""
    group: Mapped[str] = mapped_column(String(100))
    """Of whose devices it hears; empty: of all."""
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    """Sealed."""
    old_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The one before, sealed; it signs too until `old_until`."""
    old_until: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Millis]
    created_by: Mapped[str] = mapped_column(String(200))
    failing_since: Mapped[int | None] = mapped_column(BigInteger)
    failures: Mapped[int]
    """In succession."""
    hold_until: Mapped[Millis]
    """Nothing is sent before; a receiver that fails gets time to recover."""
    disabled_at: Mapped[int | None] = mapped_column(BigInteger)
    disabled_reason: Mapped[str] = mapped_column(String(200))


class Delivery(Base):
    """One event for one receiver; `id` is its webhook-id at every attempt."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_webhook_next_at", "webhook", "next_at"),
        Index("ix_webhook_deliveries_webhook_created_at", "webhook", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook: Mapped[str] = mapped_column(String(40))
    """No foreign key: a receiver that is removed must not fail the attestation of that moment."""
    topic: Mapped[str] = mapped_column(String(40))
    device: Mapped[str] = mapped_column(String(140))
    body: Mapped[bytes] = mapped_column(LargeBinary)
    """The payload as it is signed and sent."""
    created_at: Mapped[Millis]
    state: Mapped[DeliveryState] = mapped_column(
        Enum(
            DeliveryState,
            native_enum=False,
            create_constraint=False,
            length=20,
            values_callable=lambda members: [member.value for member in members],
        )
    )
    next_at: Mapped[int | None] = mapped_column(BigInteger)
    """When it is due, or when the lease of who delivers it ends; None once it is done."""
    attempts: Mapped[int]
    last_status: Mapped[int]
    """The receiver's HTTP status; 0: there was none."""
    last_error: Mapped[str] = mapped_column(String(200))
    done_at: Mapped[int | None] = mapped_column(BigInteger, index=True)
