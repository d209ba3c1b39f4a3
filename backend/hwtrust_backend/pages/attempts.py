"""Signing in cannot be tried for ever.

A credential here cannot be guessed; what is limited is the work and the audit
records that whoever tries can cause. Each process counts for itself.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Final

from hwtrust.errors import LoginThrottledError
from hwtrust_backend.config.clock import MINUTE

PER_PEER: Final = 10
ALTOGETHER: Final = 100
"""Failures a minute, from one address and from all."""


class Attempts:
    """The failures of the last minute."""

    def __init__(self, *, per_peer: int = PER_PEER, altogether: int = ALTOGETHER) -> None:
        self._per_peer = per_peer
        self._altogether = altogether
        self._failures: deque[tuple[int, str]] = deque()
        self._lock = Lock()

    def check(self, peer: str, *, now: int) -> None:
        """Refuse another attempt where too many have failed.

        Raises:
            LoginThrottledError: too many, from this address or from all together.
        """
        with self._lock:
            # The second half: after a clock that was set back nothing is held for ever.
            while self._failures and not 0 <= now - self._failures[0][0] < MINUTE:
                self._failures.popleft()
            own = sum(one == peer for _, one in self._failures)
            if own >= self._per_peer or len(self._failures) >= self._altogether:
                raise LoginThrottledError("too many attempts to sign in have failed")

    def failed(self, peer: str, *, now: int) -> None:
        """Note a failure."""
        with self._lock:
            self._failures.append((now, peer))
            if len(self._failures) > self._altogether:
                self._failures.popleft()
