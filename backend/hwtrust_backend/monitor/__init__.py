"""Which device is how, since when, why, and what to do about it."""

from __future__ import annotations

from hwtrust_backend.monitor.service import (
    DeviceSummary,
    RootSummary,
    root_summary,
    summary_of,
)

__all__ = ["DeviceSummary", "RootSummary", "root_summary", "summary_of"]
