"""The time as the backend signed it, carried on by a clock that only goes forward.

No hardware of an enclave keeps time for it: what goes by this is as good as the code that
asks, and as the kernel's CLOCK_BOOTTIME. A host that stops the machine for a while stops
that clock too, where the platform does not tell the guest.

Rules:
1. The time is reckoned from before the question: the answer can only have been signed
   later, so nothing is good for longer than it was given for.
2. It never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from hwtrust.errors import RootClockError

BootTime: TypeAlias = Callable[[], int]
"""Milliseconds since the start of the machine, also while it slept."""


def boot_time_ms() -> int:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class SignedClock:
    """UTC in milliseconds, since the backend said it first."""

    def __init__(self, boot_time: BootTime) -> None:
        self._boot_time = boot_time
        self._ahead: int | None = None
        self._latest = 0

    def elapsed(self) -> int:
        """The clock underneath, to be read before the backend is asked."""
        return self._boot_time()

    def follow(self, utc_ms: int, *, asked: int) -> None:
        """Take a signed time that answers a question asked at `asked` of `elapsed`."""
        # Signed after it was asked for: what is reckoned runs ahead, by the way there.
        self._ahead = utc_ms - asked

    def now(self) -> int:
        """The time.

        Raises:
            RootClockError: the backend has not said any.
        """
        if self._ahead is None:
            raise RootClockError("the backend has not said what time it is")
        self._latest = max(self._latest, self._boot_time() + self._ahead)
        return self._latest
