"""The audit trail: every decision, in the transaction that makes it."""

from __future__ import annotations

from hwtrust_backend.audit.events import Event
from hwtrust_backend.audit.models import AuditHead, AuditRecord
from hwtrust_backend.audit.service import check_chain, record, trail

__all__ = ["AuditHead", "AuditRecord", "Event", "check_chain", "record", "trail"]
