"""Which device is how, since when, why, and what to do about it."""

from __future__ import annotations

from hwtrust_backend.monitor.service import (
    DeviceSummary,
    RootSummary,
    root_summary,
    summaries_of,
    summary_of,
)
from hwtrust_backend.monitor.skew import ClockWatch, clock_skew
from hwtrust_backend.monitor.updates import Update, Wanted, wanted_of

__all__ = [
    "ClockWatch",
    "DeviceSummary",
    "RootSummary",
    "Update",
    "Wanted",
    "clock_skew",
    "root_summary",
    "summaries_of",
    "summary_of",
    "wanted_of",
]
