"""How long to wait before something that failed is tried again.

Full jitter: any time between now and a bound that doubles with each failure, so
that the devices of a fleet whose backend was away do not come back as one.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_DOUBLINGS = 32


def fraction() -> float:
    """A random number, at least 0 and below 1."""
    return secrets.randbits(53) / 2**53


class Backoff:
    """Pauses between tries that fail."""

    def __init__(
        self, first: float, *, cap: float, fraction: Callable[[], float] = fraction
    ) -> None:
        """The first pause is at most `first` seconds, none is longer than `cap`."""
        self.first = first
        self.cap = cap
        self._fraction = fraction
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many tries have failed in a row."""
        return self._failures

    def next(self) -> float:
        """Count a failure; gives the seconds until the next try."""
        bound = min(self.cap, self.first * float(1 << min(self._failures, _DOUBLINGS)))
        self._failures += 1
        return bound * self._fraction()

    def reset(self) -> None:
        """A try has succeeded."""
        self._failures = 0
