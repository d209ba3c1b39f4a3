"""Times of the day in which roots may be replaced: `01:00-05:00`, `Sat,Sun 22:00-06:00`, in UTC."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from hwtrust.errors import PolicyDocumentError
from hwtrust_backend.config.clock import DAY, MINUTE

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW: Final = re.compile(
    r"(?:([A-Za-z]{3}(?:,[A-Za-z]{3})*) )?([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])"
)
_EPOCH_DAY: Final = 3
"""1970-01-01 was a Thursday."""
_HOURS: Final = 24


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """From `begin_ms` after midnight on one of `days` (0 is Monday), for `length_ms`."""

    days: frozenset[int]
    begin_ms: int
    length_ms: int


def parse_window(text: str) -> Window:
    """Read a window; one that ends before it begins ends on the next day.

    Raises:
        PolicyDocumentError: another spelling, or a window without length.
    """
    match = _WINDOW.fullmatch(text)
    names = match[1].split(",") if match is not None and match[1] else list(_DAYS)
    if match is None or not set(names) <= set(_DAYS):
        message = f"{text!r} is no window; write it like 01:00-05:00 or Sat,Sun 22:00-06:00"
        raise PolicyDocumentError(message, field="rotation.windows", value=text)
    hours = int(match[2]), int(match[4])
    begin = (hours[0] * 60 + int(match[3])) * MINUTE
    end = (hours[1] * 60 + int(match[5])) * MINUTE
    length = (end - begin) % DAY
    if max(hours) >= _HOURS or not length:
        message = f"{text!r} is no window: hours go to 23, and it has to last"
        raise PolicyDocumentError(message, field="rotation.windows", value=text)
    days = frozenset(_DAYS.index(name) for name in names)
    return Window(days=days, begin_ms=begin, length_ms=length)


def next_open(windows: tuple[Window, ...], at: int) -> int:
    """The first moment from `at` (UTC ms) on at which a window is open; no windows: at any time."""
    if not windows:
        return at
    today = at // DAY
    opens = [
        max(day * DAY + window.begin_ms, at)
        for window in windows
        for day in range(today - 1, today + 8)
        if (day + _EPOCH_DAY) % 7 in window.days
        and at < day * DAY + window.begin_ms + window.length_ms
    ]
    return min(opens)
