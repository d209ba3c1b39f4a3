"""Telling a waiting device at once that there is something for it."""

from __future__ import annotations

from hwtrust_backend.push.waiters import Waiters
from hwtrust_backend.push.wakes import Wake, pending, wake, wake_all

__all__ = ["Waiters", "Wake", "pending", "wake", "wake_all"]
