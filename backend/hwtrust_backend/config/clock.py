"""The backend's clock: an argument everywhere, UTC milliseconds.

Whatever decides takes the time from its caller; only `system_clock` asks the
machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

Clock = Callable[[], int]
"""Gives UTC in milliseconds."""

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_LAST_MOMENT: Final = 253_402_300_799_000
"""The end of the year 9999."""
_UNITS: Final = ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"))


def system_clock() -> int:
    """UTC now, in milliseconds, as the machine has it."""
    return time.time_ns() // 1_000_000


def utc_text(utc_ms: int) -> str:
    """ISO 8601, to the second, for people."""
    return datetime.fromtimestamp(utc_ms / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_text(milliseconds: int) -> str:
    """The same for a clock that somebody else has set, to whatever time."""
    if milliseconds > _LAST_MOMENT:
        return f"{milliseconds} ms"
    return utc_text(milliseconds)


def utc_datetime(utc_ms: int) -> datetime:
    """The same moment as an aware datetime."""
    return datetime.fromtimestamp(utc_ms / SECOND, UTC)


def spell_span(span_ms: int) -> str:
    """A span for people, in its two largest units: `3d 4h`, `12m 5s`, `0s`."""
    parts: list[str] = []
    left = max(span_ms, 0)
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
