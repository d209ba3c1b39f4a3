"""When the agent does what: deadlines on a clock that nobody can set.

Rules:
1. The clock is CLOCK_BOOTTIME. No change of the wall clock moves a deadline, in
   either direction, and time that the machine slept through has passed: what
   came due meanwhile is done when the agent next wakes.
2. A name has one deadline; setting it again replaces it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def boottime() -> float:
    """Seconds since the machine started, those that it slept through included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Timers:
    """Deadlines by name; whoever waits asks for the next."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        """`clock` gives seconds, and never goes back."""
        self._clock = clock
        self._deadlines: dict[str, float] = {}

    def now(self) -> float:
        """Seconds, on the clock of the deadlines."""
        return self._clock()

    def start(self, name: str, seconds: float) -> None:
        """Let `name` come due `seconds` from now."""
        self._deadlines[name] = self._clock() + seconds

    def hasten(self, name: str, seconds: float) -> None:
        """Let `name` come due `seconds` from now, unless it does earlier."""
        deadline = self._clock() + seconds
        self._deadlines[name] = min(self._deadlines.get(name, deadline), deadline)

    def stop(self, name: str) -> None:
        """Let `name` not come due."""
        self._deadlines.pop(name, None)

    def left(self, name: str) -> float | None:
        """Seconds until `name` comes due; None: it does not."""
        deadline = self._deadlines.get(name)
        return None if deadline is None else max(0.0, deadline - self._clock())

    def wait(self) -> float | None:
        """Seconds until the next deadline; None: there is none."""
        if not self._deadlines:
            return None
        return max(0.0, min(self._deadlines.values()) - self._clock())

    def due(self) -> tuple[str, ...]:
        """What has come due, the earliest first; it is no longer set."""
        now = self._clock()
        names = [name for name, deadline in self._deadlines.items() if deadline <= now]
        names.sort(key=self._deadlines.__getitem__)
        for name in names:
            del self._deadlines[name]
        return tuple(names)
