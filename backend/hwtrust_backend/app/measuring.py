"""What metrics show that nobody counts: the fleet, from the database, when somebody looks.

Rules:
1. Everything is found by an index; nothing costs in proportion to the fleet but
   counting the entries of one index, and that at most once in `FRESH_SECONDS`.
2. Without a database the rest of the metrics is shown all the same.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from hwtrust.errors import DatabaseError
from hwtrust.wire.messages import Standing
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.serving import Serving
from hwtrust_backend.enrolment import Device
from hwtrust_backend.observe import metrics
from hwtrust_backend.observe.metrics import Fact
from hwtrust_backend.repository import role_reports

FRESH_SECONDS: Final = 15.0

MEASURING: Final = "measuring"
"""Under which name the application keeps its `Measuring`."""


class Measuring:
    """Makes the exposition of one process."""

    def __init__(
        self,
        backend: Backend,
        serving: Serving,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._serving = serving
        self._clock = clock
        self._lock = threading.Lock()
        self._fleet: list[Fact] = []
        self._counted: float | None = None
        metrics.begin_at_zero()

    def exposition(self) -> bytes:
        """All metrics, as text."""
        self.sample()
        failures = self._serving.readiness.failures()
        read_only = float(self._serving.read_only.is_on())
        return metrics.exposition(
            [
                Fact(metrics.BUILD, 1, {"version": importlib.metadata.version("hwtrust-backend")}),
                Fact(metrics.READ_ONLY, read_only),
                *(
                    Fact(metrics.READY, float(name not in failures), {"check": name})
                    for name in self._serving.readiness.names
                ),
                *self._counted_fleet(),
            ]
        )

    def sample(self) -> None:
        """Note what this process uses; the others note it for themselves."""
        metrics.sample_process(started=self._serving.started)
        metrics.CLOCK_SKEW.set(self._backend.clock_watch.skew_ms / 1000)
        metrics.WAITING.set(len(self._backend.waiters))
        metrics.COMMIT_QUEUE.set(len(self._backend.committer))
        pool = self._backend.database.engine.pool
        if isinstance(pool, QueuePool):
            metrics.CONNECTIONS.set(pool.checkedout(), state="used")
            metrics.CONNECTIONS.set(pool.checkedin(), state="idle")

    def _counted_fleet(self) -> list[Fact]:
        with self._lock:
            if self._counted is None or self._clock() - self._counted >= FRESH_SECONDS:
                try:
                    with self._backend.database.reading() as session:
                        now = self._backend.clock()
                        self._fleet = [
                            *fleet_facts(session, now=now),
                            *repository_facts(session, now=now),
                        ]
                except DatabaseError:
                    self._fleet = []
                self._counted = self._clock()
            return self._fleet


def fleet_facts(session: Session, *, now: int) -> list[Fact]:
    """The fleet in numbers."""
    every = select(Device.standing, func.count()).group_by(Device.standing)
    counts = dict.fromkeys(Standing, 0)
    for standing, count in session.execute(every):
        counts[standing] += count
    for standing, count in session.execute(every.where(Device.retired_at.is_not(None))):
        counts[standing] -= count
    silent = select(func.count()).where(
        Device.silent_since.is_not(None), Device.retired_at.is_(None)
    )
    failing = select(func.count()).where(
        Device.failing_since.is_not(None), Device.retired_at.is_(None)
    )
    due = select(func.count()).where(
        Device.rotate_at <= now, Device.rotation_asked_at.is_(None), Device.retired_at.is_(None)
    )
    return [
        *(
            Fact(metrics.DEVICES, count, {"standing": standing.value})
            for standing, count in counts.items()
        ),
        Fact(metrics.DEVICES_SILENT, session.scalar(silent) or 0),
        Fact(metrics.DEVICES_FAILING, session.scalar(failing) or 0),
        Fact(metrics.ROTATIONS_DUE, session.scalar(due) or 0),
    ]


def repository_facts(session: Session, *, now: int) -> list[Fact]:
    """How long the metadata of each role is good."""
    return [
        Fact(metrics.REPOSITORY_EXPIRES, (one.expires_at - now) / 1000, {"role": one.role})
        for one in role_reports(session)
    ]
