"""Whether this replica's clock agrees with the database's.

Replicas over PostgreSQL run on machines of their own and share one clock, the
database's. A replica that is off by more than the limit would date challenges,
roots and silences wrongly for all of them: it refuses until it is right.

Processes over one SQLite file share their machine's clock: there is nothing to compare.
"""

from __future__ import annotations

from sqlalchemy import text

from hwtrust.errors import ClockSkewError
from hwtrust_backend.config import Clock
from hwtrust_backend.db import Database

_NOW = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


def clock_skew(database: Database, clock: Clock) -> int:
    """By how many milliseconds this replica's clock is ahead of the database's; negative: behind.

    Raises:
        DatabaseError: the database is not there.
    """
    if not database.is_postgresql:
        return 0
    with database.reading() as session:
        session.connection()
        before = clock()
        theirs: int = session.execute(text(_NOW)).scalar_one()
        after = clock()
    # The answer was made between the two: only what that does not explain is skew.
    if theirs < before:
        return before - theirs
    return min(after - theirs, 0)


class ClockWatch:
    """Keeps what the last comparison came to."""

    def __init__(self, *, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self.skew_ms = 0
        """By how much the clock was ahead; negative: behind."""

    @property
    def is_right(self) -> bool:
        """Whether the clock was within the limit."""
        return abs(self.skew_ms) <= self._limit_ms

    def compare(self, database: Database, clock: Clock) -> None:
        """Compare the clocks now.

        Raises:
            DatabaseError: the database is not there.
        """
        self.skew_ms = clock_skew(database, clock)

    def require_right(self) -> None:
        """Go on where the clock was within the limit.

        Raises:
            ClockSkewError: it was not.
        """
        if not self.is_right:
            message = f"this replica's clock is off by {self.skew_ms} ms"
            raise ClockSkewError(message, skew_ms=self.skew_ms)
