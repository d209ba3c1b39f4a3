"""Attestations a minute: counted in memory, written once a minute, never while one is answered."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from threading import Lock
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from hwtrust_backend.config.clock import DAY, MINUTE
from hwtrust_backend.monitor.models import AttestationMinute

KEPT_MS: Final = 2 * DAY


class Activity:
    """What this process has appraised and not written down yet."""

    def __init__(self) -> None:
        self._writer = secrets.token_hex(8)
        self._counts: dict[int, int] = {}
        self._lock = Lock()

    def count(self, *, now: int, amount: int = 1) -> None:
        """Note attestations of this moment."""
        minute = now // MINUTE
        with self._lock:
            self._counts[minute] = self._counts.get(minute, 0) + amount

    def take(self) -> dict[int, int]:
        """All counts, which are forgotten here by that."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return taken

    def give_back(self, counts: Mapping[int, int]) -> None:
        """Keep counts that could not be written."""
        with self._lock:
            for minute, count in counts.items():
                self._counts[minute] = self._counts.get(minute, 0) + count

    def write(self, session: Session, counts: Mapping[int, int], *, now: int) -> None:
        """Add `counts` to this process's rows, and drop everybody's old ones."""
        for minute, count in counts.items():
            row = session.get(AttestationMinute, (minute, self._writer))
            if row is None:
                row = AttestationMinute(minute=minute, writer=self._writer, count=0)
                session.add(row)
            row.count += count
        oldest = (now - KEPT_MS) // MINUTE
        session.execute(delete(AttestationMinute).where(AttestationMinute.minute < oldest))


def attestations_by_minute(session: Session, *, since: int, until: int) -> dict[int, int]:
    """Minutes since 1970 with the attestations of all processes; both ends UTC milliseconds."""
    query = (
        select(AttestationMinute.minute, func.sum(AttestationMinute.count))
        .where(
            AttestationMinute.minute >= since // MINUTE,
            AttestationMinute.minute <= until // MINUTE,
        )
        .group_by(AttestationMinute.minute)
    )
    return {minute: int(count) for minute, count in session.execute(query)}
