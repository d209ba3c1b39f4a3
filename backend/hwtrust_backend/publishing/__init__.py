"""Dynamic roots: made, approved, offered, confirmed, retired."""

from __future__ import annotations

from hwtrust_backend.publishing.campaigns import (
    Campaign,
    policy_changed,
    release_accepted,
    start_campaign,
)
from hwtrust_backend.publishing.events import report_event
from hwtrust_backend.publishing.models import RootState, StoredRoot
from hwtrust_backend.publishing.recovery import Recovery, note_recovery, recovered_at
from hwtrust_backend.publishing.schedule import Reason, RotationBudget
from hwtrust_backend.publishing.service import Publisher, roots_of

__all__ = [
    "Campaign",
    "Publisher",
    "Reason",
    "Recovery",
    "RootState",
    "RotationBudget",
    "StoredRoot",
    "note_recovery",
    "policy_changed",
    "recovered_at",
    "release_accepted",
    "report_event",
    "roots_of",
    "start_campaign",
]
